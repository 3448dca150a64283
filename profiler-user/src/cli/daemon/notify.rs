//! Words for the service manager (sd_notify(3)): a datagram to the socket that it names. Silent where it names none.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says something, such as `READY=1`. That nobody hears it changes nothing here.
pub(super) fn notify(text: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let _heard_or_not = send(name.as_encoded_bytes(), text);
}

fn send(name: &[u8], text: &str) -> std::io::Result<usize> {
    use std::os::unix::ffi::OsStrExt;
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    // Never waits for a manager that does not listen.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(text.as_bytes(), &address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_hears_us_by_path_and_by_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("perf-agent-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        send(path.as_os_str().as_encoded_bytes(), "READY=1").unwrap();
        send(format!("@{name}").as_bytes(), "STOPPING=1").unwrap();
        let mut heard = [0; 32];
        let length = by_path.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"READY=1");
        let length = by_name.recv(&mut heard).unwrap();
        assert_eq!(&heard[..length], b"STOPPING=1");
        assert!(send(b"/nowhere/socket", "x").is_err() && send(b"", "x").is_err());
    }
}

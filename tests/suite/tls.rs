//! Alerts and profiles over TLS, to servers that a private authority vouches for, or nobody.

use std::sync::Arc;

use tests::receiver::Receiver;
use tests::tls::{Authority, Valid, authority_that_serves};
use tests::{agent, run};
use tokio_rustls::rustls::ServerConfig;

use crate::alerts::alerts;
use crate::daemon::Daemon;
use crate::recording::spawn;

/// The host of [`Receiver`]s.
const HERE: &str = "127.0.0.1";

/// The file is mended while the daemon runs: nothing is lost, and a reload is all it takes.
#[test]
fn what_waits_for_the_right_authority_is_sent_after_a_reload() {
    let (ours, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let receiver = Receiver::start_with(ours.server(HERE, Valid::Now).unwrap()).unwrap();
    let mut daemon = Daemon::configured(99, "1s");
    let (ca_file, spool) = (daemon.folder.path().join("ca.pem"), daemon.folder.path().join("spool"));
    std::fs::write(&ca_file, &other.pem).unwrap();
    daemon.append_to_config(&format!(
        "[push]\npyroscope = '{url}/pyroscope'\notlp = '{url}'\ninterval = '2s'\nspool = '{spool}'\nca_file = '{ca}'\n\
         [alerts]\nwebhooks = ['{url}/alerts']\nca_file = '{ca}'\n\
         [[alerts.rules]]\nname = 'busy'\nprocess = 'regression'\nfunction = 'work_usual'\nabove = '50%'\nover = '3s'\n",
        url = receiver.url,
        spool = spool.display(),
        ca = ca_file.display()
    ));
    let _service = spawn("regression", &["600"]);
    daemon.run();
    let waiting = || std::fs::read_dir(&spool).map_or(0, Iterator::count);
    daemon.wait_for("requests in the spool", |_| waiting() >= 4);
    let why = format!("none of the authorities in `{}`", ca_file.display());
    for place in ["/pyroscope does not take profiles", "/alerts does not take alerts"] {
        daemon.wait_for("words", |daemon| {
            daemon.log().lines().any(|line| line.contains(place) && line.contains(&why))
        });
    }
    assert!(receiver.posted().is_empty());
    let left = waiting();

    std::fs::write(&ca_file, &ours.pem).unwrap();
    let reloaded = run(agent().args(["daemon", "reload", "-c"]).arg(daemon.config())).unwrap();
    assert_eq!(reloaded.code, 0, "{}", reloaded.stderr);
    let of = |start: &str| {
        receiver.posted().into_iter().filter(|posted| posted.path.starts_with(start)).collect::<Vec<_>>()
    };
    daemon.wait_for("profiles", |_| of("/pyroscope/").len() + of("/v1development/").len() >= left);
    daemon.wait_for("alert", |_| !of("/alerts").is_empty());
    assert_eq!(alerts(&of("/alerts"))[0]["labels"]["alertname"], "busy");
    daemon.wait_for("count", |daemon| daemon.fed("push_sent") >= left as u64);
    assert_eq!((daemon.fed("push_dropped"), daemon.fed("push_refused")), (0, 0));
}

#[test]
fn a_server_that_is_not_trusted_is_told_of_with_what_to_do() {
    let (ours, other) = (Authority::new().unwrap(), Authority::new().unwrap());
    let (serves, its_pem) = authority_that_serves(HERE).unwrap();
    let daemon = Daemon::configured(19, "10s");
    let ca_file = daemon.folder.path().join("ca.pem");
    let before = std::fs::read_to_string(daemon.config()).unwrap();
    let tell = |tls: Arc<ServerConfig>, pem: Option<&str>| {
        let receiver = Receiver::start_with(tls).unwrap();
        let trusted = pem.map_or(String::new(), |pem| {
            std::fs::write(&ca_file, pem).unwrap();
            format!("ca_file = '{}'\n", ca_file.display())
        });
        let text = format!("{before}[alerts]\nwebhooks = ['{}/']\n{trusted}", receiver.url);
        std::fs::write(daemon.config(), text).unwrap();
        let told = run(agent().args(["daemon", "alerts", "test", "-c"]).arg(daemon.config())).unwrap();
        assert_eq!(told.code == 0, !receiver.posted().is_empty(), "{}{}", told.stdout, told.stderr);
        told.stdout
    };
    let of = |name: &str, valid| ours.server(name, valid).unwrap();
    let pem = Some(ours.pem.as_str());
    let file = format!("`{}`", ca_file.display());
    let show = format!("openssl s_client -connect {HERE}:");
    let both = [other.pem.as_str(), &ours.pem].concat();
    for (tls, pem, parts) in [
        (of(HERE, Valid::Now), pem, ["taken (status 200)", ""]),
        (of(HERE, Valid::Now), Some(&*both), ["taken (status 200)", ""]),
        (of(HERE, Valid::Now), Some(&*other.pem), [&*file, &*show]),
        (of(HERE, Valid::Now), None, ["that this host trusts", "ca_file"]),
        (of(HERE, Valid::Now), Some("nothing"), [&*file, "holds no certificate"]),
        (of(HERE, Valid::Once), pem, ["expired at 2020-01-01T00:00:00Z", "renew it"]),
        (of(HERE, Valid::Later), pem, ["not valid before 2500-01-01T00:00:00Z", "timedatectl"]),
        (of("db.example", Valid::Now), pem, ["is for db.example, not for `127.0.0.1`", "URL"]),
        (serves, Some(&*its_pem), ["of an authority", "CA:FALSE"]),
    ] {
        let told = tell(tls, pem);
        assert!(parts.iter().all(|part| told.contains(part)), "no {parts:?} in {told}");
    }
}

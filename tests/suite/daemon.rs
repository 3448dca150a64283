//! The daemon of continuous recording, as whoever runs it meets it: one at a time, its configuration, its words for a service manager.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{agent, finish, need_root, run};

use crate::faults::signal;

/// Longest wait for something that a daemon does once a second.
const PATIENCE: Duration = Duration::from_mins(1);

/// A daemon with a store of its own.
pub(crate) struct Daemon {
    pub(crate) child: Option<Child>,
    pub(crate) folder: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn start(rate_hz: u32, window: &str) -> Self {
        let mut daemon = Self::configured(rate_hz, window);
        daemon.run();
        daemon
    }

    /// A folder for one that is not started yet.
    pub(crate) fn idle() -> Self {
        need_root();
        Self { child: None, folder: tempfile::tempdir().unwrap() }
    }

    /// The same with a configuration.
    pub(crate) fn configured(rate_hz: u32, window: &str) -> Self {
        let daemon = Self::idle();
        daemon.configure(rate_hz, window);
        daemon
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("config.toml")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    pub(crate) fn configure(&self, rate_hz: u32, window: &str) {
        let text = format!(
            "[cpu]\nrate_hz = {rate_hz}\n[windows]\nlength = \"{window}\"\n[budget]\nmax_overhead = \"100%\"\n[store]\nfolder = \"{}\"\n",
            self.store().display()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// Starts it, and waits until it records.
    pub(crate) fn run(&mut self) {
        let mut command = agent();
        command.args(["daemon", "run", "-c"]).arg(self.config()).stdin(Stdio::null());
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
        self.wait_for("its first words", |daemon| daemon.log().contains("windows of"));
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn status(&self) -> Value {
        let run = run(agent().args(["daemon", "status", "--json", "-c"]).arg(self.config())).unwrap();
        let all: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
        all[0].clone()
    }

    pub(crate) fn wait_for(&self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let began = Instant::now();
        while !is_there(self) {
            assert!(began.elapsed() < PATIENCE, "no {what} after {PATIENCE:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }
}

#[test]
fn a_second_daemon_on_one_store_is_refused_with_who_holds_it() {
    let daemon = Daemon::start(19, "10m");
    let second = run(agent().args(["daemon", "run", "-c"]).arg(daemon.config())).unwrap();
    assert_eq!(second.code, 1, "{}", second.stderr);
    let holder = format!("process {}", daemon.pid());
    assert!(second.stderr.contains(&holder) && second.stderr.contains("hint:"), "{}", second.stderr);
    daemon.wait_for("status", |daemon| daemon.status()["running"] == Value::Bool(true));
    let text = run(agent().args(["daemon", "status", "-c"]).arg(daemon.config())).unwrap();
    assert_eq!(text.code, 0);
    for part in ["running: process", "19 Hz", "none yet", "lost      nothing"] {
        assert!(text.stdout.contains(part), "no `{part}` in {}", text.stdout);
    }
}

#[test]
fn a_configuration_is_printed_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    let check = |file: &Path| run(agent().args(["daemon", "config", "check"]).arg(file)).unwrap();
    let printed = run(agent().args(["daemon", "config", "print-default"])).unwrap();
    std::fs::write(&file, &printed.stdout).unwrap();
    let checked = check(&file);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    assert!(checked.stdout.contains("19 Hz"), "{}", checked.stdout);
    std::fs::write(&file, printed.stdout.replace("rate_hz", "rat_hz")).unwrap();
    let checked = check(&file);
    assert_eq!(checked.code, 2);
    for part in ["rat_hz", "rate_hz", "line ", "hint:"] {
        assert!(checked.stderr.contains(part), "no `{part}` in {}", checked.stderr);
    }
    let missing = check(Path::new("/nowhere/config.toml"));
    assert!(missing.code == 2 && missing.stderr.contains("print-default"), "{}", missing.stderr);
    let mut command = agent();
    let overridden =
        command.env("PERF_AGENT_CPU_RATE_HZ", "often").args(["daemon", "config", "check"]).arg(&file);
    std::fs::write(&file, "").unwrap();
    let overridden = run(overridden).unwrap();
    assert!(
        overridden.code == 2 && overridden.stderr.contains("PERF_AGENT_CPU_RATE_HZ"),
        "{}",
        overridden.stderr
    );
}

/// A service manager is told when it is ready, and when it ends.
#[test]
fn a_service_manager_hears_when_it_is_ready() {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let config = folder.path().join("config.toml");
    std::fs::write(&config, format!("[store]\nfolder = \"{}\"\n", folder.path().join("store").display()))
        .unwrap();
    let mut command: Command = agent();
    command.args(["daemon", "run", "-c"]).arg(&config).env("NOTIFY_SOCKET", &path);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let hear = || {
        let mut heard = [0; 256];
        let length = socket.recv(&mut heard).unwrap();
        String::from_utf8_lossy(&heard[..length]).into_owned()
    };
    assert_eq!(hear(), "READY=1");
    signal(child.id(), libc::SIGTERM);
    let mut last = hear();
    while last.starts_with("STATUS=") || last == "WATCHDOG=1" {
        last = hear();
    }
    assert_eq!(last, "STOPPING=1");
    assert_eq!(finish(child).unwrap().code, 0);
}

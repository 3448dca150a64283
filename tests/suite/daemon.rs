//! The daemon of continuous recording, as whoever runs it meets it: one at a time, its configuration, its words for a service manager.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Started, agent, finish, need_root, run};

use crate::faults::signal;
use crate::recording::spawn;

/// Longest wait for something that a daemon does once a second.
const PATIENCE: Duration = Duration::from_mins(1);

/// A daemon with a store of its own.
pub(crate) struct Daemon {
    pub(crate) child: Option<Started>,
    pub(crate) folder: tempfile::TempDir,
    /// Whether it records waits and memory beside CPU time.
    also: bool,
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
        Self { child: None, folder: tempfile::tempdir().unwrap(), also: false }
    }

    /// One that records everything.
    pub(crate) fn start_with_all(rate_hz: u32, window: &str) -> Self {
        let mut daemon = Self::idle();
        daemon.configure_all(rate_hz, window);
        daemon.run();
        // What happens before a program's unwind tables are there has no caller, and at the start all programs of the host need theirs.
        daemon.wait_for("a third window", |daemon| daemon.windows_written() >= 3);
        daemon
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
            "[cpu]\nrate_hz = {rate_hz}\n[also]\noff_cpu = {also}\nmemory = {also}\nsyscalls = {also}\n[windows]\nlength = \"{window}\"\n[budget]\nmax_overhead = \"100%\"\n[store]\nfolder = \"{}\"\n",
            self.store().display(),
            also = self.also
        );
        std::fs::write(self.config(), text).unwrap();
    }

    /// The same with everything that can be recorded.
    pub(crate) fn configure_all(&mut self, rate_hz: u32, window: &str) {
        self.also = true;
        self.configure(rate_hz, window);
    }

    /// Starts it, and waits until it records.
    pub(crate) fn run(&mut self) {
        self.launch();
        self.wait_for("its first words", |daemon| daemon.log().contains("windows of"));
    }

    /// Starts it.
    pub(crate) fn launch(&mut self) {
        let mut command = agent();
        command.args(["daemon", "run", "-c"]).arg(self.config()).stdin(Stdio::null());
        let log = std::fs::File::create(self.folder.path().join("log")).unwrap();
        self.child = Some(Started::of(command.stdout(Stdio::null()).stderr(log)).unwrap());
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
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = Started::of(&mut command).unwrap();
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

#[test]
fn a_reload_says_what_came_of_it_and_a_stop_waits_for_the_end() {
    let mut daemon = Daemon::start(19, "10m");
    let control = |verb: &str| run(agent().args(["daemon", verb, "-c"]).arg(daemon.config())).unwrap();
    daemon.wait_for("status", |daemon| daemon.status()["running"] == Value::Bool(true));
    daemon.configure(49, "5m");
    let reloaded = control("reload");
    assert_eq!(reloaded.code, 0, "{}", reloaded.stderr);
    assert!(reloaded.stdout.contains("49 Hz, windows of 5 min"), "{}", reloaded.stdout);
    // The same store, so the same daemon, whose own file means nothing now.
    let good = daemon.folder.path().join("good.toml");
    std::fs::copy(daemon.config(), &good).unwrap();
    daemon.append_to_config("[push]\notlp = 'nowhere'\n");
    let refused = run(agent().args(["daemon", "reload", "-c"]).arg(&good)).unwrap();
    assert_eq!(refused.code, 2, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("refused") && refused.stderr.contains("`nowhere` is not a URL"),
        "{}",
        refused.stderr
    );
    std::fs::copy(&good, daemon.config()).unwrap();
    let busy = spawn("cpu_split", &["600"]);
    let snapshot = daemon.folder.path().join("snapshot.folded");
    daemon.wait_for("snapshot of a program that just began, although windows take five minutes", |daemon| {
        let mut command = agent();
        command
            .args(["daemon", "snapshot", "--last", "1m", "--force", "-c"])
            .arg(daemon.config())
            .arg("-o")
            .arg(&snapshot);
        let taken = run(&mut command).unwrap();
        assert_eq!(taken.code, 0, "{}", taken.stderr);
        std::fs::read_to_string(&snapshot).unwrap().contains("work_forty")
    });
    drop(busy);
    let (config, pid) = (daemon.config(), daemon.pid());
    // Somebody has to wait for a child that ends.
    let child = daemon.child.take().unwrap();
    let waiter = std::thread::spawn(move || finish(child).unwrap());
    let stopped = run(agent().args(["daemon", "stop", "-c"]).arg(&config)).unwrap();
    assert_eq!(stopped.code, 0, "{}", stopped.stderr);
    assert!(stopped.stdout.contains(&format!("process {pid} ended")), "{}", stopped.stdout);
    assert_eq!(waiter.join().unwrap().code, 0);
    let again = run(agent().args(["daemon", "stop", "-c"]).arg(&config)).unwrap();
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("no daemon") && again.stderr.contains("hint:"), "{}", again.stderr);
}

#[test]
fn an_installation_below_a_folder_has_the_unit_and_a_configuration() {
    let root = tempfile::tempdir().unwrap();
    let install = |arguments: &[&str]| {
        run(agent().arg("daemon").args(arguments).arg("--root").arg(root.path())).unwrap()
    };
    let dry = install(&["install", "--dry-run"]);
    assert_eq!(dry.code, 0, "{}", dry.stderr);
    assert!(dry.stdout.contains("would write") && std::fs::read_dir(root.path()).unwrap().next().is_none());
    assert_eq!(install(&["install"]).code, 0);
    let unit = root.path().join("etc/systemd/system/perf-agent.service");
    assert!(std::fs::read_to_string(&unit).unwrap().contains("daemon run"));
    let config = root.path().join("etc/perf-agent/config.toml");
    std::fs::write(&config, "[alerts]\nwebhooks = ['http://127.0.0.1:9093/api/v2/alerts']\n").unwrap();
    assert_eq!(install(&["install"]).code, 0);
    assert!(std::fs::read_to_string(&config).unwrap().starts_with("[alerts]"), "what is there stays");
    assert!(std::fs::read_to_string(&unit).unwrap().contains("AF_INET6"), "it sends, so it may");
    assert_eq!(install(&["uninstall"]).code, 0);
    assert!(!unit.exists() && config.exists());
}

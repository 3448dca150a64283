//! Allocations that the daemon records because a rule names the process, on a program that knows what it holds.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use tests::receiver::Receiver;
use tests::{Started, agent, finish, run, truth};

use crate::alerts::alerts;
use crate::api::{answering_as, get};
use crate::daemon::Daemon;
use crate::faults::signal;
use crate::go_alloc::{build_from, by_chance};
use crate::recording::{path_of, sum};

/// What follows each block, at any cost.
pub(crate) const EVERY: &str = "sample_bytes = \"1\"";

/// The program under a name of its own, so that a rule means nobody else's.
pub(crate) struct Holder {
    child: Started,
    pub(crate) name: String,
    _folder: tempfile::TempDir,
}

impl Holder {
    /// Waits for its line, and runs for so long then.
    pub(crate) fn start(name: &str, seconds: &str, churn: &str) -> Self {
        Self::start_with(name, seconds, churn, "")
    }

    /// The same with another allocator before libc's.
    fn start_with(name: &str, seconds: &str, churn: &str, preload: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("{name}{}", std::process::id() % 100_000);
        let path = folder.path().join(&name);
        std::os::unix::fs::symlink(path_of("leak_sites"), &path).unwrap();
        let mut command = Command::new(path);
        command.args(["-", seconds, churn]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("LD_PRELOAD", preload);
        Self { child: Started::of(command.stderr(Stdio::piped())).unwrap(), name, _folder: folder }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn shown(&self) -> Value {
        Value::String(format!("{} ({})", self.name, self.id()))
    }

    /// Says go, and waits for what it says at its end.
    pub(crate) fn truth(mut self) -> BTreeMap<String, f64> {
        self.child.stdin().write_all(b"go\n").unwrap();
        truth(&finish(self.child).unwrap().stdout).unwrap()
    }
}

impl Daemon {
    pub(crate) fn allocations_of(&self, rules: &str, more: &str, overhead: &str) {
        self.configure(19, "1s");
        let text = std::fs::read_to_string(self.config()).unwrap();
        let text = text.replace("\"100%\"", &format!("\"{overhead}\""));
        std::fs::write(self.config(), format!("{text}[allocations]\nof = {rules}\n{more}\n")).unwrap();
    }

    pub(crate) fn allocations(&self) -> Value {
        self.status()["status"]["allocations"].clone()
    }

    pub(crate) fn has_probes_in(&self, shown: &Value) -> bool {
        self.allocations()["processes"].as_array().is_some_and(|all| all.contains(shown))
    }

    fn allocated(&self, pid: u32) -> Value {
        self.allocated_by(["-p", &pid.to_string()])
    }

    /// Of whom: an option and its value.
    fn allocated_by(&self, whom: [&str; 2]) -> Value {
        let file = self.folder.path().join("allocations.json");
        let mut command = agent();
        command.args(["query", "flamegraph", "--type", "alloc", "--from", "-10m", "--force"]).args(whom);
        let done = run(command.arg("--store").arg(self.store()).arg("-o").arg(&file)).unwrap();
        assert_eq!(done.code, 0, "{}", done.stderr);
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    /// Programs, links and events that it holds. Tables of the recording of CPU time come with each new program of the host.
    fn held(&self) -> usize {
        let files = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().flatten();
        let targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
        let of_kernel = ["bpf-prog", "bpf_link", "perf_event"];
        targets.filter(|to| of_kernel.iter().any(|kind| to.to_string_lossy().contains(kind))).count()
    }
}

#[test]
fn windows_of_allocations_add_up_to_what_the_program_holds() {
    let mut daemon = Daemon::idle();
    let holder = Holder::start("hold", "6", "1000");
    daemon.allocations_of(&format!("[\"{}\"]", holder.name), EVERY, "100%");
    daemon.run();
    daemon.wait_for("probes", |daemon| daemon.has_probes_in(&holder.shown()));
    let pid = holder.id();
    let truth = holder.truth();
    daemon.wait_for("end of the process", |daemon| daemon.allocations()["ended"] == 1);
    assert_eq!(daemon.end().code, 0);
    let profile = daemon.allocated(pid);
    for site in ["site_leak", "site_cache", "site_vector", "site_queue", "site_handed", "site_churn"] {
        for (value, [all, gone]) in [
            ("live_bytes", ["alloc_space", "freed_space"]),
            ("live_count", ["alloc_objects", "freed_objects"]),
        ] {
            let found = sum(&profile, site, &[all]) - sum(&profile, site, &[gone]);
            let known = truth[&format!("{site}_{value}")];
            assert!(
                (found - known).abs() <= known * 0.01,
                "{site}, {value}: {found} found, {known} true\n{}\n{}",
                profile["quality_line"],
                profile["quality"]["notes"]
            );
        }
    }
    // Each was freed at once, so that nothing but the sums of all windows can know of it.
    let churned = sum(&profile, "site_churn", &["alloc_objects"]);
    assert!((churned - truth["churned"]).abs() <= truth["churned"] * 0.01, "{churned}: {truth:?}");
    let process = &profile["samples"][0]["labels"]["process"];
    assert!(process.as_str().is_none_or(|name| name.starts_with("hold")), "{process}");
}

#[test]
fn what_grows_is_found_in_windows_with_its_rate() {
    let mut daemon = Daemon::idle();
    let holder = Holder::start("grow", "15", "1000");
    daemon.allocations_of(&format!("[\"{}\"]", holder.name), EVERY, "100%");
    daemon.run();
    daemon.wait_for("probes", |daemon| daemon.has_probes_in(&holder.shown()));
    let pid = holder.id().to_string();
    let began = now_s();
    let truth = holder.truth();
    let ended = now_s();
    assert_eq!(daemon.end().code, 0);
    let store = daemon.store();
    let ask = |more: &[&str]| {
        let mut command = agent();
        command.args([
            "query",
            "leaks",
            "-p",
            &pid,
            "--from",
            &began.to_string(),
            "--to",
            &(ended + 2).to_string(),
        ]);
        let done = run(command.arg("--store").arg(&store).args(more)).unwrap();
        assert_eq!(done.code, 0, "{}", done.stderr);
        done.stdout
    };
    let answer: Value = serde_json::from_str(&ask(&["--json"])).unwrap();
    let sites = answer["sites"].as_array().unwrap();
    let of = |name: &str| sites.iter().find(|site| site["stack"].to_string().contains(name)).unwrap();
    let leak = of("site_leak");
    // From windows alone nothing is called a leak.
    assert_eq!(leak["verdict"], "growing?", "{leak}");
    let number = |site: &Value, name: &str| site[name].as_f64().unwrap();
    let (live, known) = (number(leak, "live_bytes"), truth["site_leak_live_bytes"]);
    assert!((live - known).abs() <= known * 0.01, "{live} found, {known} true");
    // 64 bytes every millisecond while it ran, and windows begin a little before and end a little after that.
    let rate = known / truth["seconds"];
    let (low, high) = (number(leak, "growth_low"), number(leak, "growth_high"));
    assert!(low <= rate * 1.1 && high >= rate * 0.7 && low > 0.0, "{low} to {high}, {rate} true: {leak}");
    assert_eq!(&sites[0], leak, "what grows fastest comes first");
    let filled = &of("site_cache")["verdict"];
    assert!(filled == "filled" || filled == "steady", "{}", of("site_cache"));
    let table = ask(&[]);
    for part in
        ["windows) and not freed in them", "growing?", "site_leak", "are no ages", "none is called one"]
    {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn a_busy_allocator_is_watched_in_slices_and_scaled() {
    let mut daemon = Daemon::idle();
    let holder = Holder::start("slice", "15", "200000");
    daemon.allocations_of(&format!("[\"{}\"]", holder.name), "", "20%");
    daemon.run();
    daemon.wait_for("probes", |daemon| daemon.has_probes_in(&holder.shown()));
    let pid = holder.id();
    let truth = holder.truth();
    assert_eq!(daemon.end().code, 0);
    let profile = daemon.allocated(pid);
    let notes = profile["quality"]["notes"].to_string();
    assert!(notes.contains("time slices: allocations were watched in"), "{notes}");
    // A few slices of some milliseconds, in which the program is as slow as the probes and the host make it: the notes say how little that tells.
    let share = sum(&profile, "site_churn", &["alloc_objects"]) / truth["churned"];
    assert!((0.03..30.0).contains(&share), "{share:.2} of what was allocated\n{notes}");
    // It is freed at once: slices see that.
    let stays = sum(&profile, "site_churn", &["alloc_space"])
        - sum(&profile, "site_churn", &["freed_space", "unfollowed_space"]);
    assert!(stays <= 0.05 * sum(&profile, "site_churn", &["alloc_space"]), "{stays} bytes stay\n{notes}");

    // Blocks of the queue live for many slices, and are all freed.
    let answer = daemon.query("leaks", &["-p", &pid.to_string(), "--from", "-10m", "--json"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    let sites = answer["sites"].as_array().unwrap();
    let queue = sites.iter().find(|site| site["stack"].to_string().contains("site_queue"));
    assert!(queue.is_none_or(|site| site["verdict"] != "growing?"), "{queue:?}\n{notes}");
}

#[test]
fn probes_come_and_go_with_processes_and_rules() {
    let mut daemon = Daemon::idle();
    daemon.allocations_of("[]", "", "100%");
    daemon.run();
    daemon.wait_for("status", |daemon| daemon.windows_written() >= 1);
    assert!(daemon.allocations().is_null(), "nobody is named");
    let before = daemon.held();
    let (first, second) = (Holder::start("turn", "60", "10"), Holder::start("turn", "60", "10"));
    let rules = format!("[\"{}\"]", first.name);
    daemon.allocations_of(&rules, "max_processes = 1", "100%");
    signal(daemon.pid(), libc::SIGHUP);
    // The oldest comes first; of two that began in one tick the one with the lower number.
    daemon.wait_for("probes in the first", |daemon| daemon.has_probes_in(&first.shown()));
    daemon.wait_for("count of who waits", |daemon| daemon.allocations()["waiting"] == 1);
    assert!(daemon.held() > before);
    let text = run(agent().args(["daemon", "status", "-c"]).arg(daemon.config())).unwrap();
    assert!(text.stdout.contains("(allocations.max_processes): 1"), "{}", text.stdout);
    drop(first);
    daemon.wait_for("probes in the second", |daemon| daemon.has_probes_in(&second.shown()));
    assert_eq!(daemon.allocations()["ended"], 1);
    daemon.allocations_of("[]", "", "100%");
    signal(daemon.pid(), libc::SIGHUP);
    daemon.wait_for("end of the probes", |daemon| daemon.allocations().is_null());
    daemon.wait_for("nothing left behind", |daemon| daemon.held() <= before);
    // The rule comes back: the process that lived on is found again.
    daemon.allocations_of(&rules, "", "100%");
    signal(daemon.pid(), libc::SIGHUP);
    daemon.wait_for("probes in the second", |daemon| daemon.has_probes_in(&second.shown()));
    assert_eq!(daemon.allocations()["removed"], 1);
    // With probes in it the target outlives the agent.
    daemon.kill();
    let mut second = second;
    assert!(second.child.ended().is_none(), "the target runs on");
}

/// One value over all samples.
fn total(profile: &Value, kind: &str) -> u64 {
    let values = profile["value_types"].as_array().unwrap();
    values.iter().find(|value| value["kind"] == kind).unwrap()["total"].as_u64().unwrap()
}

#[test]
fn allocations_reach_alerts_metrics_and_comparisons() {
    let receiver = Receiver::start().unwrap();
    let daemon = Daemon::idle();
    let holder = Holder::start("told", "8", "1000");
    let name = holder.name.clone();
    daemon.allocations_of(&format!("[\"{name}\"]"), EVERY, "100%");
    let rule = |rule: &str, what: &str| {
        format!(
            "[[alerts.rules]]\nname = '{rule}'\ntype = 'alloc'\nprocess = '{name}'\n{what}\nover = '3s'\n"
        )
    };
    let rules = [
        rule("bytes", "series = 'alloc_space'\nabove = '1K'"),
        rule("blocks", "series = 'freed_objects'\nabove = '100'"),
        rule("place", "function = 'site_churn'\nabove = '1%'"),
        rule("much", "series = 'alloc_space'\nabove = '100G'"),
    ];
    daemon.append_to_config(&format!("[alerts]\nwebhooks = ['{}/']\n{}", receiver.url, rules.concat()));
    let mut daemon = answering_as(daemon, "");
    daemon.wait_for("probes", |daemon| daemon.has_probes_in(&holder.shown()));
    let pid = holder.id();
    let began = now_s();
    let truth = holder.truth();
    let half = began + (now_s() - began) / 2;
    daemon.wait_for("end of the process", |daemon| daemon.allocations()["ended"] == 1);
    let ended = daemon.windows_written();
    daemon.wait_for("its last window", |daemon| daemon.windows_written() >= ended + 2);
    let raised = || -> BTreeSet<String> {
        let all = alerts(&receiver.posted());
        all.iter().map(|alert| alert["labels"]["alertname"].as_str().unwrap().to_owned()).collect()
    };
    daemon.wait_for("alerts", |_| ["bytes", "blocks", "place"].iter().all(|rule| raised().contains(*rule)));
    assert!(!raised().contains("much"), "{:?}", raised());

    // By name, as metrics are: it has a child for a while.
    let stored = daemon.allocated_by(["--process", &name]);
    let metrics = get(daemon.folder.path(), "/metrics").text();
    for (series, kind) in [("allocated", "alloc_space"), ("freed", "freed_space")] {
        let line = format!("perf_agent_process_{series}_bytes_total{{process=\"{name}\"}} ");
        let found = metrics.lines().find_map(|found| found.strip_prefix(&line)).expect(&metrics);
        assert_eq!(found.parse::<u64>().unwrap(), total(&stored, kind), "{series}");
    }
    let leaked = sum(&daemon.allocated(pid), "site_leak", &["alloc_space"]);
    assert!((leaked - truth["site_leak_live_bytes"]).abs() <= leaked * 0.01, "{leaked}");

    // Half of the time against the other half: the places have the same shares.
    let ranges = [format!("{}..{half}", began - 3), format!("{half}..{}", now_s() + 3)];
    for value in ["alloc_objects", "freed_space"] {
        let arguments = ["--type", "alloc", "--value", value, "--min-percent", "0", "--json"];
        let done = daemon.query("diff", &[&[&*ranges[0], &*ranges[1]], &arguments[..]].concat());
        assert_eq!(done.code, 0, "{}", done.stderr);
        let changes: Value = serde_json::from_str(&done.stdout).unwrap();
        let rows = changes["functions"].as_array().unwrap();
        assert!(rows.iter().any(|row| row["name"] == "site_churn"), "{changes}");
    }
    assert_eq!(daemon.end().code, 0);

    let config = daemon.config();
    let without = std::fs::read_to_string(&config).unwrap().replace(&format!("of = [\"{name}\"]"), "of = []");
    std::fs::write(&config, without).unwrap();
    let checked = run(agent().args(["daemon", "config", "check"]).arg(&config)).unwrap();
    assert!(checked.code == 2 && checked.stderr.contains("[allocations] of = "), "{}", checked.stderr);
}

#[test]
fn blocks_of_jemalloc_and_of_go_are_recorded_by_rule() {
    let folder = tempfile::tempdir().unwrap();
    let built = build_from(folder.path(), &["go_sites_profiled.go"], &[]);
    let sites = folder.path().join(format!("gosites{}", std::process::id() % 100_000));
    std::fs::rename(built, &sites).unwrap();
    let holder = Holder::start_with("jemal", "6", "1000", "libjemalloc.so.2");
    let mut daemon = Daemon::idle();
    let go_name = sites.file_name().unwrap().to_str().unwrap();
    daemon.allocations_of(&format!("[\"{}\", \"{go_name}\"]", holder.name), EVERY, "100%");
    daemon.run();
    // It waits until the daemon has found it, and chooses blocks itself.
    let mut command = Command::new(&sites);
    command.args(["12", "2000"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let go = Started::of(&mut command).unwrap();
    let go_pid = go.id();
    let shown = Value::String(format!("{go_name} ({go_pid})"));
    daemon.wait_for("probes", |daemon| daemon.has_probes_in(&holder.shown()) && daemon.has_probes_in(&shown));
    let pid = holder.id();
    let (known, go_known) = (holder.truth(), truth(&finish(go).unwrap().stdout).unwrap());
    daemon.wait_for("end of both", |daemon| daemon.allocations()["ended"] == 2);
    assert_eq!(daemon.end().code, 0);
    let profile = daemon.allocated(pid);
    for site in ["site_leak", "site_cache", "site_vector", "site_queue"] {
        let live = sum(&profile, site, &["alloc_space"]) - sum(&profile, site, &["freed_space"]);
        let expected = known[&format!("{site}_live_bytes")];
        assert!((live - expected).abs() <= expected * 0.01, "{site}: {live} of {expected}");
    }
    let profile = daemon.allocated(go_pid);
    for site in ["siteSmall", "siteMiddle", "siteLarge", "siteKept", "siteDeep"] {
        for (value, key) in [("alloc_space", "bytes"), ("alloc_objects", "count")] {
            let (found, tolerance) =
                (sum(&profile, &format!("main.{site}"), &[value]), by_chance(&go_known, site));
            let expected = go_known[&format!("{site}_{key}")];
            assert!(
                (found - expected).abs() <= expected * tolerance + 8192.0,
                "{site} {value}: {found} of {expected}\n{}",
                profile["quality"]["notes"]
            );
        }
    }
}

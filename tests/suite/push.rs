//! Windows that are pushed, as the other side receives them.

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Row;
use tests::receiver::Receiver;
use tests::{agent, run};

use crate::daemon::Daemon;
use crate::faults::signal;
use crate::recording::spawn;

pub(crate) fn configure(daemon: &Daemon, receiver: &Receiver) {
    daemon.append_to_config(&format!(
        "[push]\npyroscope = '{0}/pyroscope/'\notlp = '{0}'\ninterval = '2s'\nspool = '{1}'\nlabels = {{ env = 'test' }}\n",
        receiver.url,
        daemon.folder.path().join("spool").display()
    ));
}

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|piece| piece == text.as_bytes())
}

#[test]
fn windows_arrive_as_pprof_and_as_otlp_profiles() {
    let receiver = Receiver::start().unwrap();
    let mut daemon = Daemon::idle();
    daemon.configure_all(99, "1s");
    configure(&daemon, &receiver);
    let _service = spawn("regression", &["600"]);
    daemon.run();
    let of =
        |path: &str| receiver.posted().into_iter().filter(|posted| posted.path == path).collect::<Vec<_>>();
    let (pprof, otlp) = ("/pyroscope/push.v1.PusherService/Push", "/v1development/profiles");
    let named = |path: &str, name: &str| {
        of(path).into_iter().filter(|posted| contains(&posted.body, name)).collect::<Vec<_>>()
    };
    daemon.wait_for("requests", |_| named(pprof, "process_cpu").len() > 1 && of(otlp).len() > 1);
    // Blocked time, and memory that became resident.
    for name in ["off_cpu", "memory"] {
        daemon.wait_for("requests of each kind", |_| !named(pprof, name).is_empty());
    }
    let pprof = &named(pprof, "process_cpu")[1];
    assert_eq!(pprof.header("content-type"), Some("application/proto"));
    for text in ["service_name", "regression", "process_cpu", "env", "test"] {
        assert!(contains(&pprof.body, text), "no `{text}`");
    }
    let otlp = &of(otlp)[1];
    assert_eq!(otlp.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(otlp.header("content-encoding"), Some("gzip"));
    assert_eq!(&otlp.body[..2], b"\x1f\x8b");
    // For decoders that know nothing of us.
    if let Some(folder) = std::env::var_os("PERF_AGENT_KEEP_PUSHED") {
        let folder = std::path::PathBuf::from(folder);
        std::fs::write(folder.join("push.pyroscope"), &pprof.body).unwrap();
        std::fs::write(folder.join("push.otlp.gz"), &otlp.body).unwrap();
    }
}

#[test]
fn what_nobody_takes_waits_and_is_sent_by_the_next_daemon() {
    let receiver = Receiver::start().unwrap();
    receiver.answer(503);
    let mut daemon = Daemon::configured(99, "1s");
    configure(&daemon, &receiver);
    let _service = spawn("regression", &["600"]);
    daemon.run();
    let spool = daemon.folder.path().join("spool");
    let waiting = || std::fs::read_dir(&spool).map_or(0, Iterator::count);
    daemon.wait_for("requests in the spool", |_| waiting() >= 4);
    assert!(daemon.log().contains("does not take profiles now"), "{}", daemon.log());
    assert!(receiver.posted().is_empty());
    signal(daemon.pid(), libc::SIGTERM);
    let mut child = daemon.child.take().unwrap();
    child.wait().unwrap();
    let left = waiting();
    assert!(left >= 4);
    receiver.answer(200);
    daemon.run();
    daemon.wait_for("requests of the one before", |_| receiver.posted().len() >= left);
    daemon.wait_for("count", |daemon| daemon.fed("push_sent") >= left as u64);
    assert_eq!((daemon.fed("push_dropped"), daemon.fed("push_refused")), (0, 0));
}

#[test]
fn windows_are_exported_as_rows_and_a_file_that_is_there_stays() {
    let _service = spawn("regression", &["600"]);
    let daemon = Daemon::start(99, "1s");
    daemon.wait_for("windows", |daemon| daemon.status()["status"]["windows"].as_u64() >= Some(2));
    let file = daemon.folder.path().join("x.parquet");
    let export = || {
        run(agent().args(["query", "export", "--store"]).arg(daemon.store()).arg("-o").arg(&file)).unwrap()
    };
    let first = export();
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(first.stderr.contains(" rows of "), "{}", first.stderr);
    let rows = SerializedFileReader::new(std::fs::File::open(&file).unwrap()).unwrap();
    let is_work = |row: Result<Row, _>| row.unwrap().to_string().contains("work_usual");
    assert!(rows.get_row_iter(None).unwrap().any(is_work));
    let second = export();
    assert!(second.code == 1 && second.stderr.contains("--force"), "{}", second.stderr);
    if let Some(folder) = std::env::var_os("PERF_AGENT_KEEP_PUSHED") {
        std::fs::copy(&file, std::path::PathBuf::from(folder).join("x.parquet")).unwrap();
    }
}

//! The daemon's API: the same answers as `query`, to those who may ask, while the daemon goes on recording.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tests::{agent, finish, run, truth, workload};

use crate::daemon::Daemon;
use crate::recording::background;

/// A daemon that answers on a socket, and over TCP where `more` says so.
pub(crate) fn answering(rate_hz: u32, window: &str, more: &str) -> Daemon {
    let daemon = Daemon::idle();
    daemon.configure(rate_hz, window);
    answering_as(daemon, more)
}

/// The same of one that is configured.
pub(crate) fn answering_as(mut daemon: Daemon, more: &str) -> Daemon {
    let text = std::fs::read_to_string(daemon.config()).unwrap();
    let socket = daemon.folder.path().join("api.sock");
    std::fs::write(daemon.config(), format!("{text}[api]\nsocket = \"{}\"\n{more}", socket.display()))
        .unwrap();
    daemon.run();
    daemon.wait_for("address", |daemon| daemon.log().contains("answers on unix:"));
    daemon
}

/// An answer: status, head and body.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {} {text}", self.head))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks on the socket of a daemon.
pub(crate) fn get(folder: &Path, path: &str) -> Answer {
    let stream = UnixStream::connect(folder.join("api.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    exchange(stream, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
}

pub(crate) fn exchange(mut stream: impl Read + Write, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    // What was refused before it was read to its end is answered, and then the connection is reset.
    let _reset_at_the_end = stream.read_to_end(&mut bytes);
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
    Answer { status, head, body: bytes.split_off((end + 4).min(bytes.len())) }
}

/// The TCP port that the daemon says it answers on.
pub(crate) fn port(daemon: &Daemon) -> u16 {
    let log = daemon.log();
    let line = log.lines().find(|line| line.contains("answers on http")).unwrap();
    line.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap()
}

fn windows(daemon: &Daemon) -> u64 {
    daemon.status()["status"]["windows"].as_u64().unwrap_or_default()
}

#[test]
fn the_api_answers_what_query_answers() {
    let daemon = answering(199, "1s", "");
    let _busy = background(workload("cpu_split"), &["60"]);
    daemon.wait_for("windows", |daemon| windows(daemon) >= 4);
    let folder = daemon.folder.path();
    // A stretch that is over, so that both see the same windows.
    let series = get(folder, "/api/v1/series?from=-1m&process=cpu_split").json();
    let points = series["points"].as_array().unwrap();
    let busy = points.iter().filter(|point| point["values"][0].as_u64().unwrap_or_default() > 0);
    assert!(busy.count() >= 2 && series["processes"][0] == "cpu_split", "{series}");
    let seconds = |ns: &Value| (ns.as_u64().unwrap() / 1_000_000_000).to_string();
    let from = seconds(&points[0]["start_unix_ns"]);
    let to = seconds(&points[points.len() - 1]["end_unix_ns"]);
    let range = format!("from={from}&to={to}&process=cpu_split");

    let query = |more: &[&str]| {
        let mut agent = agent();
        agent.args(["query"]).args(more).args(["--from", &from, "--to", &to]);
        run(&mut agent).unwrap()
    };
    let store = daemon.store();
    let store = store.to_str().unwrap();
    let remote = format!("unix:{}", folder.join("api.sock").display());
    let here = query(&["top", "--json", "--process", "cpu_split", "--store", store]);
    let there = query(&["top", "--json", "--process", "cpu_split", "--remote", &remote]);
    let asked = get(folder, &format!("/api/v1/top?{range}"));
    let parsed = |run: &tests::Run| -> Value {
        serde_json::from_str(&run.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr))
    };
    assert_eq!(parsed(&here)["functions"], asked.json()["functions"]);
    assert_eq!(parsed(&here)["total"], asked.json()["total"]);
    let names = |answer: &Value| -> Vec<(String, Value)> {
        let rows = answer["functions"].as_array().unwrap().iter();
        rows.map(|row| (row["name"].as_str().unwrap().to_owned(), row["self"].clone())).collect()
    };
    assert_eq!(names(&parsed(&here)), names(&parsed(&there)));
    assert!(names(&parsed(&there)).iter().any(|(name, _)| name == "work_forty"));

    let folded = query(&["flamegraph", "--process", "cpu_split", "--folded", "--store", store]).stdout;
    let lines = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let asked = get(folder, &format!("/api/v1/flamegraph?{range}&format=folded"));
    assert_eq!(lines(&asked.text()), lines(&folded));
    let over_there = query(&["flamegraph", "--process", "cpu_split", "--folded", "--remote", &remote]);
    assert_eq!(lines(&over_there.stdout), lines(&folded), "{}", over_there.stderr);
    let svg = get(folder, &format!("/api/v1/flamegraph?{range}"));
    assert!(svg.head.contains("image/svg+xml") && svg.head.contains("attachment;"), "{}", svg.head);
    assert!(svg.text().contains("work_forty"));

    let stretch = format!("{from}..{to}");
    let diff = get(folder, &format!("/api/v1/diff?base={stretch}&new={stretch}&min-percent=0")).json();
    assert!(diff["functions"][0]["self_delta"].as_f64().unwrap().abs() < 1e-9, "{diff}");
    let same = run(agent().args(["query", "diff", &stretch, &stretch, "--remote", &remote])).unwrap();
    assert_eq!(same.code, 0, "{}", same.stderr);
    let listed = query(&["windows", "--json", "--remote", &remote]);
    assert_eq!(parsed(&listed), parsed(&query(&["windows", "--json", "--store", store])));
    let processes = get(folder, &format!("/api/v1/processes?{range}")).json();
    assert_eq!((&processes["processes"][0]["name"], &processes["found"]), (&"cpu_split".into(), &1.into()));
    let status = get(folder, "/api/v1/status").json();
    assert_eq!(status["status"]["pid"], daemon.pid());
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(folder, path).text(), "ok\n");
    }
}

#[test]
fn what_cannot_be_answered_says_why_and_what_helps() {
    let daemon = answering(19, "10m", "");
    let folder = daemon.folder.path();
    for (path, status, wanted) in [
        ("/api/v1/top?form=-1h", 400, "no parameter \\\"form\\\""),
        ("/api/v1/top?from=soon", 400, "examples: now, -1h"),
        ("/api/v1/top?from=now&to=-1h", 400, "not later"),
        ("/api/v1/top?store=/etc", 400, "no parameter"),
        ("/api/v1/flamegraph?format=exe", 400, "known formats"),
        ("/api/v1/diff?base=-2h..-1h", 400, "--new"),
        ("/api/v1/top?from=-1h", 404, "it is empty"),
        ("/api/v1/../../etc/passwd", 404, "openapi.json"),
        ("/api/v1/%2e%2e/%2e%2e/etc/passwd", 404, "openapi.json"),
        ("/readyz", 503, "the first window is open"),
    ] {
        let answer = get(folder, path);
        assert!(
            answer.status == status && answer.text().contains(wanted),
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "cache-control: no-store",
        ] {
            assert!(answer.head.to_ascii_lowercase().contains(header), "{path}: {}", answer.head);
        }
        assert!(!answer.head.to_ascii_lowercase().contains("access-control"), "{}", answer.head);
    }
    let stream = UnixStream::connect(folder.join("api.sock")).unwrap();
    let posted = exchange(
        stream,
        "POST /api/v1/top HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(posted.status, 405);
    let stream = UnixStream::connect(folder.join("api.sock")).unwrap();
    let long =
        format!("GET /{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", "a".repeat(40_000));
    assert!(matches!(exchange(stream, &long).status, 414 | 431));
    let document = get(folder, "/api/v1/openapi.json").json();
    for path in document["paths"].as_object().unwrap().keys().filter(|path| *path != "/api/v1/live") {
        assert!(!get(folder, path).text().contains("nothing at this path"), "{path}");
    }
    let gone = run(agent().args(["query", "top", "--remote", "unix:/nowhere/api.sock"])).unwrap();
    assert!(gone.code == 1 && gone.stderr.contains("unix:/nowhere/api.sock"), "{}", gone.stderr);
    let empty = format!("unix:{}", folder.join("api.sock").display());
    let empty = run(agent().args(["query", "top", "--remote", &empty])).unwrap();
    assert!(empty.code == 5 && empty.stderr.contains("hint: it is empty"), "{}", empty.stderr);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(folder.join("api.sock")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn over_tcp_only_those_with_the_token_come_in_and_never_by_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0123456789abcdef0123\n").unwrap();
    let mode =
        |mode| std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o600);
    let daemon =
        answering(19, "10m", &format!("listen = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n", token.display()));
    let port = port(&daemon);
    let ask = |head: &str| {
        let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        exchange(stream, &format!("GET /api/v1/status HTTP/1.1\r\n{head}Connection: close\r\n\r\n")).status
    };
    let known = "Authorization: Bearer 0123456789abcdef0123\r\n";
    assert_eq!(ask(&format!("Host: localhost:{port}\r\n{known}")), 200);
    assert_eq!(ask(&format!("Host: localhost:{port}\r\n")), 401);
    assert_eq!(
        ask(&format!("Host: localhost:{port}\r\nAuthorization: Bearer 0123456789abcdef0124\r\n")),
        401
    );
    assert_eq!(ask(&format!("Host: evil.example\r\n{known}")), 403);
    assert_eq!(
        ask(&format!("Host: localhost\r\n{known}Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n")),
        403
    );
    let url = format!("http://127.0.0.1:{port}");
    let query = |more: &[&str]| run(agent().args(["query", "windows", "--remote", &url]).args(more)).unwrap();
    let (known, unknown) = (query(&["--token-file", token.to_str().unwrap()]), query(&[]));
    assert_eq!(known.code, 0, "{}", known.stderr);
    assert!(unknown.code == 3 && unknown.stderr.contains("--token-file"), "{}", unknown.stderr);

    let check = |text: &str| {
        let file = folder.path().join("config.toml");
        std::fs::write(&file, format!("[api]\n{text}")).unwrap();
        let checked = run(agent().args(["daemon", "config", "check"]).arg(&file)).unwrap();
        (checked.code, checked.stderr)
    };
    let (code, told) = check("listen = \"0.0.0.0:7071\"");
    assert!(
        code == 2 && told.contains("token_file, and tls_certificate") && told.contains("ssh -L"),
        "{told}"
    );
    mode(0o644);
    let (code, told) = check(&format!("token_file = \"{}\"", token.display()));
    assert!(code == 1 && told.contains("mode 644") && told.contains("chmod 600"), "{told}");
}

#[test]
fn other_hosts_are_answered_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("token"), "0123456789abcdef0123").unwrap();
    std::fs::set_permissions(path("token"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let made = run(std::process::Command::new("openssl").args([
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &path("key.pem"),
        "-out",
        &path("cert.pem"),
    ]))
    .unwrap();
    assert_eq!(made.code, 0, "{}", made.stderr);
    let more = format!(
        "listen = \"0.0.0.0:0\"\ntoken_file = \"{}\"\ntls_certificate = \"{}\"\ntls_key = \"{}\"\n",
        path("token"),
        path("cert.pem"),
        path("key.pem")
    );
    let daemon = answering(19, "10m", &more);
    let url = format!("https://localhost:{}", port(&daemon));
    let query = |more: &[&str]| {
        run(agent().args(["query", "windows", "--remote", &url, "--token-file", &path("token")]).args(more))
            .unwrap()
    };
    let trusted = query(&["--ca-file", &path("cert.pem")]);
    assert_eq!(trusted.code, 0, "{}", trusted.stderr);
    let not_trusted = query(&[]);
    assert!(not_trusted.code == 1 && not_trusted.stderr.contains("certificate"), "{}", not_trusted.stderr);
    let stream = std::net::TcpStream::connect(("127.0.0.1", port(&daemon))).unwrap();
    let mut stream = stream;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _reset_or_closed = stream.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "answers in the clear");
}

/// A crowd of readers is answered or told to come again, and recording goes on as if nobody read.
#[test]
fn a_hundred_readers_and_a_storm_of_processes_do_not_disturb_the_recording() {
    let daemon = answering(99, "1s", "");
    daemon.wait_for("windows", |daemon| windows(daemon) >= 3);
    let storm = || background("sh", &["-c", "while :; do /bin/true; done"]);
    let storms = [storm(), storm()];
    // It ends by itself, and says what it used.
    let spinner = crate::recording::spawn("cpu_split", &["8"]);
    let pid = spinner.id();
    let folder = daemon.folder.path();
    let before = windows(&daemon);
    let heads: Vec<(u16, String)> = std::thread::scope(|scope| {
        let ask = || {
            let answer = get(folder, "/api/v1/flamegraph?from=-1h&format=json");
            (answer.status, answer.head)
        };
        let readers: Vec<_> = (0..100).map(|_| scope.spawn(move || [ask(), ask()])).collect();
        readers.into_iter().flat_map(|reader| reader.join().unwrap()).collect()
    });
    let with = |wanted: u16| heads.iter().filter(|(status, _)| *status == wanted).count();
    let (answered, busy, slow) = (with(200), with(429), with(503));
    assert_eq!(answered + busy + slow, 200, "{heads:?}");
    assert!(answered > 0 && busy > 0, "{answered} answered, {busy} told to come again, {slow} in vain");
    let again = |head: &str| head.to_ascii_lowercase().contains("retry-after:");
    assert!(heads.iter().all(|(status, head)| *status == 200 || again(head)));
    let known = truth(&finish(spinner).unwrap().stdout).unwrap();
    drop(storms);
    daemon.wait_for("more windows", |daemon| windows(daemon) >= before + 3);
    // What it used is in the windows, or among the samples that are counted as lost.
    let ended = windows(&daemon);
    daemon.wait_for("the window in which it ended", |daemon| windows(daemon) > ended);
    let top = get(folder, &format!("/api/v1/top?from=-1h&pid={pid}"));
    let found_ns = top.json()["total"].as_f64().unwrap();
    let share = found_ns / known["total_ns"];
    let listed = get(folder, "/api/v1/windows?type=cpu&from=-1h").json();
    let listed = listed["windows"].as_array().unwrap();
    let number = |window: &Value, key: &str| window[key].as_u64().unwrap();
    let recorded: u64 = listed.iter().map(|window| number(window, "duration_ns")).sum();
    let span = number(&listed[listed.len() - 1], "end_unix_ns") - number(&listed[0], "start_unix_ns");
    assert!(recorded as f64 > span as f64 * 0.99, "{recorded} of {span} ns are recorded");
    let status = daemon.status();
    assert_eq!(status["status"]["not_stored_windows"], 0, "{status}");
    let lost = status["status"]["lost"].as_array().unwrap();
    let lost: u64 = lost.iter().map(|cause| number(cause, "count")).sum();
    // Each lost sample may have been one of its own.
    let missing = (1.0 - share) * known["total_ns"] / 1e9 * 99.0;
    assert!(share < 1.05, "{share:.3} of the true CPU time");
    assert!(
        missing < lost as f64 + 0.05 * known["total_ns"] / 1e9 * 99.0,
        "{missing} samples are missing, {lost} lost"
    );
}

//! What is slowed down: programs of the distribution with work for them, and loops that do nothing but what a profiler hooks.
//!
//! Each has one long-lived process, the target, which profilers attach to before the work begins. Servers get their work from a client;
//! in all others the target is a shell that runs the work when told to.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::children::{Folder, Group, Output, awaiting, sleep};
use super::turn::{Place, last_line};

/// A program and its work, as shell commands. They run in a folder of their own, with `$N` for how much is to be done, `$PORT` for a
/// free port, and `$PROGRAMS` for where the programs of the tests are.
pub(super) struct Workload {
    pub(super) name: &'static str,
    /// What is done, for the table.
    pub(super) what: &'static str,
    pub(super) packages: &'static [&'static str],
    /// Makes the input.
    prepare: &'static str,
    work: Work,
    /// How much to do for a first look at how long it takes.
    first: f64,
    units: Units,
}

enum Work {
    /// Runs `server`; it is ready when `ready` succeeds; `client` works with it.
    Server { server: &'static str, ready: &'static str, client: &'static str },
    /// A shell that does this each time.
    Inside(&'static str),
}

/// How much was done.
enum Units {
    /// As much as was asked for, this many each.
    Asked(f64),
    /// `$N` are whole seconds; the number before these words says how much it was.
    Before(&'static str),
    /// `$N` are seconds; the number behind these words says how much it was.
    Behind(&'static str),
}

pub(super) const WORKLOADS: [Workload; 9] = [
    Workload {
        name: "redis",
        what: "redis-benchmark, 20 connections, 8 requests at once: SET and GET",
        packages: &["redis-server", "redis-tools"],
        prepare: "",
        work: Work::Server {
            server: "exec redis-server --port $PORT --bind 127.0.0.1 --save '' --appendonly no",
            ready: "redis-cli -p $PORT ping",
            client: "exec redis-benchmark -p $PORT -q -c 20 -P 8 -r 10000 -t set,get -n $N",
        },
        first: 50_000.0,
        units: Units::Asked(2.0),
    },
    Workload {
        name: "postgres",
        what: "pgbench, 4 connections, its usual transaction, fsync off",
        packages: &["postgresql"],
        // The server refuses to run as root.
        prepare: "PG=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1) && ln -s $PG bin && mkdir data && chmod 755 . && chown postgres data && \
                  setpriv --reuid=postgres --regid=postgres --clear-groups bin/initdb -D data -A trust --no-sync",
        work: Work::Server {
            server: "exec setpriv --reuid=postgres --regid=postgres --clear-groups bin/postgres -D data -p $PORT -F \
                     -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c autovacuum=off",
            ready: "bin/pg_isready -h 127.0.0.1 -p $PORT && bin/pgbench -h 127.0.0.1 -p $PORT -U postgres -i -q -s 5 postgres",
            client: "exec bin/pgbench -h 127.0.0.1 -p $PORT -U postgres -n -c 4 -j 1 -t $N postgres",
        },
        first: 200.0,
        units: Units::Asked(4.0),
    },
    Workload {
        name: "nginx",
        what: "wrk, 8 connections: a file of 1 KiB",
        packages: &["nginx", "wrk"],
        prepare: "mkdir www logs && head -c 1024 /dev/zero > www/index.html && chmod -R 755 . && cat > nginx.conf <<END
daemon off; worker_processes 1; pid nginx.pid; error_log logs/error.log;
events { worker_connections 256; }
http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
  server { listen 127.0.0.1:$PORT; root www; } }
END",
        work: Work::Server {
            server: "exec nginx -p $PWD -c nginx.conf",
            ready: "wrk -t1 -c1 -d1s http://127.0.0.1:$PORT/",
            client: "exec wrk -t1 -c8 -d${N}s http://127.0.0.1:$PORT/",
        },
        first: 1.0,
        units: Units::Before(" requests in"),
    },
    Workload {
        name: "sqlite3",
        what: "a table in memory filled, indexed, grouped and emptied",
        packages: &["sqlite3"],
        prepare: "echo 'CREATE TABLE t(a INTEGER PRIMARY KEY, b TEXT, c INTEGER); CREATE INDEX i ON t(c);' > begin.sql && \
                  { echo 'BEGIN;'; seq 500 | sed \"s/.*/INSERT INTO t VALUES(&, printf('row %d', &), & * 7919 % 101);/\"; echo 'COMMIT;'; \
                  echo 'SELECT c, count(*), max(b) FROM t GROUP BY c ORDER BY 2 DESC LIMIT 3; DELETE FROM t;'; } > work.sql",
        work: Work::Inside(
            "{ cat begin.sql; i=0; while [ $i -lt $N ]; do cat work.sql; i=$((i+1)); done; } | sqlite3 :memory: > /dev/null",
        ),
        first: 50.0,
        units: Units::Asked(1.0),
    },
    Workload {
        name: "python3",
        what: "the interpreter, on numbers, strings and a dictionary",
        packages: &["python3"],
        prepare: "cat > work.py <<'END'
import sys
def step(n):
    words, total = {}, 0
    for i in range(2000):
        total = (total * 31 + i * n) % 1000003
        words[str(total)] = words.get(str(total), 0) + 1
    return len(words)
print(sum(step(n) for n in range(int(sys.argv[1]))))
END",
        work: Work::Inside("/usr/bin/python3 work.py $N"),
        first: 100.0,
        units: Units::Asked(1.0),
    },
    Workload {
        name: "compile",
        what: "gcc -O1 on a file of 60 functions, again and again",
        packages: &["gcc", "libc6-dev"],
        prepare: "{ echo '#include <stdio.h>'; for i in $(seq 60); do \
                  echo \"int f$i(int *a, int n) { int s = $i; for (int i = 0; i < n; i++) { if (a[i] % $i) s += a[i] * s; \
                  else switch (s & 7) { case 1: s ^= a[n - i]; break; case 5: printf(\\\"%d\\\", s); } } return s; }\"; done; } > file.c",
        work: Work::Inside("i=0; while [ $i -lt $N ]; do gcc -O1 -c file.c -o file.o || exit 1; i=$((i+1)); done"),
        first: 3.0,
        units: Units::Asked(1.0),
    },
    Workload {
        name: "getppid-loop",
        what: "worst case: nothing but the cheapest system call",
        packages: &[],
        prepare: "",
        work: Work::Inside("$PROGRAMS/getppid_loop $N"),
        first: 1_000_000.0,
        units: Units::Asked(1.0),
    },
    Workload {
        name: "malloc-loop",
        what: "worst case: nothing but malloc and free",
        packages: &[],
        prepare: "",
        work: Work::Inside("$PROGRAMS/alloc_storm $N"),
        first: 0.5,
        units: Units::Behind("\"calls\": "),
    },
    Workload {
        name: "switch-loop",
        what: "worst case: two threads that hand a byte to and fro",
        packages: &[],
        prepare: "",
        work: Work::Inside("$PROGRAMS/nofp_pingpong $N"),
        first: 20_000.0,
        units: Units::Asked(1.0),
    },
];

/// How long a server may take to be ready.
const READY_WITHIN: Duration = Duration::from_mins(1);

/// A workload whose target runs.
pub(super) struct Running {
    workload: &'static Workload,
    variables: Vec<(&'static str, String)>,
    amount: f64,
    target: Group,
    /// The ends of the shell's pipes, where the target is a shell.
    shell: Option<(ChildStdin, BufReader<ChildStdout>)>,
    // Removed last: the target works in it.
    folder: Folder,
}

impl Running {
    /// Prepares it and starts the target.
    pub(super) fn start(workload: &'static Workload, place: &Place) -> Result<Self> {
        let folder = Folder::new(workload.name)?;
        let variables =
            vec![("PORT", free_port()?.to_string()), ("PROGRAMS", place.programs.display().to_string())];
        run(workload.prepare, &folder, &variables).context("its input cannot be made")?;
        let errors = folder.path().join("target.err");
        let (script, output) = match workload.work {
            Work::Server { server, .. } => {
                (server.to_owned(), Output::Files(&folder.path().join("target.out"), &errors))
            }
            Work::Inside(work) => {
                (format!("while read -r N; do ({work}) > work.out; echo $? ; done"), Output::Ours(&errors))
            }
        };
        let mut target = Group::start(&script, folder.path(), &variables, &output)?;
        let shell = target.pipes().map(|(input, output)| (input, BufReader::new(output)));
        let mut running = Self { workload, variables, amount: workload.first, target, shell, folder };
        running.wait_until_ready()?;
        Ok(running)
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let Work::Server { ready, .. } = self.workload.work else { return Ok(()) };
        let begun = Instant::now();
        while let Err(error) = run(ready, &self.folder, &self.variables) {
            if self.target.ended().is_some() {
                bail!("the server ended: {}", last_line(&self.folder.path().join("target.err")));
            }
            if begun.elapsed() > READY_WITHIN {
                return Err(error.context("the server is not ready"));
            }
            sleep(Duration::from_millis(200))?;
        }
        Ok(())
    }

    /// Finds out how much work takes about so long, which also warms everything up.
    pub(super) fn calibrate(&mut self, seconds: f64) -> Result<()> {
        match self.workload.units {
            Units::Before(_) => self.amount = seconds.ceil(),
            Units::Behind(_) => self.amount = seconds,
            Units::Asked(_) => {
                // The first look is short and cold; the second is near what is wanted.
                for _ in 0..2 {
                    let (_, took) = self.work(1.0)?;
                    self.amount = (self.amount * (seconds / took).clamp(0.01, 100.0)).ceil().max(1.0);
                }
            }
        }
        self.work(1.0).map(drop)
    }

    /// Works once, on a part of the usual amount unless that is a time; returns how much was done, and how long it took in seconds.
    pub(super) fn work(&mut self, part: f64) -> Result<(f64, f64)> {
        let amount = match self.workload.units {
            Units::Asked(_) => (self.amount * part).ceil().max(1.0),
            Units::Before(_) | Units::Behind(_) => self.amount,
        };
        let asked = amount.to_string();
        let result = self.folder.path().join("work.out");
        let begun = Instant::now();
        match (&self.workload.work, &mut self.shell) {
            (Work::Server { client, .. }, _) => {
                let mut variables = self.variables.clone();
                variables.push(("N", asked));
                let errors = self.folder.path().join("work.err");
                let mut client =
                    Group::start(client, self.folder.path(), &variables, &Output::Files(&result, &errors))?;
                let status = client.wait()?;
                if !status.success() {
                    bail!("the client failed ({status}): {}", last_line(&errors));
                }
            }
            (Work::Inside(_), Some((input, output))) => {
                writeln!(input, "{asked}").context("the shell that works is gone")?;
                let mut line = String::new();
                awaiting(self.target.pid(), || output.read_line(&mut line))??;
                if line.trim() != "0" {
                    bail!(
                        "the work failed ({}): {}",
                        line.trim(),
                        last_line(&self.folder.path().join("target.err"))
                    );
                }
            }
            (Work::Inside(_), None) => bail!("the shell that works has no pipes"),
        }
        let took = begun.elapsed().as_secs_f64();
        let text = std::fs::read_to_string(&result).unwrap_or_default();
        let done = self.workload.units.done(amount, &text);
        let done = done.with_context(|| format!("it does not say how much it did: {}", text.trim()))?;
        Ok((done, took))
    }

    /// The process to profile.
    pub(super) fn target(&self) -> u32 {
        self.target.pid()
    }
}

impl Units {
    fn done(&self, amount: f64, printed: &str) -> Option<f64> {
        match self {
            Self::Asked(each) => Some(amount * each),
            Self::Before(words) => {
                let text = printed.get(..printed.find(words)?)?;
                text.split_whitespace().next_back()?.parse().ok()
            }
            Self::Behind(words) => {
                let text = printed.get(printed.find(words)? + words.len()..)?;
                text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.parse().ok()
            }
        }
    }
}

fn run(script: &str, folder: &Folder, variables: &[(&str, String)]) -> Result<()> {
    let (out, errors) = (folder.path().join("run.out"), folder.path().join("run.err"));
    let mut group = Group::start(script, folder.path(), variables, &Output::Files(&out, &errors))?;
    let status = group.wait()?;
    if !status.success() {
        bail!("`{script}` failed ({status}): {}", last_line(&errors));
    }
    Ok(())
}

/// A port that nobody listens on now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_read_from_what_is_printed() {
        let wrk = "  1 threads and 8 connections\n  33521 requests in 1.10s, 40.28MB read\nRequests/sec:  30475.03\n";
        assert_eq!(Units::Before(" requests in").done(1.0, wrk), Some(33521.0));
        assert_eq!(Units::Behind("\"calls\": ").done(1.0, "{\"calls\": 1234, \"x\": 5}"), Some(1234.0));
        assert_eq!(Units::Behind("\"calls\": ").done(1.0, ""), None);
        assert_eq!(Units::Asked(4.0).done(25.0, "anything"), Some(100.0));
    }

    #[test]
    fn names_are_unique() {
        let names: std::collections::HashSet<_> = WORKLOADS.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), WORKLOADS.len());
    }
}

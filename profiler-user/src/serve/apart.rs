//! Answers from the store, each made by a process of its own: the memory that an hour of a busy host takes goes when the answer is there, and whatever
//! is wrong with a store or a question cannot end the recording.
//!
//! In: the path and the parameters of a request. Out: its answer. The process is this program again, with `daemon answer`; it writes one line of
//! JSON, which says what came of it, and then the bytes. It ends with who asked: with the reader who waits for it, and with the daemon.

use std::io::{self, Write};
use std::path::Path;
use std::process::Stdio;

use axum::http::StatusCode;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::answer::{Answer, Refused};
use super::routes::{How, ROUTES};
use super::service::LARGEST;
use crate::session::clock;

/// Address space of the process, bytes: twenty times what a day of a busy host takes.
const MOST_MEMORY: u64 = 1 << 30;
/// Longest first line.
const LONGEST_HEAD: usize = 64 << 10;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// CPU time that it took, nanoseconds.
    cpu_ns: u64,
    outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// The bytes follow.
    Answered { content_type: String, save_as: Option<String> },
    /// There are none.
    Refused { status: u16, cause: String, message: String, hint: Option<String>, retry_after: Option<u32> },
}

/// Has an answer made. The second value is the CPU time that it took, nanoseconds.
pub(super) async fn ask(store: &Path, path: &str, query: &str) -> (Result<Answer, Refused>, u64) {
    match read(store, path, query).await {
        Ok(told) => parse(told),
        Err(error) => (Err(failed(&error.to_string())), 0),
    }
}

async fn read(store: &Path, path: &str, query: &str) -> io::Result<Vec<u8>> {
    // What runs, also after its file was replaced by another version.
    let mut child = Command::new("/proc/self/exe")
        .args(["daemon", "answer", "--store"])
        .arg(store)
        .arg(format!("--path={path}"))
        .arg(format!("--query={query}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut told = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take((LONGEST_HEAD + LARGEST + 1) as u64).read_to_end(&mut told).await?;
    }
    child.wait().await?;
    Ok(told)
}

fn parse(mut told: Vec<u8>) -> (Result<Answer, Refused>, u64) {
    let line = told.iter().take(LONGEST_HEAD).position(|byte| *byte == b'\n');
    let Some((end, head)) =
        line.and_then(|end| Some((end, serde_json::from_slice::<Head>(&told[..end]).ok()?)))
    else {
        return (Err(failed("it ended without a word")), 0);
    };
    let answer = match head.outcome {
        Outcome::Answered { content_type, save_as } => {
            told.drain(..=end);
            Ok(Answer { content_type: content_type.into(), bytes: told, save_as })
        }
        Outcome::Refused { status, cause, message, hint, retry_after } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Err(Refused { status, cause: cause.into(), message, hint, retry_after })
        }
    };
    (answer, head.cpu_ns)
}

fn failed(why: &str) -> Refused {
    let message = format!("the answer could not be made: {why}; the daemon's log may say more");
    Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", message)
        .hint("ask for less time, or for one process")
}

/// Makes an answer in this process, which does nothing else, and writes it.
///
/// # Errors
///
/// Nobody reads it.
pub fn answer(store: &Path, path: &str, query: &str, out: &mut impl Write) -> io::Result<()> {
    limit_self();
    let route = ROUTES.iter().find(|route| route.path == path).map(|route| route.how);
    let answer = match route {
        Some(How::Work(make)) => make(store, query),
        _ => Err(Refused::new(
            StatusCode::NOT_FOUND,
            "path",
            "nothing at this path is answered from the store",
        )),
    };
    write(answer, out)
}

fn write(answer: Result<Answer, Refused>, out: &mut impl Write) -> io::Result<()> {
    let (outcome, bytes) = match answer {
        Ok(Answer { content_type, bytes, save_as }) => {
            (Outcome::Answered { content_type: content_type.into_owned(), save_as }, bytes)
        }
        Err(Refused { status, cause, message, hint, retry_after }) => {
            let (status, cause) = (status.as_u16(), cause.into_owned());
            (Outcome::Refused { status, cause, message, hint, retry_after }, Vec::new())
        }
    };
    serde_json::to_writer(&mut *out, &Head { cpu_ns: clock::own_cpu_ns(), outcome })?;
    out.write_all(b"\n")?;
    out.write_all(&bytes)?;
    out.flush()
}

fn limit_self() {
    // Both are precautions: without them the answer is the same.
    let limit = Rlimit { current: Some(MOST_MEMORY), maximum: getrlimit(Resource::As).maximum };
    let _as_it_was = setrlimit(Resource::As, limit);
    let _as_before = set_parent_process_death_signal(Some(Signal::KILL));
    let _name_of_the_file = rustix::thread::set_name(c"perf-agent");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(answer: Result<Answer, Refused>) -> Result<Answer, Refused> {
        let mut told = Vec::new();
        write(answer, &mut told).unwrap();
        parse(told).0
    }

    #[test]
    fn what_comes_of_it_arrives_as_it_was() {
        let answer = Answer {
            content_type: "image/svg+xml".into(),
            bytes: b"\n{\"a\":\n\xff".to_vec(),
            save_as: Some("a.svg".to_owned()),
        };
        let arrived = through(Ok(answer)).unwrap();
        assert_eq!(
            (&*arrived.content_type, arrived.bytes.as_slice()),
            ("image/svg+xml", &b"\n{\"a\":\n\xff"[..])
        );
        assert_eq!(arrived.save_as.as_deref(), Some("a.svg"));
        let refused = Refused::busy("so many\nlines").hint("wait");
        assert_eq!(through(Err(refused.clone())).unwrap_err(), refused);
    }

    #[test]
    fn one_that_ends_without_a_word_is_told_of() {
        for told in [b"".to_vec(), b"x".repeat(LONGEST_HEAD + 10), b"thread panicked\n".to_vec()] {
            let (answer, cpu_ns) = parse(told);
            assert_eq!((answer.unwrap_err().status.as_u16(), cpu_ns), (500, 0));
        }
    }
}

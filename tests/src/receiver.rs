//! A small HTTP or HTTPS server that keeps what is posted to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

/// One request.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Path with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// What was sent.
    pub body: Vec<u8>,
}

impl Posted {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The server. It ends with the process.
#[derive(Debug)]
pub struct Receiver {
    /// Where it listens, `http://127.0.0.1:PORT` or `https://127.0.0.1:PORT`.
    pub url: String,
    posted: Arc<Mutex<Vec<Posted>>>,
    status: Arc<AtomicU16>,
}

impl Receiver {
    /// Starts it: it answers 200.
    ///
    /// # Errors
    ///
    /// No port is left.
    pub fn start() -> Result<Self> {
        Self::serving("http", serve)
    }

    /// The same over TLS.
    ///
    /// # Errors
    ///
    /// No port is left.
    pub fn start_with(tls: Arc<ServerConfig>) -> Result<Self> {
        Self::serving("https", move |stream, posted, status| {
            if let Ok(connection) = ServerConnection::new(Arc::clone(&tls)) {
                serve(StreamOwned::new(connection, stream), posted, status);
            }
        })
    }

    fn serving(
        scheme: &str,
        serve: impl Fn(TcpStream, &Mutex<Vec<Posted>>, &AtomicU16) + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen")?;
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let serve = Arc::new(serve);
        let (posted, status) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicU16::new(200)));
        let (there, answer) = (Arc::clone(&posted), Arc::clone(&status));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (there, answer, serve) = (Arc::clone(&there), Arc::clone(&answer), Arc::clone(&serve));
                std::thread::spawn(move || serve(stream, &there, &answer));
            }
        });
        Ok(Self { url, posted, status })
    }

    /// What it answers from now on. What it refuses is not kept.
    pub fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Release);
    }

    /// Everything that was posted and taken.
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(stream: impl Read + Write, posted: &Mutex<Vec<Posted>>, status: &AtomicU16) {
    let mut requests = BufReader::new(stream);
    while let Ok(Some(request)) = read(&mut requests) {
        let status = status.load(Ordering::Acquire);
        if status == 200 {
            posted.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        }
        // In one piece, and so in one record of TLS.
        let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n");
        let stream = requests.get_mut();
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn read(from: &mut impl BufRead) -> Result<Option<Posted>> {
    let mut first = String::new();
    if from.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let path = first.split(' ').nth(1).context("no path")?.to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut posted = Posted { path, headers, body: Vec::new() };
    let length = posted.header("content-length").and_then(|length| length.parse().ok());
    from.take(length.unwrap_or(0)).read_to_end(&mut posted.body)?;
    Ok(Some(posted))
}

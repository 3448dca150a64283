//! A browser without a window, driven over a pair of pipes (`--remote-debugging-pipe`, the DevTools protocol): no port, no driver of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::Started;

/// Longest wait for an answer of the browser, and for something on a page.
const PATIENCE: Duration = Duration::from_mins(1);

/// A page in a browser of its own, which ends when this is dropped.
#[derive(Debug)]
pub struct Page {
    _browser: Started,
    to: File,
    from: Receiver<Value>,
    session: String,
    asked: u64,
    /// What the page complained about: exceptions, broken policies, failed loads.
    pub complaints: Vec<String>,
    _profile: tempfile::TempDir,
}

impl Page {
    /// Opens a page.
    ///
    /// # Errors
    ///
    /// There is no browser, or it does not answer.
    pub fn open(url: &str, width: u32, height: u32) -> Result<Self> {
        let profile = tempfile::tempdir()?;
        let (their_in, to) = pipe()?;
        let (from, their_out) = pipe()?;
        let mut command = Command::new("chromium");
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={width},{height}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let ends = [their_in.as_raw_fd(), their_out.as_raw_fd()];
        // SAFETY: only dup2(2) and fcntl(2) are called, which may be after a fork; the descriptors are open until the child was started.
        unsafe {
            command.pre_exec(move || {
                // First out of the way of 3 and 4, where the browser looks for them.
                let moved = ends.map(|end| libc::fcntl(end, libc::F_DUPFD, 10));
                for (end, wanted) in moved.into_iter().zip([3, 4]) {
                    if end < 0 || libc::dup2(end, wanted) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        // The browser has processes of its own: all of them are in its group.
        let browser = Started::of(&mut command)?;
        drop((their_in, their_out));
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            let mut messages = BufReader::new(File::from(from)).split(0);
            while let Some(Ok(message)) = messages.next() {
                let parsed = serde_json::from_slice(&message).unwrap_or_default();
                if tell.send(parsed).is_err() {
                    break;
                }
            }
        });
        let mut page = Self {
            _browser: browser,
            to: File::from(to),
            from: heard,
            session: String::new(),
            asked: 0,
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = page.ask("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = page.ask("Target.attachToTarget", &attach)?;
        attached["sessionId"].as_str().unwrap_or_default().clone_into(&mut page.session);
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            page.ask(domain, &json!({}))?;
        }
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        page.ask("Emulation.setDeviceMetricsOverride", &size)?;
        page.ask("Page.navigate", &json!({"url": url}))?;
        Ok(page)
    }

    /// A method of the protocol.
    ///
    /// # Errors
    ///
    /// The browser refuses, or does not answer.
    pub fn ask(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.asked += 1;
        let mut message = json!({"id": self.asked, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.to.write_all(format!("{message}\0").as_bytes())?;
        loop {
            let answer =
                self.from.recv_timeout(PATIENCE).with_context(|| format!("no answer to {method}"))?;
            self.note(&answer);
            if answer["id"] == self.asked {
                match answer.get("error") {
                    Some(error) => bail!("{method}: {error}"),
                    None => return Ok(answer["result"].clone()),
                }
            }
        }
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => &parameters["exceptionDetails"],
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => &parameters["entry"],
            _ => return,
        };
        self.complaints.push(complaint.to_string());
    }

    /// The value of an expression on the page.
    ///
    /// # Errors
    ///
    /// It throws.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let result = self.ask("Runtime.evaluate", &parameters)?;
        if let Some(thrown) = result.get("exceptionDetails") {
            bail!("{expression}: {thrown}");
        }
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    ///
    /// # Errors
    ///
    /// It never is.
    pub fn wait(&mut self, expression: &str) -> Result<()> {
        let began = Instant::now();
        // An expression may name what is not there yet.
        let safely =
            format!("(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()");
        while self.value(&safely)? != Value::Bool(true) {
            if began.elapsed() > PATIENCE {
                bail!("never true: {expression}; the page complains: {:?}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Presses the mouse's button at one place and releases it at another.
    ///
    /// # Errors
    ///
    /// The browser does not answer.
    pub fn drag(&mut self, from: (f64, f64), to: (f64, f64)) -> Result<()> {
        let middle = (f64::midpoint(from.0, to.0), f64::midpoint(from.1, to.1));
        for (kind, (x, y), buttons) in [
            ("mouseMoved", from, 0),
            ("mousePressed", from, 1),
            ("mouseMoved", middle, 1),
            ("mouseMoved", to, 1),
            ("mouseReleased", to, 0),
        ] {
            let event =
                json!({"type": kind, "x": x, "y": y, "button": "left", "buttons": buttons, "clickCount": 1});
            self.ask("Input.dispatchMouseEvent", &event)?;
        }
        Ok(())
    }

    /// Presses a key.
    ///
    /// # Errors
    ///
    /// The browser does not answer.
    pub fn key(&mut self, key: &str) -> Result<()> {
        for kind in ["keyDown", "keyUp"] {
            self.ask("Input.dispatchKeyEvent", &json!({"type": kind, "key": key, "code": key}))?;
        }
        Ok(())
    }
}

/// The end to read from, and the one to write to.
fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the array has room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: both were just made, and nobody else has them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

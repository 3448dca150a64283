//! Why a target cannot be profiled, in the user's words, with what to type instead.

/// A target that cannot be profiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No process has that number.
    #[error("no process has pid {pid}: it has exited, or never existed")]
    NoSuchProcess {
        /// The number.
        pid: u32,
    },
    /// `/proc` here belongs to another PID namespace, so its numbers mean other processes.
    #[error("pid {pid} can't be looked up: /proc belongs to another PID namespace than this process")]
    ForeignProc {
        /// The number.
        pid: u32,
    },
    /// The process exists, but this user may not look at it.
    #[error("pid {pid} may not be looked at by this user")]
    Hidden {
        /// The number.
        pid: u32,
    },
    /// The number is that of one thread.
    #[error("{tid} is a thread of process {pid} ({comm}), not a process")]
    IsThread {
        /// The thread.
        tid: u32,
        /// Its process.
        pid: u32,
        /// The thread's name.
        comm: String,
    },
    /// The process has ended and waits for its parent.
    #[error("pid {pid} ({comm}) is a zombie: it has ended and runs no code")]
    Zombie {
        /// The number.
        pid: u32,
        /// Its name.
        comm: String,
        /// Who has to collect it.
        parent: u32,
    },
    /// The process is part of the kernel.
    #[error("pid {pid} ({comm}) is a kernel thread: it has no code of its own")]
    KernelThread {
        /// The number.
        pid: u32,
        /// Its name.
        comm: String,
    },
    /// No process has that name.
    #[error("no process is named `{name}`")]
    NoMatch {
        /// The name, cleaned.
        name: String,
        /// Names of processes that look similar, the closest first.
        similar: Vec<String>,
        /// `/proc` hides other users' processes.
        hidden: bool,
    },
    /// No process matches that pattern.
    #[error("no process matches /{pattern}/")]
    NoPatternMatch {
        /// The pattern, cleaned.
        pattern: String,
        /// `/proc` hides other users' processes.
        hidden: bool,
    },
    /// The pattern is not a regular expression.
    #[error("/{pattern}/ is not a regular expression: {reason}")]
    BadPattern {
        /// The pattern, cleaned.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not a number, name or pattern at all.
    #[error("`{text}` is not a process: {reason}")]
    BadSpec {
        /// What was typed, cleaned.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The list of processes cannot be read.
    #[error("can't list processes: {0}")]
    List(String),
}

impl TargetError {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        let hidepid = "other users' processes are hidden here (/proc is mounted with hidepid): run as root";
        match self {
            Self::NoSuchProcess { .. } => Some(
                "`pgrep -a NAME` lists processes; perf-agent also takes a name or a /pattern/".to_owned(),
            ),
            Self::ForeignProc { .. } => Some(
                "mount the right one (`mount -t proc proc /proc` in this namespace) or run on the host"
                    .to_owned(),
            ),
            Self::Hidden { .. } => Some("run as root (sudo)".to_owned()),
            Self::IsThread { tid, pid, .. } => {
                Some(format!("use `-t {tid}` for this thread alone, or {pid} for the whole process"))
            }
            Self::Zombie { parent, .. } => {
                Some(format!("its parent, pid {parent}, has not collected it yet"))
            }
            Self::KernelThread { .. } => {
                Some("`perf-agent record -a -K` profiles the kernel on the whole host".to_owned())
            }
            Self::NoMatch { similar, hidden, .. } if similar.is_empty() => hidden.then(|| hidepid.to_owned()),
            Self::NoMatch { similar, .. } => Some(format!("did you mean {}?", similar.join(", "))),
            Self::NoPatternMatch { hidden, .. } => hidden.then(|| hidepid.to_owned()),
            Self::BadPattern { .. } => {
                Some("a name without slashes is taken literally, equal to the process's name".to_owned())
            }
            Self::BadSpec { .. } => Some("give a pid, a process name, or a /pattern/".to_owned()),
            Self::List(_) => Some("/proc must be mounted".to_owned()),
        }
    }
}

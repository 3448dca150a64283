//! Starting the command behind `--`: as the user who called sudo, with that user's environment.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::process::{Child, Command};

use crate::system::identity::Invoker;

/// The user behind sudo, as an account.
struct Caller {
    invoker: Invoker,
    name: String,
    home: String,
    shell: String,
}

impl Caller {
    fn behind_sudo() -> Option<Self> {
        let invoker = Invoker::behind_sudo()?;
        // Read here and not asked of the C library, which a static binary has without its name services.
        let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let entry = entry
            .into_iter()
            .find(|fields| fields.get(2).and_then(|uid| uid.parse().ok()) == Some(invoker.uid));
        let field = |index: usize, default: &str| {
            let found = entry.as_ref().and_then(|fields| fields.get(index)).filter(|field| !field.is_empty());
            found.map_or_else(|| default.to_owned(), |field| (*field).to_owned())
        };
        let name = std::env::var("SUDO_USER").unwrap_or_else(|_| field(0, "nobody"));
        Some(Self { home: field(5, "/"), shell: field(6, "/bin/sh"), name, invoker })
    }

    /// Makes `command` run as this user: groups, IDs and the variables that name the user.
    fn apply(&self, command: &mut StdCommand) {
        use std::os::unix::process::CommandExt;
        command.env("HOME", &self.home).env("USER", &self.name).env("LOGNAME", &self.name);
        let Invoker { uid, gid, groups } = self.invoker.clone();
        // SAFETY: between fork and exec only system calls are made, on memory that was prepared before.
        unsafe {
            command.pre_exec(move || {
                let groups_set = libc::setgroups(groups.len(), groups.as_ptr());
                if groups_set != 0 || libc::setgid(gid) != 0 || libc::setuid(uid) != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            });
        }
    }

    /// The search path of the user's login shell. Sudo's `secure_path` hides directories that the user has.
    fn login_path(&self) -> Option<OsString> {
        let mut command = StdCommand::new(&self.shell);
        command.args(["-lc", "printf %s \"$PATH\""]).stdin(Stdio::null()).stderr(Stdio::null());
        self.apply(&mut command);
        let output = command.output().ok()?;
        (output.status.success() && !output.stdout.is_empty()).then(|| OsString::from_vec(output.stdout))
    }
}

/// Which user the command runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunAs {
    /// The user behind sudo, if there is one.
    Caller,
    /// The user that the agent runs as.
    Agent,
}

/// A command that is ready to start.
pub(super) struct Launch {
    command: Command,
}

impl Launch {
    /// Finds the program and prepares its user. Comes before the agent changes limits of its own process.
    pub(super) fn prepare(words: &[OsString], run_as: RunAs) -> Self {
        let program = words.first().cloned().unwrap_or_default();
        let user = match run_as {
            RunAs::Caller => Caller::behind_sudo(),
            RunAs::Agent => None,
        };
        let mut command = StdCommand::new(&program);
        command.args(words.iter().skip(1));
        if let Some(user) = user {
            let bare = !program.as_bytes().contains(&b'/');
            let own_path = std::env::var_os("PATH").unwrap_or_default();
            if bare
                && find(&program, &own_path).is_none()
                && let Some(path) = user.login_path()
            {
                if let Some(found) = find(&program, &path) {
                    command = StdCommand::new(found);
                    command.args(words.iter().skip(1));
                }
                command.env("PATH", path);
            }
            user.apply(&mut command);
        }
        keep_descriptor_limit(&mut command);
        Self { command: Command::from(command) }
    }

    /// Without input and output, for a command that is run for its time alone.
    pub(super) fn silent(mut self) -> Self {
        self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// Not found, not executable, or no such user's rights.
    pub(super) fn start(mut self) -> io::Result<Child> {
        self.command.spawn()
    }
}

/// Gives the command the limit on descriptors that we have now, whatever the agent takes for itself afterwards: programs that call `select`
/// or close all descriptors they may have rely on the usual one.
fn keep_descriptor_limit(command: &mut StdCommand) {
    use std::os::unix::process::CommandExt;
    let limit = getrlimit(Resource::Nofile);
    // SAFETY: between fork and exec only one system call is made.
    unsafe {
        command.pre_exec(move || Ok(setrlimit(Resource::Nofile, limit)?));
    }
}

fn find(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |file: &Path| {
        file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(path).map(|directory| directory.join(program)).find(|file| executable(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_along_the_path() {
        assert!(find(OsStr::new("sh"), OsStr::new("/nowhere:/bin:/usr/bin")).is_some());
        assert_eq!(find(OsStr::new("no-such-program"), OsStr::new("/bin:/usr/bin")), None);
    }
}

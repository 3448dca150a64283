//! `perf-agent daemon install` and `uninstall`: the unit for systemd, and a configuration where there is none.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Args;

use super::config::load;
use crate::cli::exit::{CliError, Exit};
use crate::continuous::Config;
use crate::continuous::config::{DEFAULT_FILE, DEFAULT_TEXT};

/// The unit, hardened: what the package has, with the path of another binary and without the network.
const UNIT: &str = include_str!("../../../../contrib/perf-agent.service");
/// Where a host's administrator has units.
const UNIT_FILE: &str = "/etc/systemd/system/perf-agent.service";
const UNIT_NAME: &str = "perf-agent.service";

/// How.
#[derive(Debug, Args)]
pub(in crate::cli) struct InstallArgs {
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Write the files, but do not start it
    #[arg(long)]
    no_start: bool,
    /// Below this folder, for images of systems; systemd is not asked then
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// How.
#[derive(Debug, Args)]
pub(in crate::cli) struct UninstallArgs {
    /// Show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Below this folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Does things, or says that it would.
struct Steps {
    is_dry: bool,
    root: Option<PathBuf>,
}

impl Steps {
    fn place(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => PathBuf::from(path),
        }
    }

    fn say(&self, text: &str) -> std::io::Result<()> {
        let would = if self.is_dry { "would " } else { "" };
        writeln!(std::io::stdout().lock(), "{would}{text}")
    }

    fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        self.say(&format!("write {}", path.display()))?;
        if self.is_dry {
            return Ok(());
        }
        let folder = path.parent().unwrap_or(Path::new("/"));
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(path, text));
        written.map_err(|error| refused(&format!("cannot write {}", path.display()), &error).into())
    }

    /// Asks systemd, unless the files are for another system.
    fn systemctl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        if self.root.is_some() {
            return Ok(());
        }
        let words = arguments.join(" ");
        self.say(&format!("run systemctl {words}"))?;
        if self.is_dry {
            return Ok(());
        }
        let status = Command::new("systemctl").args(arguments).status();
        let status = status.with_context(|| format!("cannot run `systemctl {words}`"))?;
        if !status.success() {
            let error = CliError::new(Exit::Runtime, format!("`systemctl {words}` failed ({status})"));
            return Err(error.hint("systemctl status perf-agent; journalctl -u perf-agent -n 20").into());
        }
        Ok(())
    }
}

fn refused(what: &str, error: &std::io::Error) -> CliError {
    let exit = if error.kind() == ErrorKind::PermissionDenied { Exit::Permission } else { Exit::Runtime };
    let told = CliError::new(exit, format!("{what}: {error}"));
    if exit == Exit::Permission { told.hint("the same with sudo") } else { told }
}

/// Runs `daemon install`.
///
/// # Errors
///
/// A configuration that is there means nothing, files cannot be written, systemd refuses.
pub(super) fn install(args: &InstallArgs) -> anyhow::Result<ExitCode> {
    let steps = Steps { is_dry: args.dry_run, root: args.root.clone() };
    let config_file = steps.place(DEFAULT_FILE);
    let config = if config_file.exists() {
        let config = load(Some(&config_file))?;
        steps.say(&format!("leave {} as it is", config_file.display()))?;
        config
    } else {
        steps.write(&config_file, DEFAULT_TEXT)?;
        Config::without_file()?
    };
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    steps.write(&steps.place(UNIT_FILE), &unit(&own, &config))?;
    steps.systemctl(&["daemon-reload"])?;
    if args.no_start {
        steps.systemctl(&["enable", UNIT_NAME])?;
    } else {
        steps.systemctl(&["enable", "--now", UNIT_NAME])?;
    }
    Ok(Exit::Ok.into())
}

/// Runs `daemon uninstall`. What was recorded and the configuration stay.
///
/// # Errors
///
/// Files cannot be removed, systemd refuses.
pub(super) fn uninstall(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let steps = Steps { is_dry: args.dry_run, root: args.root.clone() };
    let unit = steps.place(UNIT_FILE);
    if unit.exists() {
        steps.systemctl(&["disable", "--now", UNIT_NAME])?;
        steps.say(&format!("remove {}", unit.display()))?;
        if !args.dry_run {
            std::fs::remove_file(&unit)
                .map_err(|error| refused(&format!("cannot remove {}", unit.display()), &error))?;
        }
        steps.systemctl(&["daemon-reload"])?;
    } else {
        writeln!(std::io::stdout().lock(), "{} is not there", unit.display())?;
    }
    writeln!(
        std::io::stdout().lock(),
        "what was recorded and the configuration stay; to remove them too: rm -r {} {}",
        steps.place("/var/lib/perf-agent").display(),
        steps.place("/etc/perf-agent").display()
    )?;
    Ok(Exit::Ok.into())
}

/// The unit for this binary, with what the configuration needs.
fn unit(binary: &Path, config: &Config) -> String {
    let text = UNIT.replace("/usr/local/bin/perf-agent", &binary.display().to_string());
    let sends = !config.alerts.webhooks.is_empty() || config.push.is_on() || config.api.listen.is_some();
    let text = if sends {
        text.replace("PrivateNetwork=yes", "PrivateNetwork=no").replace(
            "RestrictAddressFamilies=AF_UNIX\n",
            "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n",
        )
    } else {
        text
    };
    if config.api.group.is_some() {
        text.replace("CapabilityBoundingSet=", "CapabilityBoundingSet=CAP_CHOWN ")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::post::Endpoint;

    #[test]
    fn the_unit_has_this_binary_and_the_network_only_where_something_is_sent() {
        let mut config = Config::without_file().unwrap();
        let quiet = unit(Path::new("/opt/perf-agent"), &config);
        assert!(quiet.contains("\nExecStart=/opt/perf-agent daemon run --give-up-admin\n"), "{quiet}");
        assert!(quiet.contains("PrivateNetwork=yes\nRestrictAddressFamilies=AF_UNIX\n"), "{quiet}");
        config.push.otlp = Some(Endpoint::default());
        let sends = unit(Path::new("/opt/perf-agent"), &config);
        assert!(
            sends.contains("PrivateNetwork=no\nRestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n"),
            "{sends}"
        );
        config.api.group = Some("ops".to_owned());
        assert!(unit(Path::new("/x"), &config).contains("BoundingSet=CAP_CHOWN CAP_BPF"));
    }
}

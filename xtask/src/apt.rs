//! Debian packages: what is there, what can be had, and installing it as root.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{must, steps};

/// Whether this system has Debian's package tools.
pub(crate) fn available() -> bool {
    Path::new("/usr/bin/apt-get").exists()
}

/// Whether a package is installed.
pub(crate) fn is_installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f", "${Status}", package]).stderr(Stdio::null()).output();
    query.is_ok_and(|output| output.stdout.ends_with(b"ok installed"))
}

/// Installs what is missing of these packages; does nothing when all are there.
///
/// # Errors
///
/// Not root and no way to become it (with the exact commands), or apt's failure.
pub(crate) fn install(packages: &[&str], what_for: &str) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("  installing for {what_for}: {}", missing.join(" "));
    let mut install = vec!["apt-get", "install", "-y", "-q", "--no-install-recommends"];
    install.extend(&missing);
    // The list of packages on a fresh machine is empty, or older than the archive.
    as_root(&["apt-get", "update", "-q"], &install)?;
    as_root(&install, &install)
}

/// Makes packages of another architecture known to apt.
///
/// # Errors
///
/// As for [`install`].
pub(crate) fn add_architecture(architecture: &str) -> Result<()> {
    let known =
        Command::new("dpkg").arg("--print-foreign-architectures").output().context("cannot run dpkg")?;
    if String::from_utf8_lossy(&known.stdout).lines().any(|line| line == architecture) {
        return Ok(());
    }
    let add = ["dpkg", "--add-architecture", architecture];
    as_root(&add, &add)?;
    let update = ["apt-get", "update", "-q"];
    as_root(&update, &update)
}

/// Downloads a package without installing it and unpacks it into a folder.
///
/// # Errors
///
/// There is no such package, or no room.
pub(crate) fn unpack(package: &str, into: &Path) -> Result<()> {
    if into.join(".unpacked").exists() {
        return Ok(());
    }
    eprintln!("  unpacking {package}");
    std::fs::create_dir_all(into).with_context(|| format!("cannot create {}", into.display()))?;
    must(Command::new("apt-get").args(["download", "-q", package]).current_dir(into).stdout(Stdio::null()))?;
    let deb = only_deb(into)?;
    must(Command::new("dpkg").arg("-x").arg(&deb).arg(into))?;
    std::fs::remove_file(&deb)?;
    Ok(std::fs::write(into.join(".unpacked"), package)?)
}

fn only_deb(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut debs = entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    debs.next().with_context(|| format!("apt-get download left nothing in {}", folder.display()))
}

/// The newest package whose name fits, as apt knows them.
///
/// # Errors
///
/// apt cannot be asked, or knows none.
pub(crate) fn newest(fits: impl Fn(&str) -> bool) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["pkgnames", "linux-image-"])
        .output()
        .context("cannot run apt-cache")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut names: Vec<&str> = text.lines().filter(|name| fits(name)).collect();
    names.sort_by_key(|name| version_key(name));
    names
        .last()
        .map(|name| (*name).to_owned())
        .context("apt knows no such kernel package; try apt-get update")
}

/// Numbers in a name, for ordering `6.1.0-9` before `6.1.0-40`.
fn version_key(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Runs a command as root: directly, or through sudo where it asks for nothing. `shown` is what the user is told to run otherwise.
fn as_root(command: &[&str], shown: &[&str]) -> Result<()> {
    let mut run = if is_root() {
        Command::new(command[0])
    } else if Command::new("sudo")
        .args(["-n", "true"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", command[0]]);
        sudo
    } else {
        bail!("this needs root; run:\n  sudo {}", shown.join(" "));
    };
    run.args(&command[1..]).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    let output = run.output().with_context(|| format!("cannot run {}", steps::words(&run)))?;
    if !output.status.success() {
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`{}` failed:\n{log}", steps::words(&run));
    }
    Ok(())
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_ordered_by_number() {
        let mut names = ["linux-image-6.1.0-40-cloud-amd64", "linux-image-6.1.0-9-cloud-amd64"];
        names.sort_by_key(|name| version_key(name));
        assert_eq!(names[1], "linux-image-6.1.0-40-cloud-amd64");
    }
}

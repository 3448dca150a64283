//! `cargo xtask dist`: a Debian package and a tarball of a static binary, with unit, configuration, licences and checksums.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::bpf::workspace;

use crate::build::target_folder;
use crate::vm::Arch;
use crate::{apt, must, setup};

/// A file of the package: where it comes from below the workspace, where it goes, and its mode.
const FILES: [(&str, &str, u32); 5] = [
    ("profiler-user/src/continuous/config/default.toml", "etc/perf-agent/config.toml", 0o644),
    ("contrib/perf-agent.service", "usr/lib/systemd/system/perf-agent.service", 0o644),
    ("README.md", "usr/share/doc/perf-agent/README.md", 0o644),
    ("LICENSE-MIT", "usr/share/doc/perf-agent/LICENSE-MIT", 0o644),
    ("LICENSE-APACHE", "usr/share/doc/perf-agent/LICENSE-APACHE", 0o644),
];

/// Makes the files for one architecture, of a binary that was built before where one is named.
pub(crate) fn run(name: &str, binary: Option<&str>) -> Result<()> {
    let arch = match name {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        other => bail!("there is no architecture `{other}` here; there are x86_64 and aarch64"),
    };
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        apt::install(&["dpkg"], "to make a Debian package")?;
    }
    let binary = if let Some(path) = binary {
        PathBuf::from(path)
    } else {
        setup::build_tools()?;
        if arch == Arch::Aarch64 {
            setup::cross_tools()?;
        }
        arch.agent()?
    };
    let folder = target_folder().join("dist");
    let stem = format!("perf-agent_{}_{}", env!("CARGO_PKG_VERSION"), arch.debian());
    let tree = folder.join(&stem);
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    put(&binary, &tree.join("usr/bin/perf-agent"), 0o755)?;
    for (from, to, mode) in FILES {
        put(&workspace().join(from), &tree.join(to), mode)?;
    }
    let unit = tree.join("usr/lib/systemd/system/perf-agent.service");
    fs::write(&unit, fs::read_to_string(&unit)?.replace("/usr/local/bin/", "/usr/bin/"))?;
    let tarball = folder.join(format!("{stem}.tar.gz"));
    must(
        Command::new("tar")
            .args(["--owner=0", "--group=0", "-czf"])
            .arg(&tarball)
            .arg("-C")
            .arg(&folder)
            .arg(&stem),
    )?;
    let size = fs::metadata(&binary)?.len() / 1024;
    let control = format!(
        "Package: perf-agent\nVersion: {}\nArchitecture: {}\nMaintainer: perf-agent maintainers <perf-agent@localhost>\n\
         Installed-Size: {size}\nSection: utils\nPriority: optional\n\
         Description: system profiler on eBPF\n CPU time, waits, memory and system calls of a host, once or day and night.\n",
        env!("CARGO_PKG_VERSION"),
        arch.debian(),
    );
    let debian = tree.join("DEBIAN");
    fs::create_dir_all(&debian)?;
    fs::write(debian.join("control"), control)?;
    fs::write(debian.join("conffiles"), "/etc/perf-agent/config.toml\n")?;
    let package = folder.join(format!("{stem}.deb"));
    must(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&tree).arg(&package))?;
    fs::remove_dir_all(&tree)?;
    let sums = Command::new("sha256sum")
        .current_dir(&folder)
        .args([format!("{stem}.deb"), format!("{stem}.tar.gz")])
        .output()
        .context("cannot run sha256sum")?;
    fs::write(folder.join(format!("{stem}.sha256")), &sums.stdout)?;
    must(Command::new("dpkg-deb").arg("--contents").arg(&package))
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file without a folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

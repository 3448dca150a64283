//! `cargo xtask dist`: a Debian package and a tarball of a static binary, with unit, configuration, manual pages, licences and checksums.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use xtask::bpf::workspace;

use crate::build::{cargo, target_folder};
use crate::vm::Arch;
use crate::{apt, must, setup};

/// A file of the package: where it comes from below the workspace, where it goes, and its mode.
const FILES: [(&str, &str, u32); 6] = [
    ("profiler-user/src/continuous/config/default.toml", "etc/perf-agent/config.toml", 0o644),
    ("contrib/perf-agent.service", "usr/lib/systemd/system/perf-agent.service", 0o644),
    ("contrib/debian/copyright", "usr/share/doc/perf-agent/copyright", 0o644),
    ("README.md", "usr/share/doc/perf-agent/README.md", 0o644),
    ("LICENSE-MIT", "usr/share/doc/perf-agent/LICENSE-MIT", 0o644),
    ("LICENSE-APACHE", "usr/share/doc/perf-agent/LICENSE-APACHE", 0o644),
];

/// What a package has beside them.
const DEBIAN: [(&str, &str, u32); 4] = [
    ("contrib/debian/lintian-overrides", "usr/share/lintian/overrides/perf-agent", 0o644),
    ("contrib/debian/postinst", "DEBIAN/postinst", 0o755),
    ("contrib/debian/postrm", "DEBIAN/postrm", 0o755),
    ("contrib/debian/prerm", "DEBIAN/prerm", 0o755),
];
const MAINTAINER: &str = "perf-agent maintainers <perf-agent@localhost>";

/// Makes the files for one architecture, of a binary that was built before where one is named. Returns the Debian package.
pub(crate) fn run(name: &str, binary: Option<&Path>) -> Result<PathBuf> {
    let arch = match name {
        "x86_64" => Arch::X86_64,
        "aarch64" => Arch::Aarch64,
        other => bail!("there is no architecture `{other}` here; there are x86_64 and aarch64"),
    };
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        apt::install(&["dpkg"], "to make a Debian package")?;
    }
    let is_built = binary.is_some();
    let binary = if let Some(path) = binary {
        path.to_owned()
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
    let program = tree.join("usr/bin/perf-agent");
    put(&binary, &program, 0o755)?;
    if is_built {
        // As in those that are built for it: lines of the source are three quarters of the file, the names stay.
        let strip = format!("{}strip", arch.compiler_prefix());
        must(Command::new(strip).arg("--strip-debug").arg(&program))?;
    }
    for (from, to, mode) in FILES {
        put(&workspace().join(from), &tree.join(to), mode)?;
    }
    manual(&tree.join("usr/share/man/man1"))?;
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
    for (from, to, mode) in DEBIAN {
        put(&workspace().join(from), &tree.join(to), mode)?;
    }
    changelog(&tree.join("usr/share/doc/perf-agent/changelog"))?;
    let size = fs::metadata(&program)?.len() / 1024;
    let control = format!(
        "Package: perf-agent\nVersion: {}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {size}\nSection: utils\nPriority: optional\n\
         Description: system profiler on eBPF\n CPU time, waits, memory and system calls of a host, once or day and night.\n",
        env!("CARGO_PKG_VERSION"),
        arch.debian(),
    );
    let debian = tree.join("DEBIAN");
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
    must(Command::new("dpkg-deb").arg("--contents").arg(&package))?;
    Ok(package)
}

/// A page for the program and for each verb, made of what `--help` says.
fn manual(folder: &Path) -> Result<()> {
    let make = ["run", "--quiet", "--package", "profiler-user", "--example", "manual", "--"];
    must(cargo().args(make).arg(folder))?;
    for page in fs::read_dir(folder)? {
        compress(&page?.path())?;
    }
    Ok(())
}

/// Which version this is, and when it was committed.
fn changelog(file: &Path) -> Result<()> {
    let date = Command::new("git").current_dir(workspace()).args(["log", "-1", "--format=%cD"]).output();
    let date =
        String::from_utf8(date.context("cannot run git, which knows when this was committed")?.stdout)?;
    let version = env!("CARGO_PKG_VERSION");
    let text = format!(
        "perf-agent ({version}) unstable; urgency=medium\n\n  * Version {version}.\n\n -- {MAINTAINER}  {date}"
    );
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644))?;
    compress(file)
}

/// The same bytes whenever it is made.
fn compress(file: &Path) -> Result<()> {
    must(Command::new("gzip").args(["--best", "--no-name"]).arg(file))
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file without a folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))?;
    Ok(())
}

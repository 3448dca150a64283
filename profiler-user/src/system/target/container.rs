//! Which container or service a process belongs to, from the path of its control group.
//!
//! Runtimes name the group after the container's id, with a prefix that tells which runtime it is. A heuristic: it
//! names things for people, and nothing is decided by it.

use super::container_names::container_name;
use crate::profile::clean;

/// Characters of a container id that are shown, as `docker ps` does.
const SHORT_ID: usize = 12;

/// Who runs a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerRuntime {
    /// Docker.
    Docker,
    /// containerd, usually under Kubernetes.
    Containerd,
    /// Podman.
    Podman,
    /// CRI-O.
    CriO,
    /// LXC or LXD; the id is the container's name.
    Lxc,
    /// A container id without a runtime's mark.
    Unknown,
}

impl ContainerRuntime {
    /// The runtime's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::CriO => "cri-o",
            Self::Lxc => "lxc",
            Self::Unknown => "container",
        }
    }
}

/// A container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Who runs it.
    pub runtime: ContainerRuntime,
    /// Its full id, or its name for LXC.
    pub id: String,
}

impl Container {
    /// Whether somebody who says this means it: the beginning of its id, or a name that the host's files tell of it.
    pub fn is_called(&self, wanted: &str) -> bool {
        !wanted.is_empty()
            && (self.id.starts_with(wanted)
                || container_name(&self.id).is_some_and(|name| name.is_called(wanted)))
    }

    /// Its name where the host's files tell it, else its short id.
    pub fn shown(&self) -> String {
        let short = self.id.get(..SHORT_ID).filter(|_| is_container_id(&self.id));
        let id = || short.unwrap_or(&self.id).to_owned();
        container_name(&self.id).map_or_else(id, |name| name.name.clone())
    }
}

/// Where a process lives: control group, container, systemd unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Home {
    /// Path of its control group in the unified hierarchy, or in the first one that says anything. Cleaned.
    pub cgroup: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
    /// The systemd service or scope.
    pub unit: Option<String>,
}

impl Home {
    /// Of the path of a control group (v2), where nothing but that is known.
    pub fn of_group(path: &str) -> Self {
        Self::parse(format!("0::{path}").as_bytes())
    }

    /// Parses `/proc/PID/cgroup` (cgroups(7)): lines of `hierarchy:controllers:path`.
    pub fn parse(file: &[u8]) -> Self {
        let paths: Vec<String> = file
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.splitn(3, |byte| *byte == b':').nth(2))
            .map(clean)
            .collect();
        let cgroup = unified_path(file).map(clean).filter(|path| path != "/");
        Self {
            cgroup: cgroup.or_else(|| paths.iter().find(|path| *path != "/").cloned()),
            container: paths.iter().find_map(|path| path.rsplit('/').find_map(container)),
            unit: paths.iter().find_map(|path| path.rsplit('/').find_map(unit)),
        }
    }

    /// The container with a short id, else the unit; None for a process of neither.
    pub fn describe(&self) -> Option<String> {
        let container = self.container.as_ref().map(|container| {
            let short = container.id.get(..SHORT_ID).filter(|_| is_container_id(&container.id));
            format!("{} {}", container.runtime.name(), short.unwrap_or(&container.id))
        });
        container.or_else(|| self.unit.clone())
    }
}

/// The path of a process in the unified hierarchy (v2), in `/proc/PID/cgroup` (cgroups(7)).
pub(crate) fn unified_path(file: &[u8]) -> Option<&[u8]> {
    file.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))
}

/// The container named by one component of a path.
fn container(part: &str) -> Option<Container> {
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(Container { runtime: ContainerRuntime::Lxc, id: name.to_owned() });
    }
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let marks = [
        ("cri-containerd-", ContainerRuntime::Containerd),
        ("docker-", ContainerRuntime::Docker),
        ("libpod-payload-", ContainerRuntime::Podman),
        ("libpod-", ContainerRuntime::Podman),
        ("crio-", ContainerRuntime::CriO),
    ];
    let (runtime, id) = marks
        .iter()
        .find_map(|(mark, runtime)| Some((*runtime, part.strip_prefix(mark)?)))
        .unwrap_or((ContainerRuntime::Unknown, part));
    // containerd without systemd writes `kubepods:cri-containerd:ID` through its shim.
    let (runtime, id) = match id.rsplit_once(":cri-containerd:") {
        Some((_, id)) => (ContainerRuntime::Containerd, id),
        None => (runtime, id),
    };
    is_container_id(id).then(|| Container { runtime, id: id.to_owned() })
}

pub(super) fn is_container_id(id: &str) -> bool {
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The systemd unit named by one component; the scopes of containers and sessions say nothing to a reader.
fn unit(part: &str) -> Option<String> {
    let dull = part.starts_with("session-") || part.starts_with("user@") || container(part).is_some();
    let is_unit = matches!(part.rsplit_once('.'), Some((_, "service" | "scope")));
    (is_unit && !dull).then(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> String {
        "0123456789abcdef".repeat(4)
    }

    fn described(path: &str) -> Option<String> {
        Home::parse(format!("0::{path}\n").as_bytes()).describe()
    }

    #[test]
    fn runtimes_are_known_by_their_marks() {
        let id = id();
        for (path, expected) in [
            (format!("/system.slice/docker-{id}.scope"), "docker 0123456789ab"),
            (format!("/machine.slice/libpod-{id}.scope/container"), "podman 0123456789ab"),
            (
                format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
                "containerd 0123456789ab",
            ),
            (format!("/kubepods/besteffort/pod1/crio-{id}"), "cri-o 0123456789ab"),
            (format!("/kubepods/besteffort/pod1/{id}"), "container 0123456789ab"),
            (
                format!("/system.slice/containerd.service/kubepods-x.slice:cri-containerd:{id}"),
                "containerd 0123456789ab",
            ),
            ("/lxc.payload.web/init.scope".to_owned(), "lxc web"),
        ] {
            assert_eq!(described(&path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn services_are_named_and_sessions_are_not() {
        assert_eq!(described("/system.slice/nginx.service").as_deref(), Some("nginx.service"));
        assert_eq!(described("/user.slice/user-1000.slice/session-3.scope"), None);
        assert_eq!(described("/"), None);
    }

    #[test]
    fn version_1_lines_serve_when_the_unified_one_is_empty() {
        let file = format!("9:name=systemd:/\n4:memory:/docker/{}\n0::/\n", id());
        let home = Home::parse(file.as_bytes());
        assert_eq!(home.container.map(|found| found.id), Some(id()));
        assert_eq!(home.cgroup, Some(format!("/docker/{}", id())));
    }
}

//! Names of containers and pods, from the files that runtimes leave on the host.
//!
//! In: a container's ID. Out: its name, and the pod's under Kubernetes. Read again now and then, when an ID is not known; bounded, whatever lies there.
//! Without the right to read these files, or for a container that is gone, there is no name, and the ID stays.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::container::is_container_id;
use crate::profile::clean;

/// Containers of one host that are named. More than any host runs.
const MOST: usize = 4_096;
/// Largest file that is read.
const MOST_BYTES: u64 = 8 << 20;
/// Longest name: that of a pod (RFC 1123), and the longest of a DNS name.
const MOST_NAME: usize = 253;
/// Time between two looks for IDs that are not known.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// What a container is called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ContainerName {
    /// Its own name, cleaned.
    pub name: String,
    /// Its pod's, cleaned.
    pub pod: Option<String>,
    /// The pod's namespace, cleaned.
    pub namespace: Option<String>,
}

impl ContainerName {
    /// Whether somebody who says this means it: the container's name, the pod's, or `NAMESPACE/POD`.
    pub fn is_called(&self, wanted: &str) -> bool {
        let pod = self.pod.as_deref();
        let in_namespace = wanted.split_once('/');
        self.name == wanted
            || pod == Some(wanted)
            || in_namespace.is_some_and(|(namespace, name)| {
                self.namespace.as_deref() == Some(namespace) && pod == Some(name)
            })
    }
}

/// All names that the files below a root tell.
fn gather(root: &Path) -> HashMap<String, Arc<ContainerName>> {
    let mut all = HashMap::new();
    let mut add = |id: String, name: ContainerName| {
        if all.len() < MOST && !name.name.is_empty() {
            all.insert(id, Arc::new(name));
        }
    };
    docker(&root.join("var/lib/docker/containers"), &mut add);
    for storage in ["var/lib/containers/storage", "run/containers/storage"] {
        storage_of_containers(&root.join(storage), &mut add);
    }
    containerd(&root.join("run/containerd/io.containerd.runtime.v2.task"), &mut add);
    // Last: the kubelet knows the pod, too.
    kubelet(&root.join("var/log/containers"), &mut add);
    all
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().take(2 * MOST).map(|entry| entry.path())
}

fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

fn shown(name: &str) -> String {
    clean(name.as_bytes()).chars().take(MOST_NAME).collect()
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = fs::OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).ok()?;
    let mut text = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Docker: `ID/config.v2.json` with `"Name": "/web"`.
fn docker(folder: &Path, add: &mut impl FnMut(String, ContainerName)) {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "Name")]
        name: String,
    }
    for path in entries(folder).filter(|path| is_container_id(file_name(path))) {
        if let Some(config) = read::<Config>(&path.join("config.v2.json")) {
            let name = shown(config.name.trim_start_matches('/'));
            add(file_name(&path).to_owned(), ContainerName { name, ..ContainerName::default() });
        }
    }
}

/// Podman and CRI-O: `overlay-containers/containers.json`, a list of all. CRI-O's names are `k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT`.
fn storage_of_containers(folder: &Path, add: &mut impl FnMut(String, ContainerName)) {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        #[serde(default)]
        names: Vec<String>,
    }
    let lists = entries(folder).filter(|path| file_name(path).ends_with("-containers"));
    for list in lists.filter_map(|path| read::<Vec<Container>>(&path.join("containers.json"))) {
        for container in list.into_iter().filter(|container| is_container_id(&container.id)) {
            let Some(name) = container.names.first() else { continue };
            add(container.id, of_cri_o(name));
        }
    }
}

fn of_cri_o(name: &str) -> ContainerName {
    let parts: Vec<&str> = name.split('_').collect();
    match parts.as_slice() {
        ["k8s", container, pod, namespace, ..] => {
            ContainerName { name: shown(container), pod: Some(shown(pod)), namespace: Some(shown(namespace)) }
        }
        _ => ContainerName { name: shown(name), ..ContainerName::default() },
    }
}

/// containerd: `NAMESPACE/ID/config.json` (OCI runtime specification), with the annotations of its CRI plugin, or of nerdctl.
fn containerd(folder: &Path, add: &mut impl FnMut(String, ContainerName)) {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        annotations: HashMap<String, String>,
    }
    let bundles = entries(folder).flat_map(|namespace| entries(&namespace));
    for path in bundles.filter(|path| is_container_id(file_name(path))) {
        let Some(Config { annotations }) = read::<Config>(&path.join("config.json")) else { continue };
        let said = |key: &str| annotations.get(key).map(|name| shown(name));
        let name = said("io.kubernetes.cri.container-name").or_else(|| said("nerdctl/name"));
        let (pod, namespace) =
            (said("io.kubernetes.cri.sandbox-name"), said("io.kubernetes.cri.sandbox-namespace"));
        // The container that holds a pod's namespaces has no name of its own.
        let is_sandbox =
            annotations.get("io.kubernetes.cri.container-type").is_some_and(|kind| kind == "sandbox");
        let name = name.or_else(|| is_sandbox.then(|| "POD".to_owned()));
        add(file_name(&path).to_owned(), ContainerName { name: name.unwrap_or_default(), pod, namespace });
    }
}

/// Kubernetes: links called `POD_NAMESPACE_CONTAINER-ID.log`, whatever the runtime.
fn kubelet(folder: &Path, add: &mut impl FnMut(String, ContainerName)) {
    for path in entries(folder) {
        let Some((names, id)) = file_name(&path).strip_suffix(".log").and_then(|stem| stem.rsplit_once('-'))
        else {
            continue;
        };
        let parts: Vec<&str> = names.split('_').collect();
        if let ([pod, namespace, container], true) = (parts.as_slice(), is_container_id(id)) {
            let (pod, namespace) = (Some(shown(pod)), Some(shown(namespace)));
            add(id.to_owned(), ContainerName { name: shown(container), pod, namespace });
        }
    }
}

#[derive(Default)]
struct Known {
    names: HashMap<String, Arc<ContainerName>>,
    read: Option<Instant>,
}

/// One for the process: every question needs the same names.
static KNOWN: Mutex<Option<Known>> = Mutex::new(None);

/// What the container with this ID is called on this host. Files are read when it is not known, at most every ten seconds.
pub fn container_name(id: &str) -> Option<Arc<ContainerName>> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(name) = known.names.get(id) {
        return Some(Arc::clone(name));
    }
    if known.read.is_none_or(|read| read.elapsed() > LOOK_EVERY) {
        let new = gather(Path::new("/"));
        // Those that are gone stay known while there is room: what they ran is in windows of the last minutes.
        known.names.retain(|_, _| new.len() < MOST / 2);
        known.names.extend(new);
        if known.names.len() > 2 * MOST {
            known.names.clear();
        }
        known.read = Some(Instant::now());
    }
    known.names.get(id).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(64)
    }

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn each_runtime_leaves_its_names() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: String| root.path().join(path);
        write(
            &at(format!("var/lib/docker/containers/{}/config.v2.json", id('a'))),
            r#"{"Name":"/web","State":{}}"#,
        );
        write(
            &at("var/lib/containers/storage/overlay-containers/containers.json".to_owned()),
            &format!(
                r#"[{{"id":"{}","names":["db"]}},{{"id":"{}","names":["k8s_app_shop-1_prod_uid_0"]}},{{"id":"x"}}]"#,
                id('b'),
                id('c')
            ),
        );
        write(&at(format!("var/log/containers/cart-7_stage_main-{}.log", id('d'))), "");
        let bundle = |namespace, digit| {
            at(format!("run/containerd/io.containerd.runtime.v2.task/{namespace}/{}/config.json", id(digit)))
        };
        let of_cri = r#"{"annotations":{"io.kubernetes.cri.container-name":"api","io.kubernetes.cri.sandbox-name":"shop-2","io.kubernetes.cri.sandbox-namespace":"prod"}}"#;
        write(&bundle("k8s.io", 'e'), of_cri);
        let of_nerdctl = r#"{"ociVersion":"1.1.0","annotations":{"nerdctl/name":"cache"}}"#;
        write(&bundle("default", 'f'), of_nerdctl);
        // Docker has its bundles there, too, without a name; what it says itself counts.
        write(&bundle("moby", 'a'), r#"{"ociVersion":"1.1.0"}"#);
        let all = gather(root.path());
        assert_eq!(all.len(), 6);
        assert!(all[&id('e')].is_called("api") && all[&id('e')].is_called("prod/shop-2"));
        assert_eq!(all[&id('f')].name, "cache");
        assert_eq!((&*all[&id('a')].name, &*all[&id('b')].name), ("web", "db"));
        assert!(all[&id('c')].is_called("app") && all[&id('c')].is_called("prod/shop-1"));
        assert!(all[&id('d')].is_called("cart-7") && all[&id('d')].is_called("main"));
        assert!(!all[&id('d')].is_called("prod/cart-7") && !all[&id('d')].is_called("cart"));
    }

    #[test]
    fn podman_s_own_file_is_read() {
        let root = tempfile::tempdir().unwrap();
        let text = include_str!("../../../../tests/fixtures/containers/podman-4.3.1.json");
        write(&root.path().join("var/lib/containers/storage/vfs-containers/containers.json"), text);
        let all = gather(root.path());
        let mut names: Vec<&str> = all.values().map(|name| &*name.name).collect();
        names.sort_unstable();
        assert_eq!(names, ["hog", "web"]);
        let id = "91f88c569cb51a68390b10922375d12731b11ac89a07c8a5492d394b76a986c6";
        assert!(all[id].is_called("web"));
    }

    #[test]
    fn hostile_files_are_cleaned_or_left_out() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("var/lib/docker/containers");
        let name = format!("/a\u{1b}[31m{}", "x".repeat(1_000));
        let text = serde_json::json!({ "Name": name }).to_string();
        write(&folder.join(id('a')).join("config.v2.json"), &text);
        write(&folder.join(id('b')).join("config.v2.json"), "not JSON");
        write(&folder.join("short").join("config.v2.json"), "{\"Name\":\"/y\"}");
        fs::create_dir_all(folder.join(id('c'))).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.join(id('c')).join("config.v2.json")).unwrap();
        let all = gather(root.path());
        assert_eq!(all.len(), 1);
        let name = &all[&id('a')].name;
        assert!(name.len() <= MOST_NAME && !name.contains('\u{1b}'), "{name}");
        assert_eq!(gather(Path::new("/nowhere")).len(), 0);
    }
}

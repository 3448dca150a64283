//! Which samples a question is about: by process, thread, control group, container.

use regex::Regex;

use crate::profile::Labels;
use crate::system::target::{Home, expression};

/// A name, or a pattern for names.
#[derive(Debug, Clone)]
pub enum Pattern {
    /// This name.
    Exact(String),
    /// Names in which this is found.
    Matching(Regex),
}

impl Pattern {
    /// `nginx` is a name, `/^ng/` a regular expression.
    ///
    /// # Errors
    /// When the expression makes no sense, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        match expression(text) {
            Some(found) => found
                .map(Self::Matching)
                .map_err(|error| format!("`{text}` is not a regular expression: {error}")),
            _ if text.is_empty() => Err("a name cannot be empty".to_owned()),
            _ => Ok(Self::Exact(text.to_owned())),
        }
    }

    /// Whether a name is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Matching(expression) => expression.is_match(name),
        }
    }
}

/// All that is set has to fit; nothing set fits everything.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Name of the process.
    pub process: Option<Pattern>,
    /// Name of the thread.
    pub thread: Option<Pattern>,
    /// Path of the control group, which means those below it too; or an expression.
    pub cgroup: Option<Pattern>,
    /// Beginning of a container's ID; its name, its pod's, or `NAMESPACE/POD`, where the host's files tell them.
    pub container: Option<String>,
    /// Process IDs, any of them.
    pub pids: Vec<u32>,
    /// Thread IDs, any of them.
    pub tids: Vec<u32>,
}

impl Filter {
    /// Whether everything fits.
    pub fn is_open(&self) -> bool {
        self.process.is_none()
            && self.thread.is_none()
            && self.cgroup.is_none()
            && self.container.is_none()
            && self.pids.is_empty()
            && self.tids.is_empty()
    }

    /// Whether samples with these labels are meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        let cgroup = labels.cgroup.as_deref();
        let fits = |pattern: &Option<Pattern>, name: &str| pattern.as_ref().is_none_or(|p| p.matches(name));
        let one_of = |wanted: &[u32], id: u32| wanted.is_empty() || wanted.contains(&id);
        one_of(&self.pids, labels.pid)
            && one_of(&self.tids, labels.tid)
            && fits(&self.process, &labels.process)
            && fits(&self.thread, &labels.thread)
            && self.cgroup.as_ref().is_none_or(|wanted| cgroup.is_some_and(|path| is_in(wanted, path)))
            && self.container.as_ref().is_none_or(|id| cgroup.is_some_and(|path| is_container(id, path)))
    }
}

/// Whether a control group is the wanted one, or lies below it.
fn is_in(wanted: &Pattern, path: &str) -> bool {
    match wanted {
        Pattern::Exact(exact) => {
            let exact = exact.trim_end_matches('/');
            path.strip_prefix(exact).is_some_and(|below| below.is_empty() || below.starts_with('/'))
        }
        Pattern::Matching(expression) => expression.is_match(path),
    }
}

fn is_container(wanted: &str, path: &str) -> bool {
    let home = Home::of_group(path);
    home.container.is_some_and(|container| container.is_called(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(cgroup: &str) -> Labels {
        Labels {
            pid: 7,
            tid: 8,
            process: "nginx".into(),
            thread: "worker".into(),
            cgroup: Some(cgroup.into()),
            cpu: None,
        }
    }

    #[test]
    fn all_that_is_set_has_to_fit() {
        let unit = labels("/system.slice/nginx.service");
        let pattern = |text| Some(Pattern::parse(text).unwrap());
        assert!(Filter::default().matches(&unit) && Filter::default().is_open());
        let both = Filter { process: pattern("nginx"), thread: pattern("/^work/"), ..Filter::default() };
        assert!(both.matches(&unit) && !both.is_open());
        assert!(!Filter { thread: pattern("work"), ..both.clone() }.matches(&unit));
        assert!(!Filter { pids: vec![8], ..both.clone() }.matches(&unit));
        assert!(Filter { pids: vec![1, 7], tids: vec![8], ..both }.matches(&unit));
        assert!(Pattern::parse("/(/").is_err() && Pattern::parse("").is_err());
    }

    #[test]
    fn a_control_group_has_those_below_it() {
        let filter = |text| Filter { cgroup: Some(Pattern::parse(text).unwrap()), ..Filter::default() };
        let unit = labels("/system.slice/nginx.service");
        assert!(filter("/system.slice").matches(&unit) && filter("/system.slice/").matches(&unit));
        assert!(!filter("/system.sl").matches(&unit) && !filter("/user.slice").matches(&unit));
        assert!(filter("/nginx\\.service$/").matches(&unit));
    }

    #[test]
    fn a_container_is_known_by_the_beginning_of_its_id() {
        let id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
        let inside = labels(&format!("/system.slice/docker-{id}.scope"));
        let filter = |id: &str| Filter { container: Some(id.to_owned()), ..Filter::default() };
        assert!(filter("0123456789ab").matches(&inside) && !filter("12345").matches(&inside));
        assert!(!filter("0123456789ab").matches(&labels("/system.slice")));
    }
}

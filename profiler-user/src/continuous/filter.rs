//! Whose samples are kept: rules by name, unit, control group and user.
//!
//! Rules work on closed windows, before anything is named: what is left out reaches neither the disk nor a symbolizer, and is counted.

use std::collections::HashMap;
use std::fmt;

use regex::Regex;

use crate::aggregate::Aggregate;
use crate::process::{CgroupNames, Known};
use crate::system::target::expression;

/// One rule, in the words of the command line.
#[derive(Debug, Clone)]
pub enum Rule {
    /// `nginx`: the name of the process.
    Name(String),
    /// `/^php/`: a regular expression for the name of the process.
    Pattern(Regex),
    /// `unit:nginx.service`: a component of the control group's path.
    Unit(String),
    /// `cgroup:/system.slice`: the control group, and those below it.
    Cgroup(String),
    /// `user:postgres` or `user:33`: the user that the process runs as.
    User(u32),
}

impl Rule {
    /// Reads a rule.
    ///
    /// # Errors
    ///
    /// Says what was found and what is understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parse_with(text, || std::fs::read_to_string("/etc/passwd").unwrap_or_default())
    }

    fn parse_with(text: &str, passwd: impl FnOnce() -> String) -> Result<Self, String> {
        let examples = "examples: nginx, /^php/, unit:nginx.service, cgroup:/system.slice, user:postgres";
        if let Some(found) = expression(text) {
            return found
                .map(Self::Pattern)
                .map_err(|error| format!("`{text}` is not a regular expression: {error}"));
        }
        match text.split_once(':') {
            _ if text.trim().is_empty() => Err(format!("an empty rule; {examples}")),
            Some(("unit", unit)) if !unit.is_empty() => Ok(Self::Unit(unit.to_owned())),
            Some(("cgroup", path)) if path.starts_with('/') => {
                Ok(Self::Cgroup(path.trim_end_matches('/').to_owned()))
            }
            Some(("cgroup", path)) => {
                Err(format!("`cgroup:{path}`: the path begins with /, as in /proc/PID/cgroup"))
            }
            Some(("user", user)) if !user.is_empty() => user_id(user, &passwd())
                .map(Self::User)
                .ok_or_else(|| format!("`user:{user}`: there is no such user in /etc/passwd")),
            Some((kind @ ("unit" | "user"), _)) => Err(format!("`{kind}:` without a name; {examples}")),
            _ => Ok(Self::Name(text.to_owned())),
        }
    }

    fn fits(&self, who: &Who<'_>) -> bool {
        match self {
            Self::Name(name) => name == who.name,
            Self::Pattern(pattern) => pattern.is_match(who.name),
            Self::User(uid) => who.uid == Some(*uid),
            Self::Unit(unit) => {
                who.cgroup.unwrap_or_default().split('/').any(|part| {
                    part == unit || part.strip_suffix(".service").is_some_and(|stem| stem == unit)
                })
            }
            Self::Cgroup(path) => {
                let below = who.cgroup.unwrap_or("/").strip_prefix(path.as_str());
                below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Pattern(pattern) => write!(f, "/{pattern}/"),
            Self::Unit(unit) => write!(f, "unit:{unit}"),
            Self::Cgroup(path) => write!(f, "cgroup:{path}"),
            Self::User(uid) => write!(f, "user:{uid}"),
        }
    }
}

fn user_id(user: &str, passwd: &str) -> Option<u32> {
    let by_name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| fields.nth(1)?.parse().ok())?
    });
    by_name.or_else(|| user.parse().ok())
}

/// A process, for a rule to look at.
struct Who<'a> {
    name: &'a str,
    uid: Option<u32>,
    cgroup: Option<&'a str>,
}

/// Which processes are kept: those that an include rule fits, or all where there is none, without those that an exclude rule fits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Filter {
    /// Keep only these.
    pub include: Vec<Rule>,
    /// Leave these out.
    pub exclude: Vec<Rule>,
}

impl Filter {
    fn keeps(&self, who: &Who<'_>) -> bool {
        let fits = |rules: &[Rule]| rules.iter().any(|rule| rule.fits(who));
        (self.include.is_empty() || fits(&self.include)) && !fits(&self.exclude)
    }

    /// Whether an include rule names a process.
    pub(super) fn names_process(&self, name: &str, uid: Option<u32>, cgroup: Option<&str>) -> bool {
        !self.include.is_empty() && self.keeps_process(name, uid, cgroup)
    }

    /// Whether a process is kept.
    pub(super) fn keeps_process(&self, name: &str, uid: Option<u32>, cgroup: Option<&str>) -> bool {
        self.keeps(&Who { name, uid, cgroup })
    }

    /// Leaves out of a window what is not to be kept; returns how many samples that were.
    pub(super) fn apply(&self, aggregate: &mut Aggregate, known: &Known, cgroups: &mut CgroupNames) -> u64 {
        if self.include.is_empty() && self.exclude.is_empty() {
            return 0;
        }
        let mut decided = HashMap::new();
        aggregate.retain(|key| {
            *decided.entry((key.process, key.cgroup_id)).or_insert_with(|| {
                let info = known.info(key.process);
                let cgroup = cgroups.name(key.cgroup_id);
                self.keeps(&Who {
                    name: info.map_or("", |info| &info.name),
                    uid: info.and_then(|info| info.uid),
                    cgroup: cgroup.as_deref(),
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/sh\n7:x:1007:7::/:/bin/sh\n";

    fn rule(text: &str) -> Rule {
        Rule::parse_with(text, || PASSWD.to_owned()).unwrap()
    }

    fn who<'a>(name: &'a str, uid: u32, cgroup: &'a str) -> Who<'a> {
        Who { name, uid: Some(uid), cgroup: Some(cgroup) }
    }

    #[test]
    fn each_kind_of_rule_fits_what_it_names() {
        let nginx = who("nginx", 33, "/system.slice/nginx.service");
        for text in [
            "nginx",
            "/^ng/",
            "unit:nginx.service",
            "unit:nginx",
            "cgroup:/system.slice",
            "user:www-data",
            "user:33",
        ] {
            assert!(rule(text).fits(&nginx), "{text}");
            assert!(!rule(text).fits(&who("postgres", 0, "/user.slice/nginx.service.d")), "{text}");
        }
        assert!(rule("cgroup:/").fits(&nginx), "everything is below the root");
        assert!(!rule("cgroup:/system").fits(&nginx), "a name is not a prefix");
        // A name counts before a number, as in chown(1).
        assert_eq!(rule("user:7"), Rule::User(1007));
        let unknown = Who { name: "x", uid: None, cgroup: None };
        assert!(
            !rule("user:0").fits(&unknown)
                && !rule("unit:a").fits(&unknown)
                && rule("cgroup:/").fits(&unknown)
        );
    }

    #[test]
    fn rules_that_mean_nothing_are_refused() {
        for text in
            ["", " ", "/(/", "unit:", "user:", "user:nobody-of-that-name", "cgroup:relative", "cgroup:"]
        {
            assert!(Rule::parse_with(text, || PASSWD.to_owned()).is_err(), "{text}");
        }
        assert_eq!(rule("a:b"), Rule::Name("a:b".to_owned()), "names may hold colons");
    }

    #[test]
    fn what_is_excluded_stays_out_although_it_is_included() {
        let filter = Filter { include: vec![rule("cgroup:/a")], exclude: vec![rule("noisy")] };
        assert!(filter.keeps(&who("fine", 0, "/a/b")));
        assert!(!filter.keeps(&who("noisy", 0, "/a/b")) && !filter.keeps(&who("fine", 0, "/b")));
        assert!(Filter::default().keeps(&who("anyone", 0, "/")));
    }
}

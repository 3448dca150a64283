//! Which calls of a recording the reader wants to see.

use super::model::{CallReport, CallStats};
use super::names::{Names, plain};

/// What to show; everything unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CallChoice {
    /// Only calls that failed.
    pub failed: bool,
    /// Only calls that failed with one of these errors; empty for all.
    pub errors: Vec<String>,
    /// Only these calls; empty for all.
    pub calls: Vec<String>,
}

impl CallChoice {
    /// Reads lists as people type them: `openat,read` and `ENOENT,eagain`.
    ///
    /// # Errors
    ///
    /// Names that no table has, with the nearest one that exists.
    pub fn parse(failed: bool, errors: &[String], calls: &[String]) -> Result<Self, String> {
        let names = Names::load();
        let errors: Vec<String> = errors.iter().map(|name| name.trim().to_ascii_uppercase()).collect();
        let calls: Vec<String> = calls.iter().map(|name| name.trim().to_owned()).collect();
        if let Some(wrong) = errors.iter().find(|name| !names.is_error(name)) {
            return Err(format!(
                "there is no error `{wrong}`; errors are named as in errno(3): ENOENT, EAGAIN"
            ));
        }
        if let Some(wrong) = calls.iter().find(|name| !names.is_call(name)) {
            let near = names.nearest_call(wrong);
            return Err(format!("there is no system call `{wrong}`; did you mean `{near}`?"));
        }
        Ok(Self { failed, errors, calls })
    }

    /// Takes everything else out of a recording.
    pub fn apply(&self, report: &mut CallReport) {
        for owner in &mut report.owners {
            owner.calls.retain_mut(|call| self.keeps(call));
        }
        report.owners.retain(|owner| !owner.calls.is_empty());
        let about_errors = self.failed || !self.errors.is_empty();
        report
            .slow
            .retain(|call| self.names(&call.name) && (!about_errors || call.result.starts_with("-1 ")));
        report.in_flight.retain(|call| !about_errors && self.names(&call.name));
    }

    fn keeps(&self, call: &mut CallStats) -> bool {
        if !self.errors.is_empty() {
            call.errnos.retain(|(name, _)| self.errors.contains(name));
        }
        let about_errors = self.failed || !self.errors.is_empty();
        self.names(&call.name) && (!about_errors || !call.errnos.is_empty())
    }

    fn names(&self, name: &str) -> bool {
        self.calls.is_empty() || self.calls.iter().any(|wanted| wanted == plain(name))
    }
}

//! What names are looked up by: the processes and files of one window, copied out of the tables that go on changing.
//!
//! Holds files and root directories open, so that names can be looked up on another thread, later, of processes that are gone.

use std::collections::HashMap;

use super::objects::{Object, ObjectId};
use super::table::{ProcessId, ProcessInfo};

/// Processes and files behind some stacks.
#[derive(Debug, Clone, Default)]
pub struct Known {
    pub(super) infos: HashMap<ProcessId, ProcessInfo>,
    pub(super) objects: HashMap<ObjectId, Object>,
}

impl Known {
    /// A process.
    pub fn info(&self, id: ProcessId) -> Option<&ProcessInfo> {
        self.infos.get(&id)
    }

    /// A file.
    pub fn object(&self, id: ObjectId) -> Option<&Object> {
        self.objects.get(&id)
    }
}

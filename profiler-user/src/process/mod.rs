//! Which code an address belongs to: processes, their mappings, and the files behind them, over time.
//!
//! In: side-band events and snapshots of `/proc`, in order of time. Out: for a process ID and an address, the object
//! and file offset at that moment. A process that execs, or a process ID that is given out again, is a new identity.
//! Names of addresses are not looked up here.

mod cgroup;
mod known;
mod mappings;
mod names;
mod objects;
mod roots;
mod snapshot;
mod table;

pub(crate) use cgroup::cgroup_of;
pub use cgroup::{CgroupNames, cgroup_id, is_below_cgroup};
pub use known::Known;
pub use mappings::{Mappings, Placement, Region};
pub(crate) use names::ProcessNames;
pub use objects::{Access, Object, ObjectId, Objects};
pub use snapshot::{Snapshot, SnapshotMapping, numeric_entries};
pub use table::{Moment, OutsidePid, ProcessId, ProcessInfo, Processes};

//! The programs at page faults and at calls that map memory.

use std::os::fd::AsFd;

use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::raw_trace_point::RawTracePointLink;
use profiler_common::memory::MemoryControl;

use super::loader::{map_error, perf_program, raw_tracepoint, refused, take_map};
use super::{LoadError, Programs};

/// The tables of the programs, and what keeps them attached. Dropping it ends the recording of calls.
pub struct GrowthPrograms {
    control: Array<MapData, MemoryControl>,
    /// The kernel runs a tail call only as long as somebody holds the tables.
    _walks: Vec<ProgramArray<MapData>>,
    call: Option<RawTracePointLink>,
}

impl GrowthPrograms {
    /// Tells the programs how to go on.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn control(&mut self, control: MemoryControl) -> Result<(), LoadError> {
        self.control.set(0, control, 0).map_err(|source| map_error("MEMORY_CONTROL", source))
    }

    /// Takes the program off the end of system calls.
    pub fn detach_calls(&mut self) {
        self.call = None;
    }
}

impl Programs {
    /// Loads the programs of memory; those at system calls only where `calls` are wanted. Nothing is attached.
    ///
    /// # Errors
    ///
    /// What the kernel refused, or they were loaded before.
    pub fn load_growth(&mut self, calls: bool) -> Result<GrowthPrograms, LoadError> {
        let control = take_map(&mut self.ebpf, "MEMORY_CONTROL")?;
        let control = Array::try_from(control).map_err(|source| map_error("MEMORY_CONTROL", source))?;
        for program in ["page_faulted", "walk_fault"] {
            let loaded = perf_program(&mut self.ebpf, program)?;
            loaded.load().map_err(|source| refused(program, source))?;
        }
        let step = perf_program(&mut self.ebpf, "walk_fault")?.fd().and_then(|fd| Ok(fd.try_clone()?));
        let step = step.map_err(|source| refused("walk_fault", source))?;
        let mut walks = vec![self.walk_table("WALK_FAULT", &step)?];
        if calls {
            for program in ["call_ended", "walk_call"] {
                let loaded = raw_tracepoint(&mut self.ebpf, program)?;
                loaded.load().map_err(|source| refused(program, source))?;
            }
            let step = raw_tracepoint(&mut self.ebpf, "walk_call")?.fd().and_then(|fd| Ok(fd.try_clone()?));
            let step = step.map_err(|source| refused("walk_call", source))?;
            walks.push(self.walk_table("WALK_CALL", &step)?);
        }
        Ok(GrowthPrograms { control, _walks: walks, call: None })
    }

    /// Begins to see calls that map memory. From then on every system call of the machine takes a longer way.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    pub fn attach_mapping_calls(&mut self, growth: &mut GrowthPrograms) -> Result<(), LoadError> {
        let program = raw_tracepoint(&mut self.ebpf, "call_ended")?;
        let link = program.attach("sys_exit").and_then(|link| program.take_link(link));
        growth.call = Some(link.map_err(|source| refused("call_ended", source))?);
        Ok(())
    }

    /// The program to run at each page fault that is taken.
    ///
    /// # Errors
    ///
    /// It was not loaded.
    pub fn fault_sampler(&mut self) -> Result<std::os::fd::BorrowedFd<'_>, LoadError> {
        let program = perf_program(&mut self.ebpf, "page_faulted")?;
        Ok(program.fd().map_err(|source| refused("page_faulted", source))?.as_fd())
    }

    fn walk_table(
        &mut self,
        map: &'static str,
        step: &aya::programs::ProgramFd,
    ) -> Result<ProgramArray<MapData>, LoadError> {
        let table = take_map(&mut self.ebpf, map)?;
        let mut table = ProgramArray::try_from(table).map_err(|source| map_error(map, source))?;
        table.set(0, step, 0).map_err(|source| map_error(map, source))?;
        Ok(table)
    }
}

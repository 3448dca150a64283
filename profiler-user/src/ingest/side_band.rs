//! The perf rings of the side band: one per CPU, mapped, read by timer.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya_obj::generated::perf_event_mmap_page;

use super::event::{EventKind, ProcessEvent, decode_event};
use crate::bpf::{PerfEvent, Tells};

/// Memory that the rings of all CPUs may take together.
const ALL_RINGS_BYTES: usize = 8 << 20;
/// Bounds of one ring: below, a burst of execs overflows it between two polls; above, it only costs memory.
const RING_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=512 << 10;
/// The most for those who are told of processes alone: three records of a hundred bytes for each that comes and goes, so some 850 of them between two
/// polls.
const RING_BYTES_OF_PROCESSES: usize = 256 << 10;
/// Bytes of a record's header: kind, misc, size.
const HEADER_BYTES: usize = 8;

/// Fork, exec and exit records of the whole host, and mmap records for those who look at addresses.
#[derive(Debug)]
pub struct SideBand {
    rings: Vec<Ring>,
}

impl SideBand {
    /// Opens and starts the side band on these CPUs.
    ///
    /// # Errors
    ///
    /// What `perf_event_open(2)` and `mmap(2)` report. CPUs that went offline are left out.
    pub fn open(cpus: &[u32], tells: Tells) -> io::Result<Self> {
        let share = ALL_RINGS_BYTES / cpus.len().max(1);
        let most = match tells {
            Tells::Mappings => *RING_BYTES.end(),
            Tells::Processes => RING_BYTES_OF_PROCESSES,
        };
        let bytes = prev_power_of_two(share).clamp(*RING_BYTES.start(), most);
        let mut rings = Vec::with_capacity(cpus.len());
        for cpu in cpus {
            match PerfEvent::open_side_band(*cpu, tells) {
                Ok(event) => rings.push(Ring::map(event, bytes)?),
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { rings })
    }

    /// Reads what has come since the last call, of all CPUs, in order of time.
    pub fn drain(&mut self) -> Vec<ProcessEvent> {
        let mut events = Vec::new();
        for ring in &mut self.rings {
            ring.drain(&mut events);
        }
        // Stable: records of one CPU and one instant (exec and its first mappings) keep their order.
        events.sort_by_key(|event| event.time_ns);
        events
    }

    /// Memory of the rings, bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.rings.iter().map(|ring| ring.mapped_bytes as u64).sum()
    }
}

fn prev_power_of_two(value: usize) -> usize {
    if value == 0 { 0 } else { 1 << value.ilog2() }
}

#[derive(Debug)]
struct Ring {
    /// Keeps the event open; the mapping belongs to it.
    _event: PerfEvent,
    page: NonNull<perf_event_mmap_page>,
    data: NonNull<u8>,
    data_bytes: usize,
    mapped_bytes: usize,
}

impl Ring {
    fn map(event: PerfEvent, data_bytes: usize) -> io::Result<Self> {
        let page_bytes = page_size();
        let mapped_bytes = page_bytes + data_bytes;
        let base = map_shared(event.file(), mapped_bytes)?;
        // SAFETY: the mapping is one page longer than the data area that follows the control page.
        let data = unsafe { base.add(page_bytes) };
        Ok(Self { _event: event, page: base.cast(), data, data_bytes, mapped_bytes })
    }

    fn drain(&mut self, events: &mut Vec<ProcessEvent>) {
        let head = self.position(HEAD).load(Ordering::Acquire);
        let mut tail = self.position(TAIL).load(Ordering::Relaxed);
        let mut record = Vec::new();
        while head.wrapping_sub(tail) >= HEADER_BYTES as u64 {
            let mut header = [0; HEADER_BYTES];
            self.copy(tail, &mut header);
            let size = usize::from(u16::from_ne_bytes([header[6], header[7]]));
            if size < HEADER_BYTES || size as u64 > head.wrapping_sub(tail) {
                // The kernel never writes this; skipping to the head keeps the reader alive if it ever does.
                events.push(ProcessEvent { time_ns: 0, pid: 0, kind: EventKind::Lost { records: 1 } });
                tail = head;
                break;
            }
            record.resize(size - HEADER_BYTES, 0);
            self.copy(tail + HEADER_BYTES as u64, &mut record);
            let kind = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
            let misc = u16::from_ne_bytes([header[4], header[5]]);
            events.extend(decode_event(kind, misc, &record));
            tail += size as u64;
        }
        self.position(TAIL).store(tail, Ordering::Release);
    }

    fn position(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the control page holds an aligned u64 at this offset for as long as the ring is mapped, shared with the kernel,
        // which accesses it atomically (Documentation: perf_event_open(2), "MMAP layout").
        unsafe { AtomicU64::from_ptr(self.page.as_ptr().byte_add(offset).cast()) }
    }

    /// Copies bytes out of the data area, around its end if need be.
    fn copy(&self, position: u64, out: &mut [u8]) {
        let start = (position % self.data_bytes as u64) as usize;
        let first = out.len().min(self.data_bytes - start);
        let (head, rest) = out.split_at_mut(first);
        // SAFETY: both ranges lie inside the data area (a record is at most 64 KiB, the area's least size), and the kernel does not
        // write between tail and head.
        unsafe {
            self.data
                .add(start)
                .copy_to_nonoverlapping(NonNull::new_unchecked(head.as_mut_ptr()), head.len());
            self.data.copy_to_nonoverlapping(NonNull::new_unchecked(rest.as_mut_ptr()), rest.len());
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the address and length of the mapping made in `map`, which nobody uses any more.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.mapped_bytes) };
    }
}

const HEAD: usize = std::mem::offset_of!(perf_event_mmap_page, data_head);
const TAIL: usize = std::mem::offset_of!(perf_event_mmap_page, data_tail);

fn page_size() -> usize {
    // SAFETY: no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

fn map_shared(file: &File, bytes: usize) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))
}

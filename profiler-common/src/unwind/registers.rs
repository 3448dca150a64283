//! The registers that a walk carries from frame to frame.

/// Registers kept, by DWARF number: 16 general ones and rip on x86_64; on AArch64 31, sp, and pc under its number 32.
pub const REGISTERS: usize = 33;

/// `known`: the general registers are this frame's, and the instruction pointer is where it was interrupted, not a return address.
/// Holds for the leaf and for a frame that a signal interrupted.
pub const KNOWN_ALL: u64 = 1;
/// `known`: rbx is this frame's.
pub const KNOWN_RBX: u64 = 2;

/// DWARF number of rbx (System V ABI AMD64, figure 3.36).
pub(super) const X86_RBX: u64 = 3;

/// Registers of one frame. Part of the record of a sample whose walk user space finishes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Instruction pointer, or return address of every frame that called another.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer: rbp, or x29.
    pub fp: u64,
    /// x30; nothing on x86_64.
    pub lr: u64,
    /// Where this frame's rbx was saved by a callee, or zero when it is still in `general`.
    pub rbx_at: u64,
    /// `KNOWN_` bits.
    pub known: u64,
    /// By DWARF number; only [`KNOWN_ALL`] gives them a meaning.
    pub general: [u64; REGISTERS],
}

impl Registers {
    /// The registers of an interrupted frame, as far as these four tell.
    pub const fn interrupted(ip: u64, sp: u64, fp: u64, lr: u64) -> Self {
        Self { ip, sp, fp, lr, rbx_at: 0, known: KNOWN_ALL | KNOWN_RBX, general: [0; REGISTERS] }
    }

    /// The address whose rule holds: a return address points behind its call, which may be the last instruction of a
    /// function that the callee never returns to.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "also compiled into BPF programs")]
    pub const fn lookup_address(&self) -> u64 {
        if self.known & KNOWN_ALL != 0 { self.ip } else { self.ip.wrapping_sub(1) }
    }

    /// The address to write down for a frame that is not the leaf, so that one less is always the place that is meant.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "also compiled into BPF programs")]
    pub const fn caller_address(&self) -> u64 {
        if self.known & KNOWN_ALL != 0 { self.ip.wrapping_add(1) } else { self.ip }
    }
}

/// Size of [`Registers`] on the wire.
pub const REGISTERS_BYTES: usize = 48 + REGISTERS * 8;

const _: () = assert!(size_of::<Registers>() == REGISTERS_BYTES);

//! Why a walk of a user stack ended.

/// Why the user part of a stack ends where it does. Reports iterate [`StopReason::ALL`], so a new reason needs no
/// other change.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StopReason {
    /// The walk reached the entry of the process or thread: the stack is whole.
    Complete = 0,
    /// The task has no user side (a kernel thread), or the user side was not asked for.
    NoUserSide = 1,
    /// The stack is deeper than [`crate::limits::MAX_USER_FRAMES`].
    TooDeep = 2,
    /// The code has no unwind table, and the frame pointer is not one: unaligned, outside the stack, or not above the frame before.
    BadFramePointer = 3,
    /// The saved return address cannot be code.
    BadReturnAddress = 4,
    /// Stack memory could not be read without a page fault.
    UnreadableStack = 5,
    /// The interrupted context was in the kernel and the task's user registers are not available on this kernel.
    NoUserRegisters = 6,
    /// The task runs 32-bit code, which this walker does not follow past its first frame.
    CompatTask = 7,
    /// The kernel refused to continue the chain of programs.
    ChainBroken = 8,
    /// The address lies in no executable mapping that the kernel side knows.
    NoMapping = 9,
    /// The unwind rows of the text page were not loaded.
    TableMissing = 10,
    /// The binary's unwind information is of a kind that our rules cannot say.
    UnsupportedRule = 11,
    /// The frame's address depends on a register whose value in a caller is not known.
    UnknownRegister = 12,
    /// The computed frame address is unaligned or not above the frame before.
    BadFrameAddress = 13,
}

impl StopReason {
    /// All reasons.
    pub const ALL: [Self; 14] = [
        Self::Complete,
        Self::NoUserSide,
        Self::TooDeep,
        Self::BadFramePointer,
        Self::BadReturnAddress,
        Self::UnreadableStack,
        Self::NoUserRegisters,
        Self::CompatTask,
        Self::ChainBroken,
        Self::NoMapping,
        Self::TableMissing,
        Self::UnsupportedRule,
        Self::UnknownRegister,
        Self::BadFrameAddress,
    ];

    /// The reason behind a number on the wire.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| *reason as u8 == number)
    }

    /// True when the stack is as long as it should be, so that no marker is due.
    pub fn is_clean(self) -> bool {
        matches!(self, Self::Complete | Self::NoUserSide)
    }

    /// Stable identifier, for counters.
    pub fn id(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NoUserSide => "no_user_side",
            Self::TooDeep => "too_deep",
            Self::BadFramePointer => "bad_frame_pointer",
            Self::BadReturnAddress => "bad_return_address",
            Self::UnreadableStack => "unreadable_stack",
            Self::NoUserRegisters => "no_user_registers",
            Self::CompatTask => "compat_task",
            Self::ChainBroken => "chain_broken",
            Self::NoMapping => "no_mapping",
            Self::TableMissing => "table_missing",
            Self::UnsupportedRule => "unsupported_rule",
            Self::UnknownRegister => "unknown_register",
            Self::BadFrameAddress => "bad_frame_address",
        }
    }

    /// True when the reason lies in the code of the last frame, so that its module is worth naming.
    pub fn is_about_code(self) -> bool {
        matches!(
            self,
            Self::BadFramePointer
                | Self::BadReturnAddress
                | Self::UnreadableStack
                | Self::NoMapping
                | Self::TableMissing
                | Self::UnsupportedRule
                | Self::UnknownRegister
                | Self::BadFrameAddress
        )
    }

    /// True when user space can finish the walk from a copy of the stack: only tables were missing.
    pub fn is_cold(self) -> bool {
        matches!(self, Self::NoMapping | Self::TableMissing)
    }

    /// What the reader of a stack is told, in a few words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::NoUserSide => "no user side",
            Self::TooDeep => "deeper than 480 frames",
            Self::BadFramePointer => "no table, no frame pointer",
            Self::BadReturnAddress => "return address is not code",
            Self::UnreadableStack => "stack memory not resident",
            Self::NoUserRegisters => "user registers not available on this kernel",
            Self::CompatTask => "32-bit task",
            Self::ChainBroken => "program chain broken",
            Self::NoMapping => "return address is not in code",
            Self::TableMissing => "unwind table not loaded",
            Self::UnsupportedRule => "unwind rule not supported",
            Self::UnknownRegister => "register of a caller not known",
            Self::BadFrameAddress => "frame address is not on the stack",
        }
    }
}

const _: () = assert!(crate::limits::MAX_USER_FRAMES == 480, "StopReason::TooDeep names the depth");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_wire() {
        for (index, reason) in StopReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            assert_eq!(StopReason::from_wire(reason as u8), Some(reason));
        }
        assert_eq!(StopReason::from_wire(200), None);
    }
}

//! What a profile file may cost: bytes unpacked, and memory of the model that is built from them.

use super::FormatError;
use crate::output::{bytes as size, thousands};

/// Largest file that is read.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Most bytes that a compressed file may unpack to.
pub const MAX_DECOMPRESSED_BYTES: u64 = 1 << 30;

/// Compressed profiles shrink by a factor of 3 to 30. Past this one the file is a bomb.
const MAX_RATIO: u64 = 200;

/// A small file may unpack to this much whatever the ratio: a few kilobytes of equal samples compress very well.
const SMALL_UNPACKED_BYTES: u64 = 8 << 20;

/// Memory for the model. Messages of two bytes can stand for structures of a hundred.
const MAX_MODEL_BYTES: usize = 512 << 20;

/// Frames of one stack. Deep recursion in the wild reaches a few thousand.
pub(super) const MAX_STACK_FRAMES: usize = 16_384;

/// Frames of all stacks together: what tables and pictures walk through. A million distinct stacks of 32 frames.
pub(super) const MAX_FRAMES: usize = 32 << 20;

/// Unpacked bytes allowed for a compressed file of this size.
pub(super) fn unpacked_limit(compressed: usize) -> u64 {
    (compressed as u64).saturating_mul(MAX_RATIO).clamp(SMALL_UNPACKED_BYTES, MAX_DECOMPRESSED_BYTES)
}

pub(super) fn too_large(what: &'static str, limit_bytes: u64) -> FormatError {
    FormatError::TooLarge { what, limit: size(limit_bytes) }
}

pub(super) fn frames_limit(frames: usize) -> String {
    format!("{} frames", thousands(frames as u64))
}

/// Counts the memory that the model takes, so that it ends before the machine's does.
#[derive(Clone)]
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { left: MAX_MODEL_BYTES }
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), FormatError> {
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| too_large("the profile in memory is", MAX_MODEL_BYTES as u64))?;
        Ok(())
    }
}

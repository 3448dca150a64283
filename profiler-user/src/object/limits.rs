//! What one object file may cost us, in one place.
//!
//! An object belongs to whoever runs the target, so every count and size in it is a claim, not a fact. Each limit
//! is far above what real files need (the largest seen is named) and low enough that a hostile one stays harmless.

/// Program headers. Linkers write about ten; the format's short count ends at 65,535, which only core files use.
pub const SEGMENTS: usize = 4096;

/// Section headers. Executables have about forty; a kernel module built with a section per function a few thousand.
pub const SECTIONS: usize = 65_536;

/// Bytes of section names.
pub const SECTION_NAMES_BYTES: u64 = 1 << 20;

/// Bytes of one note section or segment. Build IDs take 36.
pub const NOTES_BYTES: u64 = 64 << 10;

/// Symbols scanned in one object, all its tables together. libLLVM and Chromium have under one million.
pub const SYMBOLS: u64 = 8 << 20;

/// Bytes of one symbol name that are read. C++ templates reach several kilobytes; the model cuts at four.
pub const SYMBOL_NAME_BYTES: usize = 8 << 10;

/// Bytes of all decompressed sections of one object together, unless the caller allows less. Uncompressed sections do
/// not count: they are read through a window of a megabyte. The debug packages of distributions are compressed; that
/// of a database server unpacks to about 60 MiB, a large Go server to 100.
pub const DECOMPRESSED_BYTES: u64 = 128 << 20;

/// Bytes that `.gnu_debugdata` may unpack to. A program with 100,000 functions has about 10 MiB.
pub const MINI_DEBUG_BYTES: u64 = 32 << 20;

/// Memory that the xz decoder for `.gnu_debugdata` may ask for: a dictionary of 64 MiB, as the highest preset has, and
/// its own state. It fills no more of it than is unpacked.
pub const MINI_DEBUG_DECODER_BYTES: usize = 80 << 20;

/// Bytes of a separate debug file that are read to check its CRC, when no build ID can prove that it belongs.
pub const CRC_BYTES: u64 = 256 << 20;

/// Path length as the kernel limits it (`PATH_MAX`), for paths found inside objects.
pub const PATH_BYTES: u64 = 4096;

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
pub const SYMBOL_NAME_BYTES: usize = 16 << 10;

/// Bytes of all decompressed sections of one object together, unless the caller allows less. Uncompressed sections do
/// not count: they are read through a window of a megabyte. The debug packages of distributions are compressed; that
/// of a database server unpacks to about 60 MiB, a large Go server to 100.
pub const DECOMPRESSED_BYTES: u64 = 128 << 20;

/// Bytes that `.gnu_debugdata` may unpack to. Fedora's largest is about 20 MiB.
pub const MINI_DEBUG_BYTES: u64 = 64 << 20;

/// Memory of the xz decoder for `.gnu_debugdata`: its dictionary, 64 MiB at the highest preset.
pub const MINI_DEBUG_DICTIONARY_BYTES: usize = 64 << 20;

/// Bytes of a separate debug file that are read to check its CRC, when no build ID can prove that it belongs.
pub const CRC_BYTES: u64 = 1 << 30;

/// Path length as the kernel limits it (`PATH_MAX`), for paths found inside objects.
pub const PATH_BYTES: u64 = 4096;

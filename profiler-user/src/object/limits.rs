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

/// Functions of one text page of unwind information: one for each four bytes, the length of an AArch64 instruction.
/// Real functions are sixteen bytes apart.
pub const PAGE_FUNCTIONS: usize = (profiler_common::unwind::TEXT_PAGE_BYTES / 4) as usize;

/// Reads of unwind information that one text page may take, in the units of a section reader; 10 to 50 ms of one core.
/// Ordinary pages take 10,000 to 50,000; those of one huge function, as node has, 170,000.
pub const PAGE_READS: u64 = 8 << 20;

/// Different rules of one text page. The most varied page seen has some hundred.
pub const PAGE_RULES: usize = 4096;

/// Code segments of one text page. Linkers write one; sixteen lets each be as small as a memory page.
pub const PAGE_PIECES: usize = 16;

/// Sections of an object that are looked at for stubs. Linkers write four at most.
pub const STUB_SECTIONS: usize = 16;

/// Functions in an index of unwind information that we make ourselves, because the linker made none: 16 MiB. Chromium
/// and libLLVM have some hundred thousand, and an index by the linker, which costs no memory here.
pub const UNWIND_FUNCTIONS: usize = 1 << 20;

/// Reads that making this index may take: thirty per function.
pub const UNWIND_INDEX_READS: u64 = 32 << 20;

/// Bytes that a compressed `.debug_frame` may unpack to; it stays in memory. Large Go programs have 4 MiB.
pub const DEBUG_FRAME_BYTES: u64 = 32 << 20;

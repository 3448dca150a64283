//! The vDSO: the small library that the kernel maps into every process.
//!
//! In: this process's own copy (it is the same pages in every process of the same class). Out: its bytes, which
//! [`super::Elf::from_bytes`] reads like any file. A 32-bit target's vDSO is another one and is not covered.

/// A copy of this process's vDSO, or none when the kernel runs without one.
pub fn vdso_image() -> Option<Vec<u8>> {
    // SAFETY: getauxval only reads the auxiliary vector that the kernel put on the initial stack.
    let start = unsafe { libc::getauxval(libc::AT_SYSINFO_EHDR) };
    if start == 0 {
        return None;
    }
    let len = mapped_len(start)?;
    // SAFETY: the kernel mapped `len` readable bytes at `start` (as /proc/self/maps says), never unmaps them, and
    // nothing in this process writes to them.
    Some(unsafe { std::slice::from_raw_parts(start as *const u8, len) }.to_vec())
}

/// Length of the mapping that begins at `start`. The image's own headers say less: section headers lie behind all
/// segments.
fn mapped_len(start: u64) -> Option<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (from, to) = line.split_whitespace().next()?.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        (from == start && line.contains("r-x")).then(|| (to - from) as usize)
    })
}

#[cfg(test)]
mod tests {
    use crate::object::{BuildId, Elf};

    #[test]
    fn the_image_is_an_elf_file_with_code_and_a_build_id() {
        let elf = Elf::from_bytes(super::vdso_image().unwrap()).unwrap();
        assert!(elf.section(".text").unwrap().executable);
        assert!(BuildId::of(&elf).is_some());
    }
}

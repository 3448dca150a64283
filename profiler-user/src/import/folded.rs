//! Reads folded stacks: `process;outermost;…;innermost count`, as we and most other tools write them.
//!
//! The first frame is taken for the process, as flame graph tools do. `_[k]`, `_[i]` and `_[j]` marks are understood;
//! a name in brackets is a remark or an address without a name. Empty lines and lines that begin with `# ` are skipped.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use super::FormatError;
use super::foreign::describe;
use super::limits::{Budget, MAX_FRAMES, MAX_STACK_FRAMES, frames_limit};
use crate::profile::{
    Frame, FrameKind, Labels, Location, LocationId, Mapping, Meta, Profile, ProfileBuilder, Quality,
    ValueType, clean,
};

/// Reads folded stacks.
///
/// # Errors
/// When a line does not end in a count, or there is too much of something.
pub fn read_folded(bytes: &[u8]) -> Result<Profile, FormatError> {
    let mut reader = Reader::new();
    let mut any = false;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"# ") {
            continue;
        }
        any = true;
        let (stack, count) = split_count(line).ok_or_else(|| FormatError::NoCount {
            line: index + 1,
            text: clean(&line[..line.len().min(80)]),
        })?;
        reader.line(stack, count)?;
    }
    if !any {
        return Err(FormatError::Empty);
    }
    let mut profile = reader.builder.finish(Meta::default(), Quality::default());
    describe(&mut profile);
    Ok(profile)
}

/// What a file that is not compressed looks like.
pub(super) enum Sniff {
    Folded,
    Text(&'static str),
    Binary,
}

/// Looks at the first lines only. A protobuf message always has control bytes there: the first field is a list of
/// messages of a few bytes each.
pub(super) fn sniff(bytes: &[u8]) -> Sniff {
    let start = &bytes[..bytes.len().min(4096)];
    if start.iter().any(|byte| *byte < b' ' && !matches!(byte, b'\n' | b'\r' | b'\t' | 0x1b)) {
        return Sniff::Binary;
    }
    let trimmed = start.trim_ascii_start();
    if trimmed.starts_with(b"<") {
        return Sniff::Text(": a picture can't be read back, use the .pb.gz that was written with it");
    }
    if trimmed.starts_with(b"{") {
        return Sniff::Text(": JSON can't be read back, use the .pb.gz that was written with it");
    }
    if trimmed.starts_with(b"PERFILE2") {
        return Sniff::Text(": perf.data is not supported yet");
    }
    Sniff::Folded
}

fn split_count(line: &[u8]) -> Option<(&[u8], u64)> {
    let space = line.iter().rposition(|byte| *byte == b' ' || *byte == b'\t')?;
    let count = std::str::from_utf8(&line[space + 1..]).ok()?;
    // Some tools write fractions; they count whole.
    let whole = count.split_once('.').map_or(count, |(whole, _)| whole);
    let stack = line[..space].trim_ascii_end();
    if stack.is_empty() { None } else { Some((stack, whole.parse().ok()?)) }
}

struct Reader {
    builder: ProfileBuilder,
    budget: Budget,
    frames: usize,
    locations: HashMap<Vec<u8>, LocationId>,
    labels: HashMap<Vec<u8>, Labels>,
}

impl Reader {
    fn new() -> Self {
        Self {
            builder: ProfileBuilder::new(vec![ValueType::new("samples", "count")]),
            budget: Budget::new(),
            frames: 0,
            locations: HashMap::new(),
            labels: HashMap::new(),
        }
    }

    fn line(&mut self, stack: &[u8], count: u64) -> Result<(), FormatError> {
        let mut parts = stack.split(|byte| *byte == b';');
        let root = parts.next().unwrap_or_default();
        let frames = parts.clone().count();
        if frames > MAX_STACK_FRAMES {
            return Err(FormatError::TooLarge { what: "a stack is", limit: frames_limit(MAX_STACK_FRAMES) });
        }
        self.frames += frames;
        if self.frames > MAX_FRAMES {
            return Err(FormatError::TooLarge {
                what: "all stacks together are",
                limit: frames_limit(MAX_FRAMES),
            });
        }
        self.budget.spend(2 * frames * size_of::<LocationId>() + 128)?;
        let mut locations = Vec::with_capacity(frames);
        for part in parts {
            locations.push(self.location(part)?);
        }
        locations.reverse();
        let labels = self.labels(root)?;
        let labels = self.builder.labels(labels);
        let stack = self.builder.stack(locations);
        self.builder.add(stack, labels, &[count]);
        Ok(())
    }

    fn location(&mut self, raw: &[u8]) -> Result<LocationId, FormatError> {
        if let Some(id) = self.locations.get(raw) {
            return Ok(*id);
        }
        let (name, mark) = match raw {
            [name @ .., b'_', b'[', mark, b']'] => (name, *mark),
            name => (name, b' '),
        };
        let name = clean(if name.is_empty() { b"[unknown]" } else { name });
        self.budget.spend(4 * name.len() + 2 * size_of::<Location>() + 2 * size_of::<Frame>() + 128)?;
        let kind = match mark {
            b'k' => FrameKind::Kernel,
            b'j' => FrameKind::Jit,
            _ if name.starts_with('[') && name.ends_with(']') && !name.contains("+0x") => FrameKind::Marker,
            _ => FrameKind::Native,
        };
        let function = self.builder.name(&name);
        let mapping = match kind {
            FrameKind::Kernel => Some("[kernel]"),
            FrameKind::Jit => Some("[jit]"),
            FrameKind::Native | FrameKind::Marker => None,
        };
        let mapping = mapping.map(|path| {
            let path = self.builder.name(path);
            self.builder.mapping(Mapping {
                start: 0,
                limit: 0,
                file_offset: 0,
                path,
                build_id: String::new(),
            })
        });
        let inlined = mark == b'i';
        let frame = Frame { function, file: None, line: None, inlined };
        let id = self.builder.location(Location { mapping, address: 0, kind, frames: vec![frame] });
        self.locations.insert(raw.to_vec(), id);
        Ok(id)
    }

    fn labels(&mut self, root: &[u8]) -> Result<Labels, FormatError> {
        if let Some(labels) = self.labels.get(root) {
            return Ok(labels.clone());
        }
        self.budget.spend(4 * root.len() + 2 * size_of::<Labels>() + 128)?;
        let process: Arc<str> = self.builder.name(&clean(root));
        let labels =
            Labels { pid: 0, tid: 0, thread: Arc::clone(&process), process, cgroup: None, cpu: None };
        self.labels.insert(root.to_vec(), labels.clone());
        Ok(labels)
    }
}

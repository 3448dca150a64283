//! Completes inferno's SVG: hover text with module and kind, and a footer with the legend and the quality line.
//!
//! Works on the finished text. The places that it changes (size in the header, background rectangle, `<title>` and
//! `<text>` of a box) are inferno's public look, held by golden tests.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{HASH, NAME_END, SEMICOLON, colours};
use crate::output::Palette;
use crate::output::numbers::percent;
use crate::output::quality::quality_line;
use crate::profile::Profile;
use crate::report::FunctionClass;

/// Height of a line of the footer, and of its margin, in pixels.
const LINE: usize = 18;
/// Characters in a footer line: what 1200 pixels hold at 7.2 pixels a character, less the margins.
const LINE_CHARS: usize = 160;

/// Added to inferno's style: the search button can be seen, and text stays sharp under the pointer.
const STYLE: &str = "
#frames > *:hover text { stroke:none; }
#search { opacity:0.6; }
";

/// What stands below the boxes.
pub(super) struct Footer {
    palette: Palette,
    classes: Vec<FunctionClass>,
    lines: Vec<String>,
    mixed: bool,
}

impl Footer {
    /// The quality and notes of `profile`; the legend is empty so far.
    pub(super) fn new(profile: &Profile, palette: Palette) -> Self {
        let mut lines = Vec::new();
        wrap(&quality_line(&profile.quality), &mut lines);
        for note in &profile.quality.notes {
            wrap(note, &mut lines);
        }
        Self { palette, classes: Vec::new(), lines, mixed: false }
    }

    /// Adds a kind of code to the legend, unless the palette's colours do not stand for kinds.
    pub(super) fn note_class(&mut self, class: FunctionClass) {
        let kinds = matches!(self.palette, Palette::Kind | Palette::Memory | Palette::Colorblind);
        if kinds && !self.classes.contains(&class) {
            self.classes.push(class);
        }
    }

    /// Adds the colour of waiting to the legend: the kinds' colours are those of running.
    pub(super) fn note_mixed(&mut self) {
        self.mixed = true;
    }

    /// Says that boxes below this share are missing.
    pub(super) fn note_left_out(&mut self, share: f64) {
        let share = if share < 0.05 { format!("{share:.3} %") } else { percent(share) };
        self.lines.push(format!("boxes under {share} of the whole are not drawn"));
    }

    fn height(&self) -> usize {
        (self.lines.len() + usize::from(!self.classes.is_empty())) * LINE + LINE / 2
    }

    fn svg(&self, top: usize) -> String {
        let mut out = String::from("<g id=\"footer\">");
        let mut y = top;
        if !self.classes.is_empty() {
            let mut x = 10;
            let kinds = FunctionClass::ALL.iter().filter(|class| self.classes.contains(class));
            let mut entries: Vec<_> =
                kinds.map(|class| (colours::legend(*class, self.palette), class.name())).collect();
            if self.mixed {
                entries.push((colours::COLD, "waiting"));
            }
            for (colour, name) in entries {
                let _ = write!(
                    out,
                    "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"rgb({},{},{})\"/>\
                     <text x=\"{}\" y=\"{}\">{name}</text>",
                    colour.r,
                    colour.g,
                    colour.b,
                    x + 17,
                    y + 10,
                );
                x += 17 + name.len() * 8 + 18;
            }
            y += LINE;
        }
        for line in &self.lines {
            let _ = write!(out, "<text x=\"10\" y=\"{}\" fill=\"#444\">{}</text>", y + 10, escape(line));
            y += LINE;
        }
        out.push_str("</g>");
        out
    }
}

/// A picture for a profile without samples.
pub(super) fn empty(title: &str, subtitle: &str, footer: &Footer) -> String {
    let height = 150 + footer.height();
    let (title, subtitle) = (escape(title), escape(subtitle));
    let footer = footer.svg(140);
    format!(
        "<?xml version=\"1.0\" standalone=\"no\"?>\n\
         <svg version=\"1.1\" width=\"1200\" height=\"{height}\" viewBox=\"0 0 1200 {height}\" \
         xmlns=\"http://www.w3.org/2000/svg\" font-family=\"monospace\" font-size=\"12\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#f4f4f4\"/>\
         <text x=\"600\" y=\"24\" font-size=\"17\" text-anchor=\"middle\">{title}</text>\
         <text x=\"600\" y=\"48\" text-anchor=\"middle\">{subtitle}</text>\
         <text x=\"600\" y=\"92\" font-size=\"15\" text-anchor=\"middle\">Nothing was sampled: the target was \
         idle while it was recorded, or gone.</text>{footer}</svg>\n"
    )
}

/// Writes inferno's `svg` with the hover texts put right and the footer added.
pub(super) fn complete(svg: &[u8], footer: &Footer, out: &mut dyn Write) -> io::Result<()> {
    let text = std::str::from_utf8(svg).map_err(io::Error::other)?;
    let Some((header, boxes)) = text.split_once("<svg id=\"frames\"") else {
        return out.write_all(svg);
    };
    let Some((height, body)) = attribute(header, "height").zip(boxes.rsplit_once("</svg>")) else {
        return out.write_all(svg);
    };
    let top: usize = height.parse().map_err(io::Error::other)?;
    let taller = top + footer.height();
    let header = header
        .replace(&format!(" height=\"{height}\""), &format!(" height=\"{taller}\""))
        .replacen(&format!(" {height}\" xmlns="), &format!(" {taller}\" xmlns="), 1)
        .replacen("</style>", &format!("{STYLE}</style>"), 1);
    out.write_all(header.as_bytes())?;
    out.write_all(b"<svg id=\"frames\"")?;
    restore(body.0, out)?;
    out.write_all(footer.svg(top).as_bytes())?;
    out.write_all(b"</svg>\n")
}

fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split_once(&format!(" {name}=\""))?.1.split_once('"').map(|(value, _)| value)
}

/// Puts back what travelled through the folded lines as control characters.
fn restore(boxes: &str, out: &mut dyn Write) -> io::Result<()> {
    let mut rest = boxes;
    while let Some(at) = rest.find([NAME_END, SEMICOLON, HASH]) {
        let (before, after) = rest.split_at(at);
        out.write_all(before.as_bytes())?;
        rest = &after[1..];
        if after.starts_with(SEMICOLON) {
            out.write_all(b";")?;
        } else if after.starts_with(HASH) {
            out.write_all(b"#")?;
        } else if let Some((hover, counts)) =
            rest.split_once(NAME_END).filter(|(hover, _)| !hover.contains('<'))
        {
            // A box's name is followed by what the script shows of it: ` (1,234 samples, 5.6%)` in a title.
            if let Some(counts) = counts.strip_prefix(" (") {
                let separator = if hover.is_empty() { "" } else { " · " };
                write!(out, " ({}{separator}", hover.replace(SEMICOLON, ";"))?;
                rest = counts;
            } else {
                rest = counts;
            }
        } else {
            // A label that was cut inside the hover text: the name before it is whole.
            rest = rest.find('<').map_or("", |end| &rest[end..]);
        }
    }
    out.write_all(rest.as_bytes())
}

/// Breaks a line at ` · `, so that it fits the usual width.
fn wrap(text: &str, lines: &mut Vec<String>) {
    let mut line = String::new();
    for part in text.split(" · ") {
        if !line.is_empty() && line.chars().count() + part.chars().count() + 3 > LINE_CHARS {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push_str(" · ");
        }
        line.push_str(part);
    }
    lines.push(line);
}

/// Text for XML. Control characters, which XML forbids even as entities, are shown as escapes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in crate::profile::clean(text.as_bytes()).chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

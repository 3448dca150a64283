//! Colours of a flame graph: the kind of code by hue, functions apart by shade. Always the same for the same name.

use inferno::flamegraph::color::Color;

use crate::output::Palette;
use crate::report::{Function, FunctionClass};

/// The box below everything.
pub(super) const ALL: Color = Color { r: 220, g: 222, b: 226 };

/// Hue (degrees), saturation and lightness (percent), and how far functions of one kind spread around the hue.
#[derive(Clone, Copy)]
struct Tone {
    hue: f64,
    spread: f64,
    saturation: f64,
    lightness: f64,
}

const fn tone(hue: f64, spread: f64, saturation: f64, lightness: f64) -> Tone {
    Tone { hue, spread, saturation, lightness }
}

/// Colour of a function's boxes. All are light enough for black text.
pub(super) fn of(function: &Function<'_>, palette: Palette) -> Color {
    let seed = hash(function.name);
    match palette {
        Palette::Kind => shade(kind(function.class), seed),
        Palette::Memory => shade(kind_memory(function.class), seed),
        Palette::Colorblind => shade(kind_colorblind(function.class), seed),
        Palette::Module if function.module.is_empty() => shade(kind(function.class), seed),
        Palette::Module => shade(tone(hash(function.module) * 360.0, 6.0, 62.0, 80.0), seed),
        Palette::Hot => shade(tone(32.0, 26.0, 90.0, 74.0), seed),
    }
}

/// A colour as it looks when this share of the time, in percent, is waiting: from its own towards [`COLD`].
pub(super) fn cooled(colour: Color, percent: u8) -> Color {
    let part = u32::from(percent.min(100));
    let mix = |hot: u8, cold: u8| ((u32::from(hot) * (100 - part) + u32::from(cold) * part) / 100) as u8;
    Color { r: mix(colour.r, COLD.r), g: mix(colour.g, COLD.g), b: mix(colour.b, COLD.b) }
}

/// The colour of nothing but waiting.
pub(super) const COLD: Color = Color { r: 148, g: 190, b: 238 };

/// The middle shade of a class, for the legend.
pub(super) fn legend(class: FunctionClass, palette: Palette) -> Color {
    match palette {
        Palette::Colorblind => shade(kind_colorblind(class), 0.5),
        Palette::Memory => shade(kind_memory(class), 0.5),
        _ => shade(kind(class), 0.5),
    }
}

fn kind(class: FunctionClass) -> Tone {
    match class {
        FunctionClass::Native => tone(42.0, 11.0, 90.0, 68.0),
        FunctionClass::Inlined => tone(188.0, 10.0, 52.0, 72.0),
        FunctionClass::Jit => tone(108.0, 14.0, 48.0, 68.0),
        FunctionClass::Kernel => tone(12.0, 8.0, 84.0, 72.0),
        FunctionClass::Unknown => tone(0.0, 0.0, 0.0, 78.0),
        FunctionClass::Marker => tone(285.0, 6.0, 36.0, 80.0),
        FunctionClass::Root => tone(216.0, 4.0, 34.0, 84.0),
    }
}

/// Green for native code, as pictures of memory have it elsewhere (`flamegraph.pl --colors mem`).
fn kind_memory(class: FunctionClass) -> Tone {
    match class {
        FunctionClass::Native => tone(140.0, 14.0, 48.0, 70.0),
        FunctionClass::Inlined => tone(196.0, 8.0, 56.0, 74.0),
        FunctionClass::Jit => tone(66.0, 8.0, 66.0, 68.0),
        other => kind(other),
    }
}

/// After the palette of Okabe and Ito, lightened for black text.
fn kind_colorblind(class: FunctionClass) -> Tone {
    match class {
        FunctionClass::Native => tone(56.0, 2.0, 85.0, 70.0),
        FunctionClass::Inlined => tone(202.0, 3.0, 77.0, 70.0),
        FunctionClass::Jit => tone(164.0, 3.0, 60.0, 55.0),
        FunctionClass::Kernel => tone(26.0, 3.0, 90.0, 62.0),
        FunctionClass::Unknown => tone(0.0, 0.0, 0.0, 80.0),
        FunctionClass::Marker => tone(327.0, 3.0, 45.0, 75.0),
        FunctionClass::Root => tone(216.0, 2.0, 20.0, 88.0),
    }
}

/// A colour around `tone`; `seed` (0 to 1) picks which.
fn shade(tone: Tone, seed: f64) -> Color {
    let hue = (tone.hue + (seed - 0.5) * 2.0 * tone.spread).rem_euclid(360.0);
    // A second, independent-looking fraction of the same seed moves the lightness a little.
    let lightness = tone.lightness + ((seed * 97.0).fract() - 0.5) * 12.0;
    hsl(hue, tone.saturation / 100.0, lightness / 100.0)
}

fn hsl(hue: f64, saturation: f64, lightness: f64) -> Color {
    let reach = saturation * lightness.min(1.0 - lightness);
    let channel = |offset: f64| {
        let k = (offset + hue / 30.0) % 12.0;
        let level = lightness - reach * (k - 3.0).min(9.0 - k).clamp(-1.0, 1.0);
        (level * 255.0).round() as u8
    };
    Color { r: channel(0.0), g: channel(8.0), b: channel(4.0) }
}

/// FNV-1a of a name as a fraction. Not the standard library's hash: that one may change between releases, and a
/// function keeps its colour between pictures.
fn hash(name: &str) -> f64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    // The high bits of FNV change little with the last characters; mixing spreads them.
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative luminance as WCAG 2 defines it.
    fn luminance(colour: Color) -> f64 {
        let linear = |channel: u8| {
            let c = f64::from(channel) / 255.0;
            if c <= 0.040_45 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(colour.r) + 0.7152 * linear(colour.g) + 0.0722 * linear(colour.b)
    }

    #[test]
    fn black_text_is_readable_on_every_colour() {
        for palette in [Palette::Kind, Palette::Memory, Palette::Colorblind, Palette::Module, Palette::Hot] {
            for class in FunctionClass::ALL {
                for number in 0..200 {
                    let name = format!("function{number}");
                    let function =
                        Function { name: &name, module: &name[3..], class, file: None, line: None };
                    for colour in [0, 50, 100].map(|percent| cooled(of(&function, palette), percent)) {
                        let contrast = (luminance(colour) + 0.05) / 0.05;
                        assert!(contrast >= 7.0, "{palette:?} {class:?} {name}: {contrast:.1}");
                    }
                }
            }
        }
    }

    #[test]
    fn kinds_stay_apart() {
        let distance = |a: Color, b: Color| {
            let d = |x: u8, y: u8| f64::from(x) - f64::from(y);
            (d(a.r, b.r).powi(2) + d(a.g, b.g).powi(2) + d(a.b, b.b).powi(2)).sqrt()
        };
        for palette in [Palette::Kind, Palette::Memory, Palette::Colorblind] {
            for (index, a) in FunctionClass::ALL.iter().enumerate() {
                for b in &FunctionClass::ALL[index + 1..] {
                    let apart = distance(legend(*a, palette), legend(*b, palette));
                    assert!(apart > 25.0, "{palette:?} {a:?} {b:?}: {apart}");
                }
            }
        }
    }
}

//! Golden pictures, and what must hold for every picture.

use quick_xml::Reader;
use quick_xml::events::Event;

use super::*;
use crate::output::fixture;
use crate::report::{Merge, Roots};

fn svg(profile: &Profile, options: &OutputOptions) -> String {
    let mut out = Vec::new();
    write(profile, options, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// Parses the picture, so that an unclosed or unescaped thing fails, and returns the texts of all elements `name`.
fn texts_of(svg: &str, name: &str) -> Vec<String> {
    let mut reader = Reader::from_str(svg);
    let (mut texts, mut depth, mut inside) = (Vec::new(), 0, None);
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                depth += 1;
                for attribute in start.attributes() {
                    attribute.unwrap();
                }
                if start.name().as_ref() == name.as_bytes() {
                    inside = Some(depth);
                    texts.push(String::new());
                }
            }
            Event::End(_) => {
                if inside == Some(depth) {
                    inside = None;
                }
                depth -= 1;
            }
            Event::Text(text) if inside.is_some() => {
                texts.last_mut().unwrap().push_str(&text.decode().unwrap());
            }
            Event::GeneralRef(entity) if inside.is_some() => {
                let c = match &*entity.decode().unwrap() {
                    "lt" => '<',
                    "gt" => '>',
                    "amp" => '&',
                    "quot" => '"',
                    "apos" => '\'',
                    other => panic!("entity {other}"),
                };
                texts.last_mut().unwrap().push(c);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    texts
}

fn assert_sound(svg: &str) {
    texts_of(svg, "title");
    let control = svg.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(control, None, "a control character in the picture");
}

#[test]
fn golden() {
    // The script is inferno's and the same in every picture: only what we make is compared.
    let full = svg(&fixture::hostile(), &OutputOptions::default());
    let (before, after) = full.split_once("<script").unwrap();
    let after = after.split_once("</script>").unwrap().1;
    let picture = format!("{before}{after}").replace("><", ">\n<");
    fixture::golden("hostile.svg.txt", picture);
}

#[test]
fn every_picture_is_sound() {
    for profile in [fixture::hostile(), fixture::recursive(), fixture::empty(), Profile::default()] {
        for (merge, roots, growth) in
            [(Merge::FromRoot, Roots::Process, Growth::Up), (Merge::FromLeaf, Roots::Thread, Growth::Down)]
        {
            let options = OutputOptions {
                merge,
                roots,
                growth,
                title: Some("<&\x1b]]>".into()),
                width: Some(900),
                ..OutputOptions::default()
            };
            assert_sound(&svg(&profile, &options));
        }
    }
}

#[test]
fn hover_texts_have_name_module_kind_and_share() {
    let titles = texts_of(&svg(&fixture::hostile(), &OutputOptions::default()), "title");
    let hover = |start: &str| {
        titles.iter().find(|title| title.starts_with(start)).unwrap_or_else(|| panic!("{start}: {titles:#?}"))
    };
    assert_eq!(hover("parse "), "parse (we<b>; · 17,172 ms, 56.44%)");
    assert_eq!(hover("core::"), "core::str::next_char (we<b>;, inlined · 9,091 ms, 29.88%)");
    assert_eq!(hover("nf_"), "nf_conntrack_in ([nf_conntrack], kernel · 4,040 ms, 13.28%)");
    assert_eq!(hover("operator"), "operator new 17 (libfoo.so · 2,020 ms, 6.64%)");
    assert_eq!(hover("a\\x0ab"), "a\\x0ab\\x1b[31m<script>\"'&]]>;--\\xff 7 (libfoo.so · 7,071 ms, 23.24%)");
    assert_eq!(hover("# kthread"), "# kthread (process · 1,010 ms, 3.32%)");
    assert_eq!(hover("we b;"), "we b;<\"\\x0a (process · 29,414 ms, 96.68%)");
}

#[test]
fn names_that_begin_alike_stay_apart() {
    let mut b = fixture::Builder::new();
    let kind = crate::profile::FrameKind::Native;
    let names: [&[u8]; 4] = [b"a", b"a b", b"a 5", b"a;b"];
    for (number, name) in names.iter().enumerate() {
        let caller = b.location(None, 1 + number as u64, kind, &[(*name, None)]);
        let callee = b.location(None, 9, kind, &[(b"x", None)]);
        b.sample(&[caller], (1, 1), (b"p", b"p"), [1, 10_000_000]);
        b.sample(&[callee, caller], (1, 1), (b"p", b"p"), [1, 10_000_000]);
    }
    let profile = b.inner.finish(fixture::meta(), crate::profile::Quality::default());
    let titles = texts_of(&svg(&profile, &OutputOptions::default()), "title");
    for name in ["a (20 ms", "a b (20 ms", "a 5 (20 ms", "a;b (20 ms"] {
        assert_eq!(titles.iter().filter(|title| title.starts_with(name)).count(), 1, "{name}: {titles:#?}");
    }
}

#[test]
fn narrow_boxes_are_left_out_and_the_picture_says_so() {
    let options = OutputOptions { min_width_percent: Some(20.0), ..OutputOptions::default() };
    let picture = svg(&fixture::hostile(), &options);
    let titles = texts_of(&picture, "title");
    assert!(titles.iter().all(|title| !title.starts_with("operator")));
    assert!(titles.iter().any(|title| title.starts_with("main (we<b>; · 28,788 ms, 94.62%")), "{titles:#?}");
    assert!(texts_of(&picture, "text").iter().any(|text| text.contains("under 20.0 % of the whole")));
}

#[test]
fn sums_past_what_a_script_can_add_are_scaled() {
    let mut profile = fixture::recursive();
    for sample in &mut profile.samples {
        sample.values[1] = u64::MAX / 5;
    }
    assert_sound(&svg(&profile, &OutputOptions::default()));
}

#[test]
fn nothing_sampled_is_said_in_words() {
    let picture = svg(&fixture::empty(), &OutputOptions::default());
    assert!(picture.contains("Nothing was sampled") && picture.contains("0 samples"));
}

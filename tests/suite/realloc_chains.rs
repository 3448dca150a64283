//! Blocks that are resized again and again, of a program that knows how often.

use tests::{seconds, truth};

use crate::recording::{Recorded, path_of, record_with};

const SITES: [&str; 4] = ["site_doubled", "site_handed", "site_shrunk", "site_freed"];

/// Sums of a site, by the names that the program gives them.
fn chains(recorded: &Recorded, site: &str) -> [(&'static str, f64); 7] {
    let all = recorded.json["sites"].as_array().unwrap().iter();
    // The blocks that lie behind others have no chains.
    let found: Vec<_> = all
        .filter(|one| one["stack"].as_array().unwrap().iter().any(|name| name == site))
        .filter_map(|one| one.get("realloc_chains"))
        .collect();
    let [found] = found[..] else { panic!("{site} has {} sites with chains", found.len()) };
    let number = |name: &str| found[name].as_f64().unwrap();
    let blocks = number("chains");
    [
        ("chains", blocks),
        ("steps", number("mean_length") * blocks),
        ("longest", number("longest")),
        ("first_bytes", number("mean_first_bytes") * blocks),
        ("last_bytes", number("mean_last_bytes") * blocks),
        ("moves", number("moves")),
        ("moved_bytes", number("moved_bytes_at_most")),
    ]
}

#[test]
fn vm_resized_blocks_are_followed_to_their_end() {
    let recorded = record_with(
        "alloc",
        &["--live", "--sample-bytes", "1"],
        &[&path_of("realloc_chains"), &seconds(4), "200"],
    );
    let truth = truth(&recorded.stdout).unwrap();
    for site in SITES {
        for (name, found) in chains(&recorded, site) {
            let true_value = truth[&format!("{site}_{name}")];
            assert!((found - true_value).abs() < 0.5, "{site}, {name}: {found}, {true_value} true");
        }
    }
    // Whoever only resizes does not begin a chain.
    let text = recorded.json["sites"].as_array().unwrap().iter();
    let with = text.filter(|site| site.get("realloc_chains").is_some());
    assert!(
        with.clone().all(|site| !site["stack"].to_string().contains("\"resize\"")),
        "{:?}",
        with.collect::<Vec<_>>()
    );
}

#[test]
fn a_few_resized_blocks_stand_for_the_others() {
    let options = ["--live", "--sample-bytes", "1024"];
    let recorded = record_with("alloc", &options, &[&path_of("realloc_chains"), &seconds(4), "4000"]);
    let truth = truth(&recorded.stdout).unwrap();
    for (site, first_bytes, length) in
        [("site_doubled", 64.0, Some(10.0)), ("site_handed", 1000.0, None), ("site_freed", 200.0, Some(1.0))]
    {
        let found = chains(&recorded, site);
        let true_value = truth[&format!("{site}_chains")];
        // Each block is followed with the chance of its first size, whichever of its resizes are taken: four and a half standard errors.
        let chance = -(-first_bytes / 1024.0_f64).exp_m1();
        let error = 4.5 * ((1.0 - chance) / (true_value * chance)).sqrt();
        let blocks = found[0].1;
        assert!((blocks / true_value - 1.0).abs() < error, "{site}: {blocks} blocks, {true_value} true");
        if let Some(length) = length {
            assert!((found[1].1 / blocks - length).abs() < 1e-6, "{site}: {found:?}");
        } else {
            assert!((found[1].1 / blocks - 3.0).abs() < 0.5, "{site}: {found:?}");
        }
    }
}

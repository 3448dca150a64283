//! The BPF programs against their budget: they load on this kernel, with room to spare on the next one.

use tests::{agent, need_root, run};

#[test]
fn vm_the_bpf_programs_stay_inside_their_budget() {
    need_root();
    let run = run(agent().args(["debug", "programs", "--json"])).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    let found: Vec<serde_json::Value> = serde_json::from_str(&run.stdout).unwrap();
    let budget = include_str!("../bpf-budget.txt");
    let lines: Vec<Vec<&str>> = budget
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(found.len(), lines.len(), "every program has a line, and every line a program: {found:?}");
    for program in &found {
        let name = program["name"].as_str().unwrap();
        let line = lines.iter().find(|line| line[0] == name);
        let line = line.unwrap_or_else(|| panic!("`{name}` has no line in tests/bpf-budget.txt"));
        for (column, key) in ["instructions", "verified", "stack_bytes"].into_iter().enumerate() {
            let allowed: u64 = line[column + 1].parse().unwrap();
            // Kernels before 5.16 do not say what they verified.
            let taken = program[key].as_u64().unwrap_or(0);
            assert!(taken <= allowed, "{name}: {key} {taken}, budget {allowed}");
        }
    }
}

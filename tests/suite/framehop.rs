//! Frames found in the kernel against those that framehop finds from the same registers and stack bytes.

use tests::framehop_oracle::compare;
use tests::{need_root, run, sampling_agent, workload};

/// Records a command and demands that both walks agree on 99.5 % of its stacks.
fn agrees(command: &[&str], least_stacks: u64) {
    need_root();
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("stacks.jsonl");
    let mut agent = sampling_agent("record");
    agent.args(["-q", "-F", "199", "-o"]).arg(folder.path().join("out.folded"));
    agent.arg("--dump-stacks").arg(&dump).arg("--").args(command).current_dir(folder.path());
    let run = run(&mut agent).unwrap();
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    let agreement = compare(&dump).unwrap();
    assert!(agreement.stacks >= least_stacks, "{} stacks only", agreement.stacks);
    assert!(agreement.percent() >= 99.5, "{:.2} %: {:#?}", agreement.percent(), agreement.differences);
}

#[test]
fn frames_of_python_are_those_that_framehop_finds() {
    let program = "import time,json\nt=time.time()\nf=lambda n: n if n<2 else f(n-1)+f(n-2)\n\
        while time.time()-t<3: f(15); json.dumps({str(i):i for i in range(300)}); sorted(map(str,range(500)))";
    agrees(&["python3", "-c", program], 300);
}

#[test]
fn frames_of_deep_recursion_are_those_that_framehop_finds() {
    agrees(&[workload("recurse").to_str().unwrap(), "250", "2"], 150);
}

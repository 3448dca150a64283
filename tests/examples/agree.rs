//! Compares a dump of stacks (`perf-agent record --dump-stacks FILE …`) with framehop's walks.

#[expect(clippy::print_stdout, reason = "its output is what it is for")]
fn main() -> anyhow::Result<()> {
    for dump in std::env::args_os().skip(1) {
        let agreement = tests::framehop_oracle::compare(dump.as_ref())?;
        println!("{}: {} stacks, {:.3} % equal", dump.display(), agreement.stacks, agreement.percent());
        for (what, (count, example)) in &agreement.differences {
            println!("  {count} × {what}\n      {example}");
        }
    }
    Ok(())
}

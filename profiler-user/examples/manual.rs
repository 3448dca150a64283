//! Writes the manual pages of perf-agent and all its verbs into a folder, for packages: `cargo run --example manual FOLDER`.

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).ok_or_else(|| std::io::Error::other("which folder?"))?;
    std::fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(profiler_user::cli::command(), folder)
}

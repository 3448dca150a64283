//! `perf-agent flamegraph`: a picture, or any other format, from a profile that was written before.

use std::path::{Path, PathBuf};

use crate::output::file::{Existing, NameParts, OutputPlan, PlanRequest};
use crate::profile::Profile;
use crate::question::{PictureArgs, value_index};
use clap::Args;

use super::input::InputArgs;
use super::output_args::{OutputArgs, tell};

/// Draw a flame graph of a recorded profile
#[derive(Debug, Clone, Args)]
pub(super) struct FlamegraphArgs {
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    drawing: DrawingArgs,
}

/// What to draw, and where to write it.
#[derive(Debug, Clone, Args)]
pub(super) struct DrawingArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    picture: PictureArgs,
    /// Which of the profile's values to show, such as samples or cpu [default: the last one]
    #[arg(long, value_name = "KIND")]
    value: Option<String>,
}

/// Runs the verb.
pub(super) fn run(args: &FlamegraphArgs) -> anyhow::Result<()> {
    let profile = args.input.read()?;
    draw(&args.drawing, &profile, || Ok(beside(&args.input.path()?)))
}

/// Writes the picture, or the other format that was asked for: to the file that `unnamed` says when none is named.
pub(super) fn draw(
    args: &DrawingArgs,
    profile: &Profile,
    unnamed: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<()> {
    let value = value_index(profile, args.value.as_deref())?;
    let parts = NameParts {
        slug: profile.meta.target_slug.clone(),
        comm: profile.meta.target_slug.clone(),
        host: profile.meta.host.clone(),
        mode: profile.meta.profile_type.clone(),
        start_unix_ns: profile.meta.start_unix_ns,
        number: 1,
        ..NameParts::default()
    };
    let plan = if args.output.is_default() {
        let request = PlanRequest {
            paths: vec![unnamed()?],
            format: args.output.format,
            existing: if args.output.force { Existing::Replace } else { Existing::TakeNextName },
        };
        OutputPlan::open(&request, &parts)?
    } else {
        args.output.plan(&parts)?
    };
    tell(plan.write(profile, &args.picture.options(value)))
}

/// The input's name with `.svg`, in the current directory. A link, such as last.pb.gz, stands for its file.
fn beside(input: &Path) -> PathBuf {
    let file = std::fs::read_link(input).unwrap_or_else(|_| input.to_owned());
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = [".pb.gz", ".pb", ".pprof", ".folded", ".txt", ".col", ".collapsed"]
        .iter()
        .find_map(|ending| name.strip_suffix(ending))
        .unwrap_or(&name);
    let stem = if stem.is_empty() || stem == "-" { "flamegraph" } else { stem };
    PathBuf::from(format!("{}.svg", stem.replace('%', "%%")))
}

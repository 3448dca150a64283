//! From a finished recording to names, files, the table and the quality line.

use std::io::{self, IsTerminal, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{IdleThreads, Plan, ResultArgs};
use crate::cli::exit::Exit;
use crate::cli::output_args::tell;
use crate::cli::terminal::stdout_style;
use crate::output::file::{NameParts, OutputPlan};
use crate::output::{
    Level, TextStyle, quality_level, sites, write_header, write_hotspots, write_leaks, write_next,
    write_quality, write_resident, write_sites,
};
use crate::process::CgroupNames;
use crate::profile::{Meta, Profile, STAGE_SYMBOLS, fold_idle};
use crate::report::{Detail, hotspots};
use crate::resolve::{Naming, resolve};
use crate::session::{Recorded, Session, clock};
use crate::symbolize::native::{Detail as NameDetail, Options};

/// Where results go, settled before the recording starts.
pub(super) struct Outputs {
    args: ResultArgs,
    files: OutputPlan,
    parts: NameParts,
}

impl Outputs {
    /// Settles names and formats and makes sure that the places can be written.
    pub(super) fn prepare(plan: &Plan, args: ResultArgs) -> anyhow::Result<Self> {
        let parts = NameParts {
            slug: plan.slug.clone(),
            pid: plan.pid,
            comm: plan.comm.clone().unwrap_or_default(),
            host: host_name(),
            mode: plan.session.kind.name().to_owned(),
            start_unix_ns: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_nanos() as u64),
            number: 1,
        };
        let files = args.output.plan(&parts)?;
        Ok(Self { args, files, parts })
    }

    /// Prints what is known of leaks so far.
    pub(super) fn print_now(&self, plan: &Plan, session: &mut Session) -> io::Result<()> {
        let Some((aggregate, leaks)) = session.leaks_now() else { return Ok(()) };
        let meta = Meta { leaks: Some(leaks), ..Meta::default() };
        let value_types = plan.session.kind.value_types(plan.session.rate.clock);
        let detail = if self.args.no_inline { NameDetail::Lines } else { NameDetail::Inlines };
        let naming = Naming::Full(Options { detail, ..Options::default() });
        let mut cgroups = CgroupNames::of_host();
        let known = aggregate.known(session.processes());
        let profile = resolve(&aggregate, &known, &mut cgroups, &value_types, meta, &naming);
        let mut out = io::stdout().lock();
        write_leaks(&mut out, &profile, self.args.top, stdout_style(self.args.color))?;
        writeln!(out)?;
        out.flush()
    }

    pub(super) fn quiet(&self) -> bool {
        self.args.quiet
    }

    /// Says what is being recorded and how to stop it.
    #[expect(clippy::print_stderr, reason = "progress belongs on standard error")]
    pub(super) fn announce(&self, plan: &Plan) {
        use crate::cli::quantity::Length;
        if self.args.quiet {
            return;
        }
        let length = match plan.length {
            Length::For(duration) => format!("{} s — Ctrl-C to stop early", duration.as_secs_f64()),
            Length::Unlimited if plan.command.command.is_empty() => "until Ctrl-C".to_owned(),
            Length::Unlimited => "until it ends".to_owned(),
        };
        let mut parts = vec![
            format!("perf-agent {}", env!("CARGO_PKG_VERSION")),
            plan.session.kind.name().to_owned(),
            plan.target.clone(),
        ];
        let trigger = plan.session.kind.trigger(plan.session.rate.clock);
        if plan.session.kind.samples_cpus() {
            parts.push(format!("{trigger} at {} Hz", plan.session.rate.frequency_hz));
        } else {
            parts.push(trigger);
        }
        parts.extend(plan.scope_notes.iter().cloned());
        parts.push(length);
        eprintln!("{}", parts.join(" · "));
    }
}

/// Everything that turning a recording into results takes, able to move to another thread.
pub(super) struct Report {
    args: ResultArgs,
    parts: NameParts,
    files: Option<OutputPlan>,
    meta: Meta,
    naming: Naming,
    idle_threads: IdleThreads,
}

impl Report {
    pub(super) fn new(plan: &Plan, outputs: Outputs) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let meta = Meta {
            profile_type: plan.session.kind.name().to_owned(),
            target: plan.target.clone(),
            target_slug: plan.slug.clone(),
            host: outputs.parts.host.clone(),
            kernel: kernel.trim().to_owned(),
            clock: plan.session.kind.trigger(plan.session.rate.clock),
            frequency_hz: if plan.session.kind.samples_cpus() { plan.session.rate.frequency_hz } else { 0 },
            scope_notes: plan.scope_notes.clone(),
            ..Meta::default()
        };
        let detail = if outputs.args.no_inline { NameDetail::Lines } else { NameDetail::Inlines };
        let naming = Naming::Full(Options { detail, ..Options::default() });
        Self {
            args: outputs.args,
            parts: outputs.parts,
            files: Some(outputs.files),
            meta,
            naming,
            idle_threads: plan.idle_threads,
        }
    }

    /// The same without looking names up, for a reader in a hurry.
    pub(super) fn without_names(&self) -> Self {
        Self {
            args: self.args.clone(),
            parts: self.parts.clone(),
            files: None,
            meta: self.meta.clone(),
            naming: Naming::Raw,
            idle_threads: self.idle_threads,
        }
    }

    /// Names, files, table.
    pub(super) fn produce(mut self, recorded: &Recorded) -> anyhow::Result<Exit> {
        let profile = self.profile(recorded);
        let files = match self.files.take() {
            Some(files) => files,
            None => self.args.output.plan(&self.parts)?,
        };
        let to_stdout = files.uses_stdout();
        let told = tell(files.write(&profile, &self.args.picture.options(None)));
        if !to_stdout {
            // Also when a file could not be written: this may be all that is left of the recording.
            self.print(&profile)?;
        }
        told?;
        let insufficient = self.args.strict && quality_level(&profile.quality) == Level::Fail;
        Ok(if insufficient { Exit::Quality } else { Exit::Ok })
    }

    fn profile(&self, recorded: &Recorded) -> Profile {
        let meta = Meta {
            period: recorded.period,
            start_unix_ns: recorded.start_unix_ns,
            duration_ns: recorded.duration_ns,
            resident: recorded.resident.clone(),
            allocations: recorded.allocations.clone(),
            leaks: recorded.leaks.clone(),
            ..self.meta.clone()
        };
        let mut cgroups = CgroupNames::of_host();
        let (aggregate, known) = (&recorded.aggregate, &recorded.known);
        let names_from = clock::own_cpu_ns();
        let mut profile = resolve(aggregate, known, &mut cgroups, &recorded.value_types, meta, &self.naming);
        if recorded.counted != "samples" {
            recorded.counted.clone_into(&mut profile.quality.noun);
        }
        profile.quality.lost.clone_from(&recorded.lost);
        profile.quality.notes.extend(recorded.notes.iter().cloned());
        let mut overhead = recorded.overhead.clone();
        overhead.add_stage(STAGE_SYMBOLS, clock::own_cpu_ns().saturating_sub(names_from));
        profile.quality.overhead = Some(overhead);
        profile.quality.unwind = Some(recorded.unwind);
        if self.idle_threads == IdleThreads::Fold {
            fold_idle(&mut profile);
        }
        profile
    }

    fn print(&self, profile: &Profile) -> io::Result<()> {
        let style = stdout_style(self.args.color);
        let mut out = io::stdout().lock();
        let result = Self::print_to(&mut out, profile, style, self.args.top);
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }

    fn print_to(out: &mut dyn Write, profile: &Profile, style: TextStyle, top: usize) -> io::Result<()> {
        let table =
            hotspots(profile, profile.default_value(), Detail::default(), crate::report::SortBy::default());
        write_header(out, profile, style)?;
        write_resident(out, profile)?;
        if profile.meta.leaks.is_some() {
            write_leaks(out, profile, top, style)?;
        } else if sites(profile).is_some() {
            write_sites(out, profile, top, style)?;
        } else {
            write_hotspots(out, &table, top, 0.0, style)?;
        }
        write_quality(out, profile, style)?;
        if io::stdout().is_terminal() {
            write_next(
                out,
                &[
                    "perf-agent report --callers FUNCTION".to_owned(),
                    "perf-agent flamegraph -o x.svg".to_owned(),
                ],
            )?;
        }
        out.flush()
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

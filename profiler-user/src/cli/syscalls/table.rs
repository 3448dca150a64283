//! What every table of system calls is asked for with, whether they are recorded now or were long ago.

use std::io::{self, Write};

use clap::Args;

use crate::cli::exit::CliError;
use crate::cli::terminal::{Colour, stdout_style};
use crate::output::syscalls::{TableOptions, calls_json, write_calls};
use crate::syscalls::{CallChoice, CallReport};

/// Which calls to show.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Calls")]
pub(in crate::cli) struct ChoiceArgs {
    /// Only calls that failed
    #[arg(short = 'x', long)]
    failed: bool,
    /// Only calls that failed with these errors: ENOENT,EAGAIN
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    errno: Vec<String>,
    /// Only these calls: openat,read
    #[arg(
        short = 'S',
        long = "syscall",
        short_alias = 'e',
        alias = "calls",
        value_name = "LIST",
        value_delimiter = ','
    )]
    calls: Vec<String>,
}

impl ChoiceArgs {
    /// What they choose.
    ///
    /// # Errors
    ///
    /// A name that no table has.
    pub(in crate::cli) fn parse(&self) -> Result<CallChoice, CliError> {
        CallChoice::parse(self.failed, &self.errno, &self.calls).map_err(CliError::usage)
    }
}

/// How to print them.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Table")]
pub(in crate::cli) struct CallTableArgs {
    /// Draw the histogram of each call
    #[arg(short = 'H', long)]
    histogram: bool,
    /// Processes, and rows for each of them
    #[arg(short = 'T', long, value_name = "ROWS", default_value_t = 20)]
    top: usize,
    /// When to use colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN", alias = "colour")]
    color: Colour,
    /// JSON on standard output
    #[arg(long, help_heading = "Output")]
    json: bool,
}

impl CallTableArgs {
    /// Prints a report on standard output. `all_slow` lists all slow calls that were kept.
    pub(in crate::cli) fn print(&self, report: &CallReport, all_slow: bool) -> io::Result<()> {
        let mut out = io::BufWriter::new(io::stdout().lock());
        if self.json {
            writeln!(out, "{}", calls_json(report))?;
        } else {
            let options = TableOptions {
                all_slow,
                top: self.top,
                histograms: self.histogram,
                style: stdout_style(self.color),
            };
            write_calls(&mut out, report, options)?;
        }
        out.flush()
    }
}

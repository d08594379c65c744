//! Checks, tests and downloads of the Flametune workspace: `cargo xtask COMMAND`.
//!
//! One file (or folder) per command; nothing here is part of the product. Only what a newcomer's
//! machine needs anyway is called: cargo, and for `fetch` Python's `pip`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a command line tool talks to its terminal and reads its environment"
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "tests fail by panicking"
    )
)]

mod bench;
mod check;
mod ci;
mod console;
mod digest;
mod fetch;
mod fixtures;
mod test;
mod tidy;
mod train_example;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{CommandFactory, Parser, Subcommand};

/// The chores of the Flametune workspace.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
A day with it:
  cargo xtask fetch                a small real model (98 MB) to talk to
  cargo xtask train-example        fine-tune it on real instructions
  cargo xtask test -p lm rope      the tests of one crate whose name contains `rope`
  cargo xtask check                what a commit must pass, cheapest check first
  cargo xtask ci                   everything the continuous integration runs
  cargo xtask bench decode         tokens per second of decoding

`cargo xtask COMMAND --help` says more about each.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Formatting, tidy, clippy and documentation: stops at the first failure
    Check,
    /// Unit, integration and documentation tests
    Test(test::Args),
    /// What a fresh machine needs, then `check`, then `test`
    Ci,
    /// Download models and data sets by exact version, checked against their sha256
    Fetch(fetch::Args),
    /// Compare the test fixtures with their manifest, or rewrite the manifest
    Fixtures(fixtures::Args),
    /// The rules of this workspace that the compiler does not know
    Tidy,
    /// Fine-tune a small real model on real instructions, and show what it learned
    TrainExample(train_example::Args),
    /// Speed and memory, beside what a user would pick instead
    Bench(bench::Args),
}

impl Cli {
    fn run(self) -> Result<()> {
        match self.command {
            None => Ok(Self::command().print_help()?),
            Some(Command::Check) => check::run(),
            Some(Command::Test(args)) => test::run(&args),
            Some(Command::Ci) => ci::run(),
            Some(Command::Fetch(args)) => fetch::run(&args),
            Some(Command::Fixtures(args)) => fixtures::run(&args),
            Some(Command::Tidy) => tidy::run(),
            Some(Command::TrainExample(args)) => train_example::run(&args),
            Some(Command::Bench(args)) => bench::run(&args),
        }
    }
}

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console::failure(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_asks_for_help_and_an_unknown_one_is_refused() {
        assert!(
            Cli::try_parse_from(["cargo xtask"])
                .unwrap()
                .command
                .is_none()
        );
        assert!(Cli::try_parse_from(["cargo xtask", "no-such-command"]).is_err());
    }
}

//! The `flametune` command: one file per subcommand.
#![allow(
    clippy::disallowed_methods,
    reason = "a command finds its cache folder in the environment and tells templates the time"
)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        reason = "tests fail by panicking"
    )
)]

mod adapter;
mod data;
mod device;
mod generate;
mod info;
mod model;
mod quantize;
mod recipe;
mod text;
mod train;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs language models on the CPU and on GPUs.
///
/// Models are Hugging Face folders (config.json, tokenizer.json, *.safetensors), GGUF files, or
/// names of models that `cargo xtask fetch` has downloaded.
#[derive(Debug, Parser)]
#[command(
    name = "flametune",
    version,
    arg_required_else_help = true,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Train),
    Adapter(adapter::Adapter),
    Generate(generate::Generate),
    #[command(subcommand)]
    Data(data::Data),
    Info(info::Info),
    Quantize(quantize::Quantize),
}

fn main() -> ExitCode {
    flametune_kernels::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Train(command) => command.run(),
        Command::Data(command) => command.run(),
        Command::Adapter(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Quantize(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that went away, such as `head`, is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done when even this cannot be written.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

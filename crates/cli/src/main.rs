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

mod ab;
mod adapter;
mod align;
mod bench_serve;
mod chat;
mod classify;
mod data;
mod device;
mod doctor;
mod eval;
mod export;
mod gate;
mod generate;
mod info;
mod judge;
mod model;
mod plan;
mod quantize;
mod recipe;
mod runs;
mod serve;
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
    Plan(plan::Plan),
    Doctor(doctor::Doctor),
    #[command(subcommand)]
    Runs(runs::Runs),
    Classify(classify::Classify),
    Align(align::Align),
    Adapter(adapter::Adapter),
    Generate(generate::Generate),
    #[command(subcommand)]
    Data(data::Data),
    Info(info::Info),
    Quantize(quantize::Quantize),
    Export(export::Export),
    Chat(chat::Chat),
    Serve(serve::Serve),
    BenchServe(bench_serve::BenchServe),
    Eval(eval::Eval),
    Gate(gate::GateCommand),
    #[command(subcommand)]
    Judge(judge::JudgeCommand),
    Safety(eval::safety::Safety),
    #[command(subcommand)]
    Ab(ab::Ab),
}

fn main() -> ExitCode {
    flametune_kernels::keep_freed_memory();
    let result = match Cli::parse().command {
        Command::Train(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Runs(command) => command.run(),
        Command::Classify(command) => command.run(),
        Command::Align(command) => command.run(),
        Command::Data(command) => command.run(),
        Command::Adapter(command) => command.run(),
        Command::Generate(command) => command.run(),
        Command::Info(command) => command.run(),
        Command::Quantize(command) => command.run(),
        Command::Export(command) => command.run(),
        Command::Chat(command) => command.run(),
        Command::Serve(command) => command.run(),
        Command::BenchServe(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Gate(command) => command.run(),
        Command::Judge(command) => command.run(),
        Command::Safety(command) => command.run(),
        Command::Ab(command) => command.run(),
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

//! The command as a user calls it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod adapter;
mod align;
mod classifier;
mod evaluation;
mod export;
mod gate_server;
mod generate;
mod info;
mod plan;
mod quantize;
mod real_model;
mod runs;
mod serve;
mod train;
mod train_errors;
mod train_resume;

use assert_cmd::Command;

/// The command, with an empty cache folder so that no fetched model is in reach.
fn flametune() -> Command {
    let mut command = Command::cargo_bin("flametune").unwrap();
    command
        .env("FLAMETUNE_CACHE", "no-such-folder")
        .env("NO_COLOR", "1");
    command
}

/// Runs and returns standard output of a success.
fn stdout(command: &mut Command) -> String {
    String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap()
}

/// Runs and returns standard error of a failure.
fn stderr(command: &mut Command) -> String {
    String::from_utf8(command.assert().failure().get_output().stderr.clone()).unwrap()
}

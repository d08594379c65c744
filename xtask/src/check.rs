//! `cargo xtask check`: formatting, tidy, clippy, documentation; cheapest first.

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

use crate::{console, tidy, workspace};

/// Features that `check` and `test` turn on, the same for both so that builds are shared.
pub(crate) const FEATURES: &str = "xtask/hub,flametune-cli/wgpu,flametune-serve/otel";

/// Runs every check and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let shell = workspace::shell()?;
    console::heading("formatting");
    cmd!(shell, "cargo fmt --all --check")
        .run()
        .context("formatting differs: `cargo fmt --all` repairs it")?;
    tidy::run()?;
    clippy(&shell)?;
    doc(&shell)?;
    console::note("\ncheck: everything passed");
    Ok(())
}

fn clippy(shell: &Shell) -> Result<()> {
    console::heading("clippy");
    cmd!(
        shell,
        "cargo clippy --workspace --all-targets --features {FEATURES} -- --deny warnings"
    )
    .run()
    .context("clippy found something")
}

fn doc(shell: &Shell) -> Result<()> {
    console::heading("documentation");
    cmd!(
        shell,
        "cargo doc --workspace --no-deps --features {FEATURES}"
    )
    .env("RUSTDOCFLAGS", "--deny warnings")
    .run()
    .context("the documentation does not build cleanly")
}

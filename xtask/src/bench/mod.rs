//! `cargo xtask bench`: the benches, beside their peers, kept, compared and written up.

mod compare;
mod page;
mod peers;
mod results;

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result, ensure};
use xshell::{Shell, cmd};

use self::results::Results;
use crate::{console, workspace};

/// Binaries of the package `flametune-benches`, in the order they run.
const BINARIES: &[&str] = &[
    "throughput",
    "training",
    "operations",
    "evaluation",
    "memory",
    "latency",
    "data",
    "quality",
    "scaling",
];

/// Those of them that run on a GPU.
const GPU_BINARIES: &[&str] = &["operations"];

/// One file of results for each kind of device.
const RESULTS: &str = "benches/results";

/// The page made from them.
const PAGE: &str = "docs/BENCHMARKS.md";

/// What to measure, beside whom, and what becomes of the results.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only cases whose name and number format, as in `decode_b8 f32`, contain this; `=decode_b8`
    /// is that name alone
    #[arg(default_value = "")]
    filter: String,
    /// Runs that count for each case and contender
    #[arg(long)]
    runs: Option<usize>,
    /// Measure single operations on this device; `cuda` needs LLVM to build, see
    /// docs/ARCHITECTURE.md
    #[arg(long, default_value = "cpu", value_parser = ["cpu", "cuda"])]
    device: String,
    /// Race the peers too; builds their Python environment in the cache folder at first
    #[arg(long)]
    peers: bool,
    /// Keep the results in benches/results/ and write docs/BENCHMARKS.md anew
    #[arg(long, requires = "peers")]
    save: bool,
    /// Set what was measured beside earlier results: a file of lines, or a revision of this
    /// repository
    #[arg(long, value_name = "BASE")]
    compare: Option<String>,
}

/// Builds the benches, runs them, prints their lines and keeps them if asked to.
pub(crate) fn run(args: &Args) -> Result<()> {
    let shell = workspace::shell()?;
    let base = match &args.compare {
        Some(base) => Some(compare::base(&shell, base, &args.device)?),
        None => None,
    };
    console::heading("building the benches");
    // The features of a build that has a GPU.
    let cuda = (args.device == "cuda").then_some(["--features", "cuda"]);
    let build: Vec<&str> = cuda.into_iter().flatten().collect();
    let build = build.as_slice();
    cmd!(
        shell,
        "cargo build --release --package flametune-benches {build...}"
    )
    .run()?;
    let mut arguments = vec![OsString::from(&args.filter)];
    if args.peers {
        console::heading("Python environment of the peers");
        arguments.extend(["--peer".into(), peers::python(&shell)?.into()]);
    }
    let mut fresh = Results::default();
    let binaries = if cuda.is_some() {
        GPU_BINARIES
    } else {
        BINARIES
    };
    if let Some(runs) = args.runs {
        arguments.extend(["--runs".into(), runs.to_string().into()]);
    }
    arguments.extend(["--device".into(), OsString::from(&args.device)]);
    for binary in binaries {
        console::heading(binary);
        fresh.extend(measure(&shell, binary, build, &arguments)?);
    }
    ensure!(
        !fresh.is_empty(),
        "no case is called like `{}`",
        args.filter
    );
    print!("{}", fresh.to_jsonl()?);
    if let Some(base) = base {
        console::heading("beside earlier results");
        console::note(&compare::table(&base, &fresh));
    }
    if args.save {
        save(fresh, &args.device)?;
    }
    Ok(())
}

fn measure(shell: &Shell, binary: &str, build: &[&str], arguments: &[OsString]) -> Result<Results> {
    let lines = cmd!(
        shell,
        "cargo run --quiet --release --package flametune-benches {build...} --bin {binary} -- {arguments...}"
    )
    .quiet()
    .read()
    .with_context(|| format!("the bench {binary} failed"))?;
    Results::from_jsonl(&lines).with_context(|| format!("reading what {binary} printed"))
}

/// Puts results among those kept, in place of older ones of the same cases, and renders the page.
fn save(mut fresh: Results, device: &str) -> Result<()> {
    let root = workspace::root();
    let folder = root.join(RESULTS);
    let mut all = Results::default();
    for kind in ["cpu", "cuda"] {
        let file = folder.join(format!("{kind}.jsonl"));
        let mut kept = if file.is_file() {
            let text = fs::read_to_string(&file).context(RESULTS)?;
            Results::from_jsonl(&text).context(RESULTS)?
        } else {
            Results::default()
        };
        if kind == device {
            kept.replace(std::mem::take(&mut fresh));
            fs::write(&file, kept.to_jsonl()?).context(RESULTS)?;
        }
        all.extend(kept);
    }
    fs::write(root.join(PAGE), page::render(&all)).context(PAGE)?;
    console::note(&format!("\nkept in {RESULTS}, written up in {PAGE}"));
    Ok(())
}

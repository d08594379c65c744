//! Peak memory of loading a model, taking a prompt in and decoding, in a process of its own.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use flametune_benches::{
    Contender, Finished, Job, Number, Options, Record, Sample, agreement, check, memory_job, serve,
    text_ids,
};
use flametune_lm::Checkpoint;

/// From the quantized file, which every contender turns into f32 or bf16 while it loads.
const FROM_GGUF: &str = "infer_rss";
/// From a folder whose tensors are stored as they are used.
const FROM_SAFETENSORS: &str = "infer_rss_safetensors";

/// More would tell nothing: the peak hardly moves from run to run.
const RUNS: usize = 3;

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    let gguf = options.model()?;
    let (shape, job) = memory_job(&text_ids(&Checkpoint::open(&gguf)?)?)?;
    for name in [FROM_GGUF, FROM_SAFETENSORS] {
        for dtype in options.selected(name) {
            let model = match name {
                FROM_GGUF => gguf.clone(),
                _ => saved(&options, &gguf, dtype)?,
            };
            let mut record = measure(&options, name, &model, dtype, &job, &shape)
                .with_context(|| format!("{name} {dtype} is no result"))?;
            record.threads = options.threads();
            eprintln!("{record}");
            println!("{}", serde_json::to_string(&record)?);
        }
    }
    Ok(())
}

/// The model as a Hugging Face folder in the given format, written anew.
fn saved(options: &Options, gguf: &Path, dtype: Number) -> Result<PathBuf> {
    let folder = options.scratch()?.join(format!("model-{dtype}"));
    let threads = options.threads();
    let mut ours = Contender::ours(threads, "cpu")?;
    ours.load(gguf, dtype, threads)?;
    ours.save(&folder)?;
    Ok(folder)
}

fn measure(
    options: &Options,
    name: &str,
    model: &Path,
    dtype: Number,
    job: &Job,
    shape: &str,
) -> Result<Record> {
    let threads = options.threads();
    let (mut ours, mut peer, mut alike) = (Vec::new(), Vec::new(), 1.0_f64);
    for _ in 0..RUNS.min(options.runs) {
        let own = live(Contender::ours(threads, "cpu")?, model, dtype, job, threads)?;
        if let Some(python) = &options.peer {
            let contender = Contender::transformers(python, threads)?;
            let theirs = live(contender, model, dtype, job, threads)?;
            check(dtype, &own.finished, &theirs.finished)?;
            alike = alike.min(agreement(&own.finished, &theirs.finished));
            peer.push(theirs);
        }
        ours.push(own);
    }
    let sample = |lives: &[Life]| Sample::new(lives.iter().map(|life| life.peak).collect());
    let peaks = sample(&ours).context("no run")?;
    let mut record = Record::new(name, dtype, shape.to_owned(), &peaks, "MB");
    record.before = ours.first().map(|life| life.before.round());
    if let (Some(peaks), Some(first)) = (sample(&peer), peer.first()) {
        record = record.beside(&first.software, &peaks, Some(alike));
        record.peer_before = Some(first.before.round());
    }
    Ok(record)
}

/// What a contender left behind, memory in megabytes.
struct Life {
    software: String,
    /// The most it had in RAM before it was shown a model: the program and its libraries.
    before: f64,
    finished: Finished,
    /// The most it ever had in RAM.
    peak: f64,
}

fn live(
    mut contender: Contender,
    model: &Path,
    dtype: Number,
    job: &Job,
    threads: usize,
) -> Result<Life> {
    let before = megabytes(contender.peak_bytes()?);
    contender.load(model, dtype, threads)?;
    let finished = contender.generate(job)?;
    Ok(Life {
        software: contender.software().to_owned(),
        before,
        finished,
        peak: megabytes(contender.peak_bytes()?),
    })
}

fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes as f64;
    bytes / 1e6
}

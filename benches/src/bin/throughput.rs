//! Tokens per second of prefill and decode, ours and the peer's in turns.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Parser;
use flametune_benches::{
    Case, Contender, Finished, Lap, Number, Options, Quantization, Race, Record, SPEED_CASES,
    Sample, agreement, check, serve, text_ids,
};
use flametune_lm::Checkpoint;

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    let model = options.model()?;
    let text = text_ids(&Checkpoint::open(&model)?)?;
    for dtype in [Number::F32, Number::Bf16] {
        let cases: Vec<&Case> = SPEED_CASES
            .iter()
            .filter(|case| options.selected(case.name).contains(&dtype))
            .collect();
        if !cases.is_empty() {
            let peer = match &options.peer {
                Some(python) => Some(Contender::transformers(python, options.threads())?),
                None => None,
            };
            race(&options, &model, (dtype, None), peer, &cases, &text)?;
        }
    }
    let cases: Vec<&Case> = SPEED_CASES
        .iter()
        .filter(|case| options.wants(case.name, Quantization::Nf4))
        .collect();
    if !cases.is_empty() {
        let peer = options.llama_cpp();
        let weights = (Number::Bf16, Some(Quantization::Nf4));
        race(&options, &model, weights, peer, &cases, &text)?;
    }
    Ok(())
}

/// Runs the cases of one number format, with both models loaded once.
fn race(
    options: &Options,
    model: &Path,
    (dtype, quantize): (Number, Option<Quantization>),
    mut peer: Option<Contender>,
    cases: &[&Case],
    text: &[u32],
) -> Result<()> {
    let threads = options.threads();
    let mut ours = Contender::ours(threads, "cpu")?;
    ours.load_as(model, dtype, quantize, threads)?;
    if let Some(contender) = &mut peer {
        contender.load_as(model, dtype, quantize, threads)?;
    }
    for case in cases {
        let job = case.job(text)?;
        let race = Race::run(
            &mut ours,
            peer.as_mut(),
            options.runs,
            &mut |contender, _| contender.generate(&job),
        )?;
        let software = peer.as_ref().map(Contender::software);
        let mut record = record(case, dtype, &race, software)
            .with_context(|| format!("{} {dtype} is no result", case.name))?;
        if let Some(quantization) = quantize {
            record.dtype = quantization.to_string();
        }
        record.threads = threads;
        eprintln!("{record}");
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}

fn record(
    case: &Case,
    dtype: Number,
    race: &Race<Finished>,
    software: Option<&str>,
) -> Result<Record> {
    let sample = |laps: &[Lap<Finished>]| {
        let speed = |lap: &Lap<Finished>| case.tokens_per_second(&lap.finished);
        Sample::new(laps.iter().map(speed).collect())
    };
    let ours = sample(&race.ours).context("no lap was run")?;
    let mut record = Record::new(case.name, dtype, case.shape(), &ours, "tok/s");
    record.others = Some((race.others() * 100.0).round() / 100.0);
    if let (Some(software), Some(peer)) = (software, sample(&race.peer)) {
        let mut alike: f64 = 1.0;
        for (ours, peer) in race.ours.iter().zip(&race.peer) {
            check(dtype, &ours.finished, &peer.finished)?;
            alike = alike.min(agreement(&ours.finished, &peer.finished));
        }
        record = record.beside(software, &peer, Some(alike));
    }
    Ok(record)
}

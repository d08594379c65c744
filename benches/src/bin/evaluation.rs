//! Documents per second of evaluation tasks, ours and lm-evaluation-harness's in turns.
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
    Contender, EVALUATION_CASES, Evaluated, Evaluation, EvaluationCase, Lap, Number, Options, Race,
    Record, Sample, Side, check_answers, serve,
};

/// Batch sizes that each contender may choose from.
const BATCHES: [usize; 3] = [8, 32, 64];

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    for case in EVALUATION_CASES {
        for dtype in options.selected(case.name) {
            let mut record = race(&options, case, dtype)
                .with_context(|| format!("{} {dtype} is no result", case.name))?;
            record.threads = options.threads();
            eprintln!("{record}");
            println!("{}", serde_json::to_string(&record)?);
        }
    }
    Ok(())
}

fn race(options: &Options, case: &EvaluationCase, dtype: Number) -> Result<Record> {
    let (model, threads) = (options.model()?, options.threads());
    let folder = case.write(&options.assets()?, &options.scratch()?)?;
    let mut ours = Contender::ours(threads, "cpu")?;
    let mut peer = match &options.peer {
        Some(python) => Some(Contender::lm_eval(python, threads)?),
        None => None,
    };
    let mut batches = [0; 2];
    for (contender, batch) in [Some(&mut ours), peer.as_mut()]
        .into_iter()
        .zip(&mut batches)
    {
        if let Some(contender) = contender {
            contender.load(&model, dtype, threads)?;
            *batch = best_batch(contender, case, &folder)?;
        }
    }
    let race = Race::run(
        &mut ours,
        peer.as_mut(),
        options.runs,
        &mut |contender, side| {
            let batch = batches[usize::from(side == Side::Peer)];
            contender.evaluate(&evaluation(case, &folder, batch))
        },
    )?;
    #[allow(clippy::cast_precision_loss, reason = "some tens")]
    let items = case.items as f64;
    let sample = |laps: &[Lap<Evaluated>]| {
        let rate = |lap: &Lap<Evaluated>| items / lap.finished.seconds;
        Sample::new(laps.iter().map(rate).collect())
    };
    let own = sample(&race.ours).context("no lap was run")?;
    let shape = format!("{} items", case.items);
    let mut record = Record::new(case.name, dtype, shape, &own, "items/s");
    if let (Some(theirs), Some(peer)) = (sample(&race.peer), &peer) {
        let mut alike: f64 = 1.0;
        for (ours, theirs) in race.ours.iter().zip(&race.peer) {
            let (ours, theirs) = (&ours.finished.answers, &theirs.finished.answers);
            alike = alike.min(check_answers(case, dtype, ours, theirs)?);
        }
        let software = format!("{}, batch size {}", peer.software(), batches[1]);
        record = record.beside(&software, &theirs, Some(alike));
    }
    record.others = Some((race.others() * 100.0).round() / 100.0);
    Ok(record)
}

/// The batch size with which a contender is fastest.
fn best_batch(contender: &mut Contender, case: &EvaluationCase, folder: &Path) -> Result<usize> {
    let mut best = (f64::INFINITY, BATCHES[0]);
    for batch in BATCHES {
        let seconds = contender
            .evaluate(&evaluation(case, folder, batch))?
            .seconds;
        eprintln!(
            "{} {}: batch size {batch} takes {seconds:.2} s",
            contender.software(),
            case.name
        );
        if seconds < best.0 {
            best = (seconds, batch);
        }
    }
    Ok(best.1)
}

fn evaluation(case: &EvaluationCase, folder: &Path, batch_size: usize) -> Evaluation {
    Evaluation {
        folder: folder.to_owned(),
        task: case.name.to_owned(),
        batch_size,
    }
}

//! Single operations beside torch, bitsandbytes, Burn, and our own dense forms.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::io;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flametune_benches::{
    Contender, Lap, Number, OPERATION_CASES, Operated, OperationCase, OperationKind, Opponent,
    Options, Race, Record, Sample, Side, serve,
};

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    for case in OPERATION_CASES {
        for &dtype in case.dtypes {
            if options.selected(case.name).contains(&dtype) {
                races(&options, case, dtype)?;
            }
        }
    }
    Ok(())
}

/// Runs all sizes of a case in one number format, each side in one process.
fn races(options: &Options, case: &OperationCase, dtype: Number) -> Result<()> {
    let threads = options.threads();
    let mut peer = match (case.opponent, &options.peer) {
        (Opponent::Ours(_), _) => Contender::ours(threads, options.device_name())?,
        (Opponent::Torch(_), Some(python)) => {
            Contender::torch(python, threads, options.device_name())?
        }
        (Opponent::Torch(_), None) => return Ok(()),
    };
    let (Opponent::Ours(theirs) | Opponent::Torch(theirs)) = case.opponent;
    let software = match case.opponent {
        Opponent::Ours(kind) => format!("{}, {}", peer.software(), kind.name()),
        Opponent::Torch(_) => peer.software().to_owned(),
    };
    let mut ours = Contender::ours(threads, options.device_name())?;
    for &shape in case.shapes {
        let race = Race::run(
            &mut ours,
            Some(&mut peer),
            options.runs,
            &mut |contender, side| {
                let kind = match side {
                    Side::Ours => case.kind,
                    Side::Peer => theirs,
                };
                contender.operate(OperationCase::operation(kind, shape, dtype))
            },
        )?;
        let text = shape
            .iter()
            .filter(|size| **size > 0)
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join("x");
        for (ours, peer) in race.ours.iter().zip(&race.peer) {
            check(case, dtype, &ours.finished, &peer.finished)
                .with_context(|| format!("{} {dtype} {text} is no result", case.name))?;
        }
        let sample = |laps: &[Lap<Operated>]| {
            let rate = |lap: &Lap<Operated>| case.rate(shape, lap.finished.seconds);
            Sample::new(laps.iter().map(rate).collect()).context("no lap was run")
        };
        let mut record = Record::new(case.name, dtype, text, &sample(&race.ours)?, case.unit())
            .beside(&software, &sample(&race.peer)?, None);
        record.others = Some((race.others() * 100.0).round() / 100.0);
        record.device = options.device_name().to_owned();
        record.threads = threads;
        eprintln!("{record}");
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}

/// Makes sure that both computed the same thing, as far as their number formats go.
fn check(case: &OperationCase, dtype: Number, ours: &Operated, peer: &Operated) -> Result<()> {
    // Another quantization of the same weight comes near, not more.
    let same_codes = !matches!(
        (case.kind, case.opponent),
        (
            OperationKind::Nf4 | OperationKind::Nf4Gradient,
            Opponent::Ours(_) | Opponent::Torch(OperationKind::Dense)
        )
    );
    // Against the largest number: sums of thousands of terms, rounded in bf16 where that is asked.
    let tolerance = match dtype {
        _ if !same_codes => 0.5,
        Number::F32 => 1e-4,
        Number::Bf16 => 0.05,
    };
    let largest = peer
        .sample
        .iter()
        .fold(0.0_f32, |most, x| most.max(x.abs()));
    ensure!(
        ours.sample.len() == peer.sample.len(),
        "{} numbers and {}",
        ours.sample.len(),
        peer.sample.len()
    );
    for (index, (ours, peer)) in ours.sample.iter().zip(&peer.sample).enumerate() {
        ensure!(
            (ours - peer).abs() <= tolerance * largest,
            "number {index} is {ours} here and {peer} there; the largest is {largest}"
        );
    }
    Ok(())
}

//! Throughput of tokenizing beside tokenizers in Python, and of packing beside trl.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flametune_benches::{Contender, Lap, Options, Race, Record, Sample, serve};

/// The text of which every line is tokenized by itself.
const TEXT: &str = "llamafactory-demo-data/wiki_demo.txt";

/// Examples to pack, their greatest length, and tokens of a row.
const PACKING: [usize; 3] = [50_000, 512, 2048];

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    if options.wants("tokenize", "u32") {
        tokenize(&options)?;
    }
    if options.wants("pack", "u32") {
        pack(&options)?;
    }
    Ok(())
}

/// Both sides; a text is one thread's work, and so is packing.
fn sides(options: &Options) -> Result<(Contender, Option<Contender>)> {
    let peer = match &options.peer {
        Some(python) => Some(Contender::data(python, 1)?),
        None => None,
    };
    Ok((Contender::ours(1, "cpu")?, peer))
}

fn tokenize(options: &Options) -> Result<()> {
    let model = options.model()?;
    let text = fs::read_to_string(options.asset(TEXT)?)?;
    let texts: Vec<String> = text.lines().map(str::to_owned).collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let (mut ours, mut peer) = sides(options)?;
    let race = Race::run(
        &mut ours,
        peer.as_mut(),
        options.runs,
        &mut |contender, _| contender.tokenize(Path::new(&model), &texts),
    )?;
    for (ours, peer) in race.ours.iter().zip(&race.peer) {
        let (ours, peer) = (&ours.finished.ids, &peer.finished.ids);
        let differs = ours.iter().zip(peer).position(|(ours, peer)| ours != peer);
        ensure!(
            ours.len() == peer.len() && differs.is_none(),
            "tokenize is no result: {} ids here, {} there, other ones at {differs:?}",
            ours.len(),
            peer.len()
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let work = bytes as f64 / 1e6;
    let rate = |seconds: f64| work / seconds;
    let shape = format!("{} lines", texts.len());
    report(
        Record::new(
            "tokenize",
            "u32",
            shape,
            &sample(&race.ours, |lap| rate(lap.seconds))?,
            "MB/s",
        ),
        sample(&race.peer, |lap| rate(lap.seconds)).ok(),
        peer.as_ref(),
        race.others(),
    )
}

fn pack(options: &Options) -> Result<()> {
    let [examples, longest, row] = PACKING;
    // Lengths spread evenly over all up to the longest, in no order.
    let lengths: Vec<usize> = (0..examples)
        .map(|index| 1 + index * 7919 % longest)
        .collect();
    let tokens: usize = lengths.iter().sum();
    let (mut ours, mut peer) = sides(options)?;
    let race = Race::run(
        &mut ours,
        peer.as_mut(),
        options.runs,
        &mut |contender, _| contender.pack(&lengths, row),
    )?;
    for (ours, peer) in race.ours.iter().zip(&race.peer) {
        let (ours, peer) = (ours.finished, peer.finished);
        ensure!(
            ours.rows == peer.rows && ours.tokens == peer.tokens,
            "pack is no result: {ours:?} here and {peer:?} there"
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
    let work = tokens as f64 / 1e6;
    let rate = |seconds: f64| work / seconds;
    report(
        Record::new(
            "pack",
            "u32",
            format!("{examples} examples"),
            &sample(&race.ours, |lap| rate(lap.seconds))?,
            "Mtok/s",
        ),
        sample(&race.peer, |lap| rate(lap.seconds)).ok(),
        peer.as_ref(),
        race.others(),
    )
}

fn sample<T>(laps: &[Lap<T>], value: impl Fn(&T) -> f64) -> Result<Sample> {
    let values = laps.iter().map(|lap| value(&lap.finished));
    Sample::new(values.collect()).context("no lap was run")
}

fn report(
    mut record: Record,
    theirs: Option<Sample>,
    peer: Option<&Contender>,
    others: f64,
) -> Result<()> {
    if let (Some(theirs), Some(peer)) = (theirs, peer) {
        record = record.beside(peer.software(), &theirs, None);
    }
    record.others = Some((others * 100.0).round() / 100.0);
    record.threads = 1;
    eprintln!("{record}");
    println!("{}", serde_json::to_string(&record)?);
    Ok(())
}

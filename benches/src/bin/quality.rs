//! Perplexity of a fixed text in several number formats, beside transformers and bitsandbytes.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::fs;
use std::io;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flametune_benches::{
    Contender, Number, Options, Quantization, Record, Rows, Sample, encode, serve,
};
use flametune_lm::Checkpoint;

/// A text that no part of this project was fitted to.
const TEXT: &str = "llamafactory-demo-data/wiki_demo.txt";

/// Rows of the text, and tokens of a row.
const ROWS: [usize; 2] = [16, 512];

/// How the linear layers are stored, whether the peer stores them so too, and how far perplexities
/// may then be apart, as a share.
///
/// In f32 both add in another order; the same NF4 codes are multiplied in f32 on both sides.
/// Without a peer of its own a format is compared with the peer's dense f32.
const FORMATS: [(Option<Quantization>, bool, f64); 4] = [
    (None, true, 1e-4),
    (Some(Quantization::Nf4), true, 1e-3),
    (Some(Quantization::Nf4Double), true, 1e-3),
    (Some(Quantization::Int8), false, 0.05),
];

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    let label = |quantize: Option<Quantization>| match quantize {
        None => Number::F32.to_string(),
        Some(quantization) => quantization.to_string(),
    };
    let wanted: Vec<_> = FORMATS
        .into_iter()
        .filter(|(quantize, ..)| options.wants("perplexity", label(*quantize)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let gguf = options.model()?;
    let text = fs::read_to_string(options.asset(TEXT)?)?;
    let rows = rows(&encode(&Checkpoint::open(&gguf)?, &text)?)?;
    let threads = options.threads();
    let folder = options.scratch()?.join("model-f32-quality");
    let mut ours = Contender::ours(threads, "cpu")?;
    ours.load(&gguf, Number::F32, threads)?;
    ours.save(&folder)?;
    for (quantize, alike, tolerance) in wanted {
        let measure = |mut contender: Contender, quantize| -> Result<(f64, String)> {
            contender.load_as(&folder, Number::F32, quantize, threads)?;
            let scores = contender.score(&rows)?;
            Ok((perplexity(&scores), contender.software().to_owned()))
        };
        let (own, _) = measure(Contender::ours(threads, "cpu")?, quantize)?;
        let sample = |value| Sample::new(vec![value]).context("no run");
        let [batch, seq] = ROWS;
        let name = label(quantize);
        let shape = format!("{batch}x{seq}");
        let mut record = Record::new("perplexity", &name, shape, &sample(own)?, "perplexity");
        if let Some(python) = &options.peer {
            let peer = Contender::transformers(python, threads)?;
            let (theirs, mut software) = measure(peer, quantize.filter(|_| alike))?;
            match (quantize, alike) {
                (Some(_), true) => software += ", bitsandbytes",
                (Some(_), false) => software += ", f32",
                _ => {}
            }
            ensure!(
                (own - theirs).abs() <= tolerance * theirs,
                "{name} is no result: the perplexity is {own} here and {theirs} there"
            );
            record = record.beside(&software, &sample(theirs)?, None);
        }
        record.threads = threads;
        eprintln!("{record}");
        println!("{}", serde_json::to_string(&record)?);
    }
    Ok(())
}

fn rows(ids: &[u32]) -> Result<Rows> {
    let [batch, seq] = ROWS;
    let rows: Vec<_> = ids
        .chunks_exact(seq)
        .take(batch)
        .map(<[u32]>::to_vec)
        .collect();
    ensure!(rows.len() == batch, "{TEXT} has {} tokens alone", ids.len());
    Ok(Rows { rows })
}

/// `exp` of the mean of all rows.
fn perplexity(scores: &[f64]) -> f64 {
    let [batch, seq] = ROWS;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
    let predicted = (batch * (seq - 1)) as f64;
    (scores.iter().sum::<f64>() / predicted).exp()
}

//! How long one waits for a first token, and for an adapter.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flametune_benches::{
    AdapterKind, Contender, Finished, Job, Lap, NewAdapter, Number, Options, Quantization, Race,
    Record, Request, Sample, Timed, agreement, check, serve, text_ids,
};
use flametune_lm::Checkpoint;

/// Passes of a race of switches.
const PASSES: usize = 32;

/// How far logits may be apart in f32; see `Race`.
const LOGIT_TOLERANCE: f32 = 5e-3;

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    first_tokens(&options)?;
    adapters(&options)
}

fn first_tokens(options: &Options) -> Result<()> {
    let gguf = options.model()?;
    for dtype in options.selected("first_token") {
        let folder = options.scratch()?.join(format!("model-{dtype}"));
        let mut ours = Contender::ours(options.threads(), "cpu")?;
        ours.load(&gguf, dtype, options.threads())?;
        ours.save(&folder)?;
        drop(ours);
        let peer = options.peer.clone();
        let peer = move || match &peer {
            Some(python) => Contender::transformers(python, options.threads()).map(Some),
            None => Ok(None),
        };
        first_token(options, &folder, (dtype, None), &peer)?;
    }
    if options.wants("first_token", Quantization::Nf4) {
        let weights = (Number::Bf16, Some(Quantization::Nf4));
        first_token(options, &gguf, weights, &|| Ok(options.llama_cpp()))?;
    }
    Ok(())
}

/// Loads the model and takes 64 tokens in, in a new process each time.
fn first_token(
    options: &Options,
    model: &Path,
    (dtype, quantize): (Number, Option<Quantization>),
    peer: &dyn Fn() -> Result<Option<Contender>>,
) -> Result<()> {
    let threads = options.threads();
    let prompt = text_ids(&Checkpoint::open(options.model()?)?)?;
    let job = Job {
        prompts: vec![prompt.into_iter().take(64).collect()],
        decode_steps: 0,
    };
    let live = |mut contender: Contender| -> Result<(f64, Finished, Contender)> {
        let begin = Instant::now();
        contender.load_as(model, dtype, quantize, threads)?;
        let finished = contender.generate(&job)?;
        Ok((begin.elapsed().as_secs_f64(), finished, contender))
    };
    let (mut own, mut theirs, mut software, mut alike) = (vec![], vec![], String::new(), 1.0_f64);
    // The first round reads files into memory and does not count.
    for round in 0..=options.runs {
        let (seconds, ours, _) = live(Contender::ours(threads, "cpu")?)?;
        if round > 0 {
            own.push(seconds);
        }
        if let Some(contender) = peer()? {
            let (seconds, finished, contender) = live(contender)?;
            check(dtype, &ours, &finished)?;
            alike = alike.min(agreement(&ours, &finished));
            contender.software().clone_into(&mut software);
            if round > 0 {
                theirs.push(seconds);
            }
        }
    }
    let own = Sample::new(own).context("no run")?;
    let mut record = Record::new("first_token", dtype, "1x64".to_owned(), &own, "s");
    if let Some(quantization) = quantize {
        record.dtype = quantization.to_string();
    }
    if let Some(theirs) = Sample::new(theirs) {
        record = record.beside(&software, &theirs, Some(alike));
    }
    print(record, threads)
}

/// The races about adapters, in f32.
fn adapters(options: &Options) -> Result<()> {
    let cases = ["adapter_switch", "adapter_load", "adapter_save"];
    let wanted = |case: &&str| options.wants(case, Number::F32);
    let cases: Vec<&str> = cases.into_iter().filter(|case| wanted(case)).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let (gguf, threads, scratch) = (options.model()?, options.threads(), options.scratch()?);
    let mut ours = Contender::ours(threads, "cpu")?;
    let folders = [1, 2].map(|seed| scratch.join(format!("adapter-random-{seed}")));
    for (folder, seed) in folders.iter().zip(1..) {
        let (kind, rank) = (AdapterKind::RandomLora, 16);
        ours.new_adapter(&gguf, folder, NewAdapter { kind, rank, seed })?;
    }
    let mut peer = match &options.peer {
        Some(python) => Some(Contender::transformers(python, threads)?),
        None => None,
    };
    for contender in [Some(&mut ours), peer.as_mut()].into_iter().flatten() {
        contender.load(&gguf, Number::F32, threads)?;
        contender.adapters(&folders)?;
    }
    for case in cases {
        let saved = |contender: &Contender| scratch.join(format!("saved-{}", contender.pid()));
        let race = Race::run(
            &mut ours,
            peer.as_mut(),
            options.runs,
            &mut |contender, _| {
                let request = match case {
                    "adapter_switch" => Request::Switch {
                        token: 28,
                        passes: PASSES,
                    },
                    "adapter_load" => Request::LoadAdapter {
                        folder: folders[0].clone(),
                    },
                    _ => Request::SaveAdapter {
                        folder: saved(contender),
                    },
                };
                contender.timed(&request)
            },
        )?;
        if let Some(peer) = &peer {
            agree(&race).with_context(|| format!("{case} is no result"))?;
            if case == "adapter_save" {
                let (own, theirs) = (saved(&ours), saved(peer));
                same_tensors(&[own.clone(), theirs.clone()])?;
                fs::remove_dir_all(own)?;
                fs::remove_dir_all(theirs)?;
            }
        }
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let times = if case == "adapter_switch" {
            PASSES as f64
        } else {
            1.0
        };
        let sample = |laps: &[Lap<Timed>]| {
            let value = |lap: &Lap<Timed>| lap.finished.seconds / times * 1e3;
            Sample::new(laps.iter().map(value).collect())
        };
        let own = sample(&race.ours).context("no lap was run")?;
        let mut record = Record::new(case, Number::F32, "r 16".to_owned(), &own, "ms");
        if let (Some(theirs), Some(peer)) = (sample(&race.peer), &peer) {
            record = record.beside(&format!("peft, {}", peer.software()), &theirs, None);
        }
        record.others = Some((race.others() * 100.0).round() / 100.0);
        print(record, threads)?;
    }
    Ok(())
}

/// Makes sure that passes gave the same logits, and that adapters differ.
fn agree(race: &Race<Timed>) -> Result<()> {
    for (ours, peer) in race.ours.iter().zip(&race.peer) {
        let (ours, peer) = (&ours.finished.sample, &peer.finished.sample);
        ensure!(
            ours.len() == peer.len(),
            "{} passes and {}",
            ours.len(),
            peer.len()
        );
        for (pass, (ours, peer)) in ours.iter().zip(peer).enumerate() {
            ensure!(
                (ours - peer).abs() < LOGIT_TOLERANCE,
                "pass {pass}: the logit is {ours} here and {peer} there"
            );
        }
        if let [first, second, ..] = ours[..] {
            ensure!(
                (first - second).abs() > LOGIT_TOLERANCE,
                "both adapters give {first}"
            );
        }
    }
    Ok(())
}

/// Makes sure that two folders hold the same tensors, wherever in their files.
fn same_tensors(folders: &[PathBuf; 2]) -> Result<()> {
    let [ours, peer] = folders.each_ref().map(|folder| tensors(folder));
    ensure!(
        ours? == peer?,
        "adapter_save is no result: other tensors were saved"
    );
    Ok(())
}

/// Names and bytes of the tensors of an adapter, sorted.
fn tensors(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let direct = folder.join("adapter_model.safetensors");
    // PEFT puts every adapter but the one called `default` into a folder of its name.
    let file = if direct.is_file() {
        direct
    } else {
        folder.join("0/adapter_model.safetensors")
    };
    let bytes = fs::read(&file).with_context(|| file.display().to_string())?;
    let cut = || format!("{} is cut short", file.display());
    let (length, rest) = bytes.split_first_chunk::<8>().with_context(cut)?;
    let length = usize::try_from(u64::from_le_bytes(*length))?;
    let (header, data) = rest.split_at_checked(length).with_context(cut)?;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header)?;
    let mut found = Vec::new();
    for (name, entry) in header {
        if name == "__metadata__" {
            continue;
        }
        let [begin, end]: [usize; 2] = serde_json::from_value(entry["data_offsets"].clone())?;
        let bytes = data.get(begin..end).with_context(cut)?;
        found.push((name, bytes.to_vec()));
    }
    found.sort();
    Ok(found)
}

fn print(mut record: Record, threads: usize) -> Result<()> {
    record.threads = threads;
    eprintln!("{record}");
    println!("{}", serde_json::to_string(&record)?);
    Ok(())
}

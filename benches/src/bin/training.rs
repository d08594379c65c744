//! Tokens per second and peak memory of training, ours and the peer's in turns.
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
    Contender, Lap, Measure, Method, Number, Operation, OperationKind, Options, Race, Record,
    Rival, Rows, Sample, Stepped, TRAINING_CASES, Training, TrainingCase, check_losses, serve,
    text_ids,
};
use flametune_lm::Checkpoint;

/// Steps after which a peak of memory is read: optimizer states exist from the first one on.
const MEMORY_STEPS: usize = 3;

/// Runs of a peak: it hardly moves from one to the next.
const MEMORY_RUNS: usize = 3;

/// The sizes of the product whose speed is taken for the peak of the machine.
const PEAK: [usize; 3] = [2048, 2048, 2048];

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    let wanted = |case: &&TrainingCase| {
        let fraction = fraction_of(case);
        let selected = |name: &str| options.selected(name).contains(&case.dtype);
        selected(case.name) || fraction.is_some_and(selected)
    };
    let cases: Vec<&TrainingCase> = TRAINING_CASES.iter().filter(wanted).collect();
    if cases.is_empty() {
        return Ok(());
    }
    let gguf = options.model()?;
    let text = text_ids(&Checkpoint::open(&gguf)?)?;
    let files = Files::write(&options, &gguf)?;
    for case in cases {
        let rows = case.rows(&text)?;
        let records = match case.measure {
            Measure::Speed => speed(&options, case, &files, &rows),
            Measure::Memory => memory(&options, case, &files, &rows).map(|record| vec![record]),
        };
        let records = records.with_context(|| format!("{} is no result", case.name))?;
        for mut record in records {
            record.threads = options.threads();
            eprintln!("{record}");
            println!("{}", serde_json::to_string(&record)?);
        }
    }
    Ok(())
}

/// The name under which the fraction of the machine's peak is stored that a step reaches.
fn fraction_of(case: &TrainingCase) -> Option<&'static str> {
    match case.name {
        "lora_step_f32" => Some("peak_fraction_f32"),
        "lora_step_bf16" => Some("peak_fraction_bf16"),
        _ => None,
    }
}

/// What all contenders start from.
struct Files {
    /// The model in f32 and in bf16.
    models: [PathBuf; 2],
    adapter: PathBuf,
}

impl Files {
    fn write(options: &Options, gguf: &Path) -> Result<Self> {
        let scratch = options.scratch()?;
        let threads = options.threads();
        let save = |dtype: Number| -> Result<PathBuf> {
            let folder = scratch.join(format!("model-{dtype}"));
            let mut ours = Contender::ours(threads, "cpu")?;
            ours.load(gguf, dtype, threads)?;
            ours.save(&folder)?;
            Ok(folder)
        };
        // Both hold the same numbers, which bf16 can represent.
        let bf16 = save(Number::Bf16)?;
        let models = [widened(options, &bf16)?, bf16];
        let adapter = scratch.join("adapter");
        Contender::ours(threads, "cpu")?.adapter(gguf, &adapter)?;
        Ok(Self { models, adapter })
    }

    fn training(&self, case: &TrainingCase, method: Method, threads: usize) -> Training {
        let [f32, bf16] = &self.models;
        let model = match case.dtype {
            Number::F32 => f32,
            Number::Bf16 => bf16,
        };
        Training {
            model: model.clone(),
            dtype: case.dtype,
            method,
            adapter: matches!(method, Method::Lora | Method::Qlora).then(|| self.adapter.clone()),
            recompute: case.recompute,
            threads,
        }
    }
}

/// The bf16 model in f32.
fn widened(options: &Options, bf16: &Path) -> Result<PathBuf> {
    let folder = options.scratch()?.join("model-f32-of-bf16");
    let threads = options.threads();
    let mut ours = Contender::ours(threads, "cpu")?;
    ours.load(bf16, Number::F32, threads)?;
    ours.save(&folder)?;
    Ok(folder)
}

/// Starts a contender and has it load what the case trains.
fn ready(
    options: &Options,
    case: &TrainingCase,
    files: &Files,
    rival: Option<Rival>,
) -> Result<Option<Contender>> {
    let threads = options.threads();
    let (contender, method) = match rival {
        None => (Contender::ours(threads, "cpu")?, case.method),
        Some(Rival::Burn) => (Contender::ours(threads, "cpu")?, Method::BurnQlora),
        Some(Rival::Peft) => match &options.peer {
            Some(python) => (Contender::peft(python, threads)?, case.method),
            None => return Ok(None),
        },
    };
    let mut contender = contender;
    contender.train(&files.training(case, method, threads))?;
    Ok(Some(contender))
}

fn software(case: &TrainingCase, peer: &Contender) -> String {
    match case.rival {
        Rival::Burn => "Burn 0.22.1 apply_qlora, Q4S in blocks of 32".to_owned(),
        Rival::Peft => peer.software().to_owned(),
    }
}

fn speed(
    options: &Options,
    case: &TrainingCase,
    files: &Files,
    rows: &Rows,
) -> Result<Vec<Record>> {
    let mut ours = ready(options, case, files, None)?.context("no contender")?;
    let mut peer = ready(options, case, files, Some(case.rival))?;
    let mut steps: [Vec<Stepped>; 2] = Default::default();
    let race = Race::run(
        &mut ours,
        peer.as_mut(),
        options.runs,
        &mut |contender, side| {
            let stepped = contender.step(rows)?;
            steps[side as usize].push(stepped);
            Ok(stepped)
        },
    )?;
    let [own, theirs] = &steps;
    check_losses(case, own.iter().zip(theirs))?;
    let sample = |laps: &[Lap<Stepped>]| {
        let rate = |lap: &Lap<Stepped>| case.tokens() / lap.finished.seconds;
        Sample::new(laps.iter().map(rate).collect())
    };
    let (own, theirs) = (
        sample(&race.ours).context("no lap was run")?,
        sample(&race.peer),
    );
    let beside = |record: Record, ours: &Sample, theirs: Option<&Sample>| {
        let mut record = match (theirs, &peer) {
            (Some(theirs), Some(peer)) => record.beside(&software(case, peer), theirs, None),
            _ => record,
        };
        record.runs = ours.runs();
        record.others = Some((race.others() * 100.0).round() / 100.0);
        record
    };
    let record = Record::new(case.name, case.dtype, case.size(), &own, "tok/s");
    let mut records = vec![beside(record, &own, theirs.as_ref())];
    if let Some(name) = fraction_of(case) {
        let peak = peak(options, case.dtype)?;
        let share = case.operations() / peak;
        let (own, theirs) = (own.scaled(share), theirs.map(|sample| sample.scaled(share)));
        let record = Record::new(name, case.dtype, case.size(), &own, "of peak");
        records.push(beside(record, &own, theirs.as_ref()));
    }
    Ok(records)
}

/// Multiplications and additions a second of the fastest large product that anyone here can do.
fn peak(options: &Options, dtype: Number) -> Result<f64> {
    let [m, k, n] = PEAK;
    let operation = Operation {
        kind: OperationKind::Dense,
        m,
        k,
        n,
        dtype,
    };
    let threads = options.threads();
    let mut contenders = vec![Contender::ours(threads, "cpu")?];
    if let Some(python) = &options.peer {
        contenders.push(Contender::torch(python, threads, "cpu")?);
    }
    let mut fastest = f64::INFINITY;
    for contender in &mut contenders {
        for _ in 0..options.runs {
            fastest = fastest.min(contender.operate(operation)?.seconds);
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 operations")]
    let operations = (2 * m * k * n) as f64;
    eprintln!("peak {dtype}: {:.0} GFLOP/s", operations / fastest / 1e9);
    Ok(operations / fastest)
}

fn memory(options: &Options, case: &TrainingCase, files: &Files, rows: &Rows) -> Result<Record> {
    let (mut ours, mut peer, mut name) = (Vec::new(), Vec::new(), String::new());
    let live = |mut contender: Contender| -> Result<(f64, Vec<Stepped>, Contender)> {
        let steps = (0..MEMORY_STEPS)
            .map(|_| contender.step(rows))
            .collect::<Result<_>>()?;
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        let peak = contender.peak_bytes()? as f64 / 1e6;
        Ok((peak, steps, contender))
    };
    for _ in 0..MEMORY_RUNS.min(options.runs) {
        let own = ready(options, case, files, None)?.context("no contender")?;
        let (own, own_steps, _) = live(own)?;
        ours.push(own);
        if let Some(contender) = ready(options, case, files, Some(case.rival))? {
            let (theirs, steps, contender) = live(contender)?;
            check_losses(case, own_steps.iter().zip(&steps))?;
            peer.push(theirs);
            name = software(case, &contender);
        }
    }
    let own = Sample::new(ours).context("no run")?;
    let record = Record::new(case.name, case.dtype, case.size(), &own, "MB");
    Ok(match Sample::new(peer) {
        Some(theirs) => record.beside(&name, &theirs, None),
        None => record,
    })
}

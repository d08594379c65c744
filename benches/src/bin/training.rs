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
    AdapterKind, Contender, Lap, Measure, Method, NewAdapter, Number, Operation, OperationKind,
    Options, Race, Record, Rival, Rows, Sample, Stepped, TRAINING_CASES, Training, TrainingCase,
    check_losses, serve, text_ids,
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
            Measure::Speed | Measure::Pairs | Measure::Time => speed(&options, case, &files, &rows),
            Measure::Memory => memory(&options, case, &files, &rows),
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

/// The adapters that contenders start from, and the folders that they are in.
const ADAPTERS: [(AdapterKind, &str); 4] = [
    (AdapterKind::Lora, "adapter"),
    // A policy that is its reference would have the loss ln 2 whatever it computes.
    (AdapterKind::RandomLora, "adapter-random"),
    (AdapterKind::Dora, "adapter-dora"),
    (AdapterKind::FirstNorm, "adapter-norm"),
];

/// What all contenders start from.
struct Files {
    /// The model in f32 and in bf16.
    models: [PathBuf; 2],
    scratch: PathBuf,
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
        let mut ours = Contender::ours(threads, "cpu")?;
        for (kind, folder) in ADAPTERS {
            let (rank, seed) = (16, 7);
            ours.new_adapter(gguf, &scratch.join(folder), NewAdapter { kind, rank, seed })?;
        }
        Ok(Self { models, scratch })
    }

    /// The adapter that a method trains, where it trains one.
    fn adapter(&self, method: Method) -> Option<PathBuf> {
        let wanted = match method {
            Method::Lora | Method::Qlora => AdapterKind::Lora,
            Method::Dpo => AdapterKind::RandomLora,
            Method::Dora => AdapterKind::Dora,
            Method::FrozenBase => AdapterKind::FirstNorm,
            _ => return None,
        };
        let (_, folder) = ADAPTERS.into_iter().find(|(kind, _)| *kind == wanted)?;
        Some(self.scratch.join(folder))
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
            adapter: self.adapter(method),
            recompute: case.recompute,
            layers: None,
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
    let Some((mut contender, training)) = started(options, case, files, rival)? else {
        return Ok(None);
    };
    contender.train(&training)?;
    Ok(Some(contender))
}

/// Starts a contender; what it is to train.
fn started(
    options: &Options,
    case: &TrainingCase,
    files: &Files,
    rival: Option<Rival>,
) -> Result<Option<(Contender, Training)>> {
    let threads = options.threads();
    let (contender, method) = match rival {
        None => (Contender::ours(threads, "cpu")?, case.method),
        Some(Rival::Burn) => (Contender::ours(threads, "cpu")?, Method::BurnQlora),
        Some(Rival::FrozenBase) => (Contender::ours(threads, "cpu")?, Method::FrozenBase),
        Some(Rival::Peft) => match &options.peer {
            Some(python) => (Contender::peft(python, threads)?, case.method),
            None => return Ok(None),
        },
        Some(Rival::Trl) => match &options.peer {
            Some(python) => (Contender::trl(python, threads)?, case.method),
            None => return Ok(None),
        },
    };
    Ok(Some((contender, files.training(case, method, threads))))
}

fn software(case: &TrainingCase, peer: &Contender) -> String {
    match case.rival {
        Rival::Burn => "Burn 0.22.1 apply_qlora, Q4S in blocks of 32".to_owned(),
        Rival::FrozenBase => format!("{}, the frozen base alone", peer.software()),
        Rival::Peft | Rival::Trl => peer.software().to_owned(),
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
        let rate = |lap: &Lap<Stepped>| match case.measure {
            Measure::Time => lap.finished.seconds,
            Measure::Pairs => case.pairs() / lap.finished.seconds,
            _ => case.tokens() / lap.finished.seconds,
        };
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
    let unit = match case.measure {
        Measure::Time => "s",
        Measure::Pairs => "pairs/s",
        _ => "tok/s",
    };
    let record = Record::new(case.name, case.dtype, case.size(), &own, unit);
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

/// The parts that peaks of memory are divided into: what the program has before it sees a model,
/// what it has more with the model and its adapter, and the peak of steps above both.
const PARTS: [&str; 3] = ["program", "model", "step"];

/// A contender's memory after some steps, in megabytes.
struct Life {
    peak: f64,
    parts: [f64; 3],
    steps: Vec<Stepped>,
    software: String,
}

fn live(
    options: &Options,
    case: &TrainingCase,
    files: &Files,
    rows: &Rows,
    rival: Option<Rival>,
) -> Result<Option<Life>> {
    let Some((mut contender, training)) = started(options, case, files, rival)? else {
        return Ok(None);
    };
    let program = megabytes(contender.resident_bytes()?);
    contender.train(&training)?;
    let loaded = megabytes(contender.resident_bytes()?);
    let steps = (0..MEMORY_STEPS)
        .map(|_| contender.step(rows))
        .collect::<Result<_>>()?;
    let peak = megabytes(contender.peak_bytes()?);
    Ok(Some(Life {
        peak,
        parts: [program, loaded - program, peak - loaded],
        steps,
        software: software(case, &contender),
    }))
}

fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes as f64;
    bytes / 1e6
}

fn memory(
    options: &Options,
    case: &TrainingCase,
    files: &Files,
    rows: &Rows,
) -> Result<Vec<Record>> {
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..MEMORY_RUNS.min(options.runs) {
        let own = live(options, case, files, rows, None)?.context("no contender")?;
        if let Some(theirs) = live(options, case, files, rows, Some(case.rival))? {
            check_losses(case, own.steps.iter().zip(&theirs.steps))?;
            peer.push(theirs);
        }
        ours.push(own);
    }
    let record = |name: &str, value: &dyn Fn(&Life) -> f64| -> Result<Record> {
        let sample = |lives: &[Life]| Sample::new(lives.iter().map(value).collect());
        let own = sample(&ours).context("no run")?;
        let record = Record::new(name, case.dtype, case.size(), &own, "MB");
        Ok(match (sample(&peer), peer.first()) {
            (Some(theirs), Some(first)) => record.beside(&first.software, &theirs, None),
            _ => record,
        })
    };
    let mut records = vec![record(case.name, &|life| life.peak)?];
    if matches!(case.rival, Rival::Peft | Rival::Trl) {
        for (index, part) in PARTS.into_iter().enumerate() {
            records.push(record(&format!("{}_{part}", case.name), &|life| {
                life.parts[index]
            })?);
        }
    }
    Ok(records)
}

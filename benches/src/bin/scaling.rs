//! How memory and time of a LoRA step grow with length, rank, layers and adapters.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "results go to standard output, progress to standard error"
)]

use std::io;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use flametune_benches::{
    AdapterKind, Contender, Method, NewAdapter, Number, Options, Record, Request, Rows, Sample,
    Training, exponent, serve, text_ids,
};
use flametune_lm::Checkpoint;

/// Layers of the whole model.
const LAYERS: usize = 30;

/// Steps of which the shortest counts, after one that makes the optimizer's states.
const STEPS: usize = 2;

/// What one point is of.
#[derive(Clone, Copy)]
struct Point {
    rows: [usize; 2],
    rank: usize,
    layers: usize,
}

const POINT: Point = Point {
    rows: [4, 256],
    rank: 16,
    layers: LAYERS,
};

/// What came out of a point, memory in megabytes.
struct Grown {
    size: f64,
    seconds: f64,
    /// The model with its adapter.
    loaded: f64,
    /// The peak above that.
    step: f64,
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.worker {
        return serve(&options.device(), io::stdin().lock(), io::stdout().lock());
    }
    let bench = Bench::new(options)?;
    let lengths = [256, 512, 1024, 2048, 4096, 8192].map(|length| {
        let rows = [1, length];
        (length, Point { rows, ..POINT })
    });
    let ranks = [4, 16, 64, 256].map(|rank| (rank, Point { rank, ..POINT }));
    let layers = [4, 8, 15, 30].map(|layers| (layers, Point { layers, ..POINT }));
    bench.steps("length", "1x256 … 1x8192", &lengths)?;
    bench.steps("rank", "r 4 … 256", &ranks)?;
    bench.steps("layers", "4 … 30 layers", &layers)?;
    bench.adapters(&[1, 2, 4, 8, 16])
}

struct Bench {
    options: Options,
    gguf: PathBuf,
    model: PathBuf,
    scratch: PathBuf,
    text: Vec<u32>,
}

impl Bench {
    fn new(options: Options) -> Result<Self> {
        let gguf = options.model()?;
        let scratch = options.scratch()?;
        let model = scratch.join("model-bf16");
        let text = text_ids(&Checkpoint::open(&gguf)?)?;
        Ok(Self {
            options,
            gguf,
            model,
            scratch,
            text,
        })
    }

    fn ours(&self) -> Result<Contender> {
        Contender::ours(self.options.threads(), "cpu")
    }

    /// Rows of the text, which begins anew where it ends.
    fn rows(&self, [batch, seq]: [usize; 2]) -> Rows {
        let mut text = self.text.iter().copied().cycle();
        let rows = (0..batch).map(|_| text.by_ref().take(seq).collect());
        Rows {
            rows: rows.collect(),
        }
    }

    fn adapter(&self, kind: AdapterKind, rank: usize, seed: u64) -> Result<PathBuf> {
        let folder = self.scratch.join(format!("adapter-{rank}-{seed}"));
        let adapter = NewAdapter { kind, rank, seed };
        self.ours()?.new_adapter(&self.gguf, &folder, adapter)?;
        Ok(folder)
    }

    /// Growth of a step's memory and time.
    fn steps(&self, what: &str, shape: &str, points: &[(usize, Point)]) -> Result<()> {
        let (memory, time) = (
            format!("growth_memory_{what}"),
            format!("growth_time_{what}"),
        );
        let wanted = |name: &str| self.options.wants(name, Number::Bf16);
        if !wanted(&memory) && !wanted(&time) {
            return Ok(());
        }
        if !self.model.join("config.json").is_file() {
            let threads = self.options.threads();
            let mut ours = self.ours()?;
            ours.load(&self.gguf, Number::Bf16, threads)?;
            ours.save(&self.model)?;
        }
        let mut grown = Vec::new();
        for &(size, point) in points {
            let one = self.point(size, point)?;
            let Grown {
                seconds,
                loaded,
                step,
                ..
            } = one;
            eprintln!("{what} {size}: {seconds:.3} s, {loaded:.0} MB loaded, {step:.0} MB more");
            grown.push(one);
        }
        let curve = |value: fn(&Grown) -> f64| -> Vec<[f64; 2]> {
            grown.iter().map(|one| [one.size, value(one)]).collect()
        };
        let of_memory: fn(&Grown) -> f64 = match what {
            // The adapter is part of what grows.
            "rank" => |one| one.loaded + one.step,
            // Layers are left out of a model that was loaded whole.
            _ => |one| one.step,
        };
        self.print(&memory, shape, curve(of_memory))?;
        self.print(&time, shape, curve(|one| one.seconds))
    }

    fn point(&self, size: usize, point: Point) -> Result<Grown> {
        let adapter = self.adapter(AdapterKind::Lora, point.rank, 7)?;
        let mut ours = self.ours()?;
        ours.train(&Training {
            model: self.model.clone(),
            dtype: Number::Bf16,
            method: Method::Lora,
            adapter: Some(adapter),
            recompute: false,
            layers: (point.layers < LAYERS).then_some(point.layers),
            threads: self.options.threads(),
        })?;
        let loaded = megabytes(ours.resident_bytes()?);
        let rows = self.rows(point.rows);
        ours.step(&rows)?;
        let mut seconds = f64::INFINITY;
        for _ in 0..STEPS {
            seconds = seconds.min(ours.step(&rows)?.seconds);
        }
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let size = size as f64;
        Ok(Grown {
            size,
            seconds,
            loaded,
            step: (megabytes(ours.peak_bytes()?) - loaded).round(),
        })
    }

    /// Growth with the adapters on one model, all of which take part in a batch of 16 rows.
    fn adapters(&self, counts: &[usize]) -> Result<()> {
        let names = ["growth_memory_adapters", "growth_time_adapters"];
        if !names
            .iter()
            .any(|name| self.options.wants(name, Number::Bf16))
        {
            return Ok(());
        }
        let folders = (0..)
            .take(counts.iter().copied().max().unwrap_or(0))
            .map(|seed| self.adapter(AdapterKind::RandomLora, 16, seed))
            .collect::<Result<Vec<_>>>()?;
        let request = Request::Mixed(self.rows([16, 64]));
        let (mut memory, mut time) = (Vec::new(), Vec::new());
        for &count in counts {
            let mut ours = self.ours()?;
            ours.load(&self.gguf, Number::Bf16, self.options.threads())?;
            let before = megabytes(ours.resident_bytes()?);
            ours.adapters(&folders[..count])?;
            let more = megabytes(ours.resident_bytes()?) - before;
            let mut seconds = f64::INFINITY;
            for _ in 0..5 {
                seconds = seconds.min(ours.timed(&request)?.seconds);
            }
            eprintln!("adapters {count}: {seconds:.3} s, {more:.0} MB");
            #[allow(clippy::cast_precision_loss, reason = "a small number")]
            let size = count as f64;
            memory.push([size, more]);
            time.push([size, seconds]);
        }
        let shape = "1 … 16 adapters";
        self.print(names[0], shape, memory)?;
        self.print(names[1], shape, time)
    }

    fn print(&self, name: &str, shape: &str, points: Vec<[f64; 2]>) -> Result<()> {
        if !self.options.wants(name, Number::Bf16) {
            return Ok(());
        }
        let power = exponent(&points).with_context(|| format!("{name}: {points:?}"))?;
        let sample = Sample::new(vec![power]).context("no exponent")?;
        let mut record = Record::new(name, Number::Bf16, shape.to_owned(), &sample, "exponent");
        record.runs = points.len();
        record.points = points;
        record.threads = self.options.threads();
        eprintln!("{record}");
        println!("{}", serde_json::to_string(&record)?);
        Ok(())
    }
}

fn megabytes(bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let bytes = bytes as f64;
    (bytes / 1e5).round() / 10.0
}

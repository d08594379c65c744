//! What serving costs: streams at once, adapters among them, and the plain generator beside.
//!
//! ```sh
//! cargo run --release -p flametune-infer --example engine_speed -- MODEL [TOKENS [ROUNDS]]
//! ```
//!
//! Every case makes `TOKENS` tokens (64 unless told otherwise) a stream after a prompt of 32; all
//! cases take turns, and each reports its best round in tokens per second, and the engine's steps.
#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::error::Error;
use std::time::Instant;

use burn::tensor::Device;
use flametune_infer::{
    Engine, EngineHandle, EngineOptions, GenerateRequest, Generator, Request, SamplingParams,
};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{LoraConfig, inject, save_adapter};

/// Adapters of rank 16 on all linear layers.
const ADAPTERS: usize = 16;

/// One way to make tokens.
struct Case {
    name: String,
    streams: usize,
    /// Among how many adapters the streams choose.
    adapters: usize,
    engine: bool,
    best: f64,
    steps: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("a model is needed")?;
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse());
    let (tokens, rounds) = (number(64)?, number(3)?);

    let checkpoint = Checkpoint::open(folder)?;
    let model = CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {})?;
    let folders = tempfile::tempdir()?;
    let options = EngineOptions {
        prefix_sharing: false,
        ..EngineOptions::default()
    };
    let engine = Engine::start(model.clone(), options)?;
    for index in 0..ADAPTERS {
        let mut copy = model.clone();
        let config = LoraConfig {
            r: 16,
            target_modules: Some(flametune_peft::TargetModules::AllLinear),
            ..LoraConfig::default()
        };
        let folder = folders.path().join(index.to_string());
        inject(&mut copy, "new", &config.into(), index as u64)?;
        save_adapter(&copy, "new", &folder)?;
        engine.load_adapter(&format!("a{index}"), folder)?;
    }

    let mut cases = Vec::new();
    for streams in [1, 4, 8, 16] {
        for (engine, adapters) in [(false, 0), (true, 0), (true, 1), (true, ADAPTERS)] {
            let what = if engine { "engine" } else { "generator" };
            cases.push(Case {
                name: format!("{what}, {streams} streams, {adapters} adapters"),
                streams,
                adapters,
                engine,
                best: f64::INFINITY,
                steps: 0,
            });
        }
    }
    for _ in 0..rounds {
        for case in &mut cases {
            let before = engine.stats().steps;
            let start = Instant::now();
            if case.engine {
                through_engine(&engine, case, tokens)?;
            } else {
                let request = |_| Request::new(prompt(), params(tokens));
                let requests: Vec<Request> = (0..case.streams).map(request).collect();
                Generator::new(&model).generate(&requests)?;
            }
            case.best = case.best.min(start.elapsed().as_secs_f64());
            case.steps = engine.stats().steps - before;
        }
    }
    for case in &cases {
        #[expect(clippy::cast_precision_loss, reason = "counts are small")]
        let speed = (case.streams * tokens) as f64 / case.best;
        println!("{:40} {speed:8.1} tok/s, {} steps", case.name, case.steps);
    }
    Ok(())
}

fn prompt() -> Vec<u32> {
    (100..132).collect()
}

fn params(max_tokens: usize) -> SamplingParams {
    SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    }
}

fn through_engine(
    engine: &EngineHandle,
    case: &Case,
    tokens: usize,
) -> flametune_infer::Result<()> {
    let mut tickets = Vec::with_capacity(case.streams);
    for index in 0..case.streams {
        let mut request = GenerateRequest::new(prompt(), params(tokens));
        if case.adapters > 0 {
            request.adapter = Some(format!("a{}", index % case.adapters));
        }
        tickets.push(engine.submit(request)?);
    }
    for ticket in &mut tickets {
        while let Some(event) = ticket.recv() {
            event?;
        }
    }
    Ok(())
}

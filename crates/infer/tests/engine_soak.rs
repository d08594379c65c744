//! Many requests that end in all ways leave nothing behind.

use std::time::{Duration, Instant};

use flametune_infer::{
    Engine, EngineOptions, Error, GenerateRequest, SamplingParams, ScoreRequest, Speculation,
    uniform,
};

use crate::engine::options;
use crate::engine_adapters::base;
use crate::fixture::path;

/// A number below `below` that belongs to a request and a purpose.
fn pick(request: u64, purpose: u64, below: usize) -> usize {
    (uniform(31, request, purpose) * below as f64) as usize
}

#[test]
fn two_thousand_requests_end_at_the_starting_memory() {
    let lookup = Speculation::PromptLookup {
        ngram: 2,
        tokens: 3,
    };
    let options = EngineOptions {
        kv_tokens: 96,
        step_tokens: 24,
        max_running: 6,
        max_waiting: 5000,
        adapter_bytes: 120_000,
        speculation: Some(lookup),
        ..options()
    };
    let engine = Engine::start(base(), options).unwrap();
    let adapters = ["lora_qv", "ia3", "prefix_tuning", "dora"];
    let mut resident = 0;
    for adapter in adapters {
        let info = engine.load_adapter(adapter, path(&format!("peft/{adapter}")));
        resident += info.unwrap().bytes;
    }
    assert!(resident > 0);
    let (mut finished, mut late, mut dropped, mut scored) = (0, 0, 0, 0);
    let mut tickets = Vec::new();
    let mut scores = Vec::new();
    let requests = 2000_u64;
    for number in 0..requests {
        let prompt: Vec<u32> = (0..1 + pick(number, 0, 24))
            .map(|at| (at % 9 + pick(number, 1, 3)) as u32 + 3)
            .collect();
        let adapter = adapters
            .get(pick(number, 2, 6))
            .map(|&name| name.to_owned());
        if pick(number, 3, 10) == 0 {
            let request = ScoreRequest {
                context: prompt,
                continuation: vec![9; 1 + pick(number, 4, 6)],
                adapter,
                ..ScoreRequest::default()
            };
            scores.push(engine.score(request).unwrap());
            continue;
        }
        let params = SamplingParams {
            temperature: [0.0, 1.0][pick(number, 5, 2)],
            seed: number,
            max_tokens: 1 + pick(number, 6, 12),
            ..SamplingParams::default()
        };
        let mut request = GenerateRequest::new(prompt, params);
        request.n = 1 + pick(number, 7, 6) / 5;
        request.adapter = adapter;
        request.tenant = pick(number, 8, 4).to_string();
        if pick(number, 9, 5) == 0 {
            let time = Duration::from_micros(pick(number, 10, 300_000) as u64);
            request.deadline = Some(Instant::now() + time);
        }
        let n = request.n;
        let ticket = engine.submit(request).unwrap();
        match pick(number, 11, 4) {
            // Gone before the engine has seen it, or in the middle of its output.
            0 => drop(ticket),
            1 => tickets.push((ticket, n, Some(pick(number, 12, 4)))),
            _ => tickets.push((ticket, n, None)),
        }
        // Answers are taken in now and then, so that requests overlap in many ways.
        if tickets.len() > 40 {
            for (mut ticket, _, patience) in tickets.drain(..) {
                let mut seen = 0;
                loop {
                    if patience.is_some_and(|patience| seen >= patience) {
                        dropped += 1;
                        break;
                    }
                    match ticket.recv() {
                        Some(Ok(_)) => seen += 1,
                        Some(Err(Error::DeadlineExceeded { .. })) => {
                            late += 1;
                            break;
                        }
                        Some(Err(error)) => panic!("{error}"),
                        None => {
                            finished += 1;
                            break;
                        }
                    }
                }
            }
        }
    }
    tickets.clear();
    for score in scores {
        score.wait().unwrap();
        scored += 1;
    }
    engine.shutdown();
    let stats = engine.stats();
    assert!(
        finished > 200 && dropped > 100 && late > 0,
        "{finished} {dropped} {late}"
    );
    assert!(
        scored > 100 && stats.preemptions > 0 && stats.cancelled > 100,
        "{stats:?}"
    );
    assert_eq!(
        (stats.running, stats.waiting, stats.kv_pages_used),
        (0, 0, 0),
        "{stats:?}"
    );
    assert!(engine.adapters().iter().all(|info| info.users == 0));
    for adapter in adapters {
        engine.unload_adapter(adapter).unwrap();
    }
    assert_eq!(engine.stats().adapter_bytes, 0);
}

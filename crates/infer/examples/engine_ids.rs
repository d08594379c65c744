//! Serves several clients at once with one model, each with an adapter of its own or none.
//!
//! ```sh
//! cargo run -p flametune-infer --example engine_ids -- [MODEL ADAPTER_FOLDER]
//! ```
//!
//! Without arguments it runs the tiny random model of the tests and one of its adapters.
#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::error::Error;

use burn::tensor::Device;
use flametune_infer::{
    Engine, EngineEvent, EngineOptions, GenerateRequest, SamplingParams, ScoreRequest, Speculation,
};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/peft");
    let mut arguments = std::env::args().skip(1);
    let mut folder = |name: &str| {
        arguments
            .next()
            .unwrap_or_else(|| format!("{fixtures}/{name}"))
    };
    let (model, adapter) = (folder("base_llama"), folder("lora"));

    let checkpoint = Checkpoint::open(model)?;
    let model = CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {})?;
    let options = EngineOptions {
        speculation: Some(Speculation::PromptLookup {
            ngram: 3,
            tokens: 4,
        }),
        ..EngineOptions::default()
    };
    let engine = Engine::start(model, options)?;
    engine.load_adapter("tuned", adapter)?;

    let clients = [None, Some("tuned"), None, Some("tuned")].map(|adapter| {
        let engine = engine.clone();
        std::thread::spawn(move || -> flametune_infer::Result<String> {
            let params = SamplingParams {
                max_tokens: 16,
                ..SamplingParams::default()
            };
            let mut request = GenerateRequest::new(vec![5, 6, 7, 5, 6], params);
            request.adapter = adapter.map(str::to_owned);
            let mut ticket = engine.submit(request)?;
            let (mut tokens, mut rate) = (Vec::new(), None);
            while let Some(event) = ticket.recv() {
                match event? {
                    EngineEvent::Token { token, .. } => tokens.push(token),
                    EngineEvent::Finished { usage, .. } => rate = usage.acceptance_rate(),
                    EngineEvent::Prompt(_) => {}
                }
            }
            let who = adapter.unwrap_or("base");
            Ok(format!("{who}: {tokens:?}, proposals accepted: {rate:?}"))
        })
    });
    for client in clients {
        println!("{}", client.join().map_err(|_| "a client panicked")??);
    }

    let score = engine.score(ScoreRequest {
        context: vec![5, 6, 7],
        continuation: vec![5, 6],
        adapter: Some("tuned".to_owned()),
        ..ScoreRequest::default()
    })?;
    println!(
        "log-probability of a continuation: {:.3}",
        score.wait()?.total()
    );
    println!("{:?}", engine.stats());
    engine.shutdown();
    Ok(())
}

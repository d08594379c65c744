//! Continues token ids with a model on disk and prints each token as it comes.
//!
//! ```sh
//! cargo run -p flametune-infer --example generate_ids -- [MODEL] [TOKEN_ID ...]
//! ```
//!
//! Without arguments it runs the tiny random model of the tests.
#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::error::Error;

use burn::tensor::Device;
use flametune_infer::{Control, Event, Generator, Request, SamplingParams};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/llama");
    let folder = arguments.next().unwrap_or_else(|| tiny.to_owned());
    let mut prompt = arguments
        .map(|id| id.parse())
        .collect::<Result<Vec<u32>, _>>()?;
    if prompt.is_empty() {
        prompt = vec![1, 2, 3];
    }

    let checkpoint = Checkpoint::open(folder)?;
    let model = CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {})?;

    // Two samples of one prompt and one seed: the index tells them apart.
    let params = SamplingParams {
        temperature: 0.8,
        top_p: 0.95,
        seed: 1,
        max_tokens: 16,
        ..SamplingParams::default()
    };
    let requests =
        [0, 1].map(|index| Request::new(prompt.clone(), params.clone()).with_index(index));

    Generator::new(&model).generate_with(&requests, |event| {
        match event {
            Event::Token { request, token, .. } => println!("request {request}: {token}"),
            Event::Finished { request, reason } => println!("request {request}: {reason:?}"),
        }
        Control::Continue
    })?;
    Ok(())
}

//! Prints the five most likely next tokens after a prompt of token ids.
//!
//! ```sh
//! cargo run -p flametune-lm --example next_token -- [MODEL] [TOKEN_ID ...]
//! ```
//!
//! `MODEL` is a Hugging Face folder or a GGUF file; without arguments it is the tiny random Llama
//! of the tests, and the prompt is `1 2 3`.
#![allow(clippy::print_stdout, reason = "an example talks to the terminal")]

use std::error::Error;

use burn::tensor::{Device, activation::softmax};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions, TokenBatch};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let tiny = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/models/llama");
    let path = arguments.next().unwrap_or_else(|| tiny.to_owned());
    let mut prompt = arguments
        .map(|id| id.parse())
        .collect::<Result<Vec<u32>, _>>()?;
    if prompt.is_empty() {
        prompt = vec![1, 2, 3];
    }

    let checkpoint = Checkpoint::open(path)?;
    let options = LoadOptions::f32(&Device::flex());
    let model = CausalLm::load(&checkpoint, &options, &mut |_| {})?;

    let batch = TokenBatch::from_rows(&[prompt])?;
    let base = AdapterPass::default();
    let hidden = model.forward(&batch, None, &base)?;
    // The logits of the last position alone: those of the others cost a row of the vocabulary each.
    let last = hidden.narrow(1, batch.seq() - 1, 1);
    let (probabilities, ids) = softmax(model.logits(last, &base), 2).topk_with_indices(5, 2);
    let ids = ids.into_data();
    for (id, probability) in ids
        .iter::<i64>()
        .zip(probabilities.into_data().iter::<f32>())
    {
        println!("token {id:>6}  probability {probability:.4}");
    }
    Ok(())
}

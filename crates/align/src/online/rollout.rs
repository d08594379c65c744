//! Sampling completions with the live policy.

use flametune_infer::{FinishReason, Generator, Request, SamplingParams};
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;
use serde::{Deserialize, Serialize};

use super::options::RolloutOptions;
use crate::error::Result;

/// A sampled completion and what is known of its tokens.
///
/// # Shapes
/// - the lists of numbers have one a token of the completion; they are empty until measured
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// Which of the prompts it continues.
    pub index: usize,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The tokens, with the one that ended the generation.
    pub tokens: Vec<u32>,
    /// Whether it came to its end by itself.
    pub finished: bool,
    /// Log-probabilities when sampled.
    pub old_logps: Vec<f32>,
    /// Log-probabilities under the reference.
    pub ref_logps: Vec<f32>,
    /// Values when sampled.
    pub old_values: Vec<f32>,
    /// Advantage of each token.
    pub advantages: Vec<f32>,
    /// What values are trained towards.
    pub returns: Vec<f32>,
}

/// Continues each prompt `num_generations` times; `lm` has no autodiff.
///
/// What is drawn is a function of `seed`, of the place of the completion and of the model.
pub(super) fn sample(
    lm: &CausalLm,
    pass: &AdapterPass,
    prompts: &[(usize, Vec<u32>)],
    stop_token_ids: &[u32],
    seed: u64,
    options: &RolloutOptions,
) -> Result<Vec<Completion>> {
    let params = SamplingParams {
        temperature: 1.0,
        seed,
        max_tokens: options.max_completion_length,
        stop_token_ids: stop_token_ids.to_vec(),
        ..SamplingParams::default()
    };
    let mut indices = Vec::new();
    let mut requests = Vec::new();
    for (index, prompt) in prompts {
        for _ in 0..options.num_generations {
            let place = requests.len() as u64;
            requests.push(Request::new(prompt.clone(), params.clone()).with_index(place));
            indices.push(*index);
        }
    }
    let generator = Generator::new(lm).with_pass(pass.clone());
    let mut completions = Vec::with_capacity(requests.len());
    for (requests, indices) in requests
        .chunks(options.batch_size)
        .zip(indices.chunks(options.batch_size))
    {
        let outputs = generator.generate(requests)?;
        for ((request, output), index) in requests.iter().zip(outputs).zip(indices) {
            let mut tokens = output.tokens;
            let finished = match output.finish_reason {
                FinishReason::StopToken(id) => {
                    // The policy chose to end: that is learned like any other choice.
                    tokens.push(id);
                    true
                }
                _ => false,
            };
            completions.push(Completion {
                index: *index,
                prompt: request.prompt.clone(),
                tokens,
                finished,
                old_logps: Vec::new(),
                ref_logps: Vec::new(),
                old_values: Vec::new(),
                advantages: Vec::new(),
                returns: Vec::new(),
            });
        }
    }
    Ok(completions)
}

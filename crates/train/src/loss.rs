//! The loss of a batch and its gradients.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use flametune_data::{Batch, IGNORE_INDEX};
use flametune_kernels::CrossEntropy;
use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::AdapterPass;

use crate::error::Result;
use crate::optim::GradientSum;
use crate::random::uniform;

/// Noise on the embeddings of one batch.
///
/// Each number is even in `±alpha / √(seq·d_model)` and a function of the key and its place.
///
/// # Source
/// - Jain et al. 2023, NEFTune, arXiv:2310.05914, algorithm 1
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// NEFTune's alpha.
    pub alpha: f64,
    /// Chooses the numbers.
    pub key: u64,
}

/// How the loss of a batch is computed.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct LossOptions {
    /// Part of the target that goes to all tokens alike.
    pub label_smoothing: f64,
    /// Noise on the embeddings, in training.
    pub noise: Option<Noise>,
    /// Layers are computed again in the backward pass.
    pub recompute: bool,
}

impl LossOptions {
    fn cross_entropy(&self) -> CrossEntropy {
        CrossEntropy {
            label_smoothing: self.label_smoothing,
            ..CrossEntropy::default()
        }
    }
}

/// The ids of a batch as the model takes them.
///
/// # Errors
/// When the batch is empty.
pub fn token_batch(batch: &Batch) -> Result<TokenBatch> {
    let rows: Vec<Vec<u32>> = batch
        .input_ids
        .chunks(batch.seq.max(1))
        .map(<[u32]>::to_vec)
        .collect();
    let mut tokens = TokenBatch::from_rows(&rows)?;
    if let Some(segments) = &batch.segment_ids {
        tokens = tokens.with_segment_ids(segments.clone())?;
    }
    Ok(tokens.with_position_ids(batch.position_ids.clone())?)
}

/// The label that each position predicts: that of the token after it.
pub fn next_token_labels(batch: &Batch) -> Vec<i64> {
    let mut labels = Vec::with_capacity(batch.labels.len());
    for row in batch.labels.chunks(batch.seq.max(1)) {
        labels.extend_from_slice(&row[1..]);
        labels.push(IGNORE_INDEX);
    }
    labels
}

/// The **sum** of the losses of a batch's supervised tokens, without gradients.
///
/// # Errors
/// Those of the model's forward pass.
pub fn evaluate_batch(model: &CausalLm, batch: &Batch, pass: &AdapterPass) -> Result<f64> {
    let hidden = model.forward(&token_batch(batch)?, None, pass)?;
    let labels = next_token_labels(batch);
    let output = model.cross_entropy(hidden, &labels, &CrossEntropy::default(), pass)?;
    Ok(f64::from(output.loss.into_scalar::<f32>()))
}

/// Adds the gradients of a batch's loss sum to `gradients`; returns the sum.
///
/// # Errors
/// Those of the model's forward pass.
pub fn accumulate(
    model: &CausalLm,
    batch: &Batch,
    pass: &AdapterPass,
    options: &LossOptions,
    gradients: &mut GradientSum,
) -> Result<f64> {
    let tokens = token_batch(batch)?;
    let labels = next_token_labels(batch);
    if options.recompute
        && let CausalLm::Decoder(_) = model
        // Keys and values of virtual tokens enter every layer, and their gradients leave it so.
        && model.virtual_tokens(pass) == 0
    {
        return recompute(model, &tokens, &labels, pass, options, gradients);
    }
    let hidden = model.forward_tapped(&tokens, None, pass, &mut |index, state| match index {
        0 => noisy(state, options),
        _ => state,
    })?;
    let output = model.cross_entropy(hidden, &labels, &options.cross_entropy(), pass)?;
    let loss = output.loss.clone().inner().into_scalar::<f32>();
    gradients.add(model, &mut output.loss.backward());
    Ok(f64::from(loss))
}

/// The same with the graph of one layer alive at a time: layers run without autodiff and keep
/// their inputs, then each runs again, last first, and passes the gradient on.
fn recompute(
    model: &CausalLm,
    tokens: &TokenBatch,
    labels: &[i64],
    pass: &AdapterPass,
    options: &LossOptions,
    gradients: &mut GradientSum,
) -> Result<f64> {
    let CausalLm::Decoder(lm) = model else {
        unreachable!("the caller looked");
    };
    let decoder = &lm.model;
    let context = decoder.prepare(tokens, None, pass)?;
    let embed = || noisy(decoder.embed(tokens, pass), options);
    let mut hidden = embed().inner();
    let mut inputs = Vec::with_capacity(decoder.layers.len());
    {
        let plain = decoder.valid();
        let context = plain.prepare(tokens, None, pass)?;
        for layer in &plain.layers {
            inputs.push(hidden.clone());
            hidden = layer.forward(hidden, &context, None);
        }
    }
    let leaf = |tensor: Tensor<3>| Tensor::from_inner(tensor).require_grad();
    let last = leaf(hidden);
    let normed = decoder.norm.forward(last.clone(), pass);
    let output = model.cross_entropy(normed, labels, &options.cross_entropy(), pass)?;
    let loss = output.loss.clone().inner().into_scalar::<f32>();
    let mut graph = output.loss.backward();
    let mut upstream = last.grad_remove(&mut graph);
    gradients.add(model, &mut graph);
    for (layer, input) in decoder.layers.iter().zip(inputs).rev() {
        let Some(gradient) = upstream else {
            break;
        };
        let input = leaf(input);
        let y = layer.forward(input.clone(), &context, None);
        let mut graph = (y * Tensor::from_inner(gradient)).sum().backward();
        upstream = input.grad_remove(&mut graph);
        gradients.add(layer, &mut graph);
    }
    let embedded = embed();
    if let (Some(gradient), true) = (upstream, embedded.is_tracked()) {
        let mut graph = (embedded * Tensor::from_inner(gradient)).sum().backward();
        gradients.add(model, &mut graph);
    }
    Ok(f64::from(loss))
}

/// The embeddings with the noise that `options` ask for.
fn noisy(embedded: Tensor<3>, options: &LossOptions) -> Tensor<3> {
    let Some(Noise { alpha, key }) = options.noise.filter(|noise| noise.alpha > 0.0) else {
        return embedded;
    };
    let shape = embedded.dims();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 numbers")]
    let bound = alpha / ((shape[1] * shape[2]) as f64).sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "rounded to f32")]
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(|place| (bound * (2.0 * uniform(key, place) - 1.0)) as f32)
        .collect();
    let place = (&embedded.device(), embedded.dtype());
    embedded + Tensor::from_data(TensorData::new(values, shape), place)
}

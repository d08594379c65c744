//! From token ids to the gradients of a loss of hidden states.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use flametune_lm::{CausalLm, Decoder, TokenBatch};
use flametune_peft::AdapterPass;

use super::MicroStep;
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

/// A forward pass to the hidden states, and the way back.
///
/// With [`recompute`](Self::recompute) the graph of one layer is alive at a time: layers run
/// without autodiff and keep their inputs, then each runs again, last first, and passes the
/// gradient on.
/// It is left out where it cannot be: outside the Llama family, and with virtual tokens, whose
/// keys and values enter every layer.
#[derive(Debug, Clone, Copy)]
pub struct Backprop<'a> {
    /// The language model.
    pub model: &'a CausalLm,
    /// The ids.
    pub tokens: &'a TokenBatch,
    /// The adapters.
    pub pass: &'a AdapterPass,
    /// Noise on the embeddings.
    pub noise: Option<Noise>,
    /// Layers are computed again in the backward pass.
    pub recompute: bool,
}

impl<'a> Backprop<'a> {
    /// A pass without noise that keeps its activations.
    pub fn new(model: &'a CausalLm, tokens: &'a TokenBatch, pass: &'a AdapterPass) -> Self {
        Self {
            model,
            tokens,
            pass,
            noise: None,
            recompute: false,
        }
    }

    /// Adds the gradients of `loss`, a function of the hidden states `[batch, seq, d_model]`, to
    /// `gradients`; returns its value.
    ///
    /// `whole` is the module whose gradients are collected: the language model itself, or what it
    /// is a part of, when the loss has trained parts beside it.
    ///
    /// # Errors
    /// Those of the forward pass and of `loss`.
    ///
    /// # Panics
    /// As [`MicroStep::backward`].
    pub fn run<M: Module>(
        &self,
        whole: &M,
        at: &MicroStep,
        gradients: &mut GradientSum,
        loss: impl FnOnce(Tensor<3>) -> Result<Tensor<1>>,
    ) -> Result<f64> {
        if self.recompute
            && let CausalLm::Decoder(lm) = self.model
            && self.model.virtual_tokens(self.pass) == 0
        {
            return self.layer_by_layer(&lm.model, whole, at, gradients, loss);
        }
        let tap = &mut |index, state| match index {
            0 => self.noisy(state),
            _ => state,
        };
        let hidden = self
            .model
            .forward_tapped(self.tokens, None, self.pass, tap)?;
        let loss = loss(hidden)?;
        let value = loss.clone().inner().into_scalar::<f32>();
        gradients.add(whole, &mut at.backward(loss));
        Ok(f64::from(value))
    }

    fn layer_by_layer<M: Module>(
        &self,
        decoder: &Decoder,
        whole: &M,
        at: &MicroStep,
        gradients: &mut GradientSum,
        loss: impl FnOnce(Tensor<3>) -> Result<Tensor<1>>,
    ) -> Result<f64> {
        let context = decoder.prepare(self.tokens, None, self.pass)?;
        let embed = || self.noisy(decoder.embed(self.tokens, self.pass));
        let mut hidden = embed().inner();
        let mut inputs = Vec::with_capacity(decoder.layers.len());
        {
            let plain = decoder.valid();
            let context = plain.prepare(self.tokens, None, self.pass)?;
            for layer in &plain.layers {
                inputs.push(hidden.clone());
                hidden = layer.forward(hidden, &context, None);
            }
        }
        let leaf = |tensor: Tensor<3>| Tensor::from_inner(tensor).require_grad();
        let last = leaf(hidden);
        let loss = loss(decoder.norm.forward(last.clone(), self.pass))?;
        let value = loss.clone().inner().into_scalar::<f32>();
        let mut graph = at.backward(loss);
        let mut upstream = last.grad_remove(&mut graph);
        gradients.add(whole, &mut graph);
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
            gradients.add(whole, &mut graph);
        }
        Ok(f64::from(value))
    }

    /// The embeddings with noise.
    fn noisy(&self, embedded: Tensor<3>) -> Tensor<3> {
        let Some(Noise { alpha, key }) = self.noise.filter(|noise| noise.alpha > 0.0) else {
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
}

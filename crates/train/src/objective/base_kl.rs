//! How far a model with adapters has moved from its own base.

use burn::module::Module;
use burn::tensor::{DType, Int, Tensor, TensorData, activation};
use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::AdapterPass;

use crate::error::Result;
use crate::optim::GradientSum;

/// Bytes of the logits that are there at a time, in f32.
const CHUNK_BYTES: usize = 16 << 20;

/// The Kullback-Leibler divergence of a model with adapters from the same model without them, summed over tokens.
///
/// `Σ_t KL(π_t ‖ ρ_t)` with `KL(π ‖ ρ) = Σ_v π_v·(ln π_v − ln ρ_v)` over the whole vocabulary, where
/// `π` is what the model with the adapters of a pass predicts next, and `ρ` what the base predicts.
/// Its gradient by the logits of `π` is `π_v·(ln π_v − ln ρ_v − KL)`.
///
/// The hidden states of both are there at once, logits for one chunk of tokens at a time.
///
/// # Source
/// - the reference policy is the model without its adapter: TRL `dpo_trainer.py::null_ref_context`
#[derive(Debug, Clone)]
pub struct BaseKl<'a> {
    model: &'a CausalLm,
    plain: CausalLm,
    pass: &'a AdapterPass,
    /// The base's hidden states, of the tokens that count.
    base: Tensor<2>,
    /// The tokens that count.
    places: Vec<usize>,
    seq: usize,
    chunk: usize,
}

impl<'a> BaseKl<'a> {
    /// Runs the base on `tokens`; the tokens that count are those whose prediction has a label,
    /// which is not negative.
    ///
    /// # Shapes
    /// - `labels`: `batch·seq`, label `t` is what token `t` predicts
    ///
    /// # Errors
    /// Those of the forward pass.
    ///
    /// # Panics
    /// When there are more labels than tokens.
    pub fn new(
        model: &'a CausalLm,
        tokens: &TokenBatch,
        labels: &[i64],
        pass: &'a AdapterPass,
    ) -> Result<Self> {
        let plain = model.valid();
        let labelled = labels.iter().enumerate().filter(|(_, label)| **label >= 0);
        let places: Vec<usize> = labelled.map(|(place, _)| place).collect();
        let base = plain.forward(tokens, None, &AdapterPass::default())?;
        Ok(Self {
            base: picked(base, &places),
            model,
            plain,
            pass,
            places,
            seq: tokens.seq(),
            chunk: (CHUNK_BYTES / 4 / model.vocab_size().max(1)).max(1),
        })
    }

    /// The same with the logits of so many tokens at a time.
    #[must_use]
    pub fn with_chunk(mut self, tokens: usize) -> Self {
        self.chunk = tokens.max(1);
        self
    }

    /// The sum over the tokens that count, without gradients.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, of the same tokens with the adapters, without autodiff
    pub fn sum(&self, hidden: Tensor<3>) -> f64 {
        let hidden = picked(hidden, &self.places);
        let mut sum = 0.0;
        for (first, places) in self.chunks() {
            let rows = hidden.clone().narrow(0, first, places.len());
            let logps = self.logps(&self.plain, rows, places);
            let kl = divergence(logps, self.reference(first, places));
            sum += f64::from(kl.into_scalar::<f32>());
        }
        sum
    }

    /// The sum, and a term of the loss whose gradient is `factor` times that of the sum; its value
    /// means nothing.
    ///
    /// Gradients of a trained head do not go through hidden states; they are added to `heads`.
    ///
    /// # Shapes
    /// - `hidden`: `[batch, seq, d_model]`, of the same tokens with the adapters
    pub fn pull(
        &self,
        hidden: Tensor<3>,
        factor: f64,
        heads: &mut GradientSum,
    ) -> (f64, Tensor<1>) {
        let hidden = picked(hidden, &self.places);
        let (mut sum, mut gradients) = (0.0, Vec::new());
        for (first, places) in self.chunks() {
            let rows = hidden.clone().inner().narrow(0, first, places.len());
            let leaf = Tensor::from_inner(rows).require_grad();
            let logps = self.logps(self.model, leaf.clone(), places);
            let reference = Tensor::from_inner(self.reference(first, places));
            let kl = divergence(logps, reference);
            sum += f64::from(kl.clone().inner().into_scalar::<f32>());
            let mut graph = (kl * factor).backward();
            gradients.extend(leaf.grad_remove(&mut graph));
            heads.add(self.model, &mut graph);
        }
        if gradients.is_empty() {
            return (sum, hidden.sum() * 0.0);
        }
        let gradient = Tensor::from_inner(Tensor::cat(gradients, 0));
        (sum, (hidden * gradient).sum())
    }

    /// Chunks of the tokens that count, each with the number of those before it.
    fn chunks(&self) -> impl Iterator<Item = (usize, &[usize])> {
        let chunks = self.places.chunks(self.chunk).enumerate();
        chunks.map(|(index, places)| (index * self.chunk, places))
    }

    /// What the base says of a chunk.
    fn reference(&self, first: usize, places: &[usize]) -> Tensor<2> {
        let rows = self.base.clone().narrow(0, first, places.len());
        log_softmax(
            self.plain
                .logits(rows.unsqueeze_dim(1), &AdapterPass::default()),
        )
    }

    /// What the model with its adapters says of a chunk.
    fn logps(&self, model: &CausalLm, hidden: Tensor<2>, places: &[usize]) -> Tensor<2> {
        let rows: Vec<usize> = places.iter().map(|place| place / self.seq).collect();
        let pass = self.pass.select_rows(&rows);
        log_softmax(model.logits(hidden.unsqueeze_dim(1), &pass))
    }
}

/// The hidden states of some tokens of a batch, `[tokens, d_model]`.
fn picked(hidden: Tensor<3>, places: &[usize]) -> Tensor<2> {
    let [batch, seq, width] = hidden.dims();
    #[expect(clippy::cast_possible_wrap, reason = "far below 2^63 tokens")]
    let ids: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    let ids = TensorData::new(ids, [places.len()]);
    let ids = Tensor::<1, Int>::from_data(ids, &hidden.device());
    hidden.reshape([batch * seq, width]).select(0, ids)
}

fn log_softmax(logits: Tensor<3>) -> Tensor<2> {
    let [tokens, _, vocab] = logits.dims();
    activation::log_softmax(logits.cast(DType::F32).reshape([tokens, vocab]), 1)
}

/// `Σ_t Σ_v π_v·(ln π_v − ln ρ_v)`.
fn divergence(logps: Tensor<2>, reference: Tensor<2>) -> Tensor<1> {
    (logps.clone().exp() * (logps - reference)).sum()
}

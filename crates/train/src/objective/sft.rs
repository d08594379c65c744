//! Supervised fine-tuning: the cross-entropy of the next token.

use burn::tensor::Tensor;
use flametune_data::{Batch, IGNORE_INDEX};
use flametune_kernels::{CrossEntropy, in_pool};
use flametune_lm::{CausalLm, TokenBatch};
use flametune_peft::AdapterPass;
use serde::{Deserialize, Serialize};

use super::{Backprop, BaseKl, BatchLoss, Extent, MicroStep, Noise, Objective};
use crate::error::{Error, Result};
use crate::optim::GradientSum;

/// How supervised fine-tuning computes its loss.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SftOptions {
    /// Part of the target that goes to all tokens alike.
    pub label_smoothing: f64,
    /// NEFTune's alpha: noise on the embeddings of `alpha / √(tokens·d_model)`; 0 for none.
    pub neftune_noise_alpha: f64,
    /// Layers are computed again in the backward pass instead of keeping their activations.
    pub recompute: bool,
    /// The weight of a penalty on the divergence from the model without its adapters, a token;
    /// 0 for none. See [`BaseKl`].
    pub kl_coef: f64,
}

impl SftOptions {
    /// Checks every number.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, reason: String| Err(Error::InvalidConfig { field, reason });
        let not_negative = [
            ("neftune_noise_alpha", self.neftune_noise_alpha),
            ("kl_coef", self.kl_coef),
        ];
        for (field, value) in not_negative {
            if !(value.is_finite() && value >= 0.0) {
                let reason = format!("must be finite and not negative, got {value}");
                return invalid(field, reason);
            }
        }
        let smoothing = self.label_smoothing;
        if !(0.0..1.0).contains(&smoothing) {
            let reason = format!("must be at least 0 and below 1, got {smoothing}");
            return invalid("label_smoothing", reason);
        }
        Ok(())
    }
}

/// Supervised fine-tuning: the mean cross-entropy of the supervised tokens.
///
/// With [`kl_coef`](SftOptions::kl_coef) the loss of a step is
/// `cross_entropy + kl_coef·KL(model ‖ base)`, both means over the supervised tokens, and both are
/// logged; the loss of an evaluation remains the cross-entropy.
#[derive(Debug, Clone, Default)]
pub struct Sft {
    /// The adapters that take part.
    pub pass: AdapterPass,
    /// How the loss is computed.
    pub options: SftOptions,
}

impl From<AdapterPass> for Sft {
    fn from(pass: AdapterPass) -> Self {
        let options = SftOptions::default();
        Self { pass, options }
    }
}

impl Objective for Sft {
    type Model = CausalLm;
    type Batch = Batch;

    fn validate(&self) -> Result<()> {
        if self.options.kl_coef > 0.0 && self.pass.is_base() {
            return Err(Error::InvalidConfig {
                field: "kl_coef",
                reason: "needs an adapter: without one the base itself is trained".to_owned(),
            });
        }
        self.options.validate()
    }

    fn extent(&self, batch: &Batch) -> Extent {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
        let weight = batch.num_supervised_tokens as f64;
        Extent {
            tokens: batch.input_ids.len(),
            supervised_tokens: batch.num_supervised_tokens,
            weight,
        }
    }

    fn accumulate(
        &self,
        model: &CausalLm,
        batch: &Batch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> Result<BatchLoss> {
        in_pool(|| self.backward(model, batch, at, gradients))
    }

    fn evaluate(&self, model: &CausalLm, batch: &Batch) -> Result<BatchLoss> {
        in_pool(|| self.forward(model, batch))
    }

    fn settings(&self) -> serde_json::Value {
        serde_json::json!(self.options)
    }
}

impl Sft {
    fn backward(
        &self,
        model: &CausalLm,
        batch: &Batch,
        at: &MicroStep,
        gradients: &mut GradientSum,
    ) -> Result<BatchLoss> {
        let (tokens, labels) = (token_batch(batch)?, next_token_labels(batch));
        let pass = at.dropout(&self.pass);
        let entropy = CrossEntropy {
            label_smoothing: self.options.label_smoothing,
            ..CrossEntropy::default()
        };
        let forward = Backprop {
            noise: Some(Noise {
                alpha: self.options.neftune_noise_alpha,
                key: at.key(),
            }),
            recompute: self.options.recompute,
            ..Backprop::new(model, &tokens, &pass)
        };
        let kl_coef = self.options.kl_coef;
        let kl = (kl_coef > 0.0)
            .then(|| BaseKl::new(model, &tokens, &labels, &pass))
            .transpose()?;
        let (mut sums, mut heads) = ((0.0, 0.0), GradientSum::new());
        let loss = forward.run(model, at, gradients, |hidden| {
            let Some(kl) = &kl else {
                return Ok(model.cross_entropy(hidden, &labels, &entropy, &pass)?.loss);
            };
            let (divergence, term) = kl.pull(hidden.clone(), kl_coef, &mut heads);
            let output = model.cross_entropy(hidden, &labels, &entropy, &pass)?;
            sums = (number(output.loss.clone().inner()), divergence);
            Ok(output.loss + term)
        })?;
        if kl.is_none() {
            return Ok(BatchLoss::new(loss));
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded to f32")]
        heads.scale(at.loss_scale as f32);
        gradients.merge(heads);
        Ok(self.parts(batch, sums, sums.0 + kl_coef * sums.1))
    }

    fn forward(&self, model: &CausalLm, batch: &Batch) -> Result<BatchLoss> {
        let (tokens, labels) = (token_batch(batch)?, next_token_labels(batch));
        let hidden = model.forward(&tokens, None, &self.pass)?;
        let kl = match self.options.kl_coef > 0.0 {
            true => BaseKl::new(model, &tokens, &labels, &self.pass)?.sum(hidden.clone()),
            false => 0.0,
        };
        let output = model.cross_entropy(hidden, &labels, &CrossEntropy::default(), &self.pass)?;
        let loss = number(output.loss);
        Ok(self.parts(batch, (loss, kl), loss))
    }

    /// A loss with its parts, where it has some.
    fn parts(&self, batch: &Batch, (entropy, kl): (f64, f64), loss: f64) -> BatchLoss {
        if self.options.kl_coef == 0.0 {
            return BatchLoss::new(loss);
        }
        let weight = self.extent(batch).weight;
        BatchLoss::new(loss)
            .with("cross_entropy", entropy, weight)
            .with("kl", kl, weight)
    }
}

fn number(scalar: Tensor<1>) -> f64 {
    scalar.into_scalar::<f32>().into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_by_name() {
        let refused = |options: SftOptions| options.validate().unwrap_err().to_string();
        let noise = SftOptions {
            neftune_noise_alpha: -1.0,
            ..SftOptions::default()
        };
        assert_eq!(
            refused(noise),
            "neftune_noise_alpha must be finite and not negative, got -1"
        );
        let smoothing = SftOptions {
            label_smoothing: 1.0,
            ..SftOptions::default()
        };
        assert_eq!(
            refused(smoothing),
            "label_smoothing must be at least 0 and below 1, got 1"
        );
    }
}

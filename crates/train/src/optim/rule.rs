//! How a parameter follows its gradient.

use flametune_quant::Map8;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::moments::{BLOCK_SIZE_8BIT, MIN_8BIT_SIZE, Moments, Part};
use crate::error::{Error, Result};

/// Numbers that one task updates.
pub(super) const TASK: usize = 64 * BLOCK_SIZE_8BIT;

/// An update rule and its constants.
///
/// Weight decay is decoupled in both: `p ← p - lr·weight_decay·p` before the step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// `m ← β₁m + (1-β₁)g`, `v ← β₂v + (1-β₂)g²`,
    /// `p ← p - lr · (m / (1-β₁ᵗ)) / (√(v / (1-β₂ᵗ)) + eps)`.
    ///
    /// # Source
    /// - Loshchilov and Hutter 2019, Decoupled Weight Decay Regularization, arXiv:1711.05101,
    ///   algorithm 2
    /// - Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization, arXiv:2110.02861
    /// - reference: `torch.optim.AdamW`, bitsandbytes `AdamW8bit`; golden
    ///   `fixtures/training/optimizers.safetensors`
    #[serde(rename = "adamw")]
    AdamW {
        /// Decay of the first average.
        #[serde(default = "default_beta1")]
        beta1: f32,
        /// Decay of the second average.
        #[serde(default = "default_beta2")]
        beta2: f32,
        /// Added to the root.
        #[serde(default = "default_eps")]
        eps: f32,
        /// Averages in eight bits.
        #[serde(default)]
        eight_bit: bool,
    },
    /// `p ← p - lr·sign(β₁m + (1-β₁)g)`, then `m ← β₂m + (1-β₂)g`.
    ///
    /// # Source
    /// - Chen et al. 2023, Symbolic Discovery of Optimization Algorithms, arXiv:2302.06675,
    ///   program 1
    /// - reference: bitsandbytes `Lion`, `Lion8bit`; golden
    ///   `fixtures/training/optimizers.safetensors`
    Lion {
        /// The average's weight in the update.
        #[serde(default = "default_beta1")]
        beta1: f32,
        /// Decay of the average.
        #[serde(default = "default_lion_beta2")]
        beta2: f32,
        /// The average in eight bits.
        #[serde(default)]
        eight_bit: bool,
    },
}

fn default_beta1() -> f32 {
    0.9
}

fn default_beta2() -> f32 {
    0.999
}

fn default_lion_beta2() -> f32 {
    0.99
}

fn default_eps() -> f32 {
    1e-8
}

/// AdamW with torch's constants.
impl Default for Rule {
    fn default() -> Self {
        Self::AdamW {
            beta1: default_beta1(),
            beta2: default_beta2(),
            eps: default_eps(),
            eight_bit: false,
        }
    }
}

/// What [`Rule::update`] needs beside the numbers.
#[derive(Debug, Clone, Copy)]
pub struct StepSize {
    /// The learning rate of this step and parameter.
    pub lr: f64,
    /// The decoupled weight decay.
    pub weight_decay: f64,
    /// The count of this step, from 1.
    pub step: u64,
}

impl Rule {
    /// Checks the constants.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let (Self::AdamW { beta1, beta2, .. } | Self::Lion { beta1, beta2, .. }) = *self;
        for (field, beta) in [("beta1", beta1), ("beta2", beta2)] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::InvalidConfig {
                    field,
                    reason: format!("must be at least 0 and below 1, got {beta}"),
                });
            }
        }
        if let Self::AdamW { eps, .. } = *self
            && !(eps.is_finite() && eps >= 0.0)
        {
            return Err(Error::InvalidConfig {
                field: "eps",
                reason: format!("must be finite and not negative, got {eps}"),
            });
        }
        Ok(())
    }

    /// The averages that a parameter of `len` numbers starts with.
    pub fn init(&self, len: usize) -> Vec<Moments> {
        self.init_part(len, len)
    }

    /// The averages that `len` numbers of a parameter of `whole` start with.
    pub(super) fn init_part(&self, whole: usize, len: usize) -> Vec<Moments> {
        let (Self::AdamW { eight_bit, .. } | Self::Lion { eight_bit, .. }) = *self;
        let eight_bit = eight_bit && whole >= MIN_8BIT_SIZE;
        let zeros = |map| Moments::zeros(len, eight_bit, map);
        match self {
            Self::AdamW { .. } => vec![
                zeros(Map8::dynamic_signed()),
                zeros(Map8::dynamic_unsigned()),
            ],
            Self::Lion { .. } => vec![zeros(Map8::dynamic_signed())],
        }
    }

    /// Moves `param` one step, in place, on all threads.
    ///
    /// # Panics
    /// When gradient or averages are not of the parameter's length, or the averages are not those
    /// of [`init`](Self::init).
    pub fn update(&self, param: &mut [f32], grad: &[f32], moments: &mut [Moments], by: StepSize) {
        assert_eq!(
            param.len(),
            grad.len(),
            "update: gradient of another parameter"
        );
        for moment in moments.iter() {
            assert_eq!(
                param.len(),
                moment.len(),
                "update: averages of another parameter"
            );
        }
        let tasks = param.par_chunks_mut(TASK).zip(grad.par_chunks(TASK));
        match (*self, moments) {
            (
                Self::AdamW {
                    beta1, beta2, eps, ..
                },
                [m, v],
            ) => {
                let adam = Adam::new(beta1, beta2, eps, by);
                let (m, v) = (m.tasks(TASK), v.tasks(TASK));
                tasks
                    .zip(m.into_par_iter().zip(v))
                    .for_each(|((param, grad), (mut m, mut v))| {
                        adam.task(param, grad, &mut m, &mut v);
                    });
            }
            (Self::Lion { beta1, beta2, .. }, [m]) => {
                let lion = Lion {
                    beta1,
                    beta2,
                    lr: to_f32(by.lr),
                    keep: to_f32(1.0 - by.lr * by.weight_decay),
                };
                tasks
                    .zip(m.tasks(TASK))
                    .for_each(|((param, grad), mut m)| lion.task(param, grad, &mut m));
            }
            (rule, moments) => {
                assert_eq!(
                    rule.init(0).len(),
                    moments.len(),
                    "update: number of averages"
                );
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "numbers near 1 or below")]
fn to_f32(x: f64) -> f32 {
    x as f32
}

struct Adam {
    beta1: f32,
    beta2: f32,
    eps: f32,
    /// `1 - lr·weight_decay`.
    keep: f32,
    /// `lr / (1 - β₁ᵗ)`.
    size: f32,
    /// `1 / √(1 - β₂ᵗ)`.
    root: f32,
}

impl Adam {
    fn new(beta1: f32, beta2: f32, eps: f32, by: StepSize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "powers near 0 by then")]
        let correction = |beta: f32| 1.0 - f64::from(beta).powf(by.step as f64);
        Self {
            beta1,
            beta2,
            eps,
            keep: to_f32(1.0 - by.lr * by.weight_decay),
            size: to_f32(by.lr / correction(beta1)),
            root: to_f32(1.0 / correction(beta2).sqrt()),
        }
    }

    fn task(&self, param: &mut [f32], grad: &[f32], m: &mut Part<'_>, v: &mut Part<'_>) {
        let blocks = param
            .chunks_mut(BLOCK_SIZE_8BIT)
            .zip(grad.chunks(BLOCK_SIZE_8BIT));
        for (block, (param, grad)) in blocks.enumerate() {
            m.update(block, Map8::dynamic_signed(), |m| {
                v.update(block, Map8::dynamic_unsigned(), |v| {
                    self.block(param, grad, m, v)
                });
            });
        }
    }

    fn block(&self, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) {
        for (((p, g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *v = self.beta2 * *v + (1.0 - self.beta2) * g * g;
            *p = self.keep * *p - self.size * *m / (v.sqrt() * self.root + self.eps);
        }
    }
}

struct Lion {
    beta1: f32,
    beta2: f32,
    lr: f32,
    /// `1 - lr·weight_decay`.
    keep: f32,
}

impl Lion {
    fn task(&self, param: &mut [f32], grad: &[f32], m: &mut Part<'_>) {
        let blocks = param
            .chunks_mut(BLOCK_SIZE_8BIT)
            .zip(grad.chunks(BLOCK_SIZE_8BIT));
        for (block, (param, grad)) in blocks.enumerate() {
            m.update(block, Map8::dynamic_signed(), |m| {
                for ((p, g), m) in param.iter_mut().zip(grad).zip(m) {
                    let direction = self.beta1 * *m + (1.0 - self.beta1) * g;
                    // Unlike `f32::signum`, zero has no sign here.
                    let sign = f32::from(i8::from(direction > 0.0) - i8::from(direction < 0.0));
                    *p = self.keep * *p - self.lr * sign;
                    *m = self.beta2 * *m + (1.0 - self.beta2) * g;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;

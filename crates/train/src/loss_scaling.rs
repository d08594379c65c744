//! Loss scaling: gradients of f16 activations, kept between the smallest and the largest f16.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The scale below which a gradient that is no number is not the scale's fault.
const SMALLEST: f64 = 1.0 / 16384.0;

/// How the loss is scaled before the backward pass, and its gradients scaled back.
///
/// Only models that compute in f16 need it: f16 ends at 65504 and at 2⁻²⁴, while f32 and bf16 have
/// the same exponents and never run out.
/// A step whose gradients overflow is left out and the scale shrinks; after `growth_interval`
/// steps that do not overflow it grows.
///
/// An objective's loss is a sum, not a mean, so its gradients are larger by the number of tokens
/// than those that torch scales; the scale starts lower for that.
///
/// # Source
/// - Micikevicius et al. 2018, Mixed Precision Training, arXiv:1710.03740, §3.2
/// - reference: `torch.amp.GradScaler`
/// - differs: the scale starts at 2⁸ instead of 2¹⁶
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossScaling {
    /// The scale of the first step.
    pub init_scale: f64,
    /// What the scale is multiplied by when it grows.
    pub growth_factor: f64,
    /// What the scale is multiplied by after an overflow.
    pub backoff_factor: f64,
    /// Steps without an overflow after which the scale grows.
    pub growth_interval: usize,
}

impl Default for LossScaling {
    fn default() -> Self {
        Self {
            init_scale: 256.0,
            growth_factor: 2.0,
            backoff_factor: 0.5,
            growth_interval: 2000,
        }
    }
}

impl LossScaling {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let checks = [
            (
                "init_scale",
                self.init_scale,
                self.init_scale >= SMALLEST,
                "at least 2^-14",
            ),
            (
                "growth_factor",
                self.growth_factor,
                self.growth_factor > 1.0,
                "above 1",
            ),
            (
                "backoff_factor",
                self.backoff_factor,
                self.backoff_factor > 0.0 && self.backoff_factor < 1.0,
                "between 0 and 1",
            ),
        ];
        for (field, value, holds, what) in checks {
            if !(holds && value.is_finite()) {
                let reason = format!("must be finite and {what}, got {value}");
                return Err(Error::InvalidConfig { field, reason });
            }
        }
        if self.growth_interval == 0 {
            return Err(Error::InvalidConfig {
                field: "growth_interval",
                reason: "must be at least 1, got 0".to_owned(),
            });
        }
        Ok(())
    }
}

/// The scale of a run as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The scale.
    pub scale: f64,
    /// Steps without an overflow since the scale last changed.
    pub good_steps: usize,
}

impl Default for LossScale {
    fn default() -> Self {
        Self {
            scale: 1.0,
            good_steps: 0,
        }
    }
}

impl LossScale {
    /// The scale before the first step; 1 without scaling.
    pub(crate) fn start(scaling: Option<&LossScaling>) -> Self {
        Self {
            scale: scaling.map_or(1.0, |scaling| scaling.init_scale),
            good_steps: 0,
        }
    }

    /// Takes in whether a step overflowed; false when the scale cannot shrink any further.
    pub(crate) fn observe(&mut self, scaling: &LossScaling, overflowed: bool) -> bool {
        if overflowed {
            let smaller = self.scale * scaling.backoff_factor;
            if smaller < SMALLEST {
                return false;
            }
            (self.scale, self.good_steps) = (smaller, 0);
            return true;
        }
        self.good_steps += 1;
        if self.good_steps >= scaling.growth_interval {
            let larger = self.scale * scaling.growth_factor;
            if larger <= f64::from(f32::MAX) {
                self.scale = larger;
            }
            self.good_steps = 0;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_follows_overflows_as_torch_does() {
        let scaling = LossScaling {
            init_scale: 8.0,
            growth_interval: 3,
            ..LossScaling::default()
        };
        let mut scale = LossScale::start(Some(&scaling));
        let overflows = [false, true, false, false, false, false, true, true];
        let mut scales = Vec::new();
        for overflowed in overflows {
            assert!(scale.observe(&scaling, overflowed));
            scales.push(scale.scale);
        }
        assert_eq!(scales, [8.0, 4.0, 4.0, 4.0, 8.0, 8.0, 4.0, 2.0]);
    }

    #[test]
    fn the_scale_does_not_shrink_for_ever() {
        let scaling = LossScaling::default();
        let mut scale = LossScale::start(Some(&scaling));
        let halvings = (0..100).take_while(|_| scale.observe(&scaling, true));
        // From 2^8 to 2^-14.
        assert_eq!(halvings.count(), 22);
    }

    #[test]
    fn numbers_are_checked_by_name() {
        LossScaling::default().validate().unwrap();
        let refused = |scaling: LossScaling| scaling.validate().unwrap_err().to_string();
        let factor = LossScaling {
            backoff_factor: 1.0,
            ..LossScaling::default()
        };
        assert_eq!(
            refused(factor),
            "backoff_factor must be finite and between 0 and 1, got 1"
        );
        let scale = LossScaling {
            init_scale: f64::INFINITY,
            ..LossScaling::default()
        };
        assert!(refused(scale).starts_with("init_scale must be finite"));
    }
}

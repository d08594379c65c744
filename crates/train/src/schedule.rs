//! Learning-rate schedules, by the names and formulas of transformers.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the learning rate changes over a run, as a factor of its peak.
///
/// `step` counts optimizer steps from 0, `total` is the number of steps of the run, and
/// `progress = (step - warmup) / (total - warmup)`.
/// Except where said, the factor rises linearly from 0 to 1 over the warm-up.
///
/// # Source
/// - reference: transformers `optimization.py`; golden `fixtures/training/schedulers.json`
/// - differs: past `total` the cosine schedules stay at their end instead of rising again
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// 1, without a warm-up.
    Constant,
    /// 1 after the warm-up.
    ConstantWithWarmup,
    /// `1 - progress`.
    Linear,
    /// `½·(1 + cos(π·progress))`, not below `min_lr_rate`:
    /// `factor·(1 - min_lr_rate) + min_lr_rate`.
    Cosine {
        /// Where the factor ends.
        #[serde(default)]
        min_lr_rate: f64,
    },
    /// Cosine halves, `num_cycles` of them, each starting again at 1.
    CosineWithRestarts {
        /// How many.
        num_cycles: u32,
    },
    /// `(1 - lr_end_rate)·(1 - progress)^power + lr_end_rate`.
    Polynomial {
        /// The exponent.
        power: f64,
        /// Where the factor ends.
        lr_end_rate: f64,
    },
    /// `√(timescale / (step - warmup + timescale))`, with the warm-up as the time scale, or
    /// 10,000 without one.
    InverseSqrt,
    /// A plateau at 1 between the warm-up and a cosine descent over the last steps; warm-up and
    /// descent begin and end at `min_lr_ratio`.
    WarmupStableDecay {
        /// The steps of the descent.
        num_decay_steps: usize,
        /// Where the factor begins and ends.
        #[serde(default)]
        min_lr_ratio: f64,
    },
}

impl Schedule {
    /// Checks the parts that are numbers.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] naming the field.
    pub fn validate(&self) -> Result<()> {
        let rate = |field: &'static str, value: f64| {
            if (0.0..=1.0).contains(&value) {
                Ok(())
            } else {
                Err(Error::InvalidConfig {
                    field,
                    reason: format!("must be between 0 and 1, got {value}"),
                })
            }
        };
        match *self {
            Self::Cosine { min_lr_rate } => rate("min_lr_rate", min_lr_rate),
            Self::CosineWithRestarts { num_cycles: 0 } => Err(Error::InvalidConfig {
                field: "num_cycles",
                reason: "must be at least 1, got 0".to_owned(),
            }),
            Self::Polynomial { power, lr_end_rate } => {
                if !(power.is_finite() && power > 0.0) {
                    return Err(Error::InvalidConfig {
                        field: "power",
                        reason: format!("must be finite and above 0, got {power}"),
                    });
                }
                rate("lr_end_rate", lr_end_rate)
            }
            Self::WarmupStableDecay { min_lr_ratio, .. } => rate("min_lr_ratio", min_lr_ratio),
            _ => Ok(()),
        }
    }

    /// The factor of the peak learning rate at `step`.
    ///
    /// # Examples
    /// ```
    /// use flametune_train::Schedule;
    ///
    /// let cosine = Schedule::Cosine { min_lr_rate: 0.0 };
    /// assert_eq!(cosine.factor(0, 10, 110), 0.0);
    /// assert_eq!(cosine.factor(10, 10, 110), 1.0);
    /// assert!((cosine.factor(60, 10, 110) - 0.5).abs() < 1e-12);
    /// assert_eq!(cosine.factor(110, 10, 110), 0.0);
    /// ```
    pub fn factor(&self, step: usize, warmup: usize, total: usize) -> f64 {
        if matches!(self, Self::Constant) {
            return 1.0;
        }
        if step < warmup {
            let rise = ratio(step, warmup);
            return match *self {
                Self::WarmupStableDecay { min_lr_ratio, .. } => between(min_lr_ratio, rise),
                _ => rise,
            };
        }
        let progress = ratio(step - warmup, total.saturating_sub(warmup));
        match *self {
            Self::Constant | Self::ConstantWithWarmup => 1.0,
            Self::Linear => (1.0 - progress).max(0.0),
            Self::Cosine { min_lr_rate } => between(min_lr_rate, half_cosine(progress.min(1.0))),
            Self::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Self::CosineWithRestarts { num_cycles } => {
                half_cosine((f64::from(num_cycles) * progress) % 1.0)
            }
            Self::Polynomial { power, lr_end_rate } => {
                between(lr_end_rate, (1.0 - progress).max(0.0).powf(power))
            }
            Self::InverseSqrt => {
                let timescale = if warmup == 0 { 10_000 } else { warmup };
                1.0 / ratio(step - warmup + timescale, timescale).sqrt()
            }
            Self::WarmupStableDecay {
                num_decay_steps,
                min_lr_ratio,
            } => {
                let decay_start = total.saturating_sub(num_decay_steps).max(warmup);
                if step < decay_start {
                    return 1.0;
                }
                let progress = ratio(step - decay_start, num_decay_steps).min(1.0);
                between(min_lr_ratio, half_cosine(progress))
            }
        }
    }
}

/// `½·(1 + cos(π·x))`.
fn half_cosine(x: f64) -> f64 {
    0.5 * (1.0 + (PI * x).cos())
}

/// From `low`, at 0, to 1, at 1.
fn between(low: f64, factor: f64) -> f64 {
    factor * (1.0 - low) + low
}

#[expect(clippy::cast_precision_loss, reason = "step counts are far below 2^52")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole.max(1) as f64
}

#[cfg(test)]
mod tests {
    use flametune_testkit::fixture_json;
    use serde_json::Value;

    use super::*;

    /// The factors of a golden schedule, with its warm-up and total steps.
    fn golden(name: &str) -> (Vec<f64>, usize, usize) {
        let file = fixture_json("training/schedulers.json");
        let entry = &file[name];
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        let factors = entry["lr"].as_array().unwrap();
        (
            factors.iter().map(|x| x.as_f64().unwrap()).collect(),
            number(&entry["warmup"]),
            number(&entry["total"]),
        )
    }

    fn check(name: &str, schedule: Schedule) {
        let (expected, warmup, total) = golden(name);
        // Past the end the cosine of the reference rises again; ours stays.
        for (step, expected) in expected.iter().enumerate().take(total + 1) {
            let got = schedule.factor(step, warmup, total);
            // Both are f64, the operations differ in order only.
            assert!(
                (got - expected).abs() < 1e-12,
                "{name} step {step}: {got} != {expected}"
            );
        }
    }

    #[test]
    fn schedules_equal_those_of_transformers() {
        check("constant@1.0", Schedule::Constant);
        check("constant_with_warmup@1.0", Schedule::ConstantWithWarmup);
        check("linear@1.0", Schedule::Linear);
        check("cosine@1.0", Schedule::Cosine { min_lr_rate: 0.0 });
        check(
            "cosine_with_min_lr@1.0",
            Schedule::Cosine { min_lr_rate: 0.1 },
        );
        check(
            "cosine_with_restarts@1.0",
            Schedule::CosineWithRestarts { num_cycles: 3 },
        );
        check(
            "polynomial@1.0",
            Schedule::Polynomial {
                power: 2.0,
                lr_end_rate: 1e-5,
            },
        );
        check("inverse_sqrt@1.0", Schedule::InverseSqrt);
        let wsd = Schedule::WarmupStableDecay {
            num_decay_steps: 12,
            min_lr_ratio: 0.05,
        };
        check("warmup_stable_decay@1.0", wsd);
    }

    #[test]
    fn schedules_stay_at_their_end() {
        let all = [
            Schedule::Linear,
            Schedule::Cosine { min_lr_rate: 0.1 },
            Schedule::CosineWithRestarts { num_cycles: 2 },
            Schedule::Polynomial {
                power: 2.0,
                lr_end_rate: 0.1,
            },
            Schedule::WarmupStableDecay {
                num_decay_steps: 5,
                min_lr_ratio: 0.1,
            },
        ];
        for schedule in all {
            assert_eq!(
                schedule.factor(50, 5, 50),
                schedule.factor(73, 5, 50),
                "{schedule:?}"
            );
        }
    }

    #[test]
    fn a_run_of_nothing_but_warm_up_is_no_division_by_zero() {
        for schedule in [Schedule::Linear, Schedule::InverseSqrt] {
            assert!(schedule.factor(0, 0, 0).is_finite());
            assert!(schedule.factor(9, 10, 10).is_finite());
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        assert!(
            Schedule::Cosine {
                min_lr_rate: f64::NAN
            }
            .validate()
            .is_err()
        );
        assert!(
            Schedule::CosineWithRestarts { num_cycles: 0 }
                .validate()
                .is_err()
        );
        assert!(
            Schedule::Polynomial {
                power: 0.0,
                lr_end_rate: 0.0
            }
            .validate()
            .is_err()
        );
        assert!(Schedule::Linear.validate().is_ok());
    }
}

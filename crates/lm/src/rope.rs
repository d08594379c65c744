//! Rotation tables: inverse frequencies, and the cosines and sines of a batch's positions.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::config::{RopeConfig, RopeScaling};

/// The inverse frequencies of a rotation, one for each pair of channels.
///
/// `seq_len` is the longest position of the sequence plus one; only the dynamic and LongRoPE
/// forms look at it. Values are computed in f64 and rounded once, so that they differ from the
/// reference by at most an ulp of f32.
///
/// # Shapes
/// - returns `rot_dim / 2` numbers
///
/// # Source
/// - Su et al. 2021, RoFormer, arXiv:2104.09864, §3.2.2
/// - Peng et al. 2023, YaRN, arXiv:2309.00071, §3.2 (NTK-by-parts) and §3.4 (attention factor)
/// - Ding et al. 2024, LongRoPE, arXiv:2402.13753
/// - reference: transformers `modeling_rope_utils.py`; goldens `fixtures/models/llama_rope_*`
pub fn inverse_frequencies(rope: &RopeConfig, seq_len: usize) -> Vec<f64> {
    let dim = rope.rot_dim;
    let plain = |theta: f64| -> Vec<f64> {
        (0..dim)
            .step_by(2)
            .map(|channel| theta.powf(-ratio(channel, dim)))
            .collect()
    };
    match &rope.scaling {
        RopeScaling::Default => plain(rope.rope_theta),
        RopeScaling::Linear { factor } => plain(rope.rope_theta)
            .into_iter()
            .map(|frequency| frequency / factor)
            .collect(),
        RopeScaling::Dynamic {
            factor,
            original_max_position_embeddings,
        } => {
            let length = seq_len.max(*original_max_position_embeddings);
            let growth = factor * ratio(length, *original_max_position_embeddings) - (factor - 1.0);
            let exponent = if dim > 2 { ratio(dim, dim - 2) } else { 1.0 };
            plain(rope.rope_theta * growth.powf(exponent))
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = ratio(*original_max_position_embeddings, 1);
            plain(rope.rope_theta)
                .into_iter()
                .map(|frequency| {
                    // How often this channel turns within the original window.
                    let rotations = original * frequency / std::f64::consts::TAU;
                    let kept = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    frequency * (kept + (1.0 - kept) / factor)
                })
                .collect()
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings,
        } => {
            let original = ratio(*original_max_position_embeddings, 1);
            // The channel that turns `rotations` times within the original window.
            let channel_of = |rotations: f64| {
                ratio(dim, 2) * (original / (rotations * std::f64::consts::TAU)).ln()
                    / rope.rope_theta.ln()
            };
            let (mut low, mut high) = (channel_of(*beta_fast), channel_of(*beta_slow));
            if *truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(ratio(dim - 1, 1)));
            if high == low {
                high += 0.001;
            }
            plain(rope.rope_theta)
                .into_iter()
                .enumerate()
                .map(|(pair, frequency)| {
                    let interpolated = ((ratio(pair, 1) - low) / (high - low)).clamp(0.0, 1.0);
                    frequency * (interpolated / factor + (1.0 - interpolated))
                })
                .collect()
        }
        RopeScaling::LongRope {
            short_factor,
            long_factor,
            original_max_position_embeddings,
        } => {
            let factors = if seq_len > *original_max_position_embeddings {
                long_factor
            } else {
                short_factor
            };
            plain(rope.rope_theta)
                .into_iter()
                .zip(factors)
                .map(|(frequency, factor)| frequency / factor)
                .collect()
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "widths and lengths are far below 2^52"
)]
fn ratio(numerator: usize, denominator: usize) -> f64 {
    numerator as f64 / denominator as f64
}

/// Cosines and sines of a batch's positions, ready for [`flametune_kernels::rope`].
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[rows, seq, rot_dim]`, both halves alike; `rows` is 1 when every row has the same positions.
    pub cos: Tensor<3>,
    /// Like `cos`.
    pub sin: Tensor<3>,
}

impl RopeTable {
    /// Computes the table of `positions`, `rows · seq` of them.
    pub(crate) fn new(
        rope: &RopeConfig,
        positions: &[u32],
        rows: usize,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let longest = positions
            .iter()
            .max()
            .map_or(0, |&position| position as usize + 1);
        let mut angles = Angles::default();
        angles.add(rope, positions, longest);
        let shape = [rows, positions.len() / rows.max(1), rope.rot_dim];
        angles.table(shape, device, dtype)
    }

    /// Computes the table of sequences that are rows of one token each: `lengths` says of each
    /// sequence how many of the positions are its own, and the length for its frequencies.
    ///
    /// # Shapes
    /// - the tables are `[positions, 1, rot_dim]`
    pub(crate) fn of_sequences(
        rope: &RopeConfig,
        positions: &[u32],
        lengths: &[(usize, usize)],
        device: &Device,
        dtype: DType,
    ) -> Self {
        let mut angles = Angles::default();
        let mut left = positions;
        for &(count, length) in lengths {
            let (own, rest) = left.split_at(count);
            angles.add(rope, own, length);
            left = rest;
        }
        angles.table([positions.len(), 1, rope.rot_dim], device, dtype)
    }
}

/// Cosines and sines on their way into a table.
#[derive(Default)]
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The length for which frequencies were computed last, and these.
    known: Option<(usize, Vec<f64>)>,
}

impl Angles {
    fn add(&mut self, rope: &RopeConfig, positions: &[u32], length: usize) {
        // Most rotations turn alike at any length.
        let length = match rope.scaling {
            RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. } => length,
            _ => 0,
        };
        let known = self.known.take().filter(|(known, _)| *known == length);
        let (_, frequencies) = self
            .known
            .insert(known.unwrap_or_else(|| (length, inverse_frequencies(rope, length))));
        for &position in positions {
            for _half in 0..2 {
                for &frequency in &*frequencies {
                    let (s, c) = angle(frequency, position).sin_cos();
                    self.cos.push(rounded(c * rope.attention_factor));
                    self.sin.push(rounded(s * rope.attention_factor));
                }
            }
        }
    }

    fn table(self, shape: [usize; 3], device: &Device, dtype: DType) -> RopeTable {
        let tensor =
            |values: Vec<f32>| Tensor::from_data(TensorData::new(values, shape), (device, dtype));
        RopeTable {
            cos: tensor(self.cos),
            sin: tensor(self.sin),
        }
    }
}

/// The angle as the reference rounds it: frequency, position and product in f32.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "f32 is meant"
)]
fn angle(frequency: f64, position: u32) -> f64 {
    f64::from(frequency as f32 * position as f32)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn rounded(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> RopeConfig {
        RopeConfig {
            rope_theta: 10_000.0,
            rot_dim: 8,
            attention_factor: 1.0,
            scaling,
        }
    }

    #[test]
    fn default_frequencies_are_powers_of_the_base() {
        let frequencies = inverse_frequencies(&rope(RopeScaling::Default), 4);
        for (got, expected) in frequencies.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - expected).abs() < 1e-15, "{got} {expected}");
        }
    }

    #[test]
    fn dynamic_changes_nothing_up_to_the_original_length() {
        let dynamic = rope(RopeScaling::Dynamic {
            factor: 2.0,
            original_max_position_embeddings: 64,
        });
        let plain = inverse_frequencies(&rope(RopeScaling::Default), 1);
        assert_eq!(inverse_frequencies(&dynamic, 64), plain);
        assert!(inverse_frequencies(&dynamic, 128)[3] < plain[3]);
    }

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 32,
        };
        let frequencies = inverse_frequencies(&rope(scaling), 1);
        assert!((frequencies[0] - 1.0).abs() < 1e-15);
        assert!((frequencies[3] - 0.001 / 8.0).abs() < 1e-15);
    }

    #[test]
    fn the_table_repeats_its_half_and_carries_the_attention_factor() {
        let mut config = rope(RopeScaling::Default);
        config.attention_factor = 2.0;
        let table = RopeTable::new(&config, &[0, 3], 1, &Device::flex(), DType::F32);
        let cos = table.cos.into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(cos[..8], [2.0; 8]);
        assert!((cos[8] - 2.0 * 3f32.cos()).abs() < 1e-6);
        assert_eq!(cos[8], cos[12]);
    }
}

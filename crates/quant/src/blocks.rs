//! Walking over blocks: one scale and some codes for every so many numbers, on all threads.

use rayon::prelude::*;

use crate::error::{Error, Result};

/// Numbers that one thread takes at a time; smaller tensors stay on one thread.
const TASK_ELEMENTS: usize = 1 << 15;

/// The least divisor of a block, so that a block of zeros, or nearly so, divides by something.
///
/// bitsandbytes has the same, and with four bits stores it as the scale of a last partial block of
/// zeros.
const LEAST_ABSMAX: f32 = 1e-38;

/// The sizes of a run of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blocks {
    /// The numbers of a block; the last block may have fewer.
    pub(crate) size: usize,
    /// The bytes of a full block's codes.
    pub(crate) code_bytes: usize,
}

impl Blocks {
    /// The blocks that one thread takes at a time.
    fn per_task(self) -> usize {
        (TASK_ELEMENTS / self.size).max(1)
    }

    /// Fills `codes` and `scales` block by block.
    ///
    /// `encode` writes the codes of a block and returns its scale, or `None` when a number of the
    /// block is not finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`], naming the first such number.
    pub(crate) fn encode(
        self,
        numbers: &[f32],
        codes: &mut [u8],
        scales: &mut [f32],
        encode: impl Fn(&[f32], &mut [u8]) -> Option<f32> + Sync,
    ) -> Result<()> {
        // Whether all blocks of a run are finite.
        let run = |numbers: &[f32], codes: &mut [u8], scales: &mut [f32]| {
            let blocks = numbers
                .chunks(self.size)
                .zip(codes.chunks_mut(self.code_bytes))
                .zip(scales);
            for ((numbers, codes), scale) in blocks {
                let Some(found) = encode(numbers, codes) else {
                    return false;
                };
                *scale = found;
            }
            true
        };
        let finite = if numbers.len() <= TASK_ELEMENTS {
            run(numbers, codes, scales)
        } else {
            let blocks = self.per_task();
            numbers
                .par_chunks(blocks * self.size)
                .zip(codes.par_chunks_mut(blocks * self.code_bytes))
                .zip(scales.par_chunks_mut(blocks))
                .map(|((numbers, codes), scales)| run(numbers, codes, scales))
                .reduce(|| true, |a, b| a && b)
        };
        if finite {
            Ok(())
        } else {
            check_finite("weight", numbers)
        }
    }

    /// Fills `out` block by block from codes and scales.
    pub(crate) fn decode<T: Send>(
        self,
        codes: &[u8],
        scales: &[f32],
        out: &mut [T],
        decode: impl Fn(&[u8], f32, &mut [T]) + Sync,
    ) {
        let run = |codes: &[u8], scales: &[f32], out: &mut [T]| {
            let blocks = out
                .chunks_mut(self.size)
                .zip(codes.chunks(self.code_bytes))
                .zip(scales);
            for ((out, codes), &scale) in blocks {
                decode(codes, scale, out);
            }
        };
        if out.len() <= TASK_ELEMENTS {
            run(codes, scales, out);
        } else {
            let blocks = self.per_task();
            out.par_chunks_mut(blocks * self.size)
                .zip(codes.par_chunks(blocks * self.code_bytes))
                .zip(scales.par_chunks(blocks))
                .for_each(|((out, codes), scales)| run(codes, scales, out));
        }
    }
}

/// Refuses numbers of which one is infinite or not a number.
pub(crate) fn check_finite(what: &'static str, numbers: &[f32]) -> Result<()> {
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(Error::NonFinite {
            what,
            index,
            value: numbers[index],
        }),
        None => Ok(()),
    }
}

/// The largest magnitude of a block, or `None` when one of its numbers is not finite.
#[inline]
pub(crate) fn finite_absmax(block: &[f32]) -> Option<f32> {
    // Without their sign, floats order as integers do, with infinity and NaN above all others.
    let largest = block
        .iter()
        .map(|x| x.abs().to_bits().cast_signed())
        .fold(0, i32::max);
    let absmax = f32::from_bits(largest.cast_unsigned());
    absmax.is_finite().then_some(absmax)
}

/// What the numbers of a full block are multiplied by before they are encoded.
#[inline]
pub(crate) fn reciprocal(absmax: f32) -> f32 {
    1.0 / absmax.max(LEAST_ABSMAX)
}

/// What the numbers of a last partial block are divided by, which is also its stored scale.
#[inline]
pub(crate) fn partial_absmax(absmax: f32) -> f32 {
    absmax.max(LEAST_ABSMAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absmax_sees_signs_subnormals_and_what_is_not_finite() {
        assert_eq!(finite_absmax(&[0.5, -2.0, 1.0]), Some(2.0));
        assert_eq!(finite_absmax(&[-0.0, 1e-45]), Some(1e-45));
        assert_eq!(finite_absmax(&[]), Some(0.0));
        for odd in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(finite_absmax(&[1.0, odd, 3.0]), None);
        }
    }

    #[test]
    fn many_threads_find_the_first_number_that_is_not_finite() {
        let mut numbers = vec![1.0_f32; TASK_ELEMENTS * 3 + 5];
        let blocks = Blocks {
            size: 64,
            code_bytes: 1,
        };
        let n_blocks = numbers.len().div_ceil(64);
        let (mut codes, mut scales) = (vec![0; n_blocks], vec![0.0; n_blocks]);
        let mut encode = |numbers: &[f32]| {
            blocks.encode(numbers, &mut codes, &mut scales, |block, codes| {
                codes[0] = 7;
                finite_absmax(block)
            })
        };
        encode(&numbers).unwrap();
        for place in [TASK_ELEMENTS * 3 + 4, TASK_ELEMENTS + 70, 3] {
            numbers[place] = f32::INFINITY;
            let error = encode(&numbers).unwrap_err();
            assert!(
                matches!(error, Error::NonFinite { index, .. } if index == place),
                "{error}"
            );
        }
        assert!(codes.iter().all(|&code| code == 7));
    }
}

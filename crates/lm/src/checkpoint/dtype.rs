//! Conversion of stored numbers to the element type a model computes in.

use std::cmp::Ordering;

use ::safetensors::Dtype;
use burn::tensor::{DType, Element, TensorData};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that one thread converts in one go, small enough to stay in its first cache.
const CHUNK: usize = 8 * 1024;

/// Elements from which a conversion is worth several threads.
const PARALLEL_FROM: usize = 256 * 1024;

/// Elements of the aligned buffer that half-precision numbers pass through.
const STAGE: usize = 256;

/// Converts the bytes of a stored tensor to `wanted`, or returns `None` when there is no such
/// conversion.
///
/// `bytes` may start at any address and holds exactly the elements of `shape`.
/// Integers and booleans become the nearest number; 64-bit integers pass through `f64`.
pub(super) fn convert(
    stored: Dtype,
    bytes: &[u8],
    shape: &[usize],
    wanted: DType,
) -> Option<TensorData> {
    match wanted {
        DType::F32 => to_f32(stored, bytes).map(|values| TensorData::new(values, shape)),
        DType::F16 => to_f16(stored, bytes).map(|values| TensorData::new(values, shape)),
        DType::BF16 => to_bf16(stored, bytes).map(|values| TensorData::new(values, shape)),
        _ => None,
    }
}

/// The safetensors spelling of an element type, or `None` when the format has none.
pub(super) fn safetensors_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(_) | DType::QFloat(_) | DType::Flex32 => return None,
    })
}

fn to_f32(stored: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match stored {
        Dtype::F32 => each(bytes, 0.0, f32::from_le_bytes),
        Dtype::BF16 => each(bytes, 0.0, |b| {
            f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
        }),
        Dtype::F16 => in_chunks(bytes, 0.0, |from, to| {
            staged(from, to, f16::ZERO, f16::from_le_bytes, |stage, to| {
                stage.convert_to_f32_slice(to);
            });
        }),
        #[allow(
            clippy::cast_possible_truncation,
            reason = "rounding is what is asked for"
        )]
        _ => to_f64(stored, bytes, 0.0, |x| x as f32)?,
    })
}

fn to_f16(stored: Dtype, bytes: &[u8]) -> Option<Vec<f16>> {
    Some(match stored {
        Dtype::F16 => each(bytes, f16::ZERO, f16::from_le_bytes),
        Dtype::BF16 => each(bytes, f16::ZERO, |b| {
            f16::from_f32(bf16::from_le_bytes(b).to_f32())
        }),
        Dtype::F32 => in_chunks(bytes, f16::ZERO, |from, to| {
            staged(from, to, 0.0, f32::from_le_bytes, |stage, to| {
                to.convert_from_f32_slice(stage);
            });
        }),
        _ => to_f64(stored, bytes, f16::ZERO, |x| f16::from_f32(to_odd(x)))?,
    })
}

fn to_bf16(stored: Dtype, bytes: &[u8]) -> Option<Vec<bf16>> {
    Some(match stored {
        Dtype::BF16 => each(bytes, bf16::ZERO, bf16::from_le_bytes),
        Dtype::F16 => each(bytes, bf16::ZERO, |b| {
            bf16::from_f32(f16::from_le_bytes(b).to_f32())
        }),
        Dtype::F32 => each(bytes, bf16::ZERO, |b| bf16::from_f32(f32::from_le_bytes(b))),
        _ => to_f64(stored, bytes, bf16::ZERO, |x| bf16::from_f32(to_odd(x)))?,
    })
}

/// The types no weight is trained in: through `f64`, which holds all of them but 64-bit integers
/// exactly.
#[allow(clippy::cast_precision_loss, reason = "rounding is what is asked for")]
fn to_f64<T: Element>(
    stored: Dtype,
    bytes: &[u8],
    zero: T,
    round: impl Fn(f64) -> T + Sync,
) -> Option<Vec<T>> {
    Some(match stored {
        Dtype::F64 => each(bytes, zero, |b| round(f64::from_le_bytes(b))),
        Dtype::I64 => each(bytes, zero, |b| round(i64::from_le_bytes(b) as f64)),
        Dtype::I32 => each(bytes, zero, |b| round(i32::from_le_bytes(b).into())),
        Dtype::I16 => each(bytes, zero, |b| round(i16::from_le_bytes(b).into())),
        Dtype::I8 => each(bytes, zero, |b| round(i8::from_le_bytes(b).into())),
        Dtype::U64 => each(bytes, zero, |b| round(u64::from_le_bytes(b) as f64)),
        Dtype::U32 => each(bytes, zero, |b| round(u32::from_le_bytes(b).into())),
        Dtype::U16 => each(bytes, zero, |b| round(u16::from_le_bytes(b).into())),
        Dtype::U8 => each(bytes, zero, |b| round(u8::from_le_bytes(b).into())),
        Dtype::BOOL => each(bytes, zero, |[b]: [u8; 1]| round(f64::from(b != 0))),
        _ => return None,
    })
}

/// Rounds to the neighbour in f32 whose last bit is odd, unless `x` is an f32 number.
///
/// Rounding the result to a half-precision type then equals rounding `x` itself: a number beside
/// the middle of two halves never lands on that middle.
fn to_odd(x: f64) -> f32 {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "rounding is what is asked for"
    )]
    let nearest = x as f32;
    let is_odd = nearest.to_bits() % 2 == 1;
    match f64::from(nearest).partial_cmp(&x) {
        Some(Ordering::Less) if !is_odd => nearest.next_up(),
        Some(Ordering::Greater) if !is_odd => nearest.next_down(),
        _ => nearest,
    }
}

/// Converts element by element.
fn each<const N: usize, T: Element>(
    bytes: &[u8],
    zero: T,
    convert: impl Fn([u8; N]) -> T + Sync,
) -> Vec<T> {
    in_chunks(bytes, zero, |from: &[[u8; N]], to| {
        for (to, from) in to.iter_mut().zip(from) {
            *to = convert(*from);
        }
    })
}

/// Fills the one output buffer chunk by chunk, on all threads when it is large.
fn in_chunks<const N: usize, T: Element>(
    bytes: &[u8],
    zero: T,
    fill: impl Fn(&[[u8; N]], &mut [T]) + Sync,
) -> Vec<T> {
    let (from, _) = bytes.as_chunks::<N>();
    let mut to = vec![zero; from.len()];
    if from.len() < PARALLEL_FROM {
        fill(from, &mut to);
    } else {
        to.par_chunks_mut(CHUNK)
            .zip(from.par_chunks(CHUNK))
            .for_each(|(to, from)| fill(from, to));
    }
    to
}

/// Passes a chunk through a small aligned buffer, for conversions that work on slices.
fn staged<const N: usize, S: Copy, T>(
    from: &[[u8; N]],
    to: &mut [T],
    zero: S,
    load: impl Fn([u8; N]) -> S,
    convert: impl Fn(&[S], &mut [T]),
) {
    let mut stage = [zero; STAGE];
    for (from, to) in from.chunks(STAGE).zip(to.chunks_mut(STAGE)) {
        let stage = &mut stage[..from.len()];
        for (slot, bytes) in stage.iter_mut().zip(from) {
            *slot = load(*bytes);
        }
        convert(stage, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of `values`, preceded by `offset` others, so that they lie at any alignment.
    fn at_offset<const N: usize>(
        values: impl IntoIterator<Item = [u8; N]>,
        offset: usize,
    ) -> Vec<u8> {
        let mut bytes = vec![0xaa; offset];
        bytes.extend(values.into_iter().flatten());
        bytes
    }

    fn values<T: Element>(data: Option<TensorData>) -> Vec<T> {
        data.unwrap().try_to_vec::<T>().unwrap()
    }

    #[test]
    fn every_half_becomes_its_f32_at_every_alignment() {
        for offset in 0..4 {
            let bytes = at_offset((0..=u16::MAX).map(u16::to_le_bytes), offset);
            let got: Vec<f32> = values(convert(Dtype::F16, &bytes[offset..], &[65536], DType::F32));
            for (bits, got) in (0..=u16::MAX).zip(got) {
                let expected = f16::from_bits(bits).to_f32();
                assert!(
                    got == expected || got.is_nan() && expected.is_nan(),
                    "{bits:#06x}"
                );
            }
        }
    }

    #[test]
    fn every_bf16_becomes_its_f32_and_back() {
        let bytes = at_offset((0..=u16::MAX).map(u16::to_le_bytes), 1);
        let wide: Vec<f32> = values(convert(Dtype::BF16, &bytes[1..], &[65536], DType::F32));
        for (bits, wide) in (0..=u16::MAX).zip(&wide) {
            assert_eq!(wide.to_bits(), u32::from(bits) << 16);
        }
        let back = at_offset(wide.iter().map(|x| x.to_le_bytes()), 3);
        let back: Vec<bf16> = values(convert(Dtype::F32, &back[3..], &[65536], DType::BF16));
        for (bits, back) in (0..=u16::MAX).zip(back) {
            assert!(back.to_bits() == bits || back.is_nan(), "{bits:#06x}");
        }
    }

    #[test]
    fn narrowing_rounds_to_nearest_even_and_overflows_to_infinity() {
        // 1 + step / 2 and 1 + 3·step / 2 lie halfway between two neighbours.
        let cases = |step: f32, too_large: f32| {
            [
                (1.0 + step / 2.0, 1.0),
                (1.0 + 1.5 * step, 1.0 + 2.0 * step),
                (too_large, f32::INFINITY),
            ]
        };
        for (from, expected) in cases(2_f32.powi(-7), 3.4e38) {
            let bytes = f32::to_le_bytes(from);
            let got: Vec<bf16> = values(convert(Dtype::F32, &bytes, &[], DType::BF16));
            assert_eq!(got[0].to_f32(), expected, "{from}");
        }
        for (from, expected) in cases(2_f32.powi(-10), 65520.0) {
            let bytes = f32::to_le_bytes(from);
            let got: Vec<f16> = values(convert(Dtype::F32, &bytes, &[], DType::F16));
            assert_eq!(got[0].to_f32(), expected, "{from}");
        }
    }

    #[test]
    fn doubles_round_once() {
        let tiny = 2_f64.powi(-40);
        let above_half_of_bf16 = 1.0 + 2_f64.powi(-8);
        let below_half_of_bf16 = 1.0 + 3.0 * 2_f64.powi(-8);
        // Rounding to f32 first would make ties of these and send them the other way.
        let cases = [
            (above_half_of_bf16 + tiny, 1.007_812_5),
            (-above_half_of_bf16 - tiny, -1.007_812_5),
            (below_half_of_bf16 - tiny, 1.007_812_5),
            (above_half_of_bf16, 1.0),
            (0.0, 0.0),
            (1e300, f32::INFINITY),
        ];
        for (from, expected) in cases {
            let bytes = from.to_le_bytes();
            let got: Vec<bf16> = values(convert(Dtype::F64, &bytes, &[1], DType::BF16));
            assert_eq!(got[0].to_f32(), expected, "{from}");
        }
        let bytes = (1.0 + 2_f64.powi(-11) + tiny).to_le_bytes();
        let got: Vec<f16> = values(convert(Dtype::F64, &bytes, &[1], DType::F16));
        assert_eq!(got[0].to_f32(), 1.000_976_6);
        let got: Vec<f32> = values(convert(
            Dtype::F64,
            &0.1_f64.to_le_bytes(),
            &[1],
            DType::F32,
        ));
        assert_eq!(got, [0.1]);
    }

    #[test]
    fn integers_and_booleans_become_numbers() {
        let cases: [(Dtype, Vec<u8>, f32); 9] = [
            (Dtype::I8, (-3_i8).to_le_bytes().to_vec(), -3.0),
            (Dtype::U8, 200_u8.to_le_bytes().to_vec(), 200.0),
            (Dtype::I16, (-300_i16).to_le_bytes().to_vec(), -300.0),
            (Dtype::U16, 60000_u16.to_le_bytes().to_vec(), 60000.0),
            (Dtype::I32, (-70000_i32).to_le_bytes().to_vec(), -70000.0),
            (Dtype::U32, 4_000_000_000_u32.to_le_bytes().to_vec(), 4e9),
            (Dtype::I64, (-5_i64).to_le_bytes().to_vec(), -5.0),
            (Dtype::U64, 5_u64.to_le_bytes().to_vec(), 5.0),
            (Dtype::BOOL, vec![1], 1.0),
        ];
        for (stored, bytes, expected) in cases {
            let got: Vec<f32> = values(convert(stored, &bytes, &[1], DType::F32));
            assert_eq!(got, [expected], "{stored}");
        }
    }

    #[test]
    fn large_tensors_convert_as_small_ones_do() {
        let n = PARALLEL_FROM + CHUNK / 2 + 3;
        let numbers: Vec<f32> = (0..n).map(|i| i as f32 * 0.37 - 9.0).collect();
        let bytes = at_offset(numbers.iter().map(|x| x.to_le_bytes()), 1);
        let same: Vec<f32> = values(convert(Dtype::F32, &bytes[1..], &[n], DType::F32));
        assert_eq!(same, numbers);
        let half: Vec<f16> = values(convert(Dtype::F32, &bytes[1..], &[n], DType::F16));
        assert!(
            half.iter()
                .zip(&numbers)
                .all(|(h, x)| *h == f16::from_f32(*x))
        );
    }

    #[test]
    fn types_without_a_conversion_give_none() {
        assert!(convert(Dtype::F8_E4M3, &[0], &[1], DType::F32).is_none());
        assert!(convert(Dtype::C64, &[0; 8], &[1], DType::F32).is_none());
        assert!(convert(Dtype::F32, &[0; 4], &[1], DType::I32).is_none());
    }
}

mod decode;
mod product;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use flametune_testkit::devices;

use super::*;
use crate::sample::tensor;

fn words(words: &[u32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(
        TensorData::new(words.to_vec(), [words.len()]),
        (device, DType::U32),
    )
}

/// What a weight of a test looks like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind {
    four_bit: bool,
    nested: bool,
    block_size: usize,
}

/// Pseudo-random bytes, four a word.
fn random_words(count: usize, seed: u64) -> Vec<u32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    (0..count).map(next).collect()
}

/// A weight of this kind; second-level blocks are small, so that there are several.
pub(crate) fn random_weight(
    shape: [usize; 2],
    kind: Kind,
    seed: u64,
    device: &Device,
) -> PackedWeight {
    let numel = shape[0] * shape[1];
    let n_blocks = numel.div_ceil(kind.block_size);
    let per_word = if kind.four_bit { 8 } else { 4 };
    let codes = words(&random_words(numel.div_ceil(per_word), seed), device);
    let scales = if kind.nested {
        PackedScales::Nested {
            codes: words(&random_words(n_blocks.div_ceil(4), seed + 1), device),
            map: tensor([256], seed + 2, device),
            absmax: tensor([n_blocks.div_ceil(3)], seed + 3, device),
            offset: 1.5,
            block_size: 3,
        }
    } else {
        PackedScales::Absmax(tensor([n_blocks], seed + 4, device) + 1.5)
    };
    let format = if kind.four_bit {
        let codebook = tensor([16], seed + 5, device);
        CodeFormat::FourBit { codebook }
    } else {
        CodeFormat::Int8
    };
    PackedWeight::new(shape, kind.block_size, format, codes, scales)
}

/// All kinds with this block size.
pub(crate) fn kinds(block_size: usize) -> impl Iterator<Item = Kind> {
    [(true, true), (true, false), (false, true), (false, false)]
        .into_iter()
        .map(move |(four_bit, nested)| Kind {
            four_bit,
            nested,
            block_size,
        })
}

fn bits(data: &TensorData) -> Vec<u32> {
    let values = data.clone().try_to_vec::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn four_bit_codes_are_read_upper_half_first() {
    for device in devices() {
        let codebook: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let format = CodeFormat::FourBit {
            codebook: Tensor::from_data(TensorData::new(codebook, [16]), &device),
        };
        // Bytes 0x12 0x34 0x56 0x78 0x9a: codes 1 to 9, a is padding.
        let codes = words(&[0x7856_3412, 0x9a], &device);
        let scales = PackedScales::Absmax(Tensor::from_floats([1.0, 10.0, 100.0], &device));
        let weight = PackedWeight::new([3, 3], 4, format, codes, scales);
        let dense = dequantize(&weight).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(dense, [1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 70.0, 80.0, 900.0]);
    }
}

#[test]
fn int8_codes_are_signed() {
    for device in devices() {
        let codes = words(&[0x8001_ff7f], &device);
        let scales = PackedScales::Absmax(Tensor::from_floats([127.0, 254.0], &device));
        let weight = PackedWeight::new([2, 2], 2, CodeFormat::Int8, codes, scales);
        let dense = dequantize(&weight).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(dense, [127.0, -1.0, 2.0, -256.0]);
    }
}

#[test]
fn nested_scales_are_decoded_first() {
    for device in devices() {
        let map: Vec<f32> = (0..256).map(|i| i as f32).collect();
        let scales = PackedScales::Nested {
            codes: words(&[0x0403_0201, 5], &device),
            map: Tensor::from_data(TensorData::new(map, [256]), &device),
            absmax: Tensor::from_floats([1.0, 10.0, 100.0], &device),
            offset: 0.5,
            block_size: 2,
        };
        let codes = words(&[0x7f7f_7f7f, 0x7f], &device);
        let weight = PackedWeight::new([1, 5], 1, CodeFormat::Int8, codes, scales);
        let dense = dequantize(&weight).into_data().try_to_vec::<f32>().unwrap();
        assert_eq!(dense, [1.5, 2.5, 30.5, 40.5, 500.5]);
    }
}

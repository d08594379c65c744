use burn::tensor::{DType, Int, Tensor, TensorData};

use super::weight::{CodeFormat, PackedScales, PackedWeight};
use crate::linear::reference::linear_with;
use crate::precision::Precision;

/// `y = x·Wᵀ + b` over the dense weight: the definition of correct.
pub fn packed_linear<const D: usize>(
    x: Tensor<D>,
    weight: &PackedWeight,
    bias: Option<Tensor<1>>,
    precision: Precision,
) -> Tensor<D> {
    linear_with(x, dequantize(weight), bias, precision)
}

/// The dense weight in f32, `[d_out, d_in]`.
pub fn dequantize(weight: &PackedWeight) -> Tensor<2> {
    let numel = weight.numel();
    let values = match weight.format() {
        CodeFormat::FourBit { codebook } => {
            // The first code of a byte is its upper half.
            let codes = unpack(weight.codes().clone(), &[4, 0, 12, 8, 20, 16, 28, 24], 0xf);
            codebook.clone().select(0, codes.narrow(0, 0, numel))
        }
        CodeFormat::Int8 => {
            let codes = bytes(weight.codes().clone()).narrow(0, 0, numel).float();
            let codes = codes.cast(DType::F32);
            let negative = codes.clone().greater_elem(127.0).float().cast(DType::F32);
            codes - negative * 256.0
        }
    };
    let numbers = values * spread(block_scales(weight), weight.block_size(), numel);
    let numbers = match weight.format() {
        CodeFormat::FourBit { .. } => numbers,
        CodeFormat::Int8 => numbers / 127.0,
    };
    numbers.reshape(weight.shape())
}

/// The scale of each block, `[n_blocks]`.
pub(crate) fn block_scales(weight: &PackedWeight) -> Tensor<1> {
    match weight.scales() {
        PackedScales::Absmax(absmax) => absmax.clone(),
        PackedScales::Nested {
            codes,
            map,
            absmax,
            offset,
            block_size,
        } => {
            let n_blocks = weight.numel().div_ceil(weight.block_size());
            let codes = bytes(codes.clone()).narrow(0, 0, n_blocks);
            let values = map.clone().select(0, codes);
            values * spread(absmax.clone(), *block_size, n_blocks) + *offset
        }
    }
}

/// Each number `times` times, cut to `len`.
fn spread(numbers: Tensor<1>, times: usize, len: usize) -> Tensor<1> {
    let [blocks] = numbers.dims();
    let spread = numbers.reshape([blocks, 1]).expand([blocks, times]);
    spread.reshape([blocks * times]).narrow(0, 0, len)
}

fn bytes(words: Tensor<1, Int>) -> Tensor<1, Int> {
    unpack(words, &[0, 8, 16, 24], 0xff)
}

/// The bits of each word from each of `shifts` on, under `mask`.
fn unpack<const N: usize>(words: Tensor<1, Int>, shifts: &[u32; N], mask: u32) -> Tensor<1, Int> {
    let ([len], device) = (words.dims(), words.device());
    let data = TensorData::new(shifts.to_vec(), [1, N]);
    let shifts = Tensor::<2, Int>::from_data(data, (&device, DType::U32)).expand([len, N]);
    let words = words.reshape([len, 1]).expand([len, N]);
    let codes = words.bitwise_right_shift(shifts).bitwise_and_scalar(mask);
    codes.reshape([len * N]).cast(DType::I32)
}

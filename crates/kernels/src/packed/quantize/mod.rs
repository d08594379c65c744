#[cfg(feature = "cube")]
mod cube;
mod reference;
#[cfg(test)]
mod tests;

use burn::tensor::{DType, Int, Tensor};

use super::weight::{CodeFormat, PackedScales, PackedWeight};

/// The least divisor of a block, so that a block of zeros divides by something, as in
/// bitsandbytes.
const LEAST_ABSMAX: f32 = 1e-38;

/// Quantizes a matrix where it lives, to given scales.
///
/// Four bits: number `x` of a full block becomes the code of the entry nearest to `x·(1/absmax)`,
/// of a last partial block that nearest to `x/absmax`; one in the middle of two entries goes to
/// the lower, and of two codes for one number the smaller is taken. Eight bits:
/// `round(x·127/absmax)`, ties to even. Numbers are expected within ±absmax.
///
/// The scales are usually the largest magnitude of each block. Devices that divide exactly give
/// the codes that crate `quant` gives, bit for bit.
///
/// # Shapes
/// - `numbers`: `[d_out, d_in]`, converted to f32; `absmax`: `[⌈d_out·d_in / block_size⌉]`, f32
///
/// # Panics
/// When `block_size` is zero or `absmax` or the codebook has another length or dtype.
///
/// # Source
/// - Dettmers et al. 2023, QLoRA, arXiv:2305.14314, §3
/// - reference: bitsandbytes `backends/default/ops.py::quantize_4bit`
///
/// # Examples
/// ```
/// use burn::tensor::{Device, Tensor};
/// use flametune_kernels::{CodeFormat, dequantize, quantize_blocks};
///
/// let device = Device::default();
/// let numbers = Tensor::<2>::from_floats([[127.0, -3.0], [0.5, -1.0]], &device);
/// let absmax = Tensor::<1>::from_floats([127.0, 1.0], &device);
/// let packed = quantize_blocks(numbers, absmax, 2, CodeFormat::Int8);
/// let restored = dequantize(&packed).into_data();
/// restored.assert_approx_eq::<f32>(&[[127.0, -3.0], [0.503_937, -1.0]].into(), Default::default());
/// ```
pub fn quantize_blocks(
    numbers: Tensor<2>,
    absmax: Tensor<1>,
    block_size: usize,
    format: CodeFormat,
) -> PackedWeight {
    let shape = numbers.dims();
    let n_blocks = (shape[0] * shape[1]).div_ceil(block_size);
    assert_eq!(
        absmax.dims(),
        [n_blocks],
        "quantize_blocks: one absmax a block"
    );
    let codes = codes(numbers.cast(DType::F32), &absmax, block_size, &format);
    PackedWeight::new(
        shape,
        block_size,
        format,
        codes,
        PackedScales::Absmax(absmax),
    )
}

/// The packed codes, in the form that the device has.
fn codes(
    numbers: Tensor<2>,
    absmax: &Tensor<1>,
    block_size: usize,
    format: &CodeFormat,
) -> Tensor<1, Int> {
    #[cfg(feature = "cube")]
    if cube::takes(&numbers) {
        return cube::codes(numbers, absmax, block_size, format);
    }
    reference::codes(numbers, absmax, block_size, format)
}

//! Numbers into blocks: the reverse of `dequantize`.

mod legacy;
mod plain;
mod q4_k;

use rayon::prelude::*;

use super::tensor_type::GgmlType;
use crate::error::{Error, Result};

/// Elements that one thread packs at a time; every block size divides it.
const CHUNK_ELEMENTS: usize = 1 << 14;

/// Whether [`quantize`] knows `kind`.
pub fn can_quantize(kind: GgmlType) -> bool {
    kernel(kind).is_some()
}

/// Packs numbers into blocks of `kind`, on all threads when there are many.
///
/// F16, BF16, Q4_0, Q5_0 and Q8_0 are byte for byte what PyPI `gguf`'s `quants.quantize` writes.
/// Q4_K, which that package cannot write, follows ggml's reference: the scale and minimum of each
/// sub-block of 32 minimise `Σ (rms(x) + |xᵢ|)·(d·qᵢ + m − xᵢ)²` over 21 trial scales.
///
/// # Errors
/// - [`Error::NoQuantizer`] for a type that cannot be written
/// - [`Error::BlockElements`] when `values` are not whole blocks
/// - [`Error::NotFinite`] for a number that is none, or that the type's f16 cannot hold
///
/// # Source
/// - ggml `ggml-quants.c`, `quantize_row_q4_K_ref` and `make_qkx2_quants`
/// - reference: PyPI `gguf` 0.19.0 `quants.py`; golden `fixtures/gguf/quantized.safetensors`
///
/// # Examples
/// ```
/// use flametune_quant::gguf::{GgmlType, quantize};
///
/// assert_eq!(quantize(GgmlType::BF16, &[1.0, -2.0])?, [0x80, 0x3f, 0x00, 0xc0]);
/// # Ok::<(), flametune_quant::Error>(())
/// ```
pub fn quantize(kind: GgmlType, values: &[f32]) -> Result<Vec<u8>> {
    let kernel = kernel(kind).ok_or(Error::NoQuantizer { kind })?;
    let Some(bytes) = kind.bytes(values.len()) else {
        return Err(Error::BlockElements {
            kind,
            elements: values.len(),
            block: kind.block_elements(),
        });
    };
    let limit = largest(kind);
    let unfit = |value: &f32| value.is_nan() || value.abs() > limit;
    if let Some(index) = values.iter().position(unfit) {
        return Err(Error::NotFinite {
            kind,
            index,
            value: values[index],
        });
    }
    let mut out = vec![0; bytes];
    // Whole blocks, as the chunk is a multiple of each.
    let chunk_bytes = CHUNK_ELEMENTS / kind.block_elements() * kind.block_bytes();
    out.par_chunks_mut(chunk_bytes)
        .zip(values.par_chunks(CHUNK_ELEMENTS))
        .for_each(|(out, values)| kernel(values, out));
    Ok(out)
}

/// The largest magnitude that can be stored: the f16 that holds it, or a scale of it, is finite.
fn largest(kind: GgmlType) -> f32 {
    /// The largest f32 that rounds to a finite f16 (halfway to 2¹⁶ rounds up).
    const LARGEST_F16: f32 = 65_519.996;
    match kind {
        GgmlType::F16 => LARGEST_F16,
        GgmlType::Q4_0 => LARGEST_F16 * 8.0,
        GgmlType::Q5_0 => LARGEST_F16 * 16.0,
        GgmlType::Q8_0 => LARGEST_F16 * 127.0,
        // A sub-block's range is at most twice its largest number, in 15 steps, and the minimum's
        // scale is a 63rd of it.
        GgmlType::Q4_K => LARGEST_F16,
        _ => f32::MAX,
    }
}

/// Packs whole blocks; both slices hold the same number of blocks.
type Kernel = fn(&[f32], &mut [u8]);

fn kernel(kind: GgmlType) -> Option<Kernel> {
    Some(match kind {
        GgmlType::F32 => plain::f32,
        GgmlType::F16 => plain::f16,
        GgmlType::BF16 => plain::bf16,
        GgmlType::Q4_0 => legacy::q4_0,
        GgmlType::Q5_0 => legacy::q5_0,
        GgmlType::Q8_0 => legacy::q8_0,
        GgmlType::Q4_K => q4_k::q4_k,
        _ => return None,
    })
}

/// Applies `block` to each pair of numbers and their block.
fn each_block<const ELEMENTS: usize, const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    block: impl Fn(&[f32; ELEMENTS], &mut [u8; BYTES]),
) {
    let (values, _) = values.as_chunks::<ELEMENTS>();
    let (out, _) = out.as_chunks_mut::<BYTES>();
    for (values, out) in values.iter().zip(out) {
        block(values, out);
    }
}

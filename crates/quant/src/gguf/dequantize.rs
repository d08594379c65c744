//! Blocks of quantized numbers into f32.

use rayon::prelude::*;

use super::tensor_type::GgmlType;
use super::{k_quants, legacy, plain};
use crate::error::{Error, Result};

/// Elements that one thread turns into numbers at a time; smaller tensors stay on one thread.
const CHUNK_ELEMENTS: usize = 1 << 16;

/// Whether [`dequantize_into`] knows `kind`.
pub fn can_dequantize(kind: GgmlType) -> bool {
    kernel(kind).is_some()
}

/// Turns blocks of `kind` into numbers, on all threads when there are many.
///
/// The result equals that of PyPI `gguf`'s `quants.dequantize` bit for bit: the same operations in
/// the same order, each rounded to f32. Integers and F64 are rounded to the nearest f32.
///
/// # Errors
/// - [`Error::NoDequantizer`] for a type that is known but not implemented
/// - [`Error::BlockBytes`] when `bytes` are not exactly the blocks of `out`
///
/// # Examples
/// ```
/// use flametune_quant::gguf::{GgmlType, dequantize_into};
///
/// let mut values = [0.0; 2];
/// dequantize_into(GgmlType::BF16, &[0x80, 0x3f, 0x00, 0xc0], &mut values)?;
/// assert_eq!(values, [1.0, -2.0]);
/// # Ok::<(), flametune_quant::Error>(())
/// ```
pub fn dequantize_into(kind: GgmlType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let kernel = kernel(kind).ok_or(Error::NoDequantizer { kind })?;
    if kind.bytes(out.len()) != Some(bytes.len()) {
        return Err(Error::BlockBytes {
            kind,
            elements: out.len(),
            expected: (out.len() / kind.block_elements()).saturating_mul(kind.block_bytes()),
            got: bytes.len(),
        });
    }
    if out.len() <= CHUNK_ELEMENTS {
        kernel(bytes, out);
        return Ok(());
    }
    // Every block size divides the chunk.
    let chunk_bytes = CHUNK_ELEMENTS / kind.block_elements() * kind.block_bytes();
    out.par_chunks_mut(CHUNK_ELEMENTS)
        .zip(bytes.par_chunks(chunk_bytes))
        .for_each(|(out, bytes)| kernel(bytes, out));
    Ok(())
}

/// Turns whole blocks into numbers; both slices hold the same number of blocks.
type Kernel = fn(&[u8], &mut [f32]);

fn kernel(kind: GgmlType) -> Option<Kernel> {
    Some(match kind {
        GgmlType::F32 => plain::f32,
        GgmlType::F16 => plain::f16,
        GgmlType::BF16 => plain::bf16,
        GgmlType::F64 => plain::f64,
        GgmlType::I8 => plain::i8,
        GgmlType::I16 => plain::i16,
        GgmlType::I32 => plain::i32,
        GgmlType::I64 => plain::i64,
        GgmlType::Q4_0 => legacy::q4_0,
        GgmlType::Q4_1 => legacy::q4_1,
        GgmlType::Q5_0 => legacy::q5_0,
        GgmlType::Q5_1 => legacy::q5_1,
        GgmlType::Q8_0 => legacy::q8_0,
        GgmlType::Q2_K => k_quants::q2_k,
        GgmlType::Q3_K => k_quants::q3_k,
        GgmlType::Q4_K => k_quants::q4_k,
        GgmlType::Q5_K => k_quants::q5_k,
        GgmlType::Q6_K => k_quants::q6_k,
        _ => return None,
    })
}

/// Applies `block` to each pair of a stored block and its numbers.
pub(super) fn each_block<const BYTES: usize, const ELEMENTS: usize>(
    bytes: &[u8],
    out: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let (bytes, _) = bytes.as_chunks::<BYTES>();
    let (out, _) = out.as_chunks_mut::<ELEMENTS>();
    for (bytes, out) in bytes.iter().zip(out) {
        block(bytes, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_must_match_elements() {
        let mut out = [0.0; 32];
        let error = dequantize_into(GgmlType::Q4_0, &[0; 17], &mut out).unwrap_err();
        assert_eq!(
            error.to_string(),
            "32 elements of Q4_0 take 18 bytes, got 17"
        );
        assert!(dequantize_into(GgmlType::Q4_0, &[0; 18], &mut out[..31]).is_err());
    }

    #[test]
    fn types_without_a_dequantizer_are_named() {
        let error = dequantize_into(GgmlType::IQ2_XS, &[], &mut []).unwrap_err();
        assert_eq!(error.to_string(), "IQ2_XS cannot be dequantized");
    }

    #[test]
    fn chunks_divide_into_blocks_of_every_type() {
        for kind in (0..64).filter_map(GgmlType::from_code) {
            assert_eq!(CHUNK_ELEMENTS % kind.block_elements(), 0, "{kind}");
        }
    }

    #[test]
    fn many_threads_give_what_one_gives() {
        let elements = CHUNK_ELEMENTS * 2 + 96;
        let bytes: Vec<u8> = (0..elements / 32 * 34)
            .map(|i| u8::try_from(i * 37 % 251).unwrap())
            .collect();
        let mut threaded = vec![0.0; elements];
        dequantize_into(GgmlType::Q8_0, &bytes, &mut threaded).unwrap();
        let mut single = vec![0.0; elements];
        legacy::q8_0(&bytes, &mut single);
        assert!(
            threaded
                .iter()
                .zip(&single)
                .all(|(a, b)| a.to_bits() == b.to_bits())
        );
    }
}

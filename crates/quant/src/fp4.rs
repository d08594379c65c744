//! FP4: a sign, two bits of exponent, one of mantissa.

use std::sync::LazyLock;

use crate::codebook::Codebook;

/// The largest number before normalisation.
const LARGEST: f32 = 12.0;

/// The smallest number but zero before normalisation, the only one with an empty exponent field.
const SUBNORMAL: f32 = 1.0 / 16.0;

/// The 4-bit floating-point codebook of bitsandbytes.
///
/// Of the code `s ee m`, `s` is the sign; with exponent field `e > 0` the number is
/// `(1 + m/2)·2^(4 - e)`, with `e = 0` it is zero or `1/16`; all are divided by the largest, 12.
/// This is not the E2M1 of the OCP formats: the exponent counts downwards, and the subnormal lies
/// far below the normal numbers.
/// The code of minus zero stands for zero.
///
/// # Source
/// - reference: bitsandbytes `functional.py::get_4bit_type`; golden
///   `fixtures/quant/tables.safetensors`
pub fn fp4_codebook() -> &'static Codebook {
    static FP4: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(values()));
    &FP4
}

fn values() -> [f32; 16] {
    std::array::from_fn(|code| {
        let value = magnitude(code >> 1 & 3, code & 1) / LARGEST;
        if code & 8 == 0 { value } else { 0.0 - value }
    })
}

fn magnitude(exponent: usize, mantissa: usize) -> f32 {
    match (exponent, mantissa) {
        (0, 0) => 0.0,
        (0, _) => SUBNORMAL,
        (_, 0) => f32::from(16_u8 >> exponent),
        _ => 1.5 * f32::from(16_u8 >> exponent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_values_are_the_constants_of_bitsandbytes() {
        let published = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
        let values = fp4_codebook().values();
        for (code, expected) in published.into_iter().enumerate() {
            assert_eq!(values[code], expected / 12.0);
            assert_eq!(values[code + 8], -expected / 12.0);
        }
        assert!(values[8].is_sign_positive());
    }

    #[test]
    fn both_zeros_are_zero_and_small_positive_numbers_take_the_second() {
        let fp4 = fp4_codebook();
        let codes = [0.0, -0.0, 1e-6].map(|x| fp4.encode(x));
        assert_eq!(codes, [0, 0, 8]);
        assert_eq!(fp4.decode(8), 0.0);
    }
}

//! The number types that weights are dequantized to.

use half::{bf16, f16};

/// A floating-point type that weights are dequantized to: `f32`, `f16` or `bf16`.
pub trait WeightFloat: Copy + Send + Sync + sealed::Sealed {
    /// The nearest number of this type, ties to even.
    fn round_from(x: f32) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

impl WeightFloat for f32 {
    #[inline]
    fn round_from(x: f32) -> Self {
        x
    }
}

impl WeightFloat for f16 {
    #[inline]
    fn round_from(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl WeightFloat for bf16 {
    #[inline]
    fn round_from(x: f32) -> Self {
        // Without branches, so that the compiler makes vectors of it; the scales of a weight are
        // finite, so that the only NaN is the quiet one of an overflow times zero.
        let bits = x.to_bits();
        let to_even = bits >> 16 & 1;
        let [.., low, high] = bits.wrapping_add(0x7fff + to_even).to_le_bytes();
        Self::from_bits(u16::from_le_bytes([low, high]))
    }
}

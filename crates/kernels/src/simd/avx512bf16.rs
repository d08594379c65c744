//! AVX-512 with products of bf16 pairs.

use std::sync::OnceLock;

use super::{detected, permitted};

/// Proof that the processor has AVX-512 F, BW, DQ, VL and BF16.
///
/// No [`Simd`](super::Simd) of its own: only products of bf16 operands differ from AVX-512.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512Bf16(());

impl Avx512Bf16 {
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        let found = detected(&FOUND, || {
            is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bf16")
        });
        (found && permitted(3)).then_some(Self(()))
    }
}

//! The races of single operations: which, at which sizes, against whom.

use crate::protocol::{Number, Operation, OperationKind};

/// Whom an operation of ours is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opponent {
    /// Another operation of ours, in a process of its own.
    Ours(OperationKind),
    /// An operation of torch or bitsandbytes.
    Torch(OperationKind),
}

/// A race of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperationCase {
    /// The name it is stored under.
    pub name: &'static str,
    /// What we do.
    pub kind: OperationKind,
    /// What the other does.
    pub opponent: Opponent,
    /// Number formats in which it is measured.
    pub dtypes: &'static [Number],
    /// `[m, k, n]` of the operation, see [`Operation`].
    pub shapes: &'static [[usize; 3]],
}

const F32: &[Number] = &[Number::F32];
const BF16: &[Number] = &[Number::Bf16];
const BOTH: &[Number] = &[Number::F32, Number::Bf16];

/// Rows of a decoded token, a small batch, a prompt, and a training batch, through a square matrix
/// of a large model and a flat one of a small model.
const PRODUCTS: &[[usize; 3]] = &[
    [1, 4096, 4096],
    [16, 4096, 4096],
    [256, 4096, 4096],
    [2048, 4096, 4096],
    [1, 576, 1536],
    [16, 576, 1536],
    [256, 576, 1536],
    [2048, 576, 1536],
];
/// [`PRODUCTS`] without the training batch.
const INFERENCE: &[[usize; 3]] = &[
    [1, 4096, 4096],
    [16, 4096, 4096],
    [256, 4096, 4096],
    [1, 576, 1536],
    [16, 576, 1536],
    [256, 576, 1536],
];
const LARGE: &[[usize; 3]] = &[[256, 4096, 4096], [2048, 576, 1536]];
const MATRIX: &[[usize; 3]] = &[[0, 4096, 4096]];
const ACTIVATIONS: &[[usize; 3]] = &[[1024, 576, 0], [1024, 4096, 0]];
const HEADS: &[[usize; 3]] = &[[1024, 256, 9], [2048, 2048, 9]];
const VOCABULARY: &[[usize; 3]] = &[[1024, 576, 49152]];

use OperationKind as Kind;

/// The races.
pub const OPERATION_CASES: &[OperationCase] = &[
    case(
        "nf4_vs_dense",
        Kind::Nf4,
        Opponent::Ours(Kind::Dense),
        BOTH,
        PRODUCTS,
    ),
    case(
        "nf4_vs_torch_dense",
        Kind::Nf4,
        Opponent::Torch(Kind::Dense),
        BOTH,
        PRODUCTS,
    ),
    case(
        "nf4_vs_bnb",
        Kind::Nf4,
        Opponent::Torch(Kind::Nf4),
        BOTH,
        PRODUCTS,
    ),
    case(
        "nf4_vs_bnb_packed",
        Kind::Nf4,
        Opponent::Torch(Kind::Nf4Packed),
        BF16,
        INFERENCE,
    ),
    case(
        "nf4_vs_burn_q4",
        Kind::Nf4,
        Opponent::Ours(Kind::BurnQuantized),
        F32,
        LARGE,
    ),
    case(
        "nf4_step_vs_dense",
        Kind::Nf4Gradient,
        Opponent::Ours(Kind::DenseGradient),
        BOTH,
        LARGE,
    ),
    case(
        "nf4_step_vs_bnb",
        Kind::Nf4Gradient,
        Opponent::Torch(Kind::Nf4Gradient),
        BOTH,
        LARGE,
    ),
    case(
        "dense_vs_torch",
        Kind::Dense,
        Opponent::Torch(Kind::Dense),
        BOTH,
        PRODUCTS,
    ),
    case(
        "dense_step_vs_torch",
        Kind::DenseGradient,
        Opponent::Torch(Kind::DenseGradient),
        BOTH,
        LARGE,
    ),
    case(
        "quantize_vs_bnb",
        Kind::Quantize,
        Opponent::Torch(Kind::Quantize),
        F32,
        MATRIX,
    ),
    case(
        "dequantize_vs_bnb",
        Kind::Dequantize,
        Opponent::Torch(Kind::Dequantize),
        F32,
        MATRIX,
    ),
    case(
        "rms_norm_vs_torch",
        Kind::RmsNorm,
        Opponent::Torch(Kind::RmsNorm),
        F32,
        ACTIVATIONS,
    ),
    case(
        "swiglu_vs_torch",
        Kind::Swiglu,
        Opponent::Torch(Kind::Swiglu),
        F32,
        ACTIVATIONS,
    ),
    case(
        "attention_vs_torch",
        Kind::Attention,
        Opponent::Torch(Kind::Attention),
        F32,
        HEADS,
    ),
    case(
        "cross_entropy_vs_unfused",
        Kind::CrossEntropy,
        Opponent::Ours(Kind::UnfusedCrossEntropy),
        F32,
        VOCABULARY,
    ),
    case(
        "cross_entropy_vs_torch",
        Kind::CrossEntropy,
        Opponent::Torch(Kind::CrossEntropy),
        BOTH,
        VOCABULARY,
    ),
];

const fn case(
    name: &'static str,
    kind: OperationKind,
    opponent: Opponent,
    dtypes: &'static [Number],
    shapes: &'static [[usize; 3]],
) -> OperationCase {
    OperationCase {
        name,
        kind,
        opponent,
        dtypes,
        shapes,
    }
}

impl OperationCase {
    /// The operation of one side.
    pub fn operation(kind: OperationKind, [m, k, n]: [usize; 3], dtype: Number) -> Operation {
        Operation {
            kind,
            m,
            k,
            n,
            dtype,
        }
    }

    /// What [`rate`](Self::rate) counts.
    pub fn unit(&self) -> &'static str {
        match self.kind {
            Kind::Quantize | Kind::Dequantize | Kind::RmsNorm | Kind::Swiglu => "GB/s",
            _ => "GFLOP/s",
        }
    }

    /// Billions of multiplications and additions, or of bytes of f32 read or written once, a second.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 operations")]
    pub fn rate(&self, [m, k, n]: [usize; 3], seconds: f64) -> f64 {
        let product = 2.0 * m as f64 * k as f64 * n as f64;
        let work = match self.kind {
            Kind::Quantize | Kind::Dequantize => 4.0 * k as f64 * n as f64,
            Kind::RmsNorm => 4.0 * 4.0 * m as f64 * k as f64,
            Kind::Swiglu => 4.0 * 6.0 * m as f64 * k as f64,
            Kind::DenseGradient | Kind::Nf4Gradient | Kind::CrossEntropy => 2.0 * product,
            // Two products forward and five backward of which causality leaves half.
            Kind::Attention => 7.0 * m as f64 * k as f64 * n as f64 * 64.0,
            _ => product,
        };
        work / seconds / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_the_work() {
        let rate = |name: &str, shape| {
            let case = OPERATION_CASES
                .iter()
                .find(|case| case.name == name)
                .unwrap();
            case.rate(shape, 1e-3)
        };
        assert_eq!(rate("dense_vs_torch", [10, 100, 1000]), 2.0);
        assert_eq!(rate("dense_step_vs_torch", [10, 100, 1000]), 4.0);
        assert_eq!(rate("quantize_vs_bnb", [0, 100, 1000]), 0.4);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = OPERATION_CASES.iter().map(|case| case.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), OPERATION_CASES.len());
    }
}

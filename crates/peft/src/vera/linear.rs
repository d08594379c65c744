//! `VeRA` on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::VeraConfig;
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo, SharedTensor};
use crate::tensors::TensorName;

/// A low-rank update whose matrices are random, fixed and the same in all modules.
///
/// `y = x·W₀ᵀ + b + λ_b ∘ ((λ_d ∘ (dropout(x)·Aᵀ))·Bᵀ)`
///
/// Only the two vectors are trained.
/// Modules of different widths use the first columns of `A` and the first rows of `B`.
///
/// # Shapes
/// - `vera_lambda_b`: `[d_out]`, `vera_lambda_d`: `[r]`
/// - `A`: `[r, largest d_in]`, `B`: `[largest d_out, r]`, stored once a model
///
/// # Source
/// - Kopiczko, Blankevoort and Asano 2023, `VeRA`, arXiv:2310.11454, §3.1 eq. (2)
/// - reference: peft `tuners/vera/layer.py::Linear`; goldens `fixtures/peft/vera`,
///   `fixtures/peft/vera_noproj`
#[derive(Module, Debug)]
pub struct VeraLinear {
    /// The gain of each output.
    pub vera_lambda_b: Param<Tensor<1>>,
    /// The gain of each rank.
    pub vera_lambda_d: Param<Tensor<1>>,
    vera_a: Tensor<2>,
    vera_b: Tensor<2>,
    /// Whether the shared matrices are written to the file.
    #[module(skip)]
    save_projection: bool,
    /// The probability of dropping an input.
    #[module(skip)]
    pub dropout: f64,
    /// Chooses the random numbers of dropout.
    #[module(skip)]
    key: u64,
}

impl VeraLinear {
    pub(super) fn init(
        config: &VeraConfig,
        base: &BaseLinear,
        (a, b): &(Tensor<2>, Tensor<2>),
        (seed, key): (u64, u64),
    ) -> Self {
        let place = (&base::device(base), DType::F32);
        let (r, d_out) = (config.r, base.d_out());
        let (lambda_b, lambda_d) = if config.init_weights {
            (
                Tensor::zeros([d_out], place),
                Tensor::zeros([r], place) + config.d_initial,
            )
        } else {
            (
                Tensor::ones([d_out], place),
                Stream::new(&[seed, key]).normal_tensor([r], 1.0, place),
            )
        };
        Self {
            vera_lambda_b: Param::from_tensor(lambda_b),
            vera_lambda_d: Param::from_tensor(lambda_d),
            vera_a: a.clone().to_device(place.0),
            vera_b: b.clone().to_device(place.0),
            save_projection: config.save_projection,
            dropout: config.vera_dropout,
            key,
        }
    }

    /// The parts of the shared matrices that fit this layer.
    fn slices(&self, d_in: usize, d_out: usize) -> (Tensor<2>, Tensor<2>) {
        let (mut a, mut b) = (self.vera_a.clone(), self.vera_b.clone());
        if a.dims()[1] != d_in {
            a = a.narrow(1, 0, d_in);
        }
        if b.dims()[0] != d_out {
            b = b.narrow(0, 0, d_out);
        }
        (a, b)
    }
}

impl LinearAdapter for VeraLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let (lambda_b, lambda_d) = (self.vera_lambda_b.val(), self.vera_lambda_d.val());
        let (a, b) = self.slices(input.base.d_in(), input.base.d_out());
        let x = input.dropout.apply(input.x, self.dropout, self.key);
        let inner = linear(meet(x, lambda_d.dtype()), a, None) * lambda_d.unsqueeze();
        let update = linear(inner, b, None) * lambda_b.unsqueeze();
        let dtype = y.dtype();
        y + cast(update, dtype)
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let (a, b) = self.slices(base.d_in(), base.d_out());
        let f32 = |tensor| cast(tensor, DType::F32);
        let lambda_b = cast(self.vera_lambda_b.val(), DType::F32).reshape([-1, 1]);
        let lambda_d = cast(self.vera_lambda_d.val(), DType::F32).reshape([-1, 1]);
        Ok(DeltaLinear {
            weight: Some((f32(b) * lambda_b).matmul(f32(a) * lambda_d)),
            bias: None,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("vera", Some(self.vera_lambda_d.dims()[0]))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("vera_lambda_b", "vera_lambda_b"),
                TensorName::new("vera_lambda_d", "vera_lambda_d"),
            ]
        }
    }

    fn shared(&mut self) -> Vec<SharedTensor<'_>> {
        if !self.save_projection {
            return Vec::new();
        }
        vec![
            SharedTensor {
                key: "vera_A",
                tensor: &mut self.vera_a,
            },
            SharedTensor {
                key: "vera_B",
                tensor: &mut self.vera_b,
            },
        ]
    }
}

//! `HiRA` on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::config::{HiraConfig, InitHiraWeights};
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// A low-rank matrix, multiplied elementwise with the weight, as an update of a frozen linear layer.
///
/// `y = x·W₀ᵀ + b + dropout(x)·(W₀ ∘ (B·A))ᵀ`
///
/// Over a floating-point base the update is one product with `W₀ ∘ (B·A)`, which is built for it.
/// Packed weights stay packed: with `a_k` the rows of `A` and `b_k` the columns of `B` the update is
/// `Σ_k b_k ∘ ((x ∘ a_k)·W₀ᵀ)`, `r` products with the base.
///
/// # Shapes
/// - `hira_a`: `[r, d_in]`, `hira_b`: `[d_out, r]`, as on disk
///
/// # Source
/// - Huang et al. 2025, `HiRA`, ICLR
/// - reference: peft `tuners/hira/layer.py::Linear`; golden `fixtures/peft/hira`
#[derive(Module, Debug)]
pub struct HiraLinear {
    /// Down to the rank.
    pub hira_a: Param<Tensor<2>>,
    /// Up to the output.
    pub hira_b: Param<Tensor<2>>,
    /// The probability of dropping an input.
    #[module(skip)]
    pub dropout: f64,
    /// Chooses the random numbers of dropout.
    #[module(skip)]
    key: u64,
}

impl HiraLinear {
    pub(super) fn init(
        config: &HiraConfig,
        base: &BaseLinear,
        r: usize,
        (seed, key): (u64, u64),
    ) -> Self {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let place = (&base::device(base), DType::F32);
        let stream = |part| Stream::new(&[seed, key, part]);
        let zeros = Tensor::zeros([d_out, r], place);
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let (a, b) = match config.init_weights {
            InitHiraWeights::Gaussian => (
                stream(0).normal_tensor([r, d_in], 1.0 / r as f64, place),
                zeros,
            ),
            InitHiraWeights::Random => (
                stream(0).normal_tensor([r, d_in], 1.0, place),
                stream(1).normal_tensor([d_out, r], 1.0, place),
            ),
            InitHiraWeights::Kaiming | InitHiraWeights::Other(_) => {
                (stream(0).kaiming_uniform([r, d_in], place), zeros)
            }
        };
        Self {
            hira_a: Param::from_tensor(a),
            hira_b: Param::from_tensor(b),
            dropout: config.hira_dropout,
            key,
        }
    }

    /// The rank.
    pub fn r(&self) -> usize {
        self.hira_a.dims()[0]
    }

    /// `B·A`, `[d_out, d_in]`.
    fn product(&self) -> Tensor<2> {
        self.hira_b.val().matmul(self.hira_a.val())
    }

    /// `Σ_k b_k ∘ ((x ∘ a_k)·Wᵀ)`.
    fn update_packed(&self, base: &BaseLinear, x: Tensor<2>) -> Tensor<2> {
        let (r, d_out) = (self.r(), base.d_out());
        let [rows, d_in] = x.dims();
        let scaled = x.unsqueeze_dim::<3>(1) * self.hira_a.val().unsqueeze_dim::<3>(0);
        let products = base::product(base, scaled.reshape([rows * r, d_in]));
        let gains = self.hira_b.val().transpose().unsqueeze_dim::<3>(0);
        (products.reshape([rows, r, d_out]) * gains)
            .sum_dim(1)
            .reshape([rows, d_out])
    }
}

impl LinearAdapter for HiraLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let param = self.hira_a.dtype();
        let x = input.dropout.apply(input.x, self.dropout, self.key);
        let x = meet(x, param);
        let update = match input.base {
            BaseLinear::Dense(dense) => {
                let weight = cast(dense.weight.val(), param) * self.product();
                linear(x, weight, None)
            }
            packed => self.update_packed(packed, x),
        };
        let dtype = y.dtype();
        y + cast(update, dtype)
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let weight = cast(base::dense_weight(base), DType::F32);
        Ok(DeltaLinear {
            weight: Some(weight * cast(self.product(), DType::F32)),
            bias: None,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("hira", Some(self.r()))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("hira_a", "hira_A"),
                TensorName::new("hira_b", "hira_B"),
            ]
        }
    }
}

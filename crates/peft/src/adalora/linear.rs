//! `AdaLoRA` on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor, TensorData};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::AdaLoraConfig;
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::lora::InitLoraWeights;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// The deviation of the factors at the start.
const STD: f64 = 0.02;

/// A low-rank update of a frozen linear layer with a gain for each rank, `P·Λ·Q`.
///
/// `y = x·W₀ᵀ + b + scaling · (λ ∘ (dropout(x)·Aᵀ))·Bᵀ`, with
/// `scaling = lora_alpha / (init_r + 1e-5)`
///
/// `A` and `B` play the parts of right and left singular vectors, held near orthogonality by
/// [`orthogonal_penalty`](super::orthogonal_penalty), and `λ` that of the singular values, some of
/// which [`AdaLoraAllocator`](super::AdaLoraAllocator) sets to zero.
///
/// # Shapes
/// - `lora_a`: `[r, d_in]`, `lora_e`: `[r, 1]`, `lora_b`: `[d_out, r]`, as on disk
///
/// # Source
/// - Zhang et al. 2023, `AdaLoRA`, arXiv:2303.10512, §3.1 eq. (3)
/// - reference: peft `tuners/adalora/layer.py::SVDLinear`; golden `fixtures/peft/adalora`
#[derive(Module, Debug)]
pub struct AdaLoraLinear {
    /// Down to the rank.
    pub lora_a: Param<Tensor<2>>,
    /// The gain of each rank.
    pub lora_e: Param<Tensor<2>>,
    /// Up to the output.
    pub lora_b: Param<Tensor<2>>,
    /// The factor before the update.
    #[module(skip)]
    pub scaling: f64,
    /// The probability of dropping an input.
    #[module(skip)]
    pub dropout: f64,
    /// The ranks that are kept, once some have been given away.
    #[module(skip)]
    pub(super) kept: Option<Vec<bool>>,
    /// Chooses the random numbers of dropout.
    #[module(skip)]
    key: u64,
}

impl AdaLoraLinear {
    pub(super) fn init(
        config: &AdaLoraConfig,
        base: &BaseLinear,
        r: usize,
        (seed, key): (u64, u64),
    ) -> Self {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let place = (&base::device(base), DType::F32);
        let normal = |part: u64, shape: [usize; 2], std| {
            Stream::new(&[seed, key, part]).normal_tensor(shape, std, place)
        };
        let zero = config.lora.init_lora_weights == InitLoraWeights::Kaiming;
        let std = if zero { STD } else { 1.0 };
        let gains = if zero {
            Tensor::zeros([r, 1], place)
        } else {
            normal(2, [r, 1], 1.0)
        };
        Self {
            lora_a: Param::from_tensor(normal(0, [r, d_in], std)),
            lora_e: Param::from_tensor(gains),
            lora_b: Param::from_tensor(normal(1, [d_out, r], std)),
            scaling: config.scaling(r),
            dropout: config.lora.lora_dropout,
            kept: None,
            key,
        }
    }

    /// The rank.
    pub fn r(&self) -> usize {
        self.lora_a.dims()[0]
    }
}

impl LinearAdapter for AdaLoraLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        if self.r() == 0 {
            return y;
        }
        let a = self.lora_a.val();
        let x = input.dropout.apply(input.x, self.dropout, self.key);
        let gains = self.lora_e.val().reshape([1, -1]);
        let inner = linear(meet(x, a.dtype()), a, None) * gains;
        let update = linear(inner, self.lora_b.val(), None) * self.scaling;
        let dtype = y.dtype();
        y + cast(update, dtype)
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let weight = if self.r() == 0 {
            let place = (&base::device(base), DType::F32);
            Tensor::zeros([base.d_out(), base.d_in()], place)
        } else {
            let scaled = cast(self.lora_a.val(), DType::F32) * cast(self.lora_e.val(), DType::F32);
            cast(self.lora_b.val(), DType::F32).matmul(scaled) * self.scaling
        };
        Ok(DeltaLinear {
            weight: Some(weight),
            bias: None,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("adalora", Some(self.r()))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("lora_a", "lora_A"),
                TensorName::new("lora_e", "lora_E"),
                TensorName::new("lora_b", "lora_B"),
            ]
        }
    }

    fn stored(&self) -> Self {
        let Some(kept) = &self.kept else {
            return self.clone();
        };
        #[expect(clippy::cast_possible_wrap, reason = "ranks are small")]
        let rows: Vec<i64> = (0..kept.len())
            .filter(|&k| kept[k])
            .map(|k| k as i64)
            .collect();
        let picked = |param: &Param<Tensor<2>>, dim| {
            let rows = TensorData::new(rows.clone(), [rows.len()]);
            let rows = Tensor::<1, Int>::from_data(rows, &param.device());
            Param::from_tensor(param.val().select(dim, rows).detach())
        };
        Self {
            lora_a: picked(&self.lora_a, 0),
            lora_e: picked(&self.lora_e, 0),
            lora_b: picked(&self.lora_b, 1),
            kept: None,
            ..self.clone()
        }
    }
}

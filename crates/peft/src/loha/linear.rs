//! `LoHa` on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::LoHaConfig;
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::lycoris::UpdateDropout;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// The elementwise product of two low-rank updates of a frozen linear layer.
///
/// `y = x·W₀ᵀ + b + scaling · x·((A₁·B₁) ∘ (A₂·B₂))ᵀ`, with `scaling = alpha / r`
///
/// The product has rank `r²`: with `⊙` pairing every column of the one with every column of the
/// other it is `(A₁ ⊙ A₂)·(B₁ ⊙ B₂)`, and is computed so in activation space as long as that is
/// smaller than a dense matrix.
///
/// # Shapes
/// - `hada_w1_a`, `hada_w2_a`: `[d_out, r]`; `hada_w1_b`, `hada_w2_b`: `[r, d_in]`
///
/// # Source
/// - Hyeon-Woo, Ye-Bin and Oh 2021, `FedPara`, arXiv:2108.06098, §2.2, proposition 1
/// - Yeh et al. 2023, `LyCORIS`, arXiv:2309.14859
/// - reference: peft `tuners/loha/layer.py::Linear`; golden `fixtures/peft/loha`
#[derive(Module, Debug)]
pub struct LoHaLinear {
    /// `A₁`.
    pub hada_w1_a: Param<Tensor<2>>,
    /// `B₁`.
    pub hada_w1_b: Param<Tensor<2>>,
    /// `A₂`.
    pub hada_w2_a: Param<Tensor<2>>,
    /// `B₂`.
    pub hada_w2_b: Param<Tensor<2>>,
    /// The factor before the update.
    #[module(skip)]
    pub scaling: f64,
    #[module(skip)]
    dropout: UpdateDropout,
}

impl LoHaLinear {
    pub(super) fn init(
        config: &LoHaConfig,
        base: &BaseLinear,
        (r, alpha): (usize, f64),
        (seed, key): (u64, u64),
    ) -> Self {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let place = (&base::device(base), DType::F32);
        let random = |part: u64, shape: [usize; 2]| {
            Param::from_tensor(Stream::new(&[seed, key, part]).kaiming_uniform(shape, place))
        };
        let last = if config.init_weights {
            Param::from_tensor(Tensor::zeros([r, d_in], place))
        } else {
            random(3, [r, d_in])
        };
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let scaling = alpha / r as f64;
        Self {
            hada_w1_a: random(0, [d_out, r]),
            hada_w1_b: random(1, [r, d_in]),
            hada_w2_a: random(2, [d_out, r]),
            hada_w2_b: last,
            scaling,
            dropout: config.lycoris.dropout(true, key),
        }
    }

    /// The rank of each factor.
    pub fn r(&self) -> usize {
        self.hada_w1_b.dims()[0]
    }

    /// `(A₁·B₁) ∘ (A₂·B₂)`, `[d_out, d_in]`.
    fn product(&self) -> Tensor<2> {
        let first = self.hada_w1_a.val().matmul(self.hada_w1_b.val());
        first * self.hada_w2_a.val().matmul(self.hada_w2_b.val())
    }

    /// The factors of the product, of rank `r²`: down `[r², d_in]` and up `[d_out, r²]`.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let r = self.r();
        let rows = |param: &Param<Tensor<2>>, dim| param.val().unsqueeze_dim::<3>(dim);
        let down = rows(&self.hada_w1_b, 1) * rows(&self.hada_w2_b, 0);
        let up = rows(&self.hada_w1_a, 2) * rows(&self.hada_w2_a, 1);
        let (d_in, d_out) = (down.dims()[2], up.dims()[0]);
        (down.reshape([r * r, d_in]), up.reshape([d_out, r * r]))
    }

    fn update(&self, x: Tensor<2>) -> Tensor<2> {
        let (d_out, d_in) = (self.hada_w1_a.dims()[0], self.hada_w1_b.dims()[1]);
        let rank = self.r() * self.r();
        if rank * (d_out + d_in) < d_out * d_in {
            let (down, up) = self.factors();
            linear(linear(x, down, None), up, None)
        } else {
            linear(x, self.product(), None)
        }
    }
}

impl LinearAdapter for LoHaLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        if self.dropout.drops_all(&input.dropout) {
            return y;
        }
        let update = self.update(meet(input.x, self.hada_w1_a.dtype())) * self.scaling;
        let update = self.dropout.apply(update, &input.dropout);
        let dtype = y.dtype();
        y + cast(update, dtype)
    }

    fn delta(&self, _base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        Ok(DeltaLinear {
            weight: Some(cast(self.product(), DType::F32) * self.scaling),
            bias: None,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("loha", Some(self.r()))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("hada_w1_a", "hada_w1_a"),
                TensorName::new("hada_w1_b", "hada_w1_b"),
                TensorName::new("hada_w2_a", "hada_w2_a"),
                TensorName::new("hada_w2_b", "hada_w2_b"),
            ]
        }
    }
}

//! `LoKr` on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use flametune_kernels::linear;
use flametune_quant::BaseLinear;

use super::config::{InitLokrWeights, LoKrConfig};
use super::shape::KroneckerShape;
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::lycoris::UpdateDropout;
use crate::random::Stream;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

type Matrix = Param<Tensor<2>>;

/// The Kronecker product of two small matrices as an update of a frozen linear layer.
///
/// `y = x·W₀ᵀ + b + scaling · x·(W₁ ⊗ W₂)ᵀ`, with `scaling = alpha / r`
///
/// Each of the two is a matrix, or a product of two of rank `r`.
/// The update is computed in activation space: with `x` cut into `in_m` rows `X` of `in_n` numbers it
/// is `W₁·X·W₂ᵀ`.
///
/// # Shapes
/// - `lokr_w1`: `[out_l, in_m]`, or `lokr_w1_a`: `[out_l, r]` and `lokr_w1_b`: `[r, in_m]`
/// - `lokr_w2`: `[out_k, in_n]`, or `lokr_w2_a`: `[out_k, r]` and `lokr_w2_b`: `[r, in_n]`
/// - `out_l·out_k = d_out`, `in_m·in_n = d_in`
///
/// # Source
/// - Yeh et al. 2023, `LyCORIS`, arXiv:2309.14859
/// - reference: peft `tuners/lokr/layer.py::Linear`; goldens `fixtures/peft/lokr`,
///   `fixtures/peft/lokr_both_f4`
#[derive(Module, Debug)]
pub struct LoKrLinear {
    /// `W₁`.
    pub lokr_w1: Option<Matrix>,
    /// The left factor of `W₁`.
    pub lokr_w1_a: Option<Matrix>,
    /// The right factor of `W₁`.
    pub lokr_w1_b: Option<Matrix>,
    /// `W₂`.
    pub lokr_w2: Option<Matrix>,
    /// The left factor of `W₂`.
    pub lokr_w2_a: Option<Matrix>,
    /// The right factor of `W₂`.
    pub lokr_w2_b: Option<Matrix>,
    #[module(skip)]
    shape: KroneckerShape,
    #[module(skip)]
    r: usize,
    /// The factor before the update.
    #[module(skip)]
    pub scaling: f64,
    #[module(skip)]
    dropout: UpdateDropout,
}

/// A matrix, or the two factors of it.
type Parts = (Option<Matrix>, Option<Matrix>, Option<Matrix>);

impl LoKrLinear {
    pub(super) fn init(
        config: &LoKrConfig,
        base: &BaseLinear,
        (r, alpha): (usize, f64),
        (seed, key): (u64, u64),
    ) -> Self {
        let factor = usize::try_from(config.decompose_factor).ok();
        let size = [base.d_out(), base.d_in()];
        let shape = KroneckerShape::new(size, factor, r, config.decompose_both);
        let place = (&base::device(base), DType::F32);
        let random = |part: u64, shape: [usize; 2]| {
            Param::from_tensor(Stream::new(&[seed, key, part]).kaiming_uniform(shape, place))
        };
        let zeros = |shape: [usize; 2]| Param::from_tensor(Tensor::zeros(shape, place));
        let (zero_first, zero_second) = match config.init_weights {
            InitLokrWeights::Lycoris => (false, true),
            InitLokrWeights::Random => (false, false),
            InitLokrWeights::Default | InitLokrWeights::Other(_) => (true, false),
        };
        // Of a product the first takes its zeros on the left, the second on the right.
        let [rows, columns] = shape.first;
        let first: Parts = match (shape.first_is_low_rank, zero_first) {
            (false, true) => (Some(zeros(shape.first)), None, None),
            (false, false) => (Some(random(0, shape.first)), None, None),
            (true, true) => (None, Some(zeros([rows, r])), Some(random(1, [r, columns]))),
            (true, false) => (
                None,
                Some(random(0, [rows, r])),
                Some(random(1, [r, columns])),
            ),
        };
        let [rows, columns] = shape.second;
        let second: Parts = match (shape.second_is_low_rank, zero_second) {
            (false, true) => (Some(zeros(shape.second)), None, None),
            (false, false) => (Some(random(2, shape.second)), None, None),
            (true, true) => (None, Some(random(2, [rows, r])), Some(zeros([r, columns]))),
            (true, false) => (
                None,
                Some(random(2, [rows, r])),
                Some(random(3, [r, columns])),
            ),
        };
        #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
        let scaling = alpha / r as f64;
        Self {
            lokr_w1: first.0,
            lokr_w1_a: first.1,
            lokr_w1_b: first.2,
            lokr_w2: second.0,
            lokr_w2_a: second.1,
            lokr_w2_b: second.2,
            shape,
            r,
            scaling,
            dropout: config.lycoris.dropout(config.rank_dropout_scale, key),
        }
    }

    /// `W₁·X·W₂ᵀ` for every row of `x`.
    fn update(&self, x: Tensor<2>) -> Tensor<2> {
        let [rows, _] = x.dims();
        let ([out_l, in_m], [out_k, in_n]) = (self.shape.first, self.shape.second);
        let second = times(
            x.reshape([rows, in_m, in_n]),
            (&self.lokr_w2, &self.lokr_w2_a, &self.lokr_w2_b),
        );
        let both = times(
            second.swap_dims(1, 2),
            (&self.lokr_w1, &self.lokr_w1_a, &self.lokr_w1_b),
        );
        both.swap_dims(1, 2).reshape([rows, out_l * out_k])
    }

    /// `W₁ ⊗ W₂`, `[d_out, d_in]` in f32.
    fn kronecker(&self) -> Tensor<2> {
        let ([out_l, in_m], [out_k, in_n]) = (self.shape.first, self.shape.second);
        let first = whole(
            (&self.lokr_w1, &self.lokr_w1_a, &self.lokr_w1_b),
            [out_l, in_m],
        );
        let second = whole(
            (&self.lokr_w2, &self.lokr_w2_a, &self.lokr_w2_b),
            [out_k, in_n],
        );
        let product = first.reshape([out_l, 1, in_m, 1]) * second.reshape([1, out_k, 1, in_n]);
        product.reshape([out_l * out_k, in_m * in_n])
    }
}

type PartRefs<'a> = (&'a Option<Matrix>, &'a Option<Matrix>, &'a Option<Matrix>);

/// `x·Wᵀ` with a matrix, or through its factors.
fn times(x: Tensor<3>, parts: PartRefs<'_>) -> Tensor<3> {
    match parts {
        (Some(matrix), _, _) => linear(x, matrix.val(), None),
        (None, Some(left), Some(right)) => linear(linear(x, right.val(), None), left.val(), None),
        // A factor is whole or in two parts, by construction.
        (None, _, _) => x,
    }
}

/// The matrix that parts stand for, in f32.
fn whole(parts: PartRefs<'_>, shape: [usize; 2]) -> Tensor<2> {
    let value = |matrix: &Matrix| cast(matrix.val(), DType::F32);
    match parts {
        (Some(matrix), _, _) => value(matrix),
        (None, Some(left), Some(right)) => value(left).matmul(value(right)),
        // A factor is whole or in two parts, by construction.
        (None, _, _) => Tensor::zeros(shape, &Device::default()),
    }
}

impl LinearAdapter for LoKrLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        if self.dropout.drops_all(&input.dropout) {
            return y;
        }
        let param = self.lokr_w2.as_ref().or(self.lokr_w2_a.as_ref());
        let x = match param {
            Some(param) => meet(input.x, param.dtype()),
            None => input.x,
        };
        let update = self.update(x) * self.scaling;
        let update = self.dropout.apply(update, &input.dropout);
        let dtype = y.dtype();
        y + cast(update, dtype)
    }

    fn delta(&self, _base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        Ok(DeltaLinear {
            weight: Some(self.kronecker() * self.scaling),
            bias: None,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("lokr", Some(self.r))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("lokr_w1", "lokr_w1"),
                TensorName::new("lokr_w1_a", "lokr_w1_a"),
                TensorName::new("lokr_w1_b", "lokr_w1_b"),
                TensorName::new("lokr_w2", "lokr_w2"),
                TensorName::new("lokr_w2_a", "lokr_w2_a"),
                TensorName::new("lokr_w2_b", "lokr_w2_b"),
            ]
        }
    }
}

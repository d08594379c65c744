//! LoRA on a linear layer.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor};
use flametune_kernels::{LoraBase, LoraFactors, linear, lora_linear};
use flametune_quant::BaseLinear;

use super::config::{InitLoraWeights, LoraConfig};
use super::{dora, init};
use crate::base::{self, cast, meet};
use crate::error::Result;
use crate::random::{Stream, fan_in_bound};
use crate::selection::Dropout;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// A low-rank update of a frozen linear layer, computed in activation space.
///
/// `y = x·W₀ᵀ + b + scaling · (dropout(x)·Aᵀ)·Bᵀ`
///
/// With a magnitude vector `m` (DoRA) the sum without `b` is multiplied by
/// `m / ‖W₀ + scaling·B·A‖`, the norm of each row, taken as a constant by the gradient.
///
/// # Shapes
/// - `lora_a`: `[r, d_in]`, `lora_b`: `[d_out, r]`, as on disk
/// - `lora_bias`, `lora_magnitude_vector`: `[d_out]`
///
/// # Source
/// - Hu et al. 2021, LoRA, arXiv:2106.09685, §4.1 eq. (3)
/// - Kalajdzievski 2023, rsLoRA, arXiv:2312.03732: `scaling = lora_alpha / √r`
/// - Liu et al. 2024, DoRA, arXiv:2402.09353, §4 eq. (5) and §4.3
/// - reference: peft `tuners/lora/layer.py::Linear`, `tuners/lora/dora.py`; goldens `fixtures/peft`
#[derive(Module, Debug)]
pub struct LoraLinear {
    /// Down to the rank.
    pub lora_a: Param<Tensor<2>>,
    /// Up to the output.
    pub lora_b: Param<Tensor<2>>,
    /// The bias of `B`.
    pub lora_bias: Option<Param<Tensor<1>>>,
    /// The length of each row of the adapted weight (DoRA).
    pub lora_magnitude_vector: Option<Param<Tensor<1>>>,
    /// The factors that `A` and `B` began with, where they are taken off the base (PiSSA, OLoRA).
    initial: Option<InitialFactors>,
    /// `‖W₀‖²` of each row, for DoRA.
    base_norms: Option<Tensor<1>>,
    /// The factor before `B·A`.
    #[module(skip)]
    pub scaling: f64,
    /// The probability of dropping an input.
    #[module(skip)]
    pub dropout: f64,
    /// Chooses the random numbers of dropout.
    #[module(skip)]
    key: u64,
}

/// The factors that an adapter began with.
///
/// PEFT takes `scaling · B₀·A₀` off the base's weight. Here the base stays as it is, for other
/// adapters and for none, and the adapter computes `scaling · (B·A − B₀·A₀)`, which is the same.
#[derive(Module, Debug)]
pub(crate) struct InitialFactors {
    a: Tensor<2>,
    b: Tensor<2>,
}

/// `scaling · (x·Aᵀ)·Bᵀ`, plus the scaled bias of `B`.
fn low_rank(
    x: Tensor<2>,
    a: Tensor<2>,
    b: Tensor<2>,
    bias: Option<Tensor<1>>,
    scaling: f64,
) -> Tensor<2> {
    linear(linear(x, a, None), b, bias) * scaling
}

impl LoraLinear {
    /// New factors for `base`, of rank `r`; `key` stands for the module.
    pub(crate) fn init(
        config: &LoraConfig,
        base: &BaseLinear,
        (r, lora_alpha): (usize, f64),
        (seed, key): (u64, u64),
    ) -> Result<Self> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let place = (&base::device(base), DType::F32);
        let stream = |part| Stream::new(&[seed, key, part]);
        let (a, b) = match config.init_lora_weights {
            InitLoraWeights::Gaussian => (
                init::gaussian(stream(0), r, d_in, place),
                Tensor::zeros([d_out, r], place),
            ),
            InitLoraWeights::Orthogonal => {
                init::orthogonal_pair(stream(0), r, (d_in, d_out), place)
            }
            InitLoraWeights::Random => (
                stream(0).kaiming_uniform([r, d_in], place),
                stream(1).kaiming_uniform([d_out, r], place),
            ),
            InitLoraWeights::Pissa => init::pissa(base, r, config.scaling(r, lora_alpha), place)?,
            InitLoraWeights::PissaNiter(iterations) => {
                // A function of the module alone, so that loading finds the same factors again.
                let scaling = config.scaling(r, lora_alpha);
                init::pissa_niter(base, (r, iterations), scaling, Stream::new(&[key]), place)?
            }
            InitLoraWeights::Olora => init::olora(base, r, place),
            // The factors of LoftQ and EVA follow when all parts are in their places.
            InitLoraWeights::Kaiming
            | InitLoraWeights::Loftq
            | InitLoraWeights::Eva
            | InitLoraWeights::Other(_) => (
                stream(0).kaiming_uniform([r, d_in], place),
                Tensor::zeros([d_out, r], place),
            ),
        };
        let lora_bias = config.lora_bias.then(|| match config.init_lora_weights {
            InitLoraWeights::Random => stream(2).uniform_tensor([d_out], fan_in_bound(r), place),
            _ => Tensor::zeros([d_out], place),
        });
        let initial = config
            .init_lora_weights
            .takes_from_base()
            .then(|| InitialFactors {
                a: a.clone(),
                b: b.clone(),
            });
        let mut adapter = Self {
            initial,
            lora_a: Param::from_tensor(a),
            lora_b: Param::from_tensor(b),
            lora_bias: lora_bias.map(Param::from_tensor),
            lora_magnitude_vector: None,
            base_norms: None,
            scaling: config.scaling(r, lora_alpha),
            dropout: config.lora_dropout,
            key,
        };
        if config.use_dora {
            adapter.lora_magnitude_vector = Some(Param::from_tensor(Tensor::zeros([d_out], place)));
            adapter.begin_magnitude(base);
        }
        Ok(adapter)
    }

    /// Lets the magnitudes begin at the lengths of the rows (DoRA).
    pub(super) fn begin_magnitude(&mut self, base: &BaseLinear) {
        if self.lora_magnitude_vector.is_some() {
            self.base_norms = Some(dora::squared_row_norms(base));
            self.lora_magnitude_vector = Some(Param::from_tensor(self.row_norms(base)));
        }
    }

    /// The rank.
    pub fn r(&self) -> usize {
        self.lora_a.dims()[0]
    }

    /// `A` and `B`, with the initial factors below and beside them where there are some.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let (a, b) = (self.lora_a.val(), self.lora_b.val());
        match &self.initial {
            None => (a, b),
            Some(initial) => {
                let (a0, b0) = (
                    cast(initial.a.clone(), a.dtype()),
                    cast(initial.b.clone(), b.dtype()),
                );
                (
                    Tensor::cat(vec![a, a0], 0),
                    Tensor::cat(vec![b, b0.neg()], 1),
                )
            }
        }
    }

    /// `B·A` with the scaling, `[d_out, d_in]` in f32.
    fn delta_weight(&self) -> Tensor<2> {
        let (a, b) = self.factors();
        cast(b, DType::F32).matmul(cast(a, DType::F32)) * self.scaling
    }

    /// `‖W₀ + scaling·B·A‖` of each row, without a gradient.
    fn row_norms(&self, base: &BaseLinear) -> Tensor<1> {
        let squares = match &self.base_norms {
            Some(norms) => norms.clone(),
            None => dora::squared_row_norms(base),
        };
        let (a, b) = self.factors();
        let product = |a| base::product(base, a);
        dora::adapted_norms(squares, product, a, b, self.scaling)
    }

    /// The factors for the fused operation, if that is all there is to the adapter: neither a bias
    /// of `B` nor a magnitude vector.
    pub(crate) fn fused(&self, dropout: Dropout<'_>) -> Option<LoraFactors> {
        if self.lora_bias.is_some() || self.lora_magnitude_vector.is_some() {
            return None;
        }
        Some(self.lora_factors(dropout))
    }

    /// The factors for the fused operation.
    fn lora_factors(&self, dropout: Dropout<'_>) -> LoraFactors {
        let (a, b) = self.factors();
        LoraFactors {
            a,
            b,
            scaling: self.scaling,
            dropout: dropout.kernel(self.dropout, self.key),
        }
    }

    /// `W·x + scaling·B·A·x`, with the bias of `B`, from `plain = W·x`.
    fn with_update(&self, x: Tensor<2>, plain: Tensor<2>) -> Tensor<2> {
        match &self.lora_bias {
            Some(_) => plain + self.update(x),
            None => {
                let factors = self.lora_factors(Dropout::default());
                lora_linear(x, LoraBase::Output(plain), factors)
            }
        }
    }

    fn update(&self, x: Tensor<2>) -> Tensor<2> {
        let (a, b) = self.factors();
        let bias = self.lora_bias.as_ref().map(Param::val);
        low_rank(x, a, b, bias, self.scaling)
    }
}

impl LinearAdapter for LoraLinear {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        let LinearInput {
            base,
            x,
            base_output,
            dropout,
        } = input;
        let dtype = y.dtype();
        let x = dropout.apply(x, self.dropout, self.key);
        if let Some(factors) = self.fused(Dropout::default()) {
            return lora_linear(x, LoraBase::Output(y), factors);
        }
        let parts = meet(x.clone(), self.lora_a.dtype());
        let Some(magnitude) = &self.lora_magnitude_vector else {
            return y + cast(self.update(parts), dtype);
        };
        let gain = (magnitude.val() / self.row_norms(base)).unsqueeze::<2>();
        // What the base computes without its bias, from the same input as the update.
        let plain = if dropout.is_active(self.dropout) {
            base::product(base, x)
        } else {
            match base::bias(base) {
                Some(bias) => {
                    let dtype = base_output.dtype();
                    base_output - cast(bias, dtype).unsqueeze()
                }
                None => base_output,
            }
        };
        let plain = cast(plain, gain.dtype());
        // The gradient of the gain needs their sum, and no other output is kept.
        let change = self.with_update(parts, plain.clone()) * gain - plain;
        y + cast(change, dtype)
    }

    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        let bias = match &self.lora_bias {
            Some(bias) if base::bias(base).is_some() => Some(bias.val() * self.scaling),
            Some(_) => return Err("B has a bias and the layer has none"),
            None => None,
        };
        let update = self.delta_weight();
        let weight = match &self.lora_magnitude_vector {
            None => update,
            Some(magnitude) => {
                let gain = (magnitude.val() / self.row_norms(base)).reshape([-1, 1]);
                let weight = cast(base::dense_weight(base), DType::F32);
                weight * (gain.clone() - 1.0) + update * gain
            }
        };
        Ok(DeltaLinear {
            weight: Some(weight),
            bias,
        })
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("lora", Some(self.r()))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const {
            &[
                TensorName::new("lora_a", "lora_A.weight"),
                TensorName::new("lora_b", "lora_B.weight"),
                TensorName::new("lora_bias", "lora_B.bias"),
                TensorName::new("lora_magnitude_vector", "lora_magnitude_vector"),
            ]
        }
    }

    fn refresh(&mut self, base: &BaseLinear) {
        if self.base_norms.is_some() {
            self.base_norms = Some(dora::squared_row_norms(base));
        }
    }
}

//! LoftQ: the base is quantized, and the factors begin at what that loses.

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use faer::Mat;
use flametune_quant::{BaseLinear, DenseLinear, QuantConfig, QuantKind, QuantLinear, WeightDtype};
use serde::{Deserialize, Serialize};

use super::{LoraConfig, LoraLinear, init};
use crate::base;
use crate::check::{self, invalid};
use crate::error::{Error, Result};
use crate::slots::{BaseRef, LinearAdapter, LinearMethod, NamedAdapter, SlotModule, Slots};
use crate::svd;

/// The options of LoftQ.
///
/// # Source
/// - reference: peft `tuners/lora/config.py::LoftQConfig` 0.21
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoftqConfig {
    /// 4 for NF4 in blocks of 64, 8 for int8 with a scale a row.
    pub loftq_bits: u32,
    /// How often quantization and decomposition take turns.
    pub loftq_iter: usize,
}

impl Default for LoftqConfig {
    fn default() -> Self {
        Self {
            loftq_bits: 4,
            loftq_iter: 1,
        }
    }
}

impl LoftqConfig {
    pub(super) fn validate(&self) -> Result<()> {
        check::rank("loftq_iter", self.loftq_iter)?;
        self.kind().map(|_| ())
    }

    fn kind(&self) -> Result<QuantKind> {
        match self.loftq_bits {
            4 => Ok(QuantKind::Nf4),
            8 => Ok(QuantKind::Int8Vectorwise),
            other => {
                let reason = format!("must be 4 or 8, got {other}");
                Err(invalid("loftq_bits", reason))
            }
        }
    }

    /// How a layer of this dtype is quantized: without double quantization, as PEFT does it.
    fn quantization(&self, dtype: DType) -> Result<QuantConfig> {
        Ok(QuantConfig {
            kind: self.kind()?,
            block_size: 64,
            double_quant: false,
            dtype: match dtype {
                DType::BF16 => WeightDtype::Bf16,
                DType::F16 => WeightDtype::F16,
                _ => WeightDtype::F32,
            },
        })
    }
}

/// What LoftQ makes of one layer.
struct Begun {
    layer: QuantLinear,
    /// `A [r, d_in]` and `B [d_out, r]`, which no scaling has been taken out of.
    factors: (Mat<f64>, Mat<f64>),
}

/// Quantizes and decomposes in turn: `Qₜ = quant(W − Bₜ₋₁·Aₜ₋₁)` and `Bₜ·Aₜ` the best approximation of
/// `W − Qₜ` of rank `r`, from `B₀·A₀ = 0`.
///
/// The last decomposition is left out where its factors are not wanted.
///
/// # Source
/// - Li et al. 2023, LoftQ, arXiv:2310.08659, algorithm 1
/// - reference: peft `utils/loftq_utils.py::loftq_init`; goldens
///   `fixtures/peft/init_loftq_4bit_iter5`, `fixtures/peft/init_loftq_4bit_iter1_alpha_eq_r`
/// - differs: the product with the scaling, `s·B·A`, is the approximation; PEFT leaves the scaling
///   out, so that its layer computes `Q + s·(W − Q)` and is near `W` for `s = 1` alone
fn alternate(
    dense: &DenseLinear,
    r: usize,
    options: &LoftqConfig,
    with_factors: bool,
) -> Result<Begun> {
    let config = options.quantization(dense.weight.dtype())?;
    let device = dense.weight.device();
    let weight = svd::to_host(dense.weight.val());
    let mut target = weight.clone();
    let mut step = 1;
    loop {
        let numbers = svd::to_device(&target, (&device, DType::F32));
        let shifted = DenseLinear {
            weight: Param::from_tensor(numbers),
            ..dense.clone()
        };
        let layer = QuantLinear::quantize(&shifted, config)?;
        let last = step == options.loftq_iter;
        if last && !with_factors {
            let factors = (Mat::zeros(0, 0), Mat::zeros(0, 0));
            return Ok(Begun { layer, factors });
        }
        let residual = &weight - svd::to_host(layer.dequantize());
        let (a, b) = svd::best_factors(&residual, r)?;
        if last {
            let factors = (a, b);
            return Ok(Begun { layer, factors });
        }
        target = &weight - &b * &a;
        step += 1;
    }
}

/// The error for a layer that LoftQ cannot quantize.
fn refused(hint: &'static str) -> Error {
    Error::UnsupportedOption {
        field: "init_lora_weights",
        value: "loftq".to_owned(),
        hint,
    }
}

/// Quantizes the layers under the adapter `name` and lets its factors begin at what that loses.
///
/// The model is as it was after an error.
pub(crate) fn begin_loftq<M: Slots>(model: &mut M, name: &str, config: &LoraConfig) -> Result<()> {
    let options = config.loftq();
    let mut begun = Vec::new();
    each_layer(model, name, &mut |base, part| {
        let BaseLinear::Dense(dense) = &*base else {
            return Err(refused("the base is quantized already, give a dense one"));
        };
        begun.push(alternate(dense, part.r(), &options, true)?);
        Ok(())
    })?;
    let mut begun = begun.into_iter();
    each_layer(model, name, &mut |base, part| {
        let Some(Begun { layer, factors }) = begun.next() else {
            return Ok(());
        };
        let place = (&base::device(base), DType::F32);
        let (a, b) = init::balanced(&factors.0, &factors.1, part.scaling, place);
        *base = BaseLinear::Quant(layer);
        part.begin_at(base, a, b);
        Ok(())
    })
}

/// Quantizes the layers under the adapter `name` as [`begin_loftq`] does, and leaves its factors
/// alone; layers that are quantized already stay as they are.
pub(crate) fn quantize_as_loftq<M: Slots>(
    model: &mut M,
    name: &str,
    config: &LoraConfig,
) -> Result<()> {
    let options = config.loftq();
    let mut layers = Vec::new();
    each_layer(model, name, &mut |base, part| {
        layers.push(match &*base {
            BaseLinear::Dense(dense) => Some(alternate(dense, part.r(), &options, false)?.layer),
            BaseLinear::Quant(_) => None,
        });
        Ok(())
    })?;
    let mut layers = layers.into_iter().flatten();
    each_layer(model, name, &mut |base, part| {
        if matches!(base, BaseLinear::Dense(_))
            && let Some(layer) = layers.next()
        {
            *base = BaseLinear::Quant(layer);
            part.refresh(base);
        }
        Ok(())
    })
}

/// Visits the layers on which the adapter has factors; none of them may carry another adapter, which
/// would find itself over another base.
fn each_layer<M: Slots>(
    model: &mut M,
    name: &str,
    visit: &mut dyn FnMut(&mut BaseLinear, &mut LoraLinear) -> Result<()>,
) -> Result<()> {
    let mut outcome = Ok(());
    model.visit_slots(&mut |slot| {
        let SlotModule::Linear(linear) = slot.module else {
            return;
        };
        if outcome.is_err() {
            return;
        }
        let other = linear.adapters.iter().any(|part| part.name != name);
        let own = linear.adapters.iter_mut().find_map(|part| match part {
            NamedAdapter {
                method: LinearMethod::Lora(lora),
                name: own,
                ..
            } if own.as_str() == name => Some(lora),
            _ => None,
        });
        let Some(own) = own else {
            return;
        };
        outcome = match linear.base {
            BaseRef::Tied(_) => Err(refused(
                "a head with the embedding's matrix is not quantized",
            )),
            BaseRef::Own(_) if other => Err(refused(
                "other adapters on the same layers need the base as it is",
            )),
            BaseRef::Own(base) => visit(base, own),
        };
    });
    outcome
}

impl LoraLinear {
    /// Other factors over another base; whoever calls says whether they are trained.
    fn begin_at(&mut self, base: &BaseLinear, a: Tensor<2>, b: Tensor<2>) {
        (self.lora_a, self.lora_b) = (Param::from_tensor(a), Param::from_tensor(b));
        self.begin_magnitude(base);
    }
}

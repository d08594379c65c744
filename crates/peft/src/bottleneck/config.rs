//! The configuration of bottleneck adapters, under the names of the `adapters` library.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::BottleneckBuilder;
use crate::build::{Build, MethodConfig, Modules, common_field};
use crate::check::{self, invalid, unsupported};
use crate::config::{CommonConfig, number};
use crate::error::Result;

/// A function between the two maps of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NonLinearity {
    /// `max(x, 0)`.
    Relu,
    /// `x·Φ(x)`.
    Gelu,
    /// `x·σ(x)`.
    #[default]
    Swish,
    /// The hyperbolic tangent.
    Tanh,
}

/// Bottleneck adapters.
///
/// The defaults are those of Houlsby et al.; [`houlsby`](Self::houlsby),
/// [`pfeiffer`](Self::pfeiffer) and [`parallel`](Self::parallel) are the known arrangements.
///
/// # Source
/// - Houlsby et al. 2019, Parameter-Efficient Transfer Learning for NLP, arXiv:1902.00751, §2.1
/// - Pfeiffer et al. 2021, AdapterFusion, arXiv:2005.00247, §3.1: after the MLP alone
/// - He et al. 2022, Towards a Unified View of Parameter-Efficient Transfer Learning,
///   arXiv:2110.04366, §3 and table 1: beside the sublayer, and `scaling`
/// - names: `adapters` library, `BnConfig`
/// - differs: `original_ln_before` adds the residual stream to the adapter's input, and no
///   normalisation, since the blocks of decoders have none there; the parallel form reads what the
///   sublayer reads, after the block's normalisation
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BottleneckConfig {
    /// What every method's configuration has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// Whether attention has an adapter.
    pub mh_adapter: bool,
    /// Whether the MLP has one.
    pub output_adapter: bool,
    /// `d_model` over the width of the bottleneck.
    #[serde(with = "number")]
    pub reduction_factor: f64,
    /// The function in the middle.
    pub non_linearity: NonLinearity,
    /// Whether the adapter reads the sublayer's output with the residual stream added.
    pub original_ln_before: bool,
    /// Whether the residual stream is added after the adapter; only `true` is implemented.
    pub original_ln_after: bool,
    /// Whether the adapter's own residual is the sublayer's output alone; only `true` is
    /// implemented.
    pub residual_before_ln: bool,
    /// The factor before what the adapter adds.
    #[serde(with = "number")]
    pub scaling: f64,
    /// Whether the adapter reads the sublayer's input, beside it.
    pub is_parallel: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Options of the `adapters` library that are not implemented.
const UNSUPPORTED: &[(&str, &str)] = &[
    (
        "adapter_residual_before_ln",
        "the residual is added after the adapter",
    ),
    (
        "cross_adapter",
        "models with an encoder and a decoder are not implemented",
    ),
    (
        "dropout",
        "dropout inside bottleneck adapters is not implemented",
    ),
    (
        "factorized_phm_W",
        "parametrised hypercomplex maps are not implemented",
    ),
    (
        "factorized_phm_rule",
        "parametrised hypercomplex maps are not implemented",
    ),
    ("inv_adapter", "invertible adapters are not implemented"),
    (
        "inv_adapter_reduction_factor",
        "invertible adapters are not implemented",
    ),
    ("leave_out", "adapters go on every layer"),
    ("ln_after", "adapters have no normalisation of their own"),
    ("ln_before", "adapters have no normalisation of their own"),
    (
        "phm_layer",
        "parametrised hypercomplex maps are not implemented",
    ),
    ("stochastic_depth", "adapters are never skipped"),
    ("use_gating", "gates are not implemented"),
];

impl Default for BottleneckConfig {
    fn default() -> Self {
        Self::houlsby()
    }
}

impl BottleneckConfig {
    fn arrangement(mh_adapter: bool, original_ln_before: bool) -> Self {
        Self {
            common: CommonConfig::default(),
            mh_adapter,
            output_adapter: true,
            reduction_factor: 16.0,
            non_linearity: NonLinearity::Swish,
            original_ln_before,
            original_ln_after: true,
            residual_before_ln: true,
            scaling: 1.0,
            is_parallel: false,
            extra: Map::new(),
        }
    }

    /// After attention and after the MLP (the library's `DoubleSeqBnConfig`).
    pub fn houlsby() -> Self {
        Self::arrangement(true, false)
    }

    /// After the MLP alone (`SeqBnConfig`).
    pub fn pfeiffer() -> Self {
        Self {
            non_linearity: NonLinearity::Relu,
            ..Self::arrangement(false, true)
        }
    }

    /// Beside the MLP (`ParBnConfig`).
    pub fn parallel() -> Self {
        Self {
            non_linearity: NonLinearity::Relu,
            reduction_factor: 2.0,
            scaling: 4.0,
            is_parallel: true,
            ..Self::arrangement(false, false)
        }
    }

    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::UnsupportedOption`](crate::Error) for every active option that is not implemented,
    /// [`Error::InvalidConfig`](crate::Error) for values out of range.
    pub fn validate(&self) -> Result<()> {
        check::idle(&self.extra, UNSUPPORTED)?;
        let init = self.extra.get("init_weights").and_then(Value::as_str);
        if let Some(init) = init.filter(|&init| init != "mam_adapter") {
            let hint = "adapters begin at the identity: use mam_adapter";
            return Err(unsupported("init_weights", init, hint));
        }
        for (field, value) in [
            ("original_ln_after", self.original_ln_after),
            ("residual_before_ln", self.residual_before_ln),
        ] {
            if !value {
                return Err(unsupported(field, false, "use true"));
            }
        }
        if self.is_parallel && self.original_ln_before {
            let hint = "a parallel adapter reads the sublayer's input";
            return Err(unsupported("original_ln_before", true, hint));
        }
        if !(self.mh_adapter || self.output_adapter) {
            let reason = "must be true where mh_adapter is false".to_owned();
            return Err(invalid("output_adapter", reason));
        }
        if !(self.reduction_factor.is_finite() && self.reduction_factor >= 1.0) {
            let reason = format!("must be at least 1, got {}", self.reduction_factor);
            return Err(invalid("reduction_factor", reason));
        }
        if !(self.scaling.is_finite() && self.scaling > 0.0) {
            let reason = format!("must be above 0, got {}", self.scaling);
            return Err(invalid("scaling", reason));
        }
        Ok(())
    }

    /// The width of the bottleneck under a residual stream of `width`, at least 1.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the quotient of a width and a factor of at least 1 is a width"
    )]
    pub fn bottleneck(&self, width: usize) -> usize {
        ((width as f64 / self.reduction_factor) as usize).max(1)
    }
}

impl MethodConfig for BottleneckConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(BottleneckBuilder(self)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PeftConfig;
    use std::path::Path;

    #[test]
    fn every_active_option_that_is_not_implemented_is_refused_by_name() {
        let written = PeftConfig::from(BottleneckConfig::pfeiffer()).to_json();
        let check = |field: &str, value: Value| {
            let mut fields = written.clone();
            fields[field] = value;
            let config = PeftConfig::from_json(fields, Path::new("test")).unwrap();
            config.validate().map_err(|error| error.to_string())
        };
        for &(field, _) in UNSUPPORTED {
            let error = check(field, true.into()).unwrap_err();
            assert!(error.starts_with(field), "{error}");
            check(field, false.into()).unwrap();
        }
        for (field, value) in [
            ("original_ln_after", false.into()),
            ("residual_before_ln", false.into()),
            ("is_parallel", true.into()),
            ("init_weights", "bert".into()),
            ("reduction_factor", 0.5.into()),
            ("scaling", 0.into()),
            ("output_adapter", false.into()),
        ] {
            check(field, value).unwrap_err();
        }
    }

    #[test]
    fn the_bottleneck_is_never_empty() {
        let config = BottleneckConfig::houlsby();
        assert_eq!(config.bottleneck(576), 36);
        assert_eq!(config.bottleneck(8), 1);
    }
}

//! The parts of an adapter of normalisations.

use burn::tensor::Tensor;

use super::LnTuningNorm;
use crate::build::{Build, Site};
use crate::error::Result;
use crate::slots::NormMethod;

/// Builds the parts of one adapter.
pub(super) struct LnTuningBuilder;

impl Build for LnTuningBuilder {
    fn method(&self) -> &'static str {
        "LN tuning"
    }

    fn norm(
        &self,
        _site: &Site<'_>,
        weight: &Tensor<1>,
        bias: Option<&Tensor<1>>,
    ) -> Result<NormMethod> {
        Ok(NormMethod::LnTuning(LnTuningNorm::of(weight, bias)))
    }
}

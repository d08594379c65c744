//! The parts of a `VeRA` adapter, which share two matrices.

use std::cell::OnceCell;

use burn::tensor::{DType, Device, Tensor, TensorData};
use flametune_quant::BaseLinear;

use super::torch_random::TorchRandom;
use super::{VeraConfig, VeraLinear};
use crate::base;
use crate::build::{Build, Modules, Site};
use crate::error::Result;
use crate::slots::LinearMethod;

/// Builds the parts of one adapter.
pub(super) struct VeraBuilder<'a> {
    config: &'a VeraConfig,
    /// The largest widths of adapted modules, `[d_out, d_in]`.
    largest: [usize; 2],
    shared: OnceCell<(Tensor<2>, Tensor<2>)>,
}

impl<'a> VeraBuilder<'a> {
    pub(super) fn new(config: &'a VeraConfig, modules: &Modules<'_>) -> Self {
        let shapes = modules.adapted.iter().filter_map(|module| module.shape);
        Self {
            config,
            largest: shapes.fold([0, 0], |[out, inner], [d_out, d_in]| {
                [out.max(d_out), inner.max(d_in)]
            }),
            shared: OnceCell::new(),
        }
    }

    /// `A [r, d_in]` and `B [d_out, r]`, uniform in `±√(6 / columns)`, from one run of the generator.
    fn shared(&self, device: &Device) -> &(Tensor<2>, Tensor<2>) {
        self.shared.get_or_init(|| {
            let [d_out, d_in] = self.largest;
            let r = self.config.r;
            let mut random = TorchRandom::new(self.config.projection_prng_key);
            let mut draw = |shape: [usize; 2]| {
                #[expect(clippy::cast_precision_loss, reason = "widths are small")]
                let bound = 3f64.sqrt() * (2f64.sqrt() / (shape[1] as f64).sqrt());
                let values = random.uniform(shape[0] * shape[1], bound);
                Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
            };
            let a = draw([r, d_in]);
            (a, draw([d_out, r]))
        })
    }
}

impl Build for VeraBuilder<'_> {
    fn method(&self) -> &'static str {
        "VeRA"
    }

    fn linear(&self, site: &Site<'_>, base: &BaseLinear) -> Result<LinearMethod> {
        let shared = self.shared(&base::device(base));
        Ok(LinearMethod::Vera(VeraLinear::init(
            self.config,
            base,
            shared,
            site.keys(),
        )))
    }
}

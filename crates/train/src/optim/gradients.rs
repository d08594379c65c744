//! Gradients of a whole optimizer step, summed over its micro-batches.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Gradients, Tensor};

use super::clip::{clip_factor, global_norm};

/// The summed gradient of every trainable parameter, in f32 and host memory.
///
/// The order of parameters, and with it every sum over them, is that of the module's fields.
#[derive(Debug, Default)]
pub struct GradientSum {
    order: Vec<ParamId>,
    sums: BTreeMap<ParamId, Vec<f32>>,
}

impl GradientSum {
    /// No gradients yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the gradients of one backward pass; a parameter that it did not reach adds nothing.
    pub fn add(&mut self, module: &impl Module, gradients: &mut Gradients) {
        module.visit(&mut Adder {
            sum: self,
            gradients,
        });
    }

    /// Adds the gradient of one parameter.
    ///
    /// # Panics
    /// When the parameter had a gradient of another length before.
    pub fn add_one(&mut self, id: ParamId, gradient: Vec<f32>) {
        match self.sums.get_mut(&id) {
            None => {
                self.order.push(id);
                self.sums.insert(id, gradient);
            }
            Some(sum) => {
                assert_eq!(sum.len(), gradient.len(), "gradients of one parameter");
                sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g);
            }
        }
    }

    /// Adds other sums.
    ///
    /// # Panics
    /// As [`add_one`](Self::add_one).
    pub fn merge(&mut self, mut other: Self) {
        for id in other.order {
            if let Some(gradient) = other.sums.remove(&id) {
                self.add_one(id, gradient);
            }
        }
    }

    /// Multiplies every gradient.
    pub fn scale(&mut self, factor: f32) {
        if factor != 1.0 {
            for sum in self.sums.values_mut() {
                sum.iter_mut().for_each(|g| *g *= factor);
            }
        }
    }

    /// `√Σ g²` over all parameters.
    pub fn norm(&self) -> f64 {
        global_norm(self.order.iter().filter_map(|id| self.get(*id)))
    }

    /// Clips to a global norm of `max_norm`; returns the norm before.
    pub fn clip(&mut self, max_norm: f64) -> f64 {
        let norm = self.norm();
        #[expect(clippy::cast_possible_truncation, reason = "a factor of at most 1")]
        self.scale(clip_factor(norm, max_norm) as f32);
        norm
    }

    /// The gradient of a parameter, flattened.
    pub fn get(&self, id: ParamId) -> Option<&[f32]> {
        self.sums.get(&id).map(Vec::as_slice)
    }

    /// The parameters that have one.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether no parameter has one.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}

struct Adder<'a> {
    sum: &'a mut GradientSum,
    gradients: &'a mut Gradients,
}

impl ModuleVisitor for Adder<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        // Asking a tensor without autodiff for its gradient panics.
        if !param.is_require_grad() || !param.val().device().is_autodiff() {
            return;
        }
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            self.sum.add_one(param.id, numbers(gradient));
        }
    }
}

/// The numbers of a tensor in f32; no copy where the device's memory is the host's.
pub(super) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.cast(DType::F32).into_data();
    match data.try_into_vec() {
        Ok(values) => values,
        Err(_) => unreachable!("the tensor was cast to f32"),
    }
}

//! The parameters that are trained.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

/// The numbers in every parameter that requires a gradient and can have one, by its path in the
/// module tree.
pub(crate) fn trained(module: &impl Module) -> BTreeMap<String, usize> {
    let mut found = Found::default();
    module.visit(&mut found);
    found.lengths
}

#[derive(Default)]
struct Found {
    path: Vec<String>,
    lengths: BTreeMap<String, usize>,
}

impl ModuleVisitor for Found {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !param.is_require_grad() {
            return;
        }
        let value = param.val();
        if value.device().is_autodiff() {
            let len = value.shape().num_elements();
            self.lengths.insert(self.path.join("."), len);
        }
    }
}

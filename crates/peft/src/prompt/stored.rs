//! The parameters of an encoder, for a training that goes on.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::encoder::PromptEncoder;
use crate::error::{Error, Result};

impl PromptEncoder {
    /// The parameters by their paths in the module; none of a table, which is stored anyway.
    pub(crate) fn parts(&self) -> BTreeMap<String, TensorData> {
        let mut list = List::default();
        if !matches!(self, Self::Table(_)) {
            self.visit(&mut list);
        }
        list.found
    }

    /// The same encoder with the parameters that `read` returns for paths and shapes.
    ///
    /// # Errors
    /// The first error of `read`.
    pub(crate) fn with_parts(
        self,
        read: impl FnMut(&str, &[usize]) -> Result<TensorData>,
    ) -> Result<Self> {
        let mut fill = Fill {
            path: Vec::new(),
            read,
            error: None,
        };
        let filled = self.map(&mut fill);
        fill.error.map_or(Ok(filled), Err)
    }
}

#[derive(Default)]
struct List {
    path: Vec<String>,
    found: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for List {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.found
            .insert(self.path.join("."), param.val().into_data());
    }
}

struct Fill<F> {
    path: Vec<String>,
    read: F,
    error: Option<Error>,
}

impl<F: FnMut(&str, &[usize]) -> Result<TensorData>> ModuleMapper for Fill<F> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match (self.read)(&self.path.join("."), &param.dims()) {
            Ok(data) => param.map(|old| {
                let place = (&old.device(), data.dtype());
                Tensor::from_data(data, place).set_require_grad(old.is_require_grad())
            }),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

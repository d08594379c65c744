//! The parameters of a model under the names they have on disk.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// One parameter of a model: its name on disk and a handle on its values.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// The name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The shape in memory.
    pub shape: Vec<usize>,
    /// The dtype in memory.
    pub dtype: DType,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl NamedTensor {
    /// Reads the values from the device.
    pub fn data(&self) -> TensorData {
        match &self.values {
            Values::Vector(tensor) => tensor.clone().into_data(),
            Values::Matrix(tensor) => tensor.clone().into_data(),
        }
    }

    /// The same values with rows and columns exchanged; vectors stay as they are.
    pub(crate) fn transposed(self) -> Self {
        match self.values {
            Values::Vector(_) => self,
            Values::Matrix(tensor) => {
                let shape = self.shape.into_iter().rev().collect();
                Self {
                    shape,
                    values: Values::Matrix(tensor.transpose()),
                    ..self
                }
            }
        }
    }
}

/// Lists the parameters of `module` in the order of its fields.
///
/// Levels of the module tree that files do not have are left out: the variants of enums, and the
/// fields that hold them.
pub fn named_tensors(module: &impl Module) -> Vec<NamedTensor> {
    let mut names = Names::default();
    module.visit(&mut names);
    names.tensors
}

#[derive(Default)]
struct Names {
    path: Vec<Option<String>>,
    tensors: Vec<NamedTensor>,
}

impl Names {
    fn name(&self) -> String {
        self.path
            .iter()
            .flatten()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(".")
    }
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.push(match name {
            _ if container_type.starts_with("Enum:") => None,
            "base_layer" | "projections" | "feed_forward" => None,
            // Names that are no Rust identifiers, or not in Rust's case.
            "self_" => Some("self".to_owned()),
            "layer_norm" => Some("LayerNorm".to_owned()),
            name => Some(name.to_owned()),
        });
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        let (shape, dtype) = (tensor.dims().to_vec(), tensor.dtype());
        let values = match D {
            1 => Values::Vector(tensor.reshape([-1])),
            // Models have vectors and matrices only; the reshape changes nothing for a matrix.
            _ => Values::Matrix(tensor.reshape([shape[0], shape[1..].iter().product()])),
        };
        self.tensors.push(NamedTensor {
            name: self.name(),
            shape,
            dtype,
            values,
        });
    }
}

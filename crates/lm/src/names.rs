//! The parameters of a model under the names they have on disk.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use flametune_quant::{BaseLinear, QuantConfig, StoredPart};
use safetensors::Dtype;

use crate::error::{Error, Result};
use crate::linears::NamedLinears;

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
    Stored(StoredPart),
}

impl NamedTensor {
    /// Reads the values from the device.
    pub fn data(&self) -> TensorData {
        match &self.values {
            Values::Vector(tensor) => tensor.clone().into_data(),
            Values::Matrix(tensor) => tensor.clone().into_data(),
            Values::Stored(part) => {
                TensorData::from_bytes_vec(part.bytes(), self.shape.as_slice(), self.dtype)
            }
        }
    }

    /// The same values with rows and columns exchanged; vectors stay as they are.
    pub(crate) fn transposed(self) -> Self {
        match self.values {
            Values::Vector(_) | Values::Stored(_) => self,
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

/// Lists the parameters of `module` in the order of its fields, adapters left out.
///
/// Levels of the module tree that files do not have are left out: the variants of enums, and the
/// fields that hold them.
/// So are the codes and scales of quantized layers, whose form on disk is another; the tensors
/// that store them are among [`CausalLm::named_tensors`](crate::CausalLm::named_tensors).
pub fn named_tensors(module: &impl Module) -> Vec<NamedTensor> {
    let mut names = Names::default();
    module.visit(&mut names);
    names.tensors
}

/// The stored tensors of the quantized layers among `linears`.
pub(crate) fn packed_tensors(linears: &NamedLinears<'_>) -> Result<Vec<NamedTensor>> {
    let mut tensors = Vec::new();
    for (name, linear) in linears {
        if let BaseLinear::Quant(layer) = &linear.base_layer {
            let parts = layer.stored_parts(&format!("{name}.weight"))?;
            tensors.extend(parts.into_iter().map(|part| NamedTensor {
                name: part.name.clone(),
                shape: part.shape.clone(),
                dtype: match part.dtype {
                    Dtype::I8 => DType::I8,
                    Dtype::U8 => DType::U8,
                    _ => DType::F32,
                },
                values: Values::Stored(part),
            }));
        }
    }
    Ok(tensors)
}

/// How the quantized layers among `linears` are quantized, and the names of the others.
pub(crate) fn quantization(
    linears: &NamedLinears<'_>,
) -> Result<(Option<QuantConfig>, Vec<String>)> {
    let mut dense = Vec::new();
    let mut first: Option<(&String, QuantConfig)> = None;
    for (name, linear) in linears {
        match (&linear.base_layer, first) {
            (BaseLinear::Dense(_), _) => dense.push(name.clone()),
            (BaseLinear::Quant(layer), None) => first = Some((name, layer.config())),
            (BaseLinear::Quant(layer), Some((first, config))) if layer.kind() != config.kind => {
                return Err(Error::MixedKinds {
                    first: first.clone(),
                    first_kind: config.kind,
                    second: name.clone(),
                    second_kind: layer.kind(),
                });
            }
            (BaseLinear::Quant(_), Some(_)) => {}
        }
    }
    Ok((first.map(|(_, config)| config), dense))
}

#[derive(Default)]
struct Names {
    path: Vec<Option<String>>,
    /// How many of the levels are parts of a quantized weight, or of adapters.
    hidden: usize,
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

/// Whether a field holds no tensor of the checkpoint: adapters, and what a
/// [`QuantLinear`](flametune_quant::QuantLinear) keeps its weight in.
fn is_hidden(field: &str, container_type: &str) -> bool {
    field == "adapters" || (container_type == "Struct:QuantLinear" && field != "bias")
}

impl ModuleVisitor for Names {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.hidden += usize::from(is_hidden(name, container_type));
        self.path.push(match name {
            _ if container_type.starts_with("Enum:") => None,
            "base_layer" | "projections" | "feed_forward" => None,
            // Names that are no Rust identifiers, or not in Rust's case.
            "self_" => Some("self".to_owned()),
            "layer_norm" => Some("LayerNorm".to_owned()),
            name => Some(name.to_owned()),
        });
    }

    fn exit_module(&mut self, name: &str, container_type: &str) {
        self.hidden -= usize::from(is_hidden(name, container_type));
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.hidden > 0 {
            return;
        }
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

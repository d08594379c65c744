//! The parameters of an adapter under the names they have on disk.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};

/// How a field of a method's module is called on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TensorName {
    /// The field.
    pub(crate) field: &'static str,
    /// What follows the module's name, such as `lora_A.weight`.
    pub(crate) key: &'static str,
    /// Whether the file holds the transpose.
    pub(crate) transposed: bool,
}

impl TensorName {
    pub(crate) const fn new(field: &'static str, key: &'static str) -> Self {
        Self {
            field,
            key,
            transposed: false,
        }
    }

    pub(crate) const fn transposed(field: &'static str, key: &'static str) -> Self {
        Self {
            transposed: true,
            ..Self::new(field, key)
        }
    }
}

/// One parameter of an adapter, as it stands in the file.
#[derive(Debug, Clone)]
pub(crate) struct AdapterTensor {
    /// What follows the module's name.
    pub(crate) key: &'static str,
    /// The shape on disk.
    pub(crate) shape: Vec<usize>,
    /// The dtype in memory and on disk.
    pub(crate) dtype: DType,
    values: Values,
}

#[derive(Debug, Clone)]
enum Values {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl AdapterTensor {
    /// Reads the values from the device.
    pub(crate) fn data(&self) -> TensorData {
        let data = match &self.values {
            Values::Vector(tensor) => tensor.clone().into_data(),
            Values::Matrix(tensor) => tensor.clone().into_data(),
        };
        TensorData::from_bytes_vec(data.as_bytes().to_vec(), self.shape.clone(), self.dtype)
    }

    /// The number of values.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Lists the parameters of a method in the order of `names`.
pub(crate) fn list(module: &impl Module, names: &[TensorName]) -> Vec<AdapterTensor> {
    let mut list = List {
        names,
        path: Vec::new(),
        found: Vec::new(),
    };
    module.visit(&mut list);
    list.found
}

struct List<'a> {
    names: &'a [TensorName],
    path: Vec<String>,
    found: Vec<AdapterTensor>,
}

fn name_of(names: &[TensorName], path: &[String]) -> Option<TensorName> {
    let field = path.last()?;
    names.iter().copied().find(|name| name.field == field)
}

impl ModuleVisitor for List<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(name) = name_of(self.names, &self.path) else {
            return;
        };
        let tensor = param.val();
        let mut shape = tensor.dims().to_vec();
        let dtype = tensor.dtype();
        let values = if D == 1 {
            Values::Vector(tensor.reshape([-1]))
        } else if name.transposed {
            let matrix = tensor.reshape([shape[0], shape[1..].iter().product()]);
            shape.reverse();
            Values::Matrix(matrix.transpose())
        } else {
            Values::Matrix(tensor.reshape([shape[0], shape[1..].iter().product()]))
        };
        self.found.push(AdapterTensor {
            key: name.key,
            shape,
            dtype,
            values,
        });
    }
}

/// Replaces the parameters of a method by what `read` returns for their keys and shapes on disk.
///
/// # Errors
/// The first error of `read`; the module is then returned as far as it was filled.
pub(crate) fn fill<M: Module, E>(
    module: M,
    names: &[TensorName],
    read: impl FnMut(&'static str, &[usize]) -> Result<TensorData, E>,
) -> Result<M, E> {
    let mut fill = Fill {
        names,
        path: Vec::new(),
        read,
        error: None,
    };
    let module = module.map(&mut fill);
    fill.error.map_or(Ok(module), Err)
}

struct Fill<'a, F, E> {
    names: &'a [TensorName],
    path: Vec<String>,
    read: F,
    error: Option<E>,
}

impl<F, E> ModuleMapper for Fill<'_, F, E>
where
    F: FnMut(&'static str, &[usize]) -> Result<TensorData, E>,
{
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(name) = name_of(self.names, &self.path).filter(|_| self.error.is_none()) else {
            return param;
        };
        let mut shape = param.dims();
        if name.transposed {
            shape.reverse();
        }
        match (self.read)(name.key, &shape) {
            Err(error) => {
                self.error = Some(error);
                param
            }
            Ok(data) => param.map(|old| {
                let place = (&old.device(), data.dtype());
                let tensor = Tensor::from_data(data, place);
                let tensor = if name.transposed {
                    contiguous(tensor.transpose())
                } else {
                    tensor
                };
                tensor.set_require_grad(old.is_require_grad())
            }),
        }
    }
}

/// Writes a transposed view out, so that rows are runs of memory again.
fn contiguous<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let place = (tensor.device(), tensor.dtype());
    Tensor::from_data(tensor.into_data(), (&place.0, place.1))
}

//! From named tensors to the parameters of a model.

use std::cell::RefCell;
use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{DType, Tensor};
use flametune_kernels::Precision;
use flametune_peft::{AdapterLinear, AdapterNorm, Norm};
use flametune_quant::{BaseLinear, DenseLinear, QuantConfig, QuantLinear, QuantTensor, quantize};

use crate::checkpoint::{TensorInfo, TensorSource, is_packed, read_packed};
use crate::config::{ConfigFile, Stored, contradicts, stored_kind};
use crate::error::{Error, Result};
use crate::options::LoadOptions;

/// How far loading has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of the checkpoint read so far.
    pub bytes: usize,
    /// Bytes of the checkpoint in all.
    pub total_bytes: usize,
}

/// A checkpoint being turned into a model; remembers which tensors found their place.
pub(crate) struct Weights<'a> {
    source: &'a dyn TensorSource,
    config: &'a ConfigFile,
    options: &'a LoadOptions,
    /// How the configuration says that linear weights are stored.
    stored: Option<Stored>,
    state: RefCell<State<'a>>,
}

struct State<'a> {
    taken: BTreeSet<String>,
    progress: LoadProgress,
    report: &'a mut dyn FnMut(LoadProgress),
}

impl<'a> Weights<'a> {
    pub(crate) fn new(
        source: &'a dyn TensorSource,
        config: &'a ConfigFile,
        options: &'a LoadOptions,
        report: &'a mut dyn FnMut(LoadProgress),
    ) -> Result<Self> {
        let stored = stored_kind(config)?;
        let total_bytes = source
            .names()
            .iter()
            .filter_map(|name| source.info(name))
            .fold(0usize, |sum, info| sum.saturating_add(info.bytes));
        let progress = LoadProgress {
            bytes: 0,
            total_bytes,
        };
        Ok(Self {
            source,
            config,
            options,
            stored,
            state: RefCell::new(State {
                taken: BTreeSet::new(),
                progress,
                report,
            }),
        })
    }

    /// The place in the checkpoint under which tensors are looked for next.
    pub(crate) fn root(&'a self) -> Scope<'a> {
        Scope {
            weights: self,
            prefix: String::new(),
        }
    }

    /// Checks that every tensor found its place, save those that `ignored` says carry no weights.
    pub(crate) fn finish(&self, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let taken = &self.state.borrow().taken;
        let names: Vec<String> = self
            .source
            .names()
            .into_iter()
            .filter(|name| !taken.contains(name) && !ignored(name))
            .collect();
        match names.first().and_then(|name| self.source.info(name)) {
            None => Ok(()),
            Some(info) => Err(Error::UnknownTensors {
                names,
                file: info.file,
            }),
        }
    }

    fn param<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        dtype: DType,
        transposed: bool,
    ) -> Result<Param<Tensor<D>>> {
        self.info(name, &on_disk(shape, transposed))?;
        let data = self.source.read(name, dtype)?;
        let mut tensor = Tensor::<D>::from_data(data, (&self.options.device, dtype));
        if transposed {
            tensor = contiguous(tensor.transpose());
        }
        self.take([name.to_owned()]);
        Ok(Param::from_tensor(tensor))
    }

    /// Reads a weight that is stored quantized, `[d_out, d_in]`.
    fn packed(&self, name: &str, shape: [usize; 2]) -> Result<QuantTensor> {
        let file = || self.source.info(name).map(|info| info.file);
        if self.options.quantize.is_some() {
            return Err(Error::AlreadyQuantized {
                tensor: name.to_owned(),
                file: file().unwrap_or_default(),
            });
        }
        let (parts, tensor) = read_packed(self.source, name)?;
        if let Some(stored) = self.stored
            && stored.kind != tensor.kind()
        {
            return Err(contradicts(self.config, stored, name, tensor.kind()));
        }
        if tensor.shape() != shape {
            return Err(Error::ShapeMismatch {
                tensor: name.to_owned(),
                file: file().unwrap_or_default(),
                expected: shape.to_vec(),
                got: tensor.shape().to_vec(),
            });
        }
        self.take(parts);
        Ok(tensor)
    }

    /// Reads a weight in f32 and quantizes it; the numbers are gone when this returns.
    fn quantized(
        &self,
        name: &str,
        shape: [usize; 2],
        transposed: bool,
        config: QuantConfig,
    ) -> Result<QuantTensor> {
        let stored = on_disk(shape, transposed);
        let info = self.info(name, &stored)?;
        let data = self.source.read(name, DType::F32)?;
        let numbers: Vec<f32> = match data.try_into_vec::<f32>() {
            Ok(numbers) if transposed => transpose(&numbers, stored),
            Ok(numbers) => numbers,
            Err(_) => {
                return Err(Error::UnsupportedConversion {
                    tensor: name.to_owned(),
                    file: info.file,
                    stored: info.dtype,
                    wanted: DType::F32,
                });
            }
        };
        let tensor =
            quantize(&numbers, &shape, config).map_err(|source| Error::CannotQuantize {
                tensor: name.to_owned(),
                file: info.file,
                source: Box::new(source),
            })?;
        self.take([name.to_owned()]);
        Ok(tensor)
    }

    /// What is known of a tensor that must be there in this shape.
    fn info(&self, name: &str, shape: &[usize]) -> Result<TensorInfo> {
        let info = self.source.info(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            file: self.any_file(),
        })?;
        if info.shape == shape {
            Ok(info)
        } else {
            Err(Error::ShapeMismatch {
                tensor: name.to_owned(),
                file: info.file,
                expected: shape.to_vec(),
                got: info.shape,
            })
        }
    }

    /// Counts tensors as read, and reports.
    fn take(&self, names: impl IntoIterator<Item = String>) {
        let mut state = self.state.borrow_mut();
        for name in names {
            let bytes = self.source.info(&name).map_or(0, |info| info.bytes);
            state.progress.bytes = state.progress.bytes.saturating_add(bytes);
            state.taken.insert(name);
        }
        let progress = state.progress;
        (state.report)(progress);
    }

    fn any_file(&self) -> std::path::PathBuf {
        let first = self.source.names().into_iter().next();
        first
            .and_then(|name| self.source.info(&name))
            .map(|info| info.file)
            .unwrap_or_default()
    }
}

/// The shape in the file of a tensor that is perhaps stored transposed.
fn on_disk<const D: usize>(mut shape: [usize; D], transposed: bool) -> [usize; D] {
    if transposed {
        shape.reverse();
    }
    shape
}

/// A row-major matrix with rows and columns exchanged.
fn transpose(numbers: &[f32], [rows, cols]: [usize; 2]) -> Vec<f32> {
    let mut out = Vec::with_capacity(numbers.len());
    for col in 0..cols {
        out.extend((0..rows).map(|row| numbers[row * cols + col]));
    }
    out
}

/// Writes a transposed view out, so that rows are runs of memory again.
fn contiguous<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    let (device, dtype) = (tensor.device(), tensor.dtype());
    Tensor::from_data(tensor.into_data(), (&device, dtype))
}

/// One level of a checkpoint's dotted names.
#[derive(Clone)]
pub(crate) struct Scope<'a> {
    weights: &'a Weights<'a>,
    prefix: String,
}

impl Scope<'_> {
    /// The level below, `prefix.name`.
    pub(crate) fn at(&self, name: impl std::fmt::Display) -> Self {
        Self {
            weights: self.weights,
            prefix: self.path(&name.to_string()),
        }
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }

    /// Whether the checkpoint has a tensor of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.weights.source.info(&self.path(name)).is_some()
    }

    /// A parameter in the weights' dtype.
    pub(crate) fn weight<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>> {
        self.weights.param(
            &self.path(name),
            shape,
            self.weights.options.weight_dtype,
            false,
        )
    }

    /// A small parameter (a norm, a bias) in the activations' dtype.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Param<Tensor<1>>> {
        self.weights.param(
            &self.path(name),
            [len],
            self.weights.options.compute_dtype,
            false,
        )
    }

    /// A table that is added to activations, in their dtype.
    pub(crate) fn table(&self, name: &str, shape: [usize; 2]) -> Result<Param<Tensor<2>>> {
        self.weights.param(
            &self.path(name),
            shape,
            self.weights.options.compute_dtype,
            false,
        )
    }

    /// A linear layer stored as `weight [d_out, d_in]` and perhaps `bias [d_out]`.
    pub(crate) fn linear(&self, d_in: usize, d_out: usize, bias: bool) -> Result<AdapterLinear> {
        self.slot(d_in, d_out, bias, false)
    }

    /// GPT-2's `Conv1D`: a linear layer whose weight is stored as `[d_in, d_out]`.
    pub(crate) fn conv1d(&self, d_in: usize, d_out: usize) -> Result<AdapterLinear> {
        self.slot(d_in, d_out, true, true)
    }

    fn slot(
        &self,
        d_in: usize,
        d_out: usize,
        bias: bool,
        fan_in_fan_out: bool,
    ) -> Result<AdapterLinear> {
        let weights = self.weights;
        let options = weights.options;
        let (name, shape) = (self.path("weight"), [d_out, d_in]);
        let bias = |scope: &Self| bias.then(|| scope.vector("bias", d_out)).transpose();
        let quantize = options
            .quantize
            .as_ref()
            .filter(|quantize| quantize.quantizes(&name));
        let tensor = if is_packed(weights.source, &name) {
            Some(weights.packed(&name, shape)?)
        } else if let Some(quantize) = quantize {
            Some(weights.quantized(&name, shape, fan_in_fan_out, quantize.config)?)
        } else {
            None
        };
        let base = match tensor {
            Some(tensor) => {
                let device = &options.device;
                let mut layer = QuantLinear::from_quant_tensor(&tensor, bias(self)?, device)?;
                layer.fan_in_fan_out = fan_in_fan_out;
                BaseLinear::Quant(layer)
            }
            None => {
                let dtype = options.weight_dtype;
                let weight = weights.param(&name, shape, dtype, fan_in_fan_out)?;
                let mut layer = DenseLinear::new(weight, bias(self)?);
                layer.fan_in_fan_out = fan_in_fan_out;
                BaseLinear::Dense(layer)
            }
        };
        Ok(AdapterLinear::new(base.with_precision(options.precision)))
    }

    /// How exactly layers multiply.
    pub(crate) fn precision(&self) -> Precision {
        self.weights.options.precision
    }

    /// A normalisation layer.
    pub(crate) fn norm(&self, kind: Norm, width: usize) -> Result<AdapterNorm> {
        let bias = match kind {
            Norm::Layer { .. } => Some(self.vector("bias", width)?),
            Norm::Rms { .. } | Norm::RmsOffset { .. } => None,
        };
        Ok(AdapterNorm::new(self.vector("weight", width)?, bias, kind))
    }
}

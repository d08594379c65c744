//! From named tensors to the parameters of a model.

use std::cell::RefCell;
use std::collections::BTreeSet;

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use flametune_peft::AdapterLinear;
use flametune_quant::{BaseLinear, DenseLinear};

use crate::checkpoint::TensorSource;
use crate::config::Norm;
use crate::error::{Error, Result};
use crate::layers::NormLayer;

/// Where and in which number formats a model is loaded.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// The device that holds the parameters.
    pub device: Device,
    /// The dtype of linear and embedding weights in memory: F32, BF16 or F16.
    pub weight_dtype: DType,
    /// The dtype of activations and norms: F32, or the weights' dtype.
    pub compute_dtype: DType,
}

impl LoadOptions {
    /// Everything in f32.
    pub fn f32(device: &Device) -> Self {
        Self {
            device: device.clone(),
            weight_dtype: DType::F32,
            compute_dtype: DType::F32,
        }
    }
}

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
    options: &'a LoadOptions,
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
        options: &'a LoadOptions,
        report: &'a mut dyn FnMut(LoadProgress),
    ) -> Self {
        let total_bytes = source
            .names()
            .iter()
            .filter_map(|name| source.info(name))
            .fold(0usize, |sum, info| sum.saturating_add(info.bytes));
        let progress = LoadProgress {
            bytes: 0,
            total_bytes,
        };
        Self {
            source,
            options,
            state: RefCell::new(State {
                taken: BTreeSet::new(),
                progress,
                report,
            }),
        }
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
        let info = self.source.info(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            file: self.any_file(),
        })?;
        let mut on_disk = shape;
        if transposed {
            on_disk.reverse();
        }
        if info.shape != on_disk {
            return Err(Error::ShapeMismatch {
                tensor: name.to_owned(),
                file: info.file,
                expected: on_disk.to_vec(),
                got: info.shape,
            });
        }
        let data = self.source.read(name, dtype)?;
        let mut tensor = Tensor::<D>::from_data(data, (&self.options.device, dtype));
        if transposed {
            tensor = contiguous(tensor.transpose());
        }
        let mut state = self.state.borrow_mut();
        state.taken.insert(name.to_owned());
        state.progress.bytes = state.progress.bytes.saturating_add(info.bytes);
        let progress = state.progress;
        (state.report)(progress);
        Ok(Param::from_tensor(tensor))
    }

    fn any_file(&self) -> std::path::PathBuf {
        let first = self.source.names().into_iter().next();
        first
            .and_then(|name| self.source.info(&name))
            .map(|info| info.file)
            .unwrap_or_default()
    }
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
        let dtype = self.weights.options.weight_dtype;
        let weight =
            self.weights
                .param(&self.path("weight"), [d_out, d_in], dtype, fan_in_fan_out)?;
        let bias = if bias {
            Some(self.vector("bias", d_out)?)
        } else {
            None
        };
        Ok(AdapterLinear::new(BaseLinear::Dense(DenseLinear {
            weight,
            bias,
            fan_in_fan_out,
        })))
    }

    /// A normalisation layer.
    pub(crate) fn norm(&self, kind: Norm, width: usize) -> Result<NormLayer> {
        let bias = match kind {
            Norm::Layer { .. } => Some(self.vector("bias", width)?),
            Norm::Rms { .. } | Norm::RmsOffset { .. } => None,
        };
        Ok(NormLayer {
            weight: self.vector("weight", width)?,
            bias,
            kind,
        })
    }
}

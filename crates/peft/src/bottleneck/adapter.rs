//! One bottleneck adapter, and the slot for it.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, activation};
use flametune_kernels::linear;

use super::config::{BottleneckConfig, NonLinearity};
use crate::base::cast;
use crate::random::Stream;
use crate::selection::AdapterPass;
use crate::slots::{NamedAdapter, PartInfo, SlotMethod};
use crate::tensors::TensorName;

/// `scaling · (f(x·D + b_D)·U + b_U)`, added to a sublayer's output.
///
/// # Shapes
/// - `adapter_down`: `[bottleneck, d_model]`, `adapter_up`: `[d_model, bottleneck]`
/// - `adapter_down_bias`: `[bottleneck]`, `adapter_up_bias`: `[d_model]`
///
/// # Source
/// - Houlsby et al. 2019, arXiv:1902.00751, §2.1; He et al. 2022, arXiv:2110.04366, eq. (4)
#[derive(Module, Debug)]
pub struct BottleneckAdapter {
    /// Down to the bottleneck.
    pub adapter_down: Param<Tensor<2>>,
    /// The shift before the function.
    pub adapter_down_bias: Param<Tensor<1>>,
    /// Up to the residual stream.
    pub adapter_up: Param<Tensor<2>>,
    /// The shift of the output.
    pub adapter_up_bias: Param<Tensor<1>>,
    /// The function in the middle.
    #[module(skip)]
    pub non_linearity: NonLinearity,
    /// The factor before the output.
    #[module(skip)]
    pub scaling: f64,
    /// What it reads.
    #[module(skip)]
    pub(super) reads: Reads,
}

/// What an adapter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reads {
    /// The sublayer's output.
    Output,
    /// The sublayer's output and the residual stream.
    OutputAndStream,
    /// The sublayer's input.
    Input,
}

/// What an adapter sees of one call of its sublayer, `[rows, d_model]` each.
struct SublayerInput {
    stream: Tensor<2>,
    input: Tensor<2>,
    output: Tensor<2>,
}

impl BottleneckAdapter {
    /// A new adapter that adds nothing yet: `U` and both shifts are zero.
    pub(super) fn init(
        config: &BottleneckConfig,
        width: usize,
        (seed, key): (u64, u64),
        device: &Device,
    ) -> Self {
        let (place, inner) = ((device, DType::F32), config.bottleneck(width));
        #[expect(clippy::cast_precision_loss, reason = "widths are far below 2^52")]
        let bound = 1.0 / (width as f64).sqrt();
        let down = Stream::new(&[seed, key]).uniform_tensor([inner, width], bound, place);
        Self {
            adapter_down: Param::from_tensor(down),
            adapter_down_bias: Param::from_tensor(Tensor::zeros([inner], place)),
            adapter_up: Param::from_tensor(Tensor::zeros([width, inner], place)),
            adapter_up_bias: Param::from_tensor(Tensor::zeros([width], place)),
            non_linearity: config.non_linearity,
            scaling: config.scaling,
            reads: match (config.is_parallel, config.original_ln_before) {
                (true, _) => Reads::Input,
                (false, true) => Reads::OutputAndStream,
                (false, false) => Reads::Output,
            },
        }
    }

    /// What the adapter adds.
    fn forward(&self, seen: &SublayerInput) -> Tensor<2> {
        let x = match self.reads {
            Reads::Output => seen.output.clone(),
            Reads::OutputAndStream => seen.output.clone() + seen.stream.clone(),
            Reads::Input => seen.input.clone(),
        };
        let dtype = x.dtype();
        let x = cast(x, self.adapter_down.dtype());
        let bias = |bias: &Param<Tensor<1>>| Some(bias.val());
        let inner = linear(x, self.adapter_down.val(), bias(&self.adapter_down_bias));
        let inner = match self.non_linearity {
            NonLinearity::Relu => activation::relu(inner),
            NonLinearity::Gelu => activation::gelu(inner),
            NonLinearity::Swish => activation::silu(inner),
            NonLinearity::Tanh => inner.tanh(),
        };
        let y = linear(inner, self.adapter_up.val(), bias(&self.adapter_up_bias));
        cast(y * self.scaling, dtype)
    }
}

impl SlotMethod for BottleneckAdapter {
    fn info(&self) -> PartInfo {
        PartInfo::adapter("bottleneck", Some(self.adapter_down.dims()[0]))
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        const NAMES: &[TensorName] = &[
            TensorName::new("adapter_down", "adapter_down.weight"),
            TensorName::new("adapter_down_bias", "adapter_down.bias"),
            TensorName::new("adapter_up", "adapter_up.weight"),
            TensorName::new("adapter_up_bias", "adapter_up.bias"),
        ];
        NAMES
    }
}

/// Which half of a layer a slot belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sublayer {
    /// Attention.
    Attention,
    /// The MLP, or the experts in its place.
    FeedForward,
}

/// The adapters on one sublayer, between its output and the residual stream.
#[derive(Module, Debug)]
pub struct AdapterSublayer {
    /// The adapters, in the order in which they were added.
    pub adapters: Vec<NamedAdapter<BottleneckAdapter>>,
    /// Which half of the layer it is.
    #[module(skip)]
    pub kind: Sublayer,
    /// Width of the residual stream.
    #[module(skip)]
    pub width: usize,
}

/// The place on a sublayer, as a model shows it.
#[derive(Debug)]
pub struct SublayerSlot<'a> {
    /// The adapters on it.
    pub adapters: &'a mut Vec<NamedAdapter<BottleneckAdapter>>,
    /// Which half of the layer it is.
    pub kind: Sublayer,
    /// Width of the residual stream.
    pub width: usize,
    /// The device of the layer.
    pub(crate) device: Device,
}

impl AdapterSublayer {
    /// A place without adapters.
    pub fn new(kind: Sublayer, width: usize) -> Self {
        Self {
            adapters: Vec::new(),
            kind,
            width,
        }
    }

    pub(crate) fn slot(&mut self, device: Device) -> SublayerSlot<'_> {
        SublayerSlot {
            adapters: &mut self.adapters,
            kind: self.kind,
            width: self.width,
            device,
        }
    }

    /// What goes into the residual stream: the sublayer's output, and what the adapters that
    /// `pass` chooses add to it.
    ///
    /// # Shapes
    /// - `stream` (before the sublayer), `input` (what the sublayer read), `output` (what it
    ///   gave): `[batch, seq, d_model]`, returned alike
    ///
    /// # Panics
    /// When the shapes differ, or the pass has another number of rows.
    pub fn forward(
        &self,
        stream: &Tensor<3>,
        input: &Tensor<3>,
        output: Tensor<3>,
        pass: &AdapterPass,
    ) -> Tensor<3> {
        if self.adapters.is_empty() || pass.is_base() {
            return output;
        }
        let dims = output.dims();
        let [batch, seq, width] = dims;
        let rows = |x: Tensor<3>| x.reshape([batch * seq, width]);
        let seen = SublayerInput {
            stream: rows(stream.clone()),
            input: rows(input.clone()),
            output: rows(output),
        };
        let adapted = |names: &[&str], seen: SublayerInput| {
            let chosen =
                |part: &&NamedAdapter<BottleneckAdapter>| names.contains(&part.name.as_str());
            let parts = self.adapters.iter().filter(chosen);
            parts.fold(seen.output.clone(), |y, part| {
                y + part.method.forward(&seen)
            })
        };
        let y = pass.run(
            |name| self.adapters.iter().any(|part| part.name == name),
            seq,
            |names| {
                let (stream, input, output) = (&seen.stream, &seen.input, &seen.output);
                let seen = SublayerInput {
                    stream: stream.clone(),
                    input: input.clone(),
                    output: output.clone(),
                };
                adapted(names, seen)
            },
            |name, set| {
                let seen = SublayerInput {
                    stream: set.of(&seen.stream),
                    input: set.of(&seen.input),
                    output: set.of(&seen.output),
                };
                adapted(name.as_slice(), seen)
            },
        );
        y.reshape(dims)
    }
}

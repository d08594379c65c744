//! The slot for adapters around one linear layer.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use flametune_quant::{BaseLinear, DenseLinear};

use super::{
    AdapterEmbedding, BaseRef, BiasLinear, LinearSlot, NamedAdapter, PartInfo, SavedLinear,
    SlotMethod,
};
use crate::error::Result;
use crate::lora::LoraLinear;
use crate::selection::{AdapterPass, Dropout};
use crate::tensors::TensorName;

/// One linear projection of a model: a frozen base, and the adapters on it.
///
/// Without adapters it computes exactly what its base computes.
///
/// # Shapes
/// - input `[.., d_in]`, output `[.., d_out]`
///
/// # Source
/// - the name `base_layer` is that of PEFT's `tuners/tuners_utils.py::BaseTunerLayer`
#[derive(Module, Debug)]
pub struct AdapterLinear {
    /// The frozen linear layer.
    pub base_layer: BaseLinear,
    /// The adapters, in the order in which they were added.
    pub adapters: Vec<NamedAdapter<LinearMethod>>,
    /// The base as it was before adapters were merged into it.
    #[module(skip)]
    unmerged: Option<BaseLinear>,
}

/// The adapters of a head that multiplies with the matrix of an embedding.
#[derive(Module, Debug)]
pub struct TiedLinear {
    /// The adapters, in the order in which they were added.
    pub adapters: Vec<NamedAdapter<LinearMethod>>,
}

/// The methods that adapt linear layers.
#[expect(
    clippy::large_enum_variant,
    reason = "one an adapter and module, and nothing beside its weights"
)]
#[derive(Module, Debug)]
pub enum LinearMethod {
    /// LoRA, rsLoRA and DoRA.
    Lora(LoraLinear),
    /// A full copy that replaces the layer (`modules_to_save`).
    Saved(SavedLinear),
    /// A trained bias in place of the layer's (`bias = "all"`, `"lora_only"`).
    Bias(BiasLinear),
}

/// What a method sees of one call of its layer; all rows use the adapter.
#[derive(Debug, Clone)]
pub(crate) struct LinearInput<'a> {
    /// The layer below.
    pub(crate) base: &'a BaseLinear,
    /// The input, `[rows, d_in]`.
    pub(crate) x: Tensor<2>,
    /// The layer's output for it, `[rows, d_out]`.
    pub(crate) base_output: Tensor<2>,
    /// The dropout of this pass.
    pub(crate) dropout: Dropout<'a>,
}

/// The change of a linear layer that equals an adapter.
#[derive(Debug, Clone)]
pub(crate) struct DeltaLinear {
    /// Added to the weight, `[d_out, d_in]`.
    pub(crate) weight: Option<Tensor<2>>,
    /// Added to the bias, `[d_out]`.
    pub(crate) bias: Option<Tensor<1>>,
}

/// What a method must offer to adapt linear layers.
pub(crate) trait LinearAdapter: Module {
    /// Adds what the adapter contributes to `y`, the sum of the layer's output and of the adapters
    /// before this one.
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2>;

    /// The change of the layer that equals the adapter.
    ///
    /// # Errors
    /// A reason, when there is none.
    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str>;

    /// What reports and files need to know of it.
    fn info(&self) -> PartInfo;

    /// How its parameters are called on disk.
    fn tensor_names(&self) -> &'static [TensorName];

    /// Recomputes what was derived from parameters or base, after either has changed.
    fn refresh(&mut self, base: &BaseLinear) {
        let _ = base;
    }
}

/// Calls the same method of whichever variant there is.
macro_rules! each_linear {
    ($self:expr, $method:ident => $call:expr) => {
        match $self {
            LinearMethod::Lora($method) => $call,
            LinearMethod::Saved($method) => $call,
            LinearMethod::Bias($method) => $call,
        }
    };
}

impl LinearMethod {
    pub(crate) fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        each_linear!(self, method => method.forward(input, y))
    }

    pub(crate) fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        each_linear!(self, method => method.delta(base))
    }

    pub(crate) fn refresh(&mut self, base: &BaseLinear) {
        each_linear!(self, method => method.refresh(base));
    }
}

impl SlotMethod for LinearMethod {
    fn info(&self) -> PartInfo {
        each_linear!(self, method => method.info())
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        each_linear!(self, method => method.tensor_names())
    }
}

impl AdapterLinear {
    /// Wraps a base layer; no adapters yet.
    pub fn new(base_layer: BaseLinear) -> Self {
        Self {
            base_layer,
            adapters: Vec::new(),
            unmerged: None,
        }
    }

    /// Computes the layer's output with the adapters that `pass` chooses.
    ///
    /// # Panics
    /// When the last dimension of `x` is not `d_in`, or the pass has another number of rows than
    /// the first dimension of `x`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, pass: &AdapterPass) -> Tensor<D> {
        forward(&self.base_layer, &self.adapters, x, pass)
    }

    pub(crate) fn slot(&mut self) -> LinearSlot<'_> {
        LinearSlot {
            base: BaseRef::Own(&mut self.base_layer),
            adapters: &mut self.adapters,
            unmerged: Some(&mut self.unmerged),
        }
    }
}

impl TiedLinear {
    /// A head without adapters.
    #[expect(
        clippy::new_without_default,
        reason = "modules are built, not defaulted"
    )]
    pub fn new() -> Self {
        Self {
            adapters: Vec::new(),
        }
    }

    /// Computes the head's output, `x·Eᵀ` and what the adapters add, from the matrix `E` of the
    /// embedding as it stands in the base.
    ///
    /// # Panics
    /// As [`AdapterLinear::forward`].
    pub fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        embedding: &AdapterEmbedding,
        pass: &AdapterPass,
    ) -> Tensor<D> {
        forward(&tied(embedding), &self.adapters, x, pass)
    }

    pub(crate) fn slot(&mut self, embedding: &AdapterEmbedding) -> LinearSlot<'_> {
        LinearSlot {
            base: BaseRef::Tied(tied(embedding)),
            adapters: &mut self.adapters,
            unmerged: None,
        }
    }
}

fn tied(embedding: &AdapterEmbedding) -> BaseLinear {
    BaseLinear::Dense(DenseLinear::new(Param::clone(&embedding.weight), None))
}

fn forward<const D: usize>(
    base: &BaseLinear,
    adapters: &[NamedAdapter<LinearMethod>],
    x: Tensor<D>,
    pass: &AdapterPass,
) -> Tensor<D> {
    if adapters.is_empty() || pass.is_base() {
        return base.forward(x);
    }
    let mut dims = x.dims();
    let rows = dims[..D - 1].iter().product::<usize>();
    let each = rows / dims[0].max(1);
    let x = x.reshape([rows, dims[D - 1]]);
    let base_output = base.forward(x.clone());
    let adapted = |names: &[&str], input: LinearInput<'_>| {
        let mut y = input.base_output.clone();
        for name in names {
            for adapter in adapters.iter().filter(|adapter| adapter.name == *name) {
                y = adapter.method.forward(input.clone(), y);
            }
        }
        y
    };
    let key = pass.dropout();
    let y = pass.run(
        |name| adapters.iter().any(|adapter| adapter.name == name),
        each,
        |names| {
            let input = LinearInput {
                base,
                x: x.clone(),
                base_output: base_output.clone(),
                dropout: Dropout { key, rows: None },
            };
            adapted(names, input)
        },
        |name, set| {
            let input = LinearInput {
                base,
                x: set.of(&x),
                base_output: set.of(&base_output),
                dropout: Dropout {
                    key,
                    rows: Some(set),
                },
            };
            adapted(name.as_slice(), input)
        },
    );
    dims[D - 1] = base.d_out();
    y.reshape(dims)
}

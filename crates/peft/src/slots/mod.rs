//! The places in a model where adapters attach.

mod embedding;
mod linear;
mod norm;
mod saved;

use burn::module::Module;
use burn::module::{ModuleDisplay, Param};
use burn::tensor::Device;
use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use crate::bottleneck::{AdapterSublayer, SublayerSlot};
use crate::prompt::{AdapterPrompt, PromptSlot};
use crate::table::AdapterTable;
use crate::tensors::TensorName;

pub use embedding::{AdapterEmbedding, EmbeddingMethod};
pub use linear::{AdapterLinear, LinearMethod, TiedLinear};
pub use norm::{AdapterNorm, Norm, NormMethod};
pub use saved::{BiasLinear, BiasNorm, SavedEmbedding, SavedLinear, SavedNorm};

pub(crate) use embedding::{EmbeddingAdapter, EmbeddingInput};
pub(crate) use linear::{DeltaLinear, LinearAdapter, LinearInput, SharedTensor};
pub(crate) use norm::NormWeights;
pub(crate) use saved::replaced;

/// One adapter in one slot.
#[derive(Module, Debug)]
pub struct NamedAdapter<M: Module + ModuleDisplay> {
    /// What it computes, with its parameters.
    pub method: M,
    /// The adapter it belongs to.
    #[module(skip)]
    pub name: String,
    /// Whether its parameters are trained.
    #[module(skip)]
    pub trainable: bool,
}

/// What reports and files need to know of a part of an adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartInfo {
    /// What it is, such as `lora` or `modules_to_save`.
    pub(crate) method: &'static str,
    /// The rank, of methods that have one.
    pub(crate) r: Option<usize>,
    /// How it stands to the base.
    pub(crate) role: PartRole,
}

impl PartInfo {
    /// A full copy of a module.
    pub(crate) const COPY: Self = Self {
        method: "modules_to_save",
        r: None,
        role: PartRole::Copy,
    };

    /// A trained bias.
    pub(crate) const BIAS: Self = Self {
        method: "bias",
        r: None,
        role: PartRole::Bias,
    };

    /// A part that adds to the base.
    pub(crate) const fn adapter(method: &'static str, r: Option<usize>) -> Self {
        Self {
            method,
            r,
            role: PartRole::Adapter,
        }
    }
}

/// How a part of an adapter stands to the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PartRole {
    /// It adds to the base.
    Adapter,
    /// It is a full copy of the module.
    Copy,
    /// It is a copy of the module's bias.
    Bias,
}

/// What the methods of all kinds of slots have in common.
pub(crate) trait SlotMethod: Module + ModuleDisplay {
    /// What it is.
    fn info(&self) -> PartInfo;

    /// How its parameters are called on disk.
    fn tensor_names(&self) -> &'static [TensorName];

    /// The same method with the parameters that are stored.
    fn stored(&self) -> Self {
        self.clone()
    }
}

/// A model, or any module, with places for adapters.
///
/// # Examples
/// ```
/// use burn::module::Module;
/// use flametune_peft::{AdapterLinear, AdapterTable, Slot, SlotModule, SlotRole, Slots};
///
/// #[derive(Module, Debug)]
/// struct Mlp {
///     up_proj: AdapterLinear,
///     down_proj: AdapterLinear,
///     #[module(skip)]
///     adapters: AdapterTable,
/// }
///
/// impl Slots for Mlp {
///     fn adapters(&self) -> &AdapterTable {
///         &self.adapters
///     }
///
///     fn adapters_mut(&mut self) -> &mut AdapterTable {
///         &mut self.adapters
///     }
///
///     fn visit_slots(&mut self, visit: &mut dyn FnMut(Slot<'_>)) {
///         visit(Slot::linear("up_proj", &mut self.up_proj));
///         visit(Slot::linear("down_proj", &mut self.down_proj));
///     }
/// }
/// ```
pub trait Slots: Clone {
    /// The adapters that the slots hold.
    fn adapters(&self) -> &AdapterTable;

    /// The same, to be changed by this crate.
    fn adapters_mut(&mut self) -> &mut AdapterTable;

    /// Shows every place, always in the same order, under the name of its module on disk.
    ///
    /// Every parameter of the base belongs to some place, so that all of them can be frozen.
    fn visit_slots(&mut self, visit: &mut dyn FnMut(Slot<'_>));
}

/// What part a slot plays in its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotRole {
    /// A layer like any other.
    Inner,
    /// The last layer, from hidden states to logits or scores; `all-linear` leaves it out.
    Head,
}

impl SlotModule<'_> {
    /// Whether a configuration may name it; the others are for methods that look for them.
    pub(crate) fn is_named(&self) -> bool {
        !matches!(self, Self::Prompt(_) | Self::Sublayer(_))
    }
}

/// One place for adapters.
#[derive(Debug)]
pub struct Slot<'a> {
    /// The name of the module, such as `model.layers.0.self_attn.q_proj`.
    pub path: &'a str,
    /// Its part in the model.
    pub role: SlotRole,
    /// The module.
    pub module: SlotModule<'a>,
}

/// A module with a place for adapters.
#[expect(clippy::large_enum_variant, reason = "short-lived, one at a time")]
#[derive(Debug)]
pub enum SlotModule<'a> {
    /// A linear layer.
    Linear(LinearSlot<'a>),
    /// A table of vectors.
    Embedding(&'a mut AdapterEmbedding),
    /// A normalisation.
    Norm(&'a mut AdapterNorm),
    /// A parameter that stands alone and takes no adapters.
    Vector(&'a mut Param<Tensor<1>>),
    /// The place of virtual tokens.
    Prompt(PromptSlot<'a>),
    /// The output of attention or of an MLP.
    Sublayer(SublayerSlot<'a>),
}

/// A linear layer, with its own weight or with that of an embedding.
#[derive(Debug)]
pub struct LinearSlot<'a> {
    /// The layer.
    pub base: BaseRef<'a>,
    /// The adapters on it.
    pub adapters: &'a mut Vec<NamedAdapter<LinearMethod>>,
    /// The base as it was before adapters were merged into it.
    pub(crate) unmerged: Option<&'a mut Option<BaseLinear>>,
}

/// The layer under the adapters of a linear slot.
#[expect(clippy::large_enum_variant, reason = "short-lived, one at a time")]
#[derive(Debug)]
pub enum BaseRef<'a> {
    /// A layer with its own weight.
    Own(&'a mut BaseLinear),
    /// A view of the weight of an embedding.
    Tied(BaseLinear),
}

impl BaseRef<'_> {
    /// The layer.
    pub fn get(&self) -> &BaseLinear {
        match self {
            Self::Own(base) => base,
            Self::Tied(base) => base,
        }
    }
}

impl<'a> Slot<'a> {
    /// A linear layer inside the model.
    pub fn linear(path: &'a str, layer: &'a mut AdapterLinear) -> Self {
        Self {
            path,
            role: SlotRole::Inner,
            module: SlotModule::Linear(layer.slot()),
        }
    }

    /// The linear layer at the end of the model.
    pub fn head(path: &'a str, layer: &'a mut AdapterLinear) -> Self {
        Self {
            role: SlotRole::Head,
            ..Self::linear(path, layer)
        }
    }

    /// A head that uses the matrix of an embedding.
    pub fn tied_head(
        path: &'a str,
        layer: &'a mut TiedLinear,
        embedding: &AdapterEmbedding,
    ) -> Self {
        Self {
            path,
            role: SlotRole::Head,
            module: SlotModule::Linear(layer.slot(embedding)),
        }
    }

    /// A table of vectors.
    pub fn embedding(path: &'a str, layer: &'a mut AdapterEmbedding) -> Self {
        Self {
            path,
            role: SlotRole::Inner,
            module: SlotModule::Embedding(layer),
        }
    }

    /// A normalisation.
    pub fn norm(path: &'a str, layer: &'a mut AdapterNorm) -> Self {
        Self {
            path,
            role: SlotRole::Inner,
            module: SlotModule::Norm(layer),
        }
    }

    /// The place of virtual tokens, in front of what `embedding` gives.
    pub fn prompt(
        path: &'a str,
        prompt: &'a mut AdapterPrompt,
        embedding: &AdapterEmbedding,
    ) -> Self {
        Self {
            path,
            role: SlotRole::Inner,
            module: SlotModule::Prompt(prompt.slot(embedding)),
        }
    }

    /// The output of attention or of an MLP, whose parameters are on `device`.
    pub fn sublayer(path: &'a str, sublayer: &'a mut AdapterSublayer, device: Device) -> Self {
        Self {
            path,
            role: SlotRole::Inner,
            module: SlotModule::Sublayer(sublayer.slot(device)),
        }
    }

    /// A parameter that stands alone.
    pub fn vector(path: &'a str, param: &'a mut Param<Tensor<1>>) -> Self {
        Self {
            path,
            role: SlotRole::Inner,
            module: SlotModule::Vector(param),
        }
    }
}

/// Turns off the gradients of a module in place.
pub(crate) fn freeze<M: Module>(module: &mut M) {
    *module = module.clone().no_grad();
}

/// Turns the gradients of the adapters called `name` on or off.
pub(crate) fn set_trainable<M: Module + ModuleDisplay>(
    adapters: &mut [NamedAdapter<M>],
    name: &str,
    trainable: bool,
) {
    for adapter in adapters.iter_mut().filter(|adapter| adapter.name == name) {
        adapter.method = adapter.method.clone().set_require_grad(trainable);
        adapter.trainable = trainable;
    }
}

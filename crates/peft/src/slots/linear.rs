//! The slot for adapters around one linear layer.

use std::cell::OnceCell;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use flametune_kernels::{LoraBase, LoraSegment, lora_segmented};
use flametune_quant::{BaseLinear, DenseLinear};

use super::{
    AdapterEmbedding, BaseRef, BiasLinear, LinearSlot, NamedAdapter, PartInfo, SavedLinear,
    SlotMethod,
};
use crate::adalora::AdaLoraLinear;
use crate::error::Result;
use crate::hira::HiraLinear;
use crate::ia3::Ia3Linear;
use crate::loha::LoHaLinear;
use crate::lokr::LoKrLinear;
use crate::lora::{InputObserver, LoraLinear};
use crate::miss::MissLinear;
use crate::selection::{AdapterPass, Dropout};
use crate::tensors::TensorName;
use crate::trainable_tokens::TrainableTokens;
use crate::vera::VeraLinear;

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
    /// `AdaLoRA`.
    AdaLora(AdaLoraLinear),
    /// `HiRA`.
    Hira(HiraLinear),
    /// (IA)³.
    Ia3(Ia3Linear),
    /// `LoHa`.
    LoHa(LoHaLinear),
    /// `LoKr`.
    LoKr(LoKrLinear),
    /// LoRA, rsLoRA and DoRA.
    Lora(LoraLinear),
    /// `MiSS`.
    Miss(MissLinear),
    /// `VeRA`.
    Vera(VeraLinear),
    /// Nothing but a look at the inputs, for an initialisation.
    Observer(InputObserver),
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

/// A tensor that all parts of an adapter have in common.
#[derive(Debug)]
pub(crate) struct SharedTensor<'a> {
    /// What it is called in the adapter's file, after `base_model.`.
    pub(crate) key: &'static str,
    /// This part's view of it.
    pub(crate) tensor: &'a mut Tensor<2>,
}

/// What a method must offer to adapt linear layers.
pub(crate) trait LinearAdapter: Module {
    /// Adds what the adapter contributes to `y`, the sum of the layer's output and of the adapters
    /// before this one.
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2>;

    /// What the layer computes with this adapter and no other, of methods that need not compute
    /// the layer's own output for it.
    fn alone(&self, base: &BaseLinear, x: &Tensor<2>) -> Option<Tensor<2>> {
        let _ = (base, x);
        None
    }

    /// The change of the layer that equals the adapter.
    ///
    /// # Errors
    /// A reason, when there is none.
    fn delta(&self, base: &BaseLinear) -> Result<DeltaLinear, &'static str>;

    /// What reports and files need to know of it.
    fn info(&self) -> PartInfo;

    /// How its parameters are called on disk.
    fn tensor_names(&self) -> &'static [TensorName];

    /// The same adapter with the parameters that are stored.
    fn stored(&self) -> Self {
        self.clone()
    }

    /// The tensors that all parts of an adapter have in common and that are stored.
    fn shared(&mut self) -> Vec<SharedTensor<'_>> {
        Vec::new()
    }

    /// Recomputes what was derived from parameters or base, after either has changed.
    fn refresh(&mut self, base: &BaseLinear) {
        let _ = base;
    }
}

/// Calls the same method of whichever variant there is.
macro_rules! each_linear {
    ($self:expr, $method:ident => $call:expr) => {
        match $self {
            LinearMethod::AdaLora($method) => $call,
            LinearMethod::Hira($method) => $call,
            LinearMethod::Ia3($method) => $call,
            LinearMethod::LoHa($method) => $call,
            LinearMethod::LoKr($method) => $call,
            LinearMethod::Lora($method) => $call,
            LinearMethod::Miss($method) => $call,
            LinearMethod::Vera($method) => $call,
            LinearMethod::Observer($method) => $call,
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

    fn alone(&self, base: &BaseLinear, x: &Tensor<2>) -> Option<Tensor<2>> {
        each_linear!(self, method => method.alone(base, x))
    }

    pub(crate) fn shared(&mut self) -> Vec<SharedTensor<'_>> {
        each_linear!(self, method => method.shared())
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

    fn stored(&self) -> Self {
        match self {
            Self::AdaLora(method) => Self::AdaLora(method.stored()),
            other => other.clone(),
        }
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
        let stack = Stack {
            base: &self.base_layer,
            adapters: &self.adapters,
            tied: None,
        };
        stack.forward(x, pass)
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
    /// embedding as it stands in the base, and with the rows of it that an adapter trains.
    ///
    /// # Panics
    /// As [`AdapterLinear::forward`].
    pub fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        embedding: &AdapterEmbedding,
        pass: &AdapterPass,
    ) -> Tensor<D> {
        let stack = Stack {
            base: &tied(embedding),
            adapters: &self.adapters,
            tied: Some(embedding),
        };
        stack.forward(x, pass)
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
    let dense = DenseLinear::new(Param::clone(&embedding.weight), None);
    BaseLinear::Dense(dense).with_precision(embedding.head_precision)
}

/// A layer and what lies on it.
struct Stack<'a> {
    base: &'a BaseLinear,
    adapters: &'a [NamedAdapter<LinearMethod>],
    /// The embedding whose matrix the layer multiplies with.
    tied: Option<&'a AdapterEmbedding>,
}

impl Stack<'_> {
    fn forward<const D: usize>(&self, x: Tensor<D>, pass: &AdapterPass) -> Tensor<D> {
        let base = self.base;
        if pass.is_base() || !pass.names().iter().any(|name| self.has(name)) {
            return base.forward(x);
        }
        let mut dims = x.dims();
        let rows = dims[..D - 1].iter().product::<usize>();
        let each = rows / dims[0].max(1);
        let x = x.reshape([rows, dims[D - 1]]);
        dims[D - 1] = base.d_out();
        let plain = pass.names().iter().all(|name| self.tokens(name).is_none());
        if let Some(segments) = fused(self.adapters, pass, rows, each).filter(|_| plain) {
            return lora_segmented(x, lora_base(base), segments).reshape(dims);
        }
        let key = pass.dropout();
        let base_output = OnceCell::new();
        let base_output = || base_output.get_or_init(|| base.forward(x.clone()));
        let y = pass.run(
            |name| self.has(name),
            each,
            |names| {
                if let Some(y) = self.alone(names, &x) {
                    return y;
                }
                let input = LinearInput {
                    base,
                    x: x.clone(),
                    base_output: base_output().clone(),
                    dropout: Dropout { key, rows: None },
                };
                self.adapted(names, &input)
            },
            |name, set| {
                let input = LinearInput {
                    base,
                    x: set.of(&x),
                    base_output: set.of(base_output()),
                    dropout: Dropout {
                        key,
                        rows: Some(set),
                    },
                };
                self.adapted(name.as_slice(), &input)
            },
        );
        y.reshape(dims)
    }

    fn tokens(&self, name: &str) -> Option<&TrainableTokens> {
        self.tied.and_then(|embedding| embedding.tokens(name))
    }

    fn has(&self, name: &str) -> bool {
        self.adapters.iter().any(|adapter| adapter.name == name) || self.tokens(name).is_some()
    }

    /// The output with a single part that does without the layer's own.
    fn alone(&self, names: &[&str], x: &Tensor<2>) -> Option<Tensor<2>> {
        let [name] = names else {
            return None;
        };
        let mut parts = self.adapters.iter().filter(|part| part.name == *name);
        match (parts.next(), parts.next()) {
            (Some(part), None) if self.tokens(name).is_none() => part.method.alone(self.base, x),
            _ => None,
        }
    }

    fn adapted(&self, names: &[&str], input: &LinearInput<'_>) -> Tensor<2> {
        let mut y = input.base_output.clone();
        for name in names {
            for adapter in self.adapters.iter().filter(|adapter| adapter.name == *name) {
                y = adapter.method.forward(input.clone(), y);
            }
            if let (Some(tokens), Some(embedding)) = (self.tokens(name), self.tied) {
                y = tokens.head(&embedding.weight.val(), input.x.clone(), y);
            }
        }
        y
    }
}

/// The adapters for the fused operation, if all that take part are plain LoRA, one a row at most.
fn fused(
    adapters: &[NamedAdapter<LinearMethod>],
    pass: &AdapterPass,
    rows: usize,
    each: usize,
) -> Option<Vec<LoraSegment>> {
    let dropout = Dropout {
        key: pass.dropout(),
        rows: None,
    };
    let has = |name: &str| adapters.iter().any(|adapter| adapter.name == name);
    let segments = pass.segments(has, rows, each)?.into_iter();
    segments
        .map(|(name, rows)| {
            let mut here = adapters.iter().filter(|adapter| adapter.name == name);
            match (here.next().map(|adapter| &adapter.method), here.next()) {
                (Some(LinearMethod::Lora(lora)), None) => Some(LoraSegment {
                    rows,
                    factors: lora.fused(dropout)?,
                }),
                _ => None,
            }
        })
        .collect()
}

/// The layer as the fused operation takes it.
fn lora_base(base: &BaseLinear) -> LoraBase {
    let bias = base.bias().map(Param::val);
    let precision = base.precision();
    match base {
        BaseLinear::Dense(dense) => LoraBase::Dense {
            weight: dense.weight.val(),
            bias,
            precision,
        },
        BaseLinear::Quant(quant) => LoraBase::Packed {
            weight: quant.packed_weight(),
            bias,
            precision,
        },
    }
}

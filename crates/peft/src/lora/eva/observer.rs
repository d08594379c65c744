//! A part that reads the inputs of its layer.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::Tensor;
use flametune_quant::BaseLinear;

use crate::error::Result;
use crate::slots::{DeltaLinear, LinearAdapter, LinearInput, PartInfo};
use crate::tensors::TensorName;

/// Keeps the last input of a linear layer and adds nothing to its output, while
/// [`EvaInit`](crate::EvaInit) or [`QeraInit`](crate::QeraInit) looks at data.
#[derive(Module, Debug)]
pub struct InputObserver {
    #[module(skip)]
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug)]
struct Seen {
    active: bool,
    input: Option<Tensor<2>>,
}

impl InputObserver {
    pub(in crate::lora) fn new() -> Self {
        Self {
            seen: Arc::new(Mutex::new(Seen {
                active: true,
                input: None,
            })),
        }
    }

    fn seen<T>(&self, read: impl FnOnce(&mut Seen) -> T) -> T {
        read(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether inputs are kept from now on.
    pub(super) fn set_active(&self, active: bool) {
        self.seen(|seen| seen.active = active);
    }

    /// Puts an input back.
    pub(super) fn put(&self, input: Tensor<2>) {
        self.seen(|seen| seen.input = Some(input));
    }

    /// The last input `[rows, d_in]`, which is then forgotten.
    pub(in crate::lora) fn take(&self) -> Option<Tensor<2>> {
        self.seen(|seen| seen.input.take())
    }
}

impl LinearAdapter for InputObserver {
    fn forward(&self, input: LinearInput<'_>, y: Tensor<2>) -> Tensor<2> {
        self.seen(|seen| {
            if seen.active {
                seen.input = Some(input.x.detach());
            }
        });
        y
    }

    fn delta(&self, _base: &BaseLinear) -> Result<DeltaLinear, &'static str> {
        Err("an initialisation is looking at data")
    }

    fn info(&self) -> PartInfo {
        PartInfo::adapter("observer", None)
    }

    fn tensor_names(&self) -> &'static [TensorName] {
        &[]
    }
}

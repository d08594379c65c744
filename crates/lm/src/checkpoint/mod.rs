//! Weight files: reading named tensors one at a time, and writing them in the Hugging Face layout.

mod dtype;
mod gguf;
mod header;
mod index;
mod packed;
mod partial;
mod safetensors;
mod save;

use std::fmt::Debug;
use std::path::PathBuf;

use burn::tensor::{DType, TensorData};
use flametune_quant::bnb_layout::BnbPart;

use crate::error::Result;

pub(crate) use packed::{is_packed, read_packed};
pub(crate) use partial::PartialFile;

pub use gguf::{GgufCheckpoint, GgufNames, GgufPart, GgufPlan, GgufSource, RowOrder};
pub use header::HeaderError;
pub use index::IndexError;
pub use packed::{StoredWeight, stored_weights};
pub use safetensors::SafetensorsCheckpoint;
pub use save::{SavedCheckpoint, TensorSpec, save_safetensors};

/// Named tensors of a checkpoint, read one at a time.
///
/// Loading a model through this trait keeps the peak memory near the model's own size, because
/// no more than one tensor exists twice.
pub trait TensorSource: Debug + Send + Sync {
    /// The names of all tensors as Hugging Face spells them, sorted.
    fn names(&self) -> Vec<String>;

    /// Shape, stored type and place of a tensor, or `None` when there is no tensor of that name.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// Reads a tensor and converts it to `dtype`, one of `F32`, `F16` and `BF16`.
    ///
    /// Conversions round to the nearest value, ties to even; what is too large for the wanted
    /// type becomes infinite.
    ///
    /// # Errors
    /// - [`MissingTensor`](crate::Error::MissingTensor) for a name that is not in [`names`](Self::names)
    /// - [`UnsupportedConversion`](crate::Error::UnsupportedConversion) when the stored type has no
    ///   conversion to `dtype`
    fn read(&self, name: &str, dtype: DType) -> Result<TensorData>;

    /// A tensor as it is stored, if the format has tensors in which bitsandbytes could store the
    /// parts of a quantized weight. GGUF has its own.
    fn stored(&self, _name: &str) -> Option<BnbPart<'_>> {
        None
    }

    /// Hears that the bytes of a [`stored`](Self::stored) tensor have been copied, and that its
    /// pages need not stand beside them.
    fn release(&self, _name: &str) {}
}

/// What is known of a stored tensor without reading its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The element type as the file spells it, such as `BF16` or `Q4_1`.
    pub dtype: String,
    /// The bytes the tensor takes on disk.
    pub bytes: usize,
    /// The file that holds it.
    pub file: PathBuf,
}

//! What the native CPU forms share: when they apply, how they see a tensor, how they write one.

mod again;
mod decode;
mod dense;
mod output;
mod pool;
mod rows;

pub use pool::in_pool;

pub(crate) use again::{Kept, remember};
pub(crate) use decode::Decode;
pub(crate) use dense::{Bf16Rows, F32Rows, RowRange, rounded, rounded_rows, widened};
pub(crate) use output::{Shared, fill_rows, tensor, tensor_bf16};
pub(crate) use rows::{Rows, Stored};

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Tensor};

/// Whether the native forms can take `tensor`: on the Flex backend, with or without autodiff, f32.
pub(crate) fn takes<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && on_flex(tensor)
}

/// Whether `tensor` lives on the Flex backend, with or without autodiff, whatever its dtype.
pub(crate) fn on_flex<const D: usize>(tensor: &Tensor<D>) -> bool {
    is_flex(tensor.device().as_dispatch())
}

/// Whether tensors of `device` live on the Flex backend, with or without autodiff.
pub(crate) fn is_flex_device(device: &Device) -> bool {
    is_flex(device.as_dispatch())
}

#[allow(
    unreachable_patterns,
    reason = "how many backends there are is up to Burn's features"
)]
fn is_flex(device: &DispatchDevice) -> bool {
    match device {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(device) => is_flex(device),
        _ => false,
    }
}

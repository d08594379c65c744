//! A trained linear map inside an encoder of virtual tokens.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use flametune_kernels::linear;

use crate::random::{Stream, fan_in_bound};

/// `x·Wᵀ + b`.
///
/// # Shapes
/// - `weight`: `[d_out, d_in]`, `bias`: `[d_out]`
#[derive(Module, Debug)]
pub struct Affine {
    /// The matrix.
    pub weight: Param<Tensor<2>>,
    /// The shift.
    pub bias: Param<Tensor<1>>,
}

impl Affine {
    /// Numbers in `±1/√d_in`, as torch's `nn.Linear` begins.
    pub(super) fn init(
        [d_out, d_in]: [usize; 2],
        stream: impl Fn(u64) -> Stream,
        device: &Device,
    ) -> Self {
        let bound = fan_in_bound(d_in);
        let place = (device, DType::F32);
        Self {
            weight: Param::from_tensor(stream(0).uniform_tensor([d_out, d_in], bound, place)),
            bias: Param::from_tensor(stream(1).uniform_tensor([d_out], bound, place)),
        }
    }

    /// All zeros.
    pub(super) fn zeros([d_out, d_in]: [usize; 2], device: &Device) -> Self {
        let place = (device, DType::F32);
        Self {
            weight: Param::from_tensor(Tensor::zeros([d_out, d_in], place)),
            bias: Param::from_tensor(Tensor::zeros([d_out], place)),
        }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(x, self.weight.val(), Some(self.bias.val()))
    }
}

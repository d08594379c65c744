//! Frozen linear layers: the base that adapters sit on.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use flametune_kernels::linear;

/// The weight of a linear layer as ordinary floating-point numbers.
///
/// # Shapes
/// - `weight`: `[d_out, d_in]`, the layout of `torch.nn.Linear` and of the files
/// - `bias`: `[d_out]`
#[derive(Module, Debug)]
pub struct DenseLinear {
    /// The weight matrix, one row per output.
    pub weight: Param<Tensor<2>>,
    /// The additive bias, if the layer has one.
    pub bias: Option<Param<Tensor<1>>>,
    /// Whether the layer is stored transposed on disk (`[d_in, d_out]`), as GPT-2's `Conv1D` is.
    ///
    /// In memory the weight is always `[d_out, d_in]`; only reading and writing look at this.
    #[module(skip)]
    pub fan_in_fan_out: bool,
}

/// A linear layer whose weight is frozen while adapters train: `y = x·Wᵀ + b`.
#[derive(Module, Debug)]
pub enum BaseLinear {
    /// Floating-point weights, of the dtype they were loaded with.
    Dense(DenseLinear),
}

impl BaseLinear {
    /// Computes `x·Wᵀ + b`.
    ///
    /// # Shapes
    /// - `x`: `[.., d_in]`
    /// - returns `[.., d_out]`, dtype of `x`
    ///
    /// # Panics
    /// When the last dimension of `x` is not `d_in`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Dense(dense) => {
                linear(x, dense.weight.val(), dense.bias.as_ref().map(Param::val))
            }
        }
    }

    /// The width of the input.
    pub fn d_in(&self) -> usize {
        match self {
            Self::Dense(dense) => dense.weight.dims()[1],
        }
    }

    /// The width of the output.
    pub fn d_out(&self) -> usize {
        match self {
            Self::Dense(dense) => dense.weight.dims()[0],
        }
    }

    /// Whether the weight is stored transposed on disk (GPT-2's `Conv1D`).
    pub fn fan_in_fan_out(&self) -> bool {
        match self {
            Self::Dense(dense) => dense.fan_in_fan_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn dense_forward_adds_the_bias_to_x_times_w_transposed() {
        let device = Device::flex();
        let layer = BaseLinear::Dense(DenseLinear {
            weight: Param::from_tensor(Tensor::from_floats(
                [[1., 2.], [3., 4.], [5., 6.]],
                &device,
            )),
            bias: Some(Param::from_tensor(Tensor::from_floats(
                [10., 20., 30.],
                &device,
            ))),
            fan_in_fan_out: false,
        });
        let y = layer.forward(Tensor::<2>::from_floats([[1., -1.]], &device));
        assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), [9., 19., 29.]);
        assert_eq!((layer.d_in(), layer.d_out()), (2, 3));
    }
}

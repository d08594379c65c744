//! What adapters ask of the layer they sit on, beyond its output.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use flametune_quant::{BaseLinear, DenseLinear};

/// The weight as numbers, `[d_out, d_in]`, in f32 unless it is stored as floats already.
pub(crate) fn dense_weight(base: &BaseLinear) -> Tensor<2> {
    base.dense_weight()
}

/// The bias `[d_out]`, if the layer has one.
pub(crate) fn bias(base: &BaseLinear) -> Option<Tensor<1>> {
    base.bias().map(Param::val)
}

/// The device of the weight.
pub(crate) fn device(base: &BaseLinear) -> Device {
    base.device()
}

/// The dtype in which a merged weight is stored.
pub(crate) fn dtype(base: &BaseLinear) -> DType {
    base.dtype()
}

/// `x·Wᵀ`, without the bias.
pub(crate) fn product(base: &BaseLinear, x: Tensor<2>) -> Tensor<2> {
    base.product(x)
}

/// The bytes of weight and bias in memory.
pub(crate) fn bytes(base: &BaseLinear) -> usize {
    let bias = base.bias().map(|bias| bias.dims()[0] * bias.dtype().size());
    base.bytes() + bias.unwrap_or(0)
}

/// The same layer with another weight and bias; the weight takes the stored dtype.
pub(crate) fn with_weight(
    base: &BaseLinear,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> BaseLinear {
    BaseLinear::Dense(
        DenseLinear {
            weight: Param::from_tensor(cast(weight.detach(), dtype(base))),
            bias: bias.map(|bias| Param::from_tensor(bias.detach())),
            fan_in_fan_out: base.fan_in_fan_out(),
            precision: base.precision(),
        }
        .no_grad(),
    )
}

/// The same numbers as a constant of the graph.
///
/// `Tensor::detach` leaves the leaves of a graph what they are, so that whatever is computed from a
/// parameter that is trained would keep what its gradient needs.
pub(crate) fn constant<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.device().is_autodiff() {
        true => Tensor::from_inner(x.inner()),
        false => x,
    }
}

/// Converts only when it must.
pub(crate) fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// The input in a dtype that parameters multiply with: wider stays, narrower is widened.
pub(crate) fn meet<const D: usize>(x: Tensor<D>, param: DType) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        cast(x, param)
    }
}

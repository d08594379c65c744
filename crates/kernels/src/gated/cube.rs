//! Both gated units as one kernel each way on the devices that CubeCL reaches.
#![allow(missing_docs, reason = "the macro makes items without documentation")]

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::cubecl::dtype_to_storage_type;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::Tensor;
use burn_cubecl::CubeBackend;
use cubecl::prelude::*;

use super::Activation;
use crate::cube;

/// Units of a cube.
const UNITS: u32 = 256;

/// 2·√(2/π), of the tanh form of GELU.
const SLOPE: f32 = 1.595_769;
/// The cubic coefficient of the tanh form of GELU.
const CUBIC: f32 = 0.044_715;

#[backend_extension(Cube, Autodiff, Fusion)]
pub(crate) trait GatedCubeOps: Backend {
    #[fusion(dtype = gate, shape = gate)]
    fn gated_cube(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

#[backend_extension(Cube, Fusion)]
pub(crate) trait GatedCubeGradients: Backend {
    /// The gradients of gate and up.
    #[fusion(meta = |gate, up, _dy, _activation| (gate.clone(), up.clone()))]
    fn gated_cube_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
}

impl GatedCubeOps for CubeBackend {
    fn gated_cube(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let (client, dtype) = (gate.client.clone(), gate.dtype());
        let (vector, count) = vectors(gate.shape().num_elements());
        let y = cube::empty(&gate, gate.shape(), dtype);
        #[allow(unsafe_code, reason = "a launch without bounds checks")]
        // SAFETY: units past the last vector do nothing, and all three tensors have as many.
        unsafe {
            forward::launch_unchecked(
                &client,
                cube::spread(count.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                vector,
                cube::rows(gate),
                cube::rows(up),
                y.clone().into_buffer_arg(),
                count,
                activation,
                dtype_to_storage_type(dtype),
            );
        }
        y
    }
}

impl GatedCubeGradients for CubeBackend {
    fn gated_cube_gradients(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        activation: Activation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (client, dtype) = (gate.client.clone(), gate.dtype());
        let (vector, count) = vectors(gate.shape().num_elements());
        let d_gate = cube::empty(&gate, gate.shape(), dtype);
        let d_up = cube::empty(&gate, gate.shape(), dtype);
        #[allow(unsafe_code, reason = "a launch without bounds checks")]
        // SAFETY: units past the last vector do nothing, and all five tensors have as many.
        unsafe {
            backward::launch_unchecked(
                &client,
                cube::spread(count.div_ceil(UNITS as usize)),
                CubeDim::new_1d(UNITS),
                vector,
                cube::rows(gate),
                cube::rows(up),
                cube::rows(dy),
                d_gate.clone().into_buffer_arg(),
                d_up.clone().into_buffer_arg(),
                count,
                activation,
                dtype_to_storage_type(dtype),
            );
        }
        (d_gate, d_up)
    }
}

#[derive(Debug)]
struct GatedBackward;

impl<B: GatedCubeGradients> Backward<B, 2> for GatedBackward {
    type State = (FloatTensor<B>, FloatTensor<B>, Activation);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let (gate, up, activation) = ops.state;
        let (d_gate, d_up) = B::gated_cube_gradients(gate, up, dy, activation);
        for (parent, gradient) in ops.parents.into_iter().zip([d_gate, d_up]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: GatedCubeOps + GatedCubeGradients, C: CheckpointStrategy> GatedCubeOps for Autodiff<B, C> {
    fn gated_cube(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let (gate, gate_node) = gate.into_parts();
        let (up, up_node) = up.into_parts();
        match GatedBackward
            .prepare::<C>([gate_node, up_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => {
                let state = (gate.clone(), up.clone(), activation);
                prep.finish(state, B::gated_cube(gate, up, activation))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gated_cube(gate, up, activation)),
        }
    }
}

/// How many numbers a unit takes, and how many units that makes.
fn vectors(numel: usize) -> (usize, usize) {
    let vector = if numel.is_multiple_of(4) { 4 } else { 1 };
    (vector, numel / vector)
}

/// Whether the kernels take the two.
pub(super) fn takes<const D: usize>(gate: &Tensor<D>, up: &Tensor<D>) -> bool {
    cube::takes(gate) && cube::takes(up) && gate.dtype() == up.dtype()
}

/// `act(gate)·up`.
pub(super) fn gated<const D: usize>(
    gate: Tensor<D>,
    up: Tensor<D>,
    activation: Activation,
) -> Tensor<D> {
    let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
    Tensor::from_dispatch(Dispatch::gated_cube(gate, up, activation))
}

#[cube(launch_unchecked)]
fn forward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    y: &mut [Vector<F, N>],
    count: usize,
    #[comptime] activation: Activation,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        let gates = gate[at];
        let ups = up[at];
        let mut values = Vector::<F, N>::empty();
        #[unroll]
        for j in 0..N::value() {
            let x = f32::cast_from(gates.extract(j));
            let value = x * sigmoid(inner(x, activation));
            values.insert(j, F::cast_from(value * f32::cast_from(ups.extract(j))));
        }
        y[at] = values;
    }
}

#[cube(launch_unchecked)]
fn backward<F: Float, N: Size>(
    gate: &[Vector<F, N>],
    up: &[Vector<F, N>],
    dy: &[Vector<F, N>],
    d_gate: &mut [Vector<F, N>],
    d_up: &mut [Vector<F, N>],
    count: usize,
    #[comptime] activation: Activation,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < count {
        let gates = gate[at];
        let ups = up[at];
        let slopes = dy[at];
        let mut d_gates = Vector::<F, N>::empty();
        let mut d_ups = Vector::<F, N>::empty();
        #[unroll]
        for j in 0..N::value() {
            let x = f32::cast_from(gates.extract(j));
            let slope = f32::cast_from(slopes.extract(j));
            let open = sigmoid(inner(x, activation));
            let value = x * open;
            // σ + x·σ·(1 − σ)·h'(x)
            let mut bend = value * (1.0 - open);
            if comptime!(activation == Activation::GeluTanh) {
                bend *= (x * x * comptime!(3.0 * CUBIC) + 1.0) * comptime!(SLOPE);
            }
            let d_value = slope * f32::cast_from(ups.extract(j));
            d_gates.insert(j, F::cast_from(d_value * (open + bend)));
            d_ups.insert(j, F::cast_from(slope * value));
        }
        d_gate[at] = d_gates;
        d_up[at] = d_ups;
    }
}

/// `h` of an activation `x·σ(h(x))`: SiLU has `h(x) = x`, GELU `2·√(2/π)·(x + 0.044715·x³)`.
#[cube]
fn inner(x: f32, #[comptime] activation: Activation) -> f32 {
    if comptime!(activation == Activation::GeluTanh) {
        x * (x * x * comptime!(CUBIC) + 1.0) * comptime!(SLOPE)
    } else {
        x
    }
}

/// `1 / (1 + e⁻ˣ)`; the argument is cut off where the result no longer changes, since an
/// overflowing exponential is not the same on every device.
#[cube]
fn sigmoid(x: f32) -> f32 {
    let x = clamp(x, -87.0, 87.0);
    1.0 / (1.0 + (-x).exp())
}

//! Both gated units on the CPU.

use std::mem::MaybeUninit;

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::bf16;

use super::Activation;
use crate::cpu::{Rows, Stored, fill_rows, rounded_rows, tensor, tensor_bf16};
use crate::simd::{Kernel, Simd, dispatch, read, sigmoid, write_new};

/// `act(gate)·up` in f32, of f32 or bf16.
pub(super) fn forward(activation: Activation, gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    match gate.dtype() {
        DType::BF16 => forward_of::<bf16>(activation, gate, up),
        _ => forward_of::<f32>(activation, gate, up),
    }
}

fn forward_of<E: Stored>(activation: Activation, gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let shape = gate.layout().shape().clone();
    let (gate, up) = (Rows::new(gate), Rows::new(up));
    let width = gate.width();
    let (g, u) = (gate.data::<E>(), up.data::<E>());
    #[allow(unsafe_code, reason = "the output is not zeroed first")]
    // SAFETY: `Forward` writes the whole of each row it is given.
    let [y] = unsafe {
        fill_rows(gate.rows(), width, width, |rows, [y]| {
            for (row, y) in rows.zip(y.chunks_exact_mut(width)) {
                let gate = &g[row * gate.stride()..][..width];
                let up = &u[row * up.stride()..][..width];
                dispatch(Forward {
                    activation,
                    gate,
                    up,
                    y,
                });
            }
        })
    };
    tensor(y, shape)
}

/// [`forward`] of f32, and gate and up rounded to bf16.
pub(super) fn forward_keeping_bf16(
    activation: Activation,
    gate: FlexTensor,
    up: FlexTensor,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let shape = gate.layout().shape().clone();
    let y = forward(activation, gate.clone(), up.clone());
    let [gate, up] = [gate, up].map(|tensor| rounded_rows(&Rows::new(tensor)));
    let kept = |values| tensor_bf16(values, shape.clone());
    (y, kept(gate), kept(up))
}

/// The gradients of `gate` and `up` for the output gradient `dy`.
pub(super) fn backward(
    activation: Activation,
    gate: FlexTensor,
    up: FlexTensor,
    dy: FlexTensor,
) -> [FlexTensor; 2] {
    match gate.dtype() {
        DType::BF16 => backward_of::<bf16>(activation, gate, up, dy),
        _ => backward_of::<f32>(activation, gate, up, dy),
    }
}

fn backward_of<E: Stored>(
    activation: Activation,
    gate: FlexTensor,
    up: FlexTensor,
    dy: FlexTensor,
) -> [FlexTensor; 2] {
    let shape = gate.layout().shape().clone();
    let (gate, up, dy) = (Rows::new(gate), Rows::new(up), Rows::new(dy));
    let width = gate.width();
    let (g, u, d) = (gate.data::<E>(), up.data::<E>(), dy.data::<f32>());
    #[allow(unsafe_code, reason = "the outputs are not zeroed first")]
    // SAFETY: `Backward` writes the whole of both rows it is given.
    let gradients = unsafe {
        fill_rows(gate.rows(), width, width, |rows, [dgate, dup]| {
            let out = dgate
                .chunks_exact_mut(width)
                .zip(dup.chunks_exact_mut(width));
            for (row, (dgate, dup)) in rows.zip(out) {
                let gate = &g[row * gate.stride()..][..width];
                let up = &u[row * up.stride()..][..width];
                let dy = &d[row * dy.stride()..][..width];
                dispatch(Backward {
                    activation,
                    gate,
                    up,
                    dy,
                    dgate,
                    dup,
                });
            }
        })
    };
    gradients.map(|gradient| tensor(gradient, shape.clone()))
}

/// One row of [`forward`].
struct Forward<'a, E> {
    activation: Activation,
    gate: &'a [E],
    up: &'a [E],
    y: &'a mut [MaybeUninit<f32>],
}

impl<E: Stored> Kernel for Forward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.y.len()).step_by(S::LANES) {
            let value = activate(s, self.activation, read(s, self.gate, at));
            write_new(s, s.mul(value, read(s, self.up, at)), self.y, at);
        }
    }
}

/// One row of [`backward`].
struct Backward<'a, E> {
    activation: Activation,
    gate: &'a [E],
    up: &'a [E],
    dy: &'a [f32],
    dgate: &'a mut [MaybeUninit<f32>],
    dup: &'a mut [MaybeUninit<f32>],
}

impl<E: Stored> Kernel for Backward<'_, E> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for at in (0..self.dgate.len()).step_by(S::LANES) {
            let dy = read(s, self.dy, at);
            let (value, slope) = activate_and_slope(s, self.activation, read(s, self.gate, at));
            let dgate = s.mul(s.mul(dy, read(s, self.up, at)), slope);
            write_new(s, dgate, self.dgate, at);
            write_new(s, s.mul(dy, value), self.dup, at);
        }
    }
}

/// 2·√(2/π), of the tanh form of GELU.
const SLOPE: f32 = 1.595_769;
/// The cubic coefficient of the tanh form of GELU.
const CUBIC: f32 = 0.044_715;

/// `x·σ(h(x))`: with `h(x) = x` SiLU, and with `h(x) = 2·√(2/π)·(x + 0.044715·x³)` GELU, since
/// `(1 + tanh u)/2 = σ(2u)`, which keeps its digits where tanh is close to -1.
#[inline(always)]
fn activate<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    s.mul(x, sigmoid(s, inner(s, activation, x)))
}

/// The activation and its derivative `σ + x·σ·(1 − σ)·h'(x)`.
#[inline(always)]
fn activate_and_slope<S: Simd>(s: S, activation: Activation, x: S::V) -> (S::V, S::V) {
    let one = s.splat(1.0);
    let gate = sigmoid(s, inner(s, activation, x));
    let value = s.mul(x, gate);
    let mut bend = s.mul(value, s.sub(one, gate));
    if activation == Activation::GeluTanh {
        let growth = s.mul_add(s.mul(x, x), s.splat(3.0 * CUBIC), one);
        bend = s.mul(bend, s.mul(growth, s.splat(SLOPE)));
    }
    (value, s.add(bend, gate))
}

#[inline(always)]
fn inner<S: Simd>(s: S, activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Silu => x,
        Activation::GeluTanh => {
            let cubic = s.mul_add(s.mul(x, x), s.splat(CUBIC), s.splat(1.0));
            s.mul(s.mul(x, cubic), s.splat(SLOPE))
        }
    }
}

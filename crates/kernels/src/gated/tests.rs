use burn::tensor::{DType, Device, Tensor};
use flametune_testkit::{assert_close, check_gradients, devices, tol};
use proptest::prelude::*;

use super::{Activation, geglu_tanh, reference, swiglu, swiglu_with};
use crate::precision::Precision;
use crate::sample::{leaf, numbers, pull_back, tensor};

const BOTH: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

fn fast<const D: usize>(gate: Tensor<D>, up: Tensor<D>, activation: Activation) -> Tensor<D> {
    match activation {
        Activation::Silu => swiglu(gate, up),
        Activation::GeluTanh => geglu_tanh(gate, up),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_path_equals_the_reference(
        rows in 1usize..9,
        width in 1usize..70,
        fused: bool,
        scale in 0.1f64..20.0,
    ) {
        let device = Device::flex();
        // Halves of one fused projection, or the two of separate ones.
        let whole = tensor([2, rows, 2 * width], 1, &device) * scale;
        let gate = whole.clone().slice([0..2, 0..rows, 0..width]);
        let up = if fused {
            whole.slice([0..2, 0..rows, width..2 * width])
        } else {
            tensor([2, rows, width], 2, &device)
        };
        for activation in BOTH {
            let got = fast(gate.clone(), up.clone(), activation).into_data();
            let expected = reference::gated(gate.clone(), up.clone(), activation).into_data();
            let tolerance = tol::roundings(DType::F32, 16).of_magnitude(scale * scale);
            assert_close(&got, &expected, tolerance, "y");
        }
    }

    #[test]
    fn gradients_equal_those_of_the_reference(rows in 1usize..9, width in 1usize..70) {
        type Gate = fn(Tensor<2>, Tensor<2>, Activation) -> Tensor<2>;
        for activation in BOTH {
            let gradients = |f: Gate| {
                let (gate, up) = (leaf([rows, width], 1), leaf([rows, width], 2));
                let gradients = pull_back(f(gate.clone() * 4.0, up.clone(), activation));
                let gate = gate.grad(&gradients).unwrap().into_data();
                (gate, up.grad(&gradients).unwrap().into_data())
            };
            let (gate, up) = gradients(fast);
            let (gate_expected, up_expected) = gradients(reference::gated);
            let tolerance = tol::roundings(DType::F32, 64).of_magnitude(4.0);
            assert_close(&gate, &gate_expected, tolerance, "dgate");
            assert_close(&up, &up_expected, tolerance, "dup");
        }
    }
}

#[test]
fn gradients_pass_finite_differences() {
    for activation in BOTH {
        check_gradients(
            |inputs| fast(inputs.get::<2>(0), inputs.get::<2>(1), activation),
            &[numbers([3, 5], 1), numbers([3, 5], 2)],
            1e-2,
            tol::central_differences(1e-2),
        );
    }
}

#[test]
fn large_gates_neither_overflow_nor_lose_their_sign() {
    let device = Device::flex();
    let gate = Tensor::<1>::from_floats([-1e4, -100.0, 100.0, 1e4], &device);
    let up = Tensor::<1>::from_floats([2.0, 2.0, 2.0, 2.0], &device);
    for activation in BOTH {
        let y = fast(gate.clone(), up.clone(), activation)
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(
            y[0].abs() < 1e-30 && y[1].abs() < 1e-30,
            "{activation:?}: {y:?}"
        );
        assert_eq!(y[2..], [200.0, 2e4], "{activation:?}");
    }
}

#[test]
fn half_precision_takes_the_reference_path() {
    let device = Device::flex();
    let gate = tensor([2, 3], 1, &device).cast(DType::BF16);
    let y = swiglu(gate.clone(), gate);
    assert_eq!(y.dtype(), DType::BF16);
}

#[test]
fn every_device_agrees() {
    for device in devices() {
        for activation in BOTH {
            let y = fast(
                tensor([3, 20], 1, &device),
                tensor([3, 20], 2, &device),
                activation,
            );
            let cpu = Device::flex();
            let (gate, up) = (tensor([3, 20], 1, &cpu), tensor([3, 20], 2, &cpu));
            let expected = reference::gated(gate, up, activation);
            assert_close(&y.into_data(), &expected.into_data(), tol::f32_sum(16), "y");
        }
    }
}

#[test]
fn gradients_and_dtypes_agree_on_every_device() {
    // More numbers than a cube of a GPU kernel has units, and views of one fused projection.
    let run = |device: &Device, rows: usize, dtype: DType, activation, native: bool| {
        let device = device.clone().autodiff();
        let whole =
            Tensor::<2>::from_data(numbers([rows, 140], 1), (&device, dtype)).require_grad();
        let gate = whole.clone().slice([0..rows, 0..70]) * 3.0;
        let up = whole.clone().slice([0..rows, 70..140]);
        let y = if native {
            fast(gate, up, activation)
        } else {
            reference::gated(gate, up, activation)
        };
        let gradients = pull_back(y.clone().cast(DType::F32));
        let dwhole = whole.grad(&gradients).unwrap();
        (y.inner().into_data(), dwhole.into_data())
    };
    // Numbers in whole fours, and not.
    let cases = [8, 9]
        .into_iter()
        .flat_map(|rows| BOTH.map(|activation| (rows, activation)));
    for (rows, activation) in cases {
        let (expected, slope) = run(&Device::flex(), rows, DType::F32, activation, false);
        for device in devices() {
            let (y, gradient) = run(&device, rows, DType::F32, activation, true);
            // A GPU's exponential is exact to a few units in the last place.
            let tolerance = tol::roundings(DType::F32, 64).of_magnitude(4.0);
            assert_close(&y, &expected, tolerance, &format!("y on {device:?}"));
            assert_close(&gradient, &slope, tolerance, &format!("dx on {device:?}"));
            if computes_f16(&device) {
                let (y, gradient) = run(&device, rows, DType::F16, activation, true);
                let tolerance = tol::roundings(DType::F16, 4).of_magnitude(4.0);
                assert_eq!(y.dtype(), DType::F16);
                assert_close(&y, &expected, tolerance, "y in f16");
                assert_close(&gradient, &slope, tolerance, "dx in f16");
            }
        }
    }
}

/// Whether a device that CubeCL reaches computes in f16; not every device does.
fn computes_f16(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    if let Some(device) = crate::cube::device(device) {
        return crate::cube::computes(&device.client(), DType::F16);
    }
    let _ = device;
    false
}

#[test]
fn between_bf16_layers_the_value_is_exact_and_gradients_are_those_of_rounded_inputs() {
    let shape = [5, 37];
    let rounded = |x: Tensor<2>| x.cast(DType::BF16).cast(DType::F32);
    let (gate, up) = (leaf(shape, 1), leaf(shape, 2));
    let y = swiglu_with(gate.clone(), up.clone(), Precision::Bf16);
    let exact = swiglu(gate.clone(), up.clone());
    assert_eq!(y.to_data(), exact.into_data());
    let gradients = pull_back(y);
    let leaves = [&gate, &up].map(|leaf| rounded(leaf.clone().inner()));
    let leaves = leaves.map(|leaf| Tensor::from_inner(leaf).require_grad());
    let [rounded_gate, rounded_up] = leaves;
    let y = reference::gated(rounded_gate.clone(), rounded_up.clone(), Activation::Silu);
    let expected = pull_back(y);
    let tolerance = tol::roundings(DType::F32, 64).of_magnitude(4.0);
    for (leaf, expected_leaf) in [(gate, rounded_gate), (up, rounded_up)] {
        let got = leaf.grad(&gradients).unwrap().into_data();
        let expected = expected_leaf.grad(&expected).unwrap().into_data();
        assert_close(&got, &expected, tolerance, "gradient");
    }
}

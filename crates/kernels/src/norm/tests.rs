use burn::tensor::{DType, Device, Tensor};
use flametune_testkit::{assert_close, check_gradients, devices, tol};
use proptest::prelude::*;

use super::{Norm, layer_norm, norm, reference, rms_norm, rms_norm_with};
use crate::precision::Precision;
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back, tensor};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_path_equals_the_reference(
        rows in 1usize..9,
        width in 2usize..70,
        centred: bool,
        with_bias: bool,
        sliced: bool,
    ) {
        let device = Device::flex();
        let norm_ = Norm {
            eps: 1e-5,
            centred,
            precision: Precision::Full,
        };
        let x = if sliced {
            tensor([2, rows, width + 3], 1, &device).slice([0..2, 0..rows, 2..width + 2])
        } else {
            tensor([2, rows, width], 1, &device)
        };
        let weight = tensor([width], 2, &device);
        let bias = with_bias.then(|| tensor([width], 3, &device));
        let got = norm(x.clone(), weight.clone(), bias.clone(), norm_);
        let expected = reference::norm(x, weight, bias, norm_);
        // Two nearly equal values, centred, cancel: their difference is known to fewer digits.
        let tolerance = tol::f32_sum(256);
        assert_close(&got.into_data(), &expected.into_data(), tolerance, "y");
    }

    #[test]
    fn gradients_equal_those_of_the_reference(
        rows in 1usize..80,
        width in 8usize..70,
        centred: bool,
    ) {
        type Form = fn(Tensor<2>, Tensor<1>, Option<Tensor<1>>, Norm) -> Tensor<2>;
        let gradients = |f: Form| {
            let (x, weight, bias) = (leaf([rows, width], 1), leaf([width], 2), leaf([width], 3));
            let norm = Norm {
            eps: 1e-5,
            centred,
            precision: Precision::Full,
        };
            let gradients = pull_back(f(x.clone(), weight.clone(), Some(bias.clone()), norm));
            [
                x.grad(&gradients).unwrap().into_data(),
                weight.grad(&gradients).unwrap().into_data(),
                bias.grad(&gradients).unwrap().into_data(),
            ]
        };
        for (got, expected) in gradients(norm).iter().zip(&gradients(reference::norm)) {
            assert_close(got, expected, tol::f32_sum(2048), "gradient");
        }
    }
}

#[test]
fn rows_become_unit_size() {
    let device = Device::flex();
    let x = Tensor::<2>::from_floats([[3.0, 4.0], [-1.0, 1.0]], &device);
    let ones = Tensor::<1>::ones([2], &device);
    let y = rms_norm(x.clone(), ones.clone(), 0.0).into_data();
    let expected = [0.848_528_1_f32, 1.131_370_8, -1.0, 1.0];
    assert_close(&y, &expected, tol::f32_sum(4), "rms_norm");
    let y = layer_norm(x, ones, None, 0.0).into_data();
    assert_close(
        &y,
        &[-1.0_f32, 1.0, -1.0, 1.0],
        tol::f32_sum(4),
        "layer_norm",
    );
}

#[test]
fn gradients_pass_finite_differences() {
    let inputs = [numbers([3, 7], 1), numbers([7], 2), numbers([7], 3)];
    check_gradients(
        |inputs| rms_norm(inputs.get::<2>(0), inputs.get::<1>(1), 1e-2),
        &inputs[..2],
        1e-2,
        tol::central_differences(1e-2).of_magnitude(8.0),
    );
    check_gradients(
        |inputs| {
            let bias = Some(inputs.get::<1>(2));
            layer_norm(inputs.get::<2>(0), inputs.get::<1>(1), bias, 1e-2)
        },
        &inputs,
        1e-2,
        tol::central_differences(1e-2).of_magnitude(8.0),
    );
}

#[test]
fn a_frozen_weight_gets_no_gradient() {
    let weight = tensor([6], 2, &Device::flex().autodiff());
    let x = leaf([40, 6], 1);
    let gradients = pull_back(rms_norm(x.clone(), weight.clone(), 1e-5));
    assert!(weight.grad(&gradients).is_none());
    assert!(x.grad(&gradients).is_some());
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    assert_same_on_any_threads(|| {
        let (x, weight) = (leaf([400, 200], 1), leaf([200], 2));
        let gradients = pull_back(rms_norm(x.clone(), weight.clone(), 1e-5));
        weight.grad(&gradients).unwrap().into_data()
    });
}

#[test]
fn half_precision_is_computed_in_f32_and_rounded_once() {
    let device = Device::flex();
    let x = tensor([3, 40], 1, &device).cast(DType::BF16);
    let weight = tensor([40], 2, &device).cast(DType::BF16);
    let y = rms_norm(x.clone(), weight.clone(), 1e-5);
    let expected = rms_norm(x.cast(DType::F32), weight.cast(DType::F32), 1e-5);
    assert_eq!(y.dtype(), DType::BF16);
    let tolerance = tol::roundings(DType::BF16, 1);
    assert_close(&y.into_data(), &expected.into_data(), tolerance, "y");
}

#[test]
fn every_device_agrees() {
    let make = |device: &Device| {
        let (x, weight) = (tensor([3, 20], 1, device), tensor([20], 2, device));
        let bias = Some(tensor([20], 3, device));
        [
            rms_norm(x.clone(), weight.clone(), 1e-5),
            layer_norm(x, weight, bias, 1e-5),
        ]
    };
    for device in devices() {
        for (got, expected) in make(&device).into_iter().zip(make(&Device::flex())) {
            assert_close(
                &got.into_data(),
                &expected.into_data(),
                tol::f32_sum(64),
                "y",
            );
        }
    }
}

#[test]
fn gradients_agree_on_every_device() {
    // More columns than a cube of a GPU kernel has units, more rows than blocks of rows, and a
    // row and a column left over.
    let run = |device: &Device, shape: [usize; 3], centred: bool, native: bool| {
        let device = device.clone().autodiff();
        let x = tensor(shape, 1, &device).require_grad();
        let weight = tensor([shape[2]], 2, &device).require_grad();
        let bias = centred.then(|| tensor([shape[2]], 3, &device).require_grad());
        let form = if native { norm } else { reference::norm };
        let norm = Norm {
            eps: 1e-5,
            centred,
            precision: Precision::Full,
        };
        let y = form(x.clone(), weight.clone(), bias.clone(), norm);
        let gradients = pull_back(y.clone());
        let mut all = vec![
            y.inner().into_data(),
            x.grad(&gradients).unwrap().into_data(),
            weight.grad(&gradients).unwrap().into_data(),
        ];
        all.extend(bias.map(|bias| bias.grad(&gradients).unwrap().into_data()));
        all
    };
    for device in devices() {
        for shape in [[1, 1, 5], [3, 11, 131], [2, 35, 16]] {
            for centred in [false, true] {
                let got = run(&device, shape, centred, true);
                let expected = run(&Device::flex(), shape, centred, false);
                for (i, (got, expected)) in got.iter().zip(&expected).enumerate() {
                    let what = format!("{i} of {shape:?} on {device:?}");
                    assert_close(got, expected, tol::f32_sum(2048), &what);
                }
            }
        }
    }
}

#[test]
fn more_rows_than_one_axis_of_a_launch_has_cubes() {
    for device in devices() {
        let x = tensor([65_600, 2], 1, &device);
        let ones = Tensor::<1>::ones([2], &device);
        let got = rms_norm(x.clone(), ones.clone(), 1e-5).into_data();
        let expected = rms_norm(
            x.to_device(&Device::flex()),
            ones.to_device(&Device::flex()),
            1e-5,
        );
        assert_close(&got, &expected.into_data(), tol::f32_sum(8), "y");
    }
}

#[test]
fn between_bf16_layers_gradients_are_those_at_the_rounded_input() {
    for shape in [[3, 50], [40, 64], [1, 7]] {
        let (x, weight) = (leaf(shape, 1), leaf([shape[1]], 2));
        let exact = rms_norm(x.clone(), weight.clone(), 1e-5).inner();
        let y = rms_norm_with(x.clone(), weight.clone(), 1e-5, Precision::Bf16);
        assert_eq!(y.clone().inner().into_data(), exact.into_data());
        let gradients = pull_back(y);
        let rounded = x.clone().inner().cast(DType::BF16).cast(DType::F32);
        let rounded = Tensor::from_inner(rounded).require_grad();
        let other = weight.clone().detach().require_grad();
        let expected = pull_back(rms_norm(rounded.clone(), other.clone(), 1e-5));
        assert_eq!(
            x.grad(&gradients).unwrap().into_data(),
            rounded.grad(&expected).unwrap().into_data()
        );
        assert_eq!(
            weight.grad(&gradients).unwrap().into_data(),
            other.grad(&expected).unwrap().into_data()
        );
    }
}

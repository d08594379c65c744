use burn::tensor::{DType, Device, Tensor};
use flametune_testkit::{assert_close, check_gradients, devices, tol};
use proptest::prelude::*;

use super::{linear, reference};
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back, tensor};

fn dtypes() -> impl Strategy<Value = DType> {
    prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn fast_path_equals_the_reference(
        rows in 1usize..20,
        d_in in 1usize..80,
        d_out in 1usize..150,
        dtype in dtypes(),
        with_bias: bool,
        slice_x: bool,
        transpose_weight: bool,
    ) {
        let device = Device::flex();
        let x = if slice_x {
            tensor([rows, d_in + 3], 1, &device).slice([0..rows, 2..d_in + 2])
        } else {
            tensor([rows, d_in], 1, &device)
        };
        let weight = if transpose_weight {
            tensor([d_in, d_out], 2, &device).cast(dtype).transpose()
        } else {
            tensor([d_out, d_in], 2, &device).cast(dtype)
        };
        let bias = with_bias.then(|| tensor([d_out], 3, &device));
        let got = linear(x.clone(), weight.clone(), bias.clone());
        let expected = reference::linear(x, weight, bias);
        assert_eq!(got.dtype(), DType::F32);
        assert_close(&got.into_data(), &expected.into_data(), tol::f32_sum(80), "y");
    }

    #[test]
    fn gradients_equal_those_of_the_reference(
        rows in 1usize..20,
        d_in in 1usize..150,
        d_out in 1usize..80,
        dtype in dtypes(),
    ) {
        let gradients = |f: fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>| {
            let (x, bias) = (leaf([rows, d_in], 1), leaf([d_out], 3));
            let device = Device::flex().autodiff();
            let weight = tensor([d_out, d_in], 2, &device).cast(dtype).require_grad();
            let gradients = pull_back(f(x.clone(), weight.clone(), Some(bias.clone())));
            (
                x.grad(&gradients).unwrap().into_data(),
                weight.grad(&gradients).unwrap(),
                bias.grad(&gradients).unwrap().into_data(),
            )
        };
        let (x, weight, bias) = gradients(linear);
        let (x_expected, weight_expected, bias_expected) = gradients(reference::linear);
        assert_close(&x, &x_expected, tol::f32_sum(80), "dx");
        assert_close(&bias, &bias_expected, tol::f32_sum(20), "db");
        assert_eq!(weight.dtype(), dtype);
        let tolerance = if dtype == DType::F32 {
            tol::f32_sum(20)
        } else {
            tol::roundings(dtype, 1).of_magnitude(4.0)
        };
        assert_close(&weight.into_data(), &weight_expected.into_data(), tolerance, "dw");
    }
}

#[test]
fn ranks_keep_their_leading_dimensions() {
    let device = Device::flex();
    let weight = Tensor::<2>::from_floats([[1.0, 2.0], [3.0, 4.0], [0.0, -1.0]], &device);
    let vector = Tensor::<1>::from_floats([1.0, 10.0], &device);
    let y = linear(vector, weight.clone(), None);
    assert_eq!(
        y.into_data().try_to_vec::<f32>().unwrap(),
        [21.0, 43.0, -10.0]
    );
    let x = Tensor::<3>::from_floats([[[1.0, 0.0]], [[0.0, 1.0]]], &device);
    let bias = Tensor::<1>::from_floats([0.5, 0.0, 0.0], &device);
    let y = linear(x, weight, Some(bias));
    assert_eq!(y.dims(), [2, 1, 3]);
    assert_eq!(
        y.into_data().try_to_vec::<f32>().unwrap(),
        [1.5, 3.0, 0.0, 2.5, 4.0, -1.0]
    );
}

#[test]
fn no_rows_give_no_rows() {
    let device = Device::flex();
    let y = linear(
        Tensor::<2>::zeros([0, 4], &device),
        tensor([3, 4], 1, &device),
        None,
    );
    assert_eq!(y.dims(), [0, 3]);
}

#[test]
fn a_batch_of_few_rows_equals_its_rows_alone_bit_for_bit() {
    let _steady = crate::simd::tests::steady();
    let device = Device::flex();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let weight = tensor([37, 333], 1, &device).cast(dtype);
        let x = tensor([8, 333], 2, &device);
        let together = linear(x.clone(), weight.clone(), None);
        for row in 0..8 {
            let alone = linear(
                x.clone().slice([row..row + 1, 0..333]),
                weight.clone(),
                None,
            );
            let expected = together.clone().slice([row..row + 1, 0..37]);
            assert_eq!(alone.into_data(), expected.into_data());
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for dtype in [DType::F32, DType::BF16] {
        for rows in [1, 5, 40] {
            assert_same_on_any_threads(|| {
                let device = Device::flex();
                let weight = tensor([700, 300], 1, &device).cast(dtype);
                linear(tensor([rows, 300], 2, &device), weight, None).into_data()
            });
            assert_same_on_any_threads(|| {
                let device = Device::flex().autodiff();
                let weight = tensor([700, 300], 1, &device).cast(dtype);
                let x = leaf([rows, 300], 2);
                let gradients = pull_back(linear(x.clone(), weight, None));
                x.grad(&gradients).unwrap().into_data()
            });
        }
    }
}

#[test]
fn gradients_pass_finite_differences() {
    check_gradients(
        |inputs| {
            linear(
                inputs.get::<2>(0),
                inputs.get::<2>(1),
                Some(inputs.get::<1>(2)),
            )
        },
        &[numbers([2, 3], 1), numbers([4, 3], 2), numbers([4], 3)],
        1e-2,
        tol::central_differences(1e-2),
    );
}

#[test]
fn frozen_weights_get_no_gradient() {
    let device = Device::flex().autodiff();
    let weight = tensor([5, 3], 1, &device);
    let x = leaf([2, 3], 2);
    let gradients = pull_back(linear(x.clone(), weight.clone(), None));
    assert!(weight.grad(&gradients).is_none());
    assert!(x.grad(&gradients).is_some());
}

#[test]
fn a_weight_without_autodiff_meets_tracked_activations() {
    let weight = tensor([5, 3], 1, &Device::flex()).cast(DType::BF16);
    let x = leaf([2, 3], 2);
    let gradients = pull_back(linear(x.clone(), weight.clone(), None));
    let got = x.grad(&gradients).unwrap().into_data();
    let dy = tensor([2, 5], 99, &Device::flex());
    let expected = dy.matmul(weight.cast(DType::F32)).into_data();
    assert_close(&got, &expected, tol::f32_sum(5), "dx");
}

#[test]
fn weights_behind_operations_that_are_done_again_get_the_same_gradients() {
    let [rows, d_in, d_out] = [37, 24, 40];
    let (x, norm) = (leaf([rows, d_in], 1), leaf([d_in], 2));
    let weights = [3, 4, 5].map(|seed| leaf([d_out, d_in], seed));
    let down = leaf([d_in, d_out], 6);
    let gradients = |reference: bool| {
        let [q, gate, up] = weights.clone();
        let (x, norm) = (x.clone(), norm.clone());
        let y = if reference {
            let h = crate::reference::rms_norm(x, norm, 1e-6);
            let map = |x: Tensor<2>, w: Tensor<2>| reference::linear(x, w, None);
            let (gate, up) = (map(h.clone(), gate), map(h.clone(), up));
            map(h, q).sum() + map(crate::reference::swiglu(gate, up), down.clone()).sum()
        } else {
            let h = crate::rms_norm(x, norm, 1e-6);
            let map = |x: Tensor<2>, w: Tensor<2>| linear(x, w, None);
            let (gate, up) = (map(h.clone(), gate), map(h.clone(), up));
            map(h, q).sum() + map(crate::swiglu(gate, up), down.clone()).sum()
        };
        let gradients = y.backward();
        weights
            .iter()
            .chain([&down])
            .map(|weight| weight.grad(&gradients).unwrap().into_data())
            .collect::<Vec<_>>()
    };
    for (got, expected) in gradients(false).iter().zip(&gradients(true)) {
        // Sums over 37 rows of sums of up to 40 terms.
        assert_close(got, expected, tol::f32_sum(2000), "dW");
    }
}

#[test]
fn every_device_agrees() {
    for device in devices() {
        let y = linear(
            tensor([3, 20], 1, &device),
            tensor([7, 20], 2, &device),
            Some(tensor([7], 3, &device)),
        );
        let cpu = Device::flex();
        let expected = reference::linear(
            tensor([3, 20], 1, &cpu),
            tensor([7, 20], 2, &cpu),
            Some(tensor([7], 3, &cpu)),
        );
        assert_close(&y.into_data(), &expected.into_data(), tol::f32_sum(20), "y");
    }
}

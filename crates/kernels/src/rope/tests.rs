use burn::tensor::{DType, Device, Tensor};
use flametune_testkit::{assert_close, check_gradients, devices, tol};
use proptest::prelude::*;

use super::{reference, rope};
use crate::sample::{leaf, numbers, pull_back, tensor};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_path_equals_the_reference(
        batch in 1usize..3,
        heads in 1usize..4,
        seq in 1usize..7,
        half in 1usize..20,
        rest in 0usize..5,
        shared_table: bool,
        transposed: bool,
    ) {
        let device = Device::flex();
        let head_dim = 2 * half + rest;
        let x = if transposed {
            tensor([batch, seq, heads, head_dim], 1, &device).swap_dims(1, 2)
        } else {
            tensor([batch, heads, seq, head_dim], 1, &device)
        };
        let tables = if shared_table { 1 } else { batch };
        let cos = tensor([tables, seq, 2 * half], 2, &device);
        let sin = tensor([tables, seq, 2 * half], 3, &device);
        let got = rope(x.clone(), cos.clone(), sin.clone());
        let expected = reference::rope(x, cos, sin);
        assert_close(&got.into_data(), &expected.into_data(), tol::f32_sum(2), "y");
    }

    #[test]
    fn gradients_equal_those_of_the_reference(
        seq in 1usize..7,
        half in 1usize..20,
        rest in 0usize..5,
        transposed: bool,
    ) {
        type Form = fn(Tensor<4>, Tensor<3>, Tensor<3>) -> Tensor<4>;
        let gradient = |f: Form| {
            let device = Device::flex().autodiff();
            let x = leaf([2, seq, 3, 2 * half + rest], 1);
            let cos = tensor([2, seq, 2 * half], 2, &device);
            let sin = tensor([2, seq, 2 * half], 3, &device);
            let y = if transposed {
                f(x.clone().swap_dims(1, 2), cos, sin)
            } else {
                let cos = cos.slice([0..1, 0..seq]).repeat_dim(1, 3).slice([0..1, 0..3]);
                let sin = sin.slice([0..1, 0..seq]).repeat_dim(1, 3).slice([0..1, 0..3]);
                f(x.clone(), cos, sin)
            };
            x.grad(&pull_back(y)).unwrap().into_data()
        };
        assert_close(&gradient(rope), &gradient(reference::rope), tol::f32_sum(2), "dx");
    }
}

#[test]
fn a_quarter_turn_swaps_the_halves() {
    let device = Device::flex();
    let x = Tensor::<4>::from_floats([[[[1.0, 2.0, 3.0, 4.0, 5.0]]]], &device);
    let cos = Tensor::<3>::zeros([1, 1, 4], &device);
    let y = rope(x, cos.clone(), cos + 1.0);
    assert_eq!(
        y.into_data().try_to_vec::<f32>().unwrap(),
        [-3.0, -4.0, 1.0, 2.0, 5.0]
    );
}

#[test]
fn gradients_pass_finite_differences() {
    check_gradients(
        |inputs| {
            let x = inputs.get::<4>(0);
            let cos = tensor([1, 2, 4], 2, &x.device());
            let sin = tensor([1, 2, 4], 3, &x.device());
            rope(x, cos, sin)
        },
        &[numbers([1, 2, 2, 5], 1)],
        1e-2,
        tol::central_differences(1e-2),
    );
}

#[test]
fn the_output_keeps_the_memory_order_of_the_input() {
    let device = Device::flex();
    let table = tensor([1, 5, 4], 2, &device);
    let x = tensor([2, 5, 3, 4], 1, &device).swap_dims(1, 2);
    let y = rope(x, table.clone(), table).swap_dims(1, 2);
    let y = y.try_into_primitive::<burn_flex::Flex>().unwrap();
    assert!(y.is_contiguous());
}

#[test]
fn every_device_agrees() {
    let make = |device: &Device| {
        let x = tensor([2, 3, 5, 8], 1, device);
        rope(
            x,
            tensor([2, 5, 6], 2, device),
            tensor([2, 5, 6], 3, device),
        )
    };
    for device in devices() {
        let expected = make(&Device::flex()).into_data();
        assert_close(&make(&device).into_data(), &expected, tol::f32_sum(2), "y");
    }
}

#[test]
fn half_precision_takes_the_reference_path() {
    let device = Device::flex();
    let x = tensor([1, 1, 2, 4], 1, &device).cast(DType::F16);
    let table = tensor([1, 2, 4], 2, &device);
    assert_eq!(rope(x, table.clone(), table).dtype(), DType::F16);
}

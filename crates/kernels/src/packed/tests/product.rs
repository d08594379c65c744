//! Products with packed weights against those with the dense weight.

use flametune_testkit::{assert_close, check_gradients, tol};
use proptest::prelude::*;

use super::*;
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back};

const BOTH: [Precision; 2] = [Precision::Full, Precision::Bf16];

fn round(x: Tensor<2>) -> Tensor<2> {
    x.cast(DType::BF16).cast(DType::F32)
}

/// The numbers that enter a product of this precision.
fn operand(x: Tensor<2>, precision: Precision) -> Tensor<2> {
    match precision {
        Precision::Full => x,
        Precision::Bf16 => round(x),
    }
}

fn shapes() -> impl Strategy<Value = [usize; 2]> {
    // Rows of whole blocks, rows that blocks run across, and rows that end anywhere.
    let d_in = prop_oneof![1usize..100, (1usize..8).prop_map(|n| 32 * n), 1usize..700];
    (1usize..90, d_in).prop_map(|(d_out, d_in)| [d_out, d_in])
}

fn block_sizes() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(32),
        Just(64),
        Just(96),
        Just(128),
        Just(512),
        Just(4096),
        1usize..99
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fast_path_equals_the_reference(
        rows in prop_oneof![0usize..12, 0usize..41],
        shape in shapes(),
        block_size in block_sizes(),
        with_bias: bool,
        slice_x: bool,
        seed in 0u64..1000,
    ) {
        let [d_out, d_in] = shape;
        let device = Device::flex();
        for (kind, precision) in kinds(block_size).flat_map(|kind| BOTH.map(|p| (kind, p))) {
            let weight = random_weight(shape, kind, seed, &device);
            let x = if slice_x {
                tensor([rows, d_in + 3], 1, &device).slice([0..rows, 2..d_in + 2])
            } else {
                tensor([rows, d_in], 1, &device)
            };
            let bias = with_bias.then(|| tensor([d_out], 3, &device));
            let got = packed_linear(x.clone(), &weight, bias.clone(), precision);
            if rows == 0 {
                assert_eq!(got.dims(), [0, d_out]);
                continue;
            }
            let expected = reference::packed_linear(x, &weight, bias, precision);
            // 700 products of numbers below 1 and 2.5 add up to partial sums of about 20.
            let tolerance = tol::f32_sum(700).of_magnitude(20.0);
            assert_close(&got.into_data(), &expected.into_data(), tolerance, "y");
        }
    }

    #[test]
    fn gradients_equal_the_dense_product(
        rows in 1usize..41,
        shape in shapes(),
        block_size in block_sizes(),
    ) {
        let device = Device::flex();
        for (kind, precision) in kinds(block_size).flat_map(|kind| BOTH.map(|p| (kind, p))) {
            let weight = random_weight(shape, kind, 5, &device);
            let (x, bias) = (leaf([rows, shape[1]], 1), leaf([shape[0]], 2));
            let y = packed_linear(x.clone(), &weight, Some(bias.clone()), precision);
            let dims = y.dims();
            let gradients = pull_back(y);
            let dy = tensor::<2>(dims, 99, &device);
            let dense = operand(reference::dequantize(&weight), precision);
            let expected = operand(dy.clone(), precision).matmul(dense).into_data();
            // 90 products of numbers below 1 and 2.5 add up to partial sums of about 7.
            let tolerance = tol::f32_sum(90).of_magnitude(7.0);
            let dx = x.grad(&gradients).unwrap().into_data();
            assert_close(&dx, &expected, tolerance, "dx");
            let db = bias.grad(&gradients).unwrap().into_data();
            let expected = dy.sum_dim(0).reshape([shape[0]]).into_data();
            assert_close(&db, &expected, tol::f32_sum(41), "db");
        }
    }
}

#[test]
fn gradients_equal_those_of_the_reference() {
    let device = Device::flex();
    for (kind, rows) in kinds(64).flat_map(|kind| [(kind, 3), (kind, 37)]) {
        let weight = random_weight([70, 100], kind, 3, &device.clone().autodiff());
        let gradients = |native: bool| {
            let (x, bias) = (leaf([rows, 100], 1), leaf([70], 2));
            let form = if native {
                packed_linear
            } else {
                reference::packed_linear
            };
            let y = form(x.clone(), &weight, Some(bias.clone()), Precision::Full);
            let gradients = pull_back(y);
            [
                x.grad(&gradients).unwrap().into_data(),
                bias.grad(&gradients).unwrap().into_data(),
            ]
        };
        let tolerance = tol::f32_sum(70).of_magnitude(2.5);
        for (got, expected) in gradients(true).iter().zip(&gradients(false)) {
            assert_close(got, expected, tolerance, "gradient");
        }
    }
}

#[test]
fn gradients_pass_finite_differences() {
    for kind in kinds(4) {
        let weight = random_weight([5, 6], kind, 3, &Device::flex());
        check_gradients(
            |inputs| {
                let bias = Some(inputs.get::<1>(1));
                packed_linear(inputs.get::<2>(0), &weight, bias, Precision::Full)
            },
            &[numbers([3, 6], 1), numbers([5], 2)],
            1e-2,
            tol::central_differences(1e-2),
        );
    }
}

#[test]
fn ranks_keep_their_leading_dimensions() {
    let device = Device::flex();
    let kind = kinds(32).next().unwrap();
    let weight = random_weight([5, 64], kind, 1, &device);
    let x = tensor::<3>([2, 3, 64], 2, &device);
    let y = packed_linear(x.clone(), &weight, None, Precision::Full);
    assert_eq!(y.dims(), [2, 3, 5]);
    let flat = packed_linear(x.reshape([6, 64]), &weight, None, Precision::Full);
    assert_eq!(bits(&y.into_data()), bits(&flat.into_data()));
}

#[test]
fn a_row_alone_equals_the_row_in_a_batch_bit_for_bit() {
    let _steady = crate::simd::tests::steady();
    let device = Device::flex();
    for (kind, precision) in kinds(64).flat_map(|kind| BOTH.map(|p| (kind, p))) {
        for d_in in [192, 96, 101] {
            let weight = random_weight([37, d_in], kind, 1, &device);
            let x = tensor::<2>([8, d_in], 2, &device);
            for rows in 1..=8 {
                let batch = x.clone().slice([0..rows, 0..d_in]);
                let together = packed_linear(batch, &weight, None, precision);
                let alone = x.clone().slice([rows - 1..rows, 0..d_in]);
                let alone = packed_linear(alone, &weight, None, precision);
                let expected = together.slice([rows - 1..rows, 0..37]);
                assert_eq!(bits(&alone.into_data()), bits(&expected.into_data()));
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for (kind, precision) in kinds(64).flat_map(|kind| BOTH.map(|p| (kind, p))) {
        for rows in [1, 5, 300] {
            assert_same_on_any_threads(|| {
                let weight = random_weight([700, 320], kind, 1, &Device::flex());
                let x = tensor::<2>([rows, 320], 2, &Device::flex());
                packed_linear(x, &weight, None, precision).into_data()
            });
            assert_same_on_any_threads(|| {
                let weight = random_weight([700, 320], kind, 1, &Device::flex());
                let x = leaf([rows, 320], 2);
                let gradients = pull_back(packed_linear(x.clone(), &weight, None, precision));
                x.grad(&gradients).unwrap().into_data()
            });
        }
    }
}

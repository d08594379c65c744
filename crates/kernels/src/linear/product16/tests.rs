use burn::tensor::{DType, Device, Tensor, TensorData, Transaction};
use flametune_testkit::tol::{self, Tolerance};
use flametune_testkit::{assert_close, devices};
use half::bf16;
use proptest::prelude::*;

use crate::precision::Precision;
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back, tensor};
use crate::simd::tests::on_every_rank;
use crate::{linear, linear_with, reference};

/// Sums of `terms` products of numbers up to one, every addition rounded to f32.
///
/// Beside the roundings of terms of order one, those of the partial sums: after `t` products of root
/// mean square 1/3 these are `√t/3`, so that the rounding errors of `n` additions come to
/// `2^-24 · n / 14.7`, of which four are allowed.
///
/// With `vdpbf16ps` numbers below 2⁻¹²⁶ vanish, which is far below the absolute part.
fn f32_sums(terms: usize) -> Tolerance {
    let terms = u32::try_from(terms).unwrap();
    let sum = tol::f32_sum(terms);
    Tolerance::rel_abs(
        sum.rel,
        sum.abs + 2f64.powi(-24) * f64::from(terms) * 4.0 / 14.7,
    )
}

/// [`f32_sums`] rounded to bf16 once: half a unit in the last place, `2^-8` of the value.
fn bf16_sums(terms: usize) -> Tolerance {
    Tolerance::rel_abs(2f64.powi(-8), f32_sums(terms).abs)
}

fn sums(dtype: DType, terms: usize) -> Tolerance {
    match dtype {
        DType::BF16 => bf16_sums(terms),
        _ => f32_sums(terms),
    }
}

/// The values rounded to bf16, as f64.
fn rounded<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    let values = tensor
        .cast(DType::F32)
        .into_data()
        .try_to_vec::<f32>()
        .unwrap();
    values
        .into_iter()
        .map(|value| bf16::from_f32(value).to_f64())
        .collect()
}

/// `a·b` in f64, for `a(i, k)` and `b(k, j)`, plus `bias`.
fn brute_force(
    [m, k, n]: [usize; 3],
    a: impl Fn(usize, usize) -> f64,
    b: impl Fn(usize, usize) -> f64,
    bias: Option<&[f64]>,
) -> TensorData {
    let mut values = Vec::new();
    for i in 0..m {
        for j in 0..n {
            let sum: f64 = (0..k).map(|k| a(i, k) * b(k, j)).sum();
            values.push(sum + bias.map_or(0.0, |bias| bias[j]));
        }
    }
    TensorData::new(values, [m, n])
}

/// Activations, weight and how they lie.
#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 3],
    x: DType,
    weight: DType,
    sliced: bool,
    transposed: bool,
    bias: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let x = prop_oneof![Just(DType::F32), Just(DType::BF16)];
    let weight = prop_oneof![Just(DType::F32), Just(DType::BF16), Just(DType::F16)];
    let shape = prop_oneof![
        [1usize..71, 1usize..100, 1usize..150],
        [1usize..10, 1usize..200, 1usize..60],
        [1usize..40, 1000usize..2300, 1usize..50],
    ];
    (shape, x, weight, any::<[bool; 3]>()).prop_map(
        |(shape, x, weight, [sliced, transposed, bias])| Case {
            shape,
            x,
            weight,
            sliced,
            transposed,
            bias,
        },
    )
}

impl Case {
    fn x(&self, device: &Device) -> Tensor<2> {
        let [rows, d_in, _] = self.shape;
        let x = if self.sliced {
            tensor([rows, d_in + 3], 1, device).slice([0..rows, 2..d_in + 2])
        } else {
            tensor([rows, d_in], 1, device)
        };
        x.cast(self.x)
    }

    fn weight(&self, device: &Device) -> Tensor<2> {
        let [_, d_in, d_out] = self.shape;
        if self.transposed {
            tensor([d_in, d_out], 2, device)
                .cast(self.weight)
                .transpose()
        } else {
            tensor([d_out, d_in + 2], 2, device)
                .cast(self.weight)
                .slice([0..d_out, 1..d_in + 1])
        }
    }

    fn bias(&self, device: &Device) -> Option<Tensor<1>> {
        self.bias.then(|| tensor([self.shape[2]], 3, device))
    }

    /// Forward and all gradients against sums in f64.
    fn check(&self) {
        let [rows, d_in, d_out] = self.shape;
        let device = Device::flex().autodiff();
        let x = self.x(&device).detach().require_grad();
        let weight = self.weight(&device).detach().require_grad();
        let bias = self
            .bias(&device)
            .map(|bias| bias.cast(self.x).require_grad());
        let y = linear_with(x.clone(), weight.clone(), bias.clone(), Precision::Bf16);
        assert_eq!(y.dtype(), self.x);
        let dy = tensor([rows, d_out], 4, &device).cast(self.x);
        let gradients = (y.clone() * dy.clone()).sum().backward();

        let exact = bias.clone().map(|bias| {
            let values = bias
                .cast(DType::F32)
                .into_data()
                .try_to_vec::<f32>()
                .unwrap();
            values.into_iter().map(f64::from).collect::<Vec<_>>()
        });
        let [rx, rw, rdy] = [x.clone(), weight.clone(), dy.clone()].map(rounded);
        let rx = |i: usize, k: usize| rx[i * d_in + k];
        let rw = |j: usize, k: usize| rw[j * d_in + k];
        let rdy = |i: usize, j: usize| rdy[i * d_out + j];

        let expected = brute_force(self.shape, rx, |k, j| rw(j, k), exact.as_deref());
        assert_close(&y.inner().into_data(), &expected, sums(self.x, d_in), "y");

        let got = x.grad(&gradients).unwrap();
        assert_eq!(got.dtype(), self.x);
        let expected = brute_force([rows, d_out, d_in], rdy, rw, None);
        assert_close(&got.into_data(), &expected, sums(self.x, d_out), "dx");

        let got = weight.grad(&gradients).unwrap();
        assert_eq!(got.dtype(), self.weight);
        let expected = brute_force([d_out, rows, d_in], |j, i| rdy(i, j), rx, None);
        let once = tol::roundings(self.weight, 1);
        let tolerance = Tolerance::rel_abs(once.rel, f32_sums(rows).abs + 2f64.powi(-24));
        assert_close(&got.into_data(), &expected, tolerance, "dw");

        if let Some(bias) = bias {
            let got = bias.grad(&gradients).unwrap();
            assert_eq!(got.dtype(), self.x);
            let dy = dy.inner().cast(DType::F32).sum_dim(0).reshape([d_out]);
            assert_close(&got.into_data(), &dy.into_data(), sums(self.x, rows), "db");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn products_equal_sums_of_rounded_operands(case in cases()) {
        case.check();
    }
}

#[test]
fn every_instruction_set_agrees() {
    on_every_rank(|| {
        for (shape, transposed) in [
            ([1, 70, 45], false),
            ([5, 33, 130], true),
            ([8, 64, 50], false),
            ([9, 31, 17], false),
            ([37, 1100, 65], true),
            ([70, 1101, 33], false),
        ] {
            for (x, weight) in [
                (DType::F32, DType::F32),
                (DType::F32, DType::F16),
                (DType::BF16, DType::BF16),
            ] {
                let case = Case {
                    shape,
                    x,
                    weight,
                    sliced: false,
                    transposed,
                    bias: true,
                };
                case.check();
            }
        }
    });
}

#[test]
fn every_number_of_rows_and_ragged_columns_are_right() {
    for rows in 1..=45 {
        for d_out in [15, 16, 17, 32, 33, 300] {
            let case = Case {
                shape: [rows, 21, d_out],
                x: DType::F32,
                weight: DType::BF16,
                sliced: false,
                transposed: false,
                bias: rows % 2 == 0,
            };
            case.check();
        }
    }
}

#[test]
fn a_left_operand_packed_in_pieces_adds_up() {
    // More depths than are packed at a time, in f32 and through partial sums to bf16.
    for x in [DType::F32, DType::BF16] {
        let case = Case {
            shape: [20, 9001, 40],
            x,
            weight: DType::BF16,
            sliced: false,
            transposed: false,
            bias: true,
        };
        case.check();
    }
}

#[test]
fn the_reference_agrees_on_every_device() {
    let on = |device: &Device, precision| {
        let x = tensor([11, 50], 1, device);
        let weight = tensor([33, 50], 2, device);
        let bias = tensor([33], 3, device);
        let fast = linear_with(x.clone(), weight.clone(), Some(bias.clone()), precision);
        let slow = reference::linear_with(x, weight, Some(bias), precision);
        [fast, slow].map(Tensor::into_data)
    };
    for device in devices() {
        let precision = if device.supports_dtype(DType::BF16) {
            Precision::Bf16
        } else {
            Precision::Full
        };
        let [_, expected] = on(&Device::flex(), precision);
        for got in on(&device, Precision::Bf16) {
            assert_close(&got, &expected, f32_sums(50), "y");
        }
    }
}

#[test]
fn the_gradient_of_x_is_the_product_with_the_transposed_weight() {
    let weight = || tensor([40, 30], 2, &Device::flex().autodiff());
    let x = leaf([12, 30], 1);
    let y = linear_with(x.clone(), weight(), None, Precision::Bf16);
    let got = x.grad(&pull_back(y)).unwrap().into_data();
    let dy = tensor([12, 40], 99, &Device::flex());
    let transposed = weight().inner().transpose();
    let expected = reference::linear_with(dy, transposed, None, Precision::Bf16);
    assert_close(&got, &expected.into_data(), f32_sums(40), "dx");
}

#[test]
fn bf16_activations_are_taken_at_any_precision() {
    let device = Device::flex();
    for weight in [DType::F32, DType::BF16, DType::F16] {
        let x = tensor([20, 64], 1, &device).cast(DType::BF16);
        let weight = tensor([50, 64], 2, &device).cast(weight);
        let bias = tensor([50], 3, &device);
        let full = linear(x.clone(), weight.clone(), Some(bias.clone()));
        let asked = linear_with(
            x.clone(),
            weight.clone(),
            Some(bias.clone()),
            Precision::Bf16,
        );
        assert_eq!(full.clone().into_data(), asked.into_data());
        // The reference rounds the bias, the product and their sum, of numbers up to eight.
        let expected = reference::linear(x, weight, Some(bias));
        let tolerance = tol::roundings(DType::BF16, 3);
        assert_close(&full.into_data(), &expected.into_data(), tolerance, "y");
    }
}

#[test]
fn numbers_that_are_not_finite_go_through() {
    let device = Device::flex();
    for rows in [3, 30] {
        let mut values = vec![1.0; rows * 40];
        values[5] = f32::NAN;
        values[40] = f32::INFINITY;
        let x = Tensor::<2>::from_data(TensorData::new(values, [rows, 40]), &device);
        let y = linear_with(x, Tensor::ones([33, 40], &device), None, Precision::Bf16);
        let y = y.into_data().try_to_vec::<f32>().unwrap();
        assert!(y[..33].iter().all(|y| y.is_nan()));
        assert!(y[33..66].iter().all(|y| *y == f32::INFINITY));
        assert!(y[66..].iter().all(|y| *y == 40.0));
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let run = |x: DType, weight: DType, shape: [usize; 3]| {
        assert_same_on_any_threads(|| {
            let device = Device::flex().autodiff();
            let [rows, d_in, d_out] = shape;
            let input = Tensor::<2>::from_data(numbers([rows, d_in], 1), &device);
            let input = input.cast(x).require_grad();
            let weight = tensor([d_out, d_in], 2, &device)
                .cast(weight)
                .require_grad();
            let y = linear_with(input.clone(), weight.clone(), None, Precision::Bf16);
            let gradients = (y.clone() * tensor(y.dims(), 4, &device).cast(x))
                .sum()
                .backward();
            let all = Transaction::default()
                .register(y.inner().cast(DType::F32).flatten::<1>(0, 1))
                .register(
                    input
                        .grad(&gradients)
                        .unwrap()
                        .cast(DType::F32)
                        .flatten::<1>(0, 1),
                )
                .register(
                    weight
                        .grad(&gradients)
                        .unwrap()
                        .cast(DType::F32)
                        .flatten::<1>(0, 1),
                );
            let values = all
                .execute()
                .into_iter()
                .flat_map(|data| data.try_to_vec::<f32>().unwrap())
                .collect::<Vec<_>>();
            let len = values.len();
            TensorData::new(values, [len])
        });
    };
    for x in [DType::F32, DType::BF16] {
        for weight in [DType::F32, DType::BF16] {
            run(x, weight, [5, 300, 700]);
            run(x, weight, [70, 1300, 200]);
            run(x, weight, [150, 200, 20]);
        }
    }
}

#![allow(
    clippy::single_range_in_vec_init,
    reason = "the rows of an adapter are ranges, often one"
)]

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use flametune_testkit::{assert_close, check_gradients, tol};
use proptest::prelude::*;

use super::{
    LoraBase, LoraDropout, LoraFactors, LoraSegment, lora_linear, lora_segmented, reference,
};
use crate::packed::tests::{self as packed, random_weight};
use crate::precision::Precision;
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back, tensor};

/// Which kind of base a case has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Output,
    Frozen(DType, Precision),
    Trained,
    Packed,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Output),
        Just(Kind::Frozen(DType::F32, Precision::Full)),
        Just(Kind::Frozen(DType::BF16, Precision::Full)),
        Just(Kind::Frozen(DType::F16, Precision::Full)),
        Just(Kind::Trained),
        Just(Kind::Packed),
    ]
}

/// An adapter of rank `r`, as leaves.
fn factors(
    r: usize,
    [d_in, d_out]: [usize; 2],
    seed: u64,
    dropout: Option<LoraDropout>,
) -> LoraFactors {
    LoraFactors {
        a: leaf([r, d_in], seed),
        b: leaf([d_out, r], seed + 1),
        scaling: 0.75 + 0.5 * seed as f64 / 10.0,
        dropout,
    }
}

type Form = fn(Tensor<2>, LoraBase, Vec<LoraSegment>) -> Tensor<2>;

/// The value and all gradients of one case.
fn run(
    form: Form,
    kind: Kind,
    [rows, d_in, d_out]: [usize; 3],
    segments: &[(Vec<std::ops::Range<usize>>, usize)],
    dropout: Option<LoraDropout>,
) -> Vec<TensorData> {
    let device = Device::flex().autodiff();
    let x = leaf([rows, d_in], 1);
    let adapters: Vec<LoraSegment> = segments
        .iter()
        .zip(10..)
        .map(|((rows, r), seed)| LoraSegment {
            rows: rows.clone(),
            factors: factors(*r, [d_in, d_out], 2 * seed, dropout),
        })
        .collect();
    let mut leaves = vec![x.clone()];
    for adapter in &adapters {
        leaves.extend([adapter.factors.a.clone(), adapter.factors.b.clone()]);
    }
    let bias = Some(tensor([d_out], 5, &device));
    let base = match kind {
        Kind::Output => {
            let y = leaf([rows, d_out], 4);
            leaves.push(y.clone());
            LoraBase::Output(y)
        }
        Kind::Trained => {
            let weight = leaf([d_out, d_in], 4);
            leaves.push(weight.clone());
            let precision = Precision::Full;
            LoraBase::Dense {
                weight,
                bias,
                precision,
            }
        }
        Kind::Frozen(dtype, precision) => LoraBase::Dense {
            weight: tensor([d_out, d_in], 4, &device).cast(dtype),
            bias,
            precision,
        },
        Kind::Packed => LoraBase::Packed {
            weight: random_weight([d_out, d_in], packed::kinds(32).next().unwrap(), 3, &device),
            bias,
            precision: Precision::Full,
        },
    };
    let y = form(x, base, adapters);
    let gradients: Gradients = pull_back(y.clone());
    let mut found = vec![y.into_data()];
    // Of an adapter that no row uses some forms make no gradient, others zeros.
    let gradient = |leaf: &Tensor<2>| {
        let gradient = leaf.grad(&gradients);
        gradient.unwrap_or_else(|| leaf.clone().inner().zeros_like())
    };
    found.extend(leaves.iter().map(|leaf| gradient(leaf).into_data()));
    found
}

fn assert_forms_agree(
    kind: Kind,
    shape: [usize; 3],
    segments: &[(Vec<std::ops::Range<usize>>, usize)],
    dropout: Option<LoraDropout>,
) {
    let got = run(lora_segmented, kind, shape, segments, dropout);
    let expected = run(reference::lora_segmented, kind, shape, segments, dropout);
    // Sums of at most 200 products, some of them of sums themselves.
    let tolerance = tol::f32_sum(200).of_magnitude(20.0);
    for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
        assert_close(
            got,
            expected,
            tolerance,
            &format!("{kind:?}: result {index}"),
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn value_and_gradients_equal_those_of_the_reference(
        rows in 1usize..130,
        d_in in 1usize..90,
        d_out in 1usize..90,
        r in 1usize..40,
        kind in kinds(),
        p in prop_oneof![Just(0.0), Just(0.3)],
    ) {
        let dropout = Some(LoraDropout { p, key: 77 });
        assert_forms_agree(kind, [rows, d_in, d_out], &[(vec![0..rows], r)], dropout);
    }

    #[test]
    fn segments_equal_the_reference(
        each in 1usize..30,
        choice in prop::collection::vec(0usize..4, 1..8),
        d_in in 1usize..40,
        d_out in 1usize..40,
        kind in kinds(),
        p in prop_oneof![Just(0.0), Just(0.3)],
    ) {
        let rows_of = |adapter: usize| {
            let mine = choice.iter().enumerate().filter(move |(_, c)| **c == adapter);
            mine.map(|(row, _)| row * each..(row + 1) * each).collect::<Vec<_>>()
        };
        // The adapter 3 is none.
        let segments = [(rows_of(0), 3), (rows_of(1), 16), (rows_of(2), 17)];
        let dropout = Some(LoraDropout { p, key: 78 });
        assert_forms_agree(kind, [choice.len() * each, d_in, d_out], &segments, dropout);
    }
}

#[test]
fn segments_equal_separate_runs() {
    let device = Device::flex();
    let [d_in, d_out, each] = [50, 70, 60];
    let x = tensor([3 * each, d_in], 1, &device);
    let weight = tensor([d_out, d_in], 2, &device);
    let base = || LoraBase::Dense {
        weight: weight.clone(),
        bias: None,
        precision: Precision::Full,
    };
    let adapters = [
        factors(4, [d_in, d_out], 20, None),
        factors(16, [d_in, d_out], 22, None),
    ]
    .map(|f| LoraFactors {
        a: f.a.inner(),
        b: f.b.inner(),
        ..f
    });
    let segments = adapters
        .iter()
        .enumerate()
        .map(|(index, factors)| LoraSegment {
            rows: vec![index * 2 * each..(index * 2 + 1) * each],
            factors: factors.clone(),
        });
    let y = lora_segmented(x.clone(), base(), segments.collect());
    let alone = |first: usize, factors: Option<&LoraFactors>| {
        let x = x.clone().narrow(0, first * each, each);
        match factors {
            Some(factors) => lora_linear(x, base(), factors.clone()),
            None => crate::linear(x, weight.clone(), None),
        }
    };
    let expected = Tensor::cat(
        vec![
            alone(0, Some(&adapters[0])),
            alone(1, None),
            alone(2, Some(&adapters[1])),
        ],
        0,
    );
    assert_close(
        &y.into_data(),
        &expected.into_data(),
        tol::f32_sum(100),
        "y",
    );
}

#[test]
fn gradients_are_those_of_finite_differences() {
    let [rows, d_in, d_out, r] = [7, 6, 5, 3];
    check_gradients(
        |inputs| {
            let factors = LoraFactors {
                a: inputs.get(1),
                b: inputs.get(2),
                scaling: 0.7,
                dropout: Some(LoraDropout { p: 0.4, key: 5 }),
            };
            lora_linear(inputs.get(0), LoraBase::Output(inputs.get(3)), factors)
        },
        &[
            numbers([rows, d_in], 1),
            numbers([r, d_in], 2),
            numbers([d_out, r], 3),
            numbers([rows, d_out], 4),
        ],
        1e-2,
        tol::central_differences(1e-2),
    );
}

#[test]
fn a_base_in_bf16_rounds_the_operands_of_its_adapter_too() {
    let kind = Kind::Frozen(DType::BF16, Precision::Bf16);
    for shape in [[60, 64, 48], [7, 64, 48], [201, 37, 65]] {
        let segments = [(vec![0..shape[0]], 16)];
        let got = run(lora_segmented, kind, shape, &segments, None);
        let expected = run(reference::lora_segmented, kind, shape, &segments, None);
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            // Operands of magnitudes up to a few, each with a rounding of its own, in sums of up to
            // 201 of them; the reference rounds none of the adapter's.
            let tolerance = tol::roundings(DType::BF16, 1).of_magnitude(64.0);
            assert_close(got, expected, tolerance, &format!("result {index}"));
        }
    }
}

#[test]
fn layers_that_read_one_input_agree_with_layers_that_read_copies() {
    let device = Device::flex();
    let [rows, d_in, d_out] = [90, 40, 70];
    let x = tensor([rows, d_in], 1, &device);
    let map = |x: Tensor<2>, seed: u64, precision: Precision| {
        let factors = factors(8, [d_in, d_out], seed, None);
        let base = LoraBase::Dense {
            weight: tensor([d_out, d_in], seed, &device),
            bias: None,
            precision,
        };
        let factors = LoraFactors {
            a: factors.a.inner(),
            b: factors.b.inner(),
            ..factors
        };
        lora_linear(x, base, factors).into_data()
    };
    for precision in [Precision::Full, Precision::Bf16] {
        let copy = || Tensor::from_data(x.to_data(), &device);
        let alone = map(copy(), 30, precision);
        let other = map(copy() * 2.0, 31, precision);
        assert_eq!(map(x.clone(), 30, precision), alone);
        assert_eq!(map(x.clone(), 30, precision), alone);
        // Another tensor, perhaps in the memory of one that is gone.
        assert_eq!(map(copy() * 2.0, 31, precision), other);
        assert_eq!(map(x.clone(), 30, precision), alone);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for index in 0..4 {
        assert_same_on_any_threads(|| {
            let kind = Kind::Frozen(DType::F32, Precision::Full);
            let dropout = Some(LoraDropout { p: 0.1, key: 3 });
            let segments = [(vec![0..300], 16), (vec![300..700], 8)];
            run(lora_segmented, kind, [700, 64, 80], &segments, dropout).swap_remove(index)
        });
    }
}

#[test]
fn an_output_that_others_hold_stays_as_it_is() {
    let device = Device::flex();
    let y = tensor([4, 3], 1, &device);
    let before = y.to_data();
    let factors = LoraFactors {
        a: tensor([2, 5], 2, &device),
        b: tensor([3, 2], 3, &device),
        scaling: 1.0,
        dropout: None,
    };
    let x = tensor([4, 5], 4, &device);
    let sum = lora_linear(x, LoraBase::Output(y.clone()), factors);
    assert_eq!(y.to_data(), before);
    assert_ne!(sum.to_data(), before);
}

#[test]
fn no_rows_give_no_rows() {
    let device = Device::flex();
    let factors = LoraFactors {
        a: tensor([2, 5], 2, &device),
        b: tensor([3, 2], 3, &device),
        scaling: 1.0,
        dropout: None,
    };
    let base = LoraBase::Dense {
        weight: tensor([3, 5], 1, &device),
        bias: None,
        precision: Precision::Full,
    };
    let y = lora_linear(Tensor::zeros([0, 5], &device), base, factors);
    assert_eq!(y.dims(), [0, 3]);
}

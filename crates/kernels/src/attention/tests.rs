use burn::tensor::{DType, Device, Tensor};
use burn_flex::Flex;
use flametune_testkit::{Tolerance, assert_close, check_gradients, devices, tol};
use proptest::prelude::*;

use super::{AttentionMask, attention, attention_with, reference};
use crate::cpu::Kept;
use crate::precision::Precision;
use crate::sample::{assert_same_on_any_threads, leaf, numbers, pull_back, tensor};

#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    kv_heads: usize,
    group: usize,
    q_len: usize,
    k_len: usize,
    head_dim: usize,
    mask: AttentionMask,
    softcap: Option<f64>,
}

impl Case {
    fn q_dims(&self) -> [usize; 4] {
        [
            self.batch,
            self.kv_heads * self.group,
            self.q_len,
            self.head_dim,
        ]
    }

    fn k_dims(&self) -> [usize; 4] {
        [self.batch, self.kv_heads, self.k_len, self.head_dim]
    }

    fn scale(&self) -> f64 {
        // Larger than usual, so that the weights are far from uniform.
        4.0 / (self.head_dim as f64).sqrt()
    }
}

prop_compose! {
    fn masks(batch: usize, q_len: usize, k_len: usize)(
        causal: bool,
        aligned: bool,
        window in proptest::option::of(1..k_len + 2),
        segments in proptest::option::of(
            proptest::collection::vec(proptest::collection::vec(0u32..4, k_len), batch)),
        sorted: bool,
    ) -> AttentionMask {
        let start = if aligned { k_len.saturating_sub(q_len) } else { 0 };
        let mut mask = if causal { AttentionMask::causal(start) } else { AttentionMask::bidirectional() };
        if let Some(window) = window {
            mask = mask.with_window(window);
        }
        if let Some(mut segments) = segments {
            if sorted {
                segments.iter_mut().for_each(|row| row.sort_unstable());
            }
            mask = mask.with_segments(segments);
        }
        mask
    }
}

prop_compose! {
    fn shapes()(
        batch in 1usize..3,
        kv_heads in 1usize..3,
        group in 1usize..4,
        q_len in prop_oneof![1usize..4, 1usize..80],
        k_len in prop_oneof![1usize..20, 1usize..320],
        head_dim in prop_oneof![Just(16usize), Just(64), 1usize..40],
        softcap in proptest::option::of(1.0f64..5.0),
    ) -> Case {
        let mask = AttentionMask::bidirectional();
        Case { batch, kv_heads, group, q_len, k_len, head_dim, mask, softcap }
    }
}

prop_compose! {
    fn cases()(case in shapes())(
        mask in masks(case.batch, case.q_len, case.k_len),
        case in Just(case),
    ) -> Case {
        Case { mask, ..case }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn fast_path_equals_the_reference(case in cases()) {
        let device = Device::flex();
        let q = tensor(case.q_dims(), 1, &device);
        let (k, v) = (tensor(case.k_dims(), 2, &device), tensor(case.k_dims(), 3, &device));
        let (scale, cap) = (case.scale(), case.softcap);
        let got = attention(q.clone(), k.clone(), v.clone(), &case.mask, scale, cap);
        let expected = reference::attention(q, k, v, &case.mask, scale, cap);
        assert_close(&got.into_data(), &expected.into_data(), tol::f32_sum(1024), "y");
    }

    #[test]
    fn gradients_equal_those_of_the_reference(case in cases()) {
        type Form =
            fn(Tensor<4>, Tensor<4>, Tensor<4>, &AttentionMask, f64, Option<f64>) -> Tensor<4>;
        let gradients = |f: Form| {
            let (q, k) = (leaf(case.q_dims(), 1), leaf(case.k_dims(), 2));
            let v = leaf(case.k_dims(), 3);
            let (scale, cap) = (case.scale(), case.softcap);
            let y = f(q.clone(), k.clone(), v.clone(), &case.mask, scale, cap);
            let gradients = pull_back(y);
            [q, k, v].map(|leaf| leaf.grad(&gradients).unwrap().into_data())
        };
        let names = ["dq", "dk", "dv"];
        let (got, expected) = (gradients(attention), gradients(reference::attention));
        for ((got, expected), name) in got.iter().zip(&expected).zip(names) {
            assert_close(got, expected, tol::f32_sum(2048).of_magnitude(4.0), name);
        }
    }

    #[test]
    fn rounded_operands_give_what_the_reference_gives(case in cases()) {
        type Form = fn(
            Tensor<4>, Tensor<4>, Tensor<4>, &AttentionMask, f64, Option<f64>, Precision,
        ) -> Tensor<4>;
        let run = |f: Form| {
            let (q, k) = (leaf(case.q_dims(), 1), leaf(case.k_dims(), 2));
            let v = leaf(case.k_dims(), 3);
            let (scale, cap) = (case.scale(), case.softcap);
            let y = f(q.clone(), k.clone(), v.clone(), &case.mask, scale, cap, Precision::Bf16);
            let gradients = pull_back(y.clone());
            let gradients = [q, k, v].map(|leaf| leaf.grad(&gradients).unwrap().into_data());
            (y.inner().into_data(), gradients)
        };
        let (y, gradients) = run(attention_with);
        let (expected, expected_gradients) = run(reference::attention_with);
        assert_close(&y, &expected, tol::f32_sum(1024), "y");
        // The reference rounds its gradients to bf16 as they pass the rounded operands. Ours are
        // made with `dY·Y` of a rounded output, off by 2^-9 of sums of a few ones, and met by keys
        // and queries in sums whose weights add up to one for each of some hundred queries.
        let tolerance = Tolerance::rel_abs(2f64.powi(-7), 0.05);
        let names = ["dq", "dk", "dv"];
        for ((got, expected), name) in gradients.iter().zip(&expected_gradients).zip(names) {
            assert_close(got, expected, tolerance, name);
        }
    }
}

#[test]
fn the_next_layer_keeps_the_rounded_output() {
    let [q, k, v] = [1, 2, 3].map(|seed| leaf([2, 3, 5, 16], seed));
    let mask = AttentionMask::causal(0);
    let y = attention_with(q, k, v, &mask, 0.25, None, Precision::Bf16);
    let joined = y.swap_dims(1, 2).reshape([10, 48]).inner();
    let expected = joined.clone().cast(DType::BF16).cast(DType::F32);
    let kept = Kept::new(joined.try_into_primitive::<Flex>().unwrap());
    assert!(matches!(kept, Kept::Again(_)));
    let got = Tensor::<2>::from_primitive::<Flex>(kept.tensor());
    assert_eq!(got.into_data(), expected.into_data());
}

#[test]
fn strided_views_of_a_cache_are_read_in_place() {
    let device = Device::flex();
    for q_len in [1, 40] {
        // The cache holds 500 slots, of which 300 are filled; queries are a transposed projection.
        let cache = |seed| tensor([2, 3, 500, 64], seed, &device).slice([0..2, 0..3, 0..300]);
        let q = tensor([2, q_len, 9, 64], 1, &device).swap_dims(1, 2);
        let mask = AttentionMask::causal(300 - q_len);
        let got = attention(q.clone(), cache(2), cache(3), &mask, 0.125, None);
        let expected = reference::attention(q, cache(2), cache(3), &mask, 0.125, None);
        assert_close(
            &got.into_data(),
            &expected.into_data(),
            tol::f32_sum(1024),
            "y",
        );
    }
}

#[test]
fn queries_that_see_nothing_give_zeros_and_no_gradient() {
    let mask = AttentionMask::causal(0).with_segments(vec![vec![0, 0, 1, 1, 0]]);
    let [q, k, v] = [1, 2, 3].map(|seed| leaf([1, 2, 5, 8], seed));
    let y = attention(q.clone(), k.clone(), v.clone(), &mask, 1.0, None);
    let values = y.clone().into_data().try_to_vec::<f32>().unwrap();
    for (query, vector) in values.chunks_exact(8).enumerate() {
        let sees = [2, 3].contains(&(query % 5));
        assert_eq!(
            vector.iter().all(|&value| value == 0.0),
            !sees,
            "query {query}"
        );
    }
    let gradients = pull_back(y);
    for leaf in [q, k, v] {
        let gradient = leaf
            .grad(&gradients)
            .unwrap()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap();
        assert!(gradient.iter().all(|value| value.is_finite()));
        assert!(gradient[..16].iter().all(|&value| value == 0.0));
    }
}

#[test]
fn packed_segments_equal_separate_sequences() {
    let device = Device::flex();
    let [q, k, v] = [1, 2, 3].map(|seed| tensor([1, 2, 150, 16], seed, &device));
    let segments = [vec![1; 70], vec![2; 80]].concat();
    let mask = AttentionMask::causal(0).with_segments(vec![segments]);
    let packed = attention(q.clone(), k.clone(), v.clone(), &mask, 0.25, None);
    for part in [0..70, 70..150] {
        let cut = |tensor: &Tensor<4>| tensor.clone().slice([0..1, 0..2, part.clone()]);
        let alone = attention(
            cut(&q),
            cut(&k),
            cut(&v),
            &AttentionMask::causal(0),
            0.25,
            None,
        );
        let tolerance = tol::f32_sum(256);
        assert_close(
            &cut(&packed).into_data(),
            &alone.into_data(),
            tolerance,
            "segment",
        );
    }
}

#[test]
fn gradients_pass_finite_differences() {
    let inputs = [
        numbers([1, 4, 3, 4], 1),
        numbers([1, 2, 5, 4], 2),
        numbers([1, 2, 5, 4], 3),
    ];
    for softcap in [None, Some(2.0)] {
        check_gradients(
            |inputs| {
                let [q, k, v] = [0, 1, 2].map(|i| inputs.get::<4>(i));
                attention(
                    q,
                    k,
                    v,
                    &AttentionMask::causal(2).with_window(4),
                    0.7,
                    softcap,
                )
            },
            &inputs,
            1e-2,
            tol::central_differences(1e-2),
        );
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    for q_len in [1, 100] {
        assert_same_on_any_threads(|| {
            let device = Device::flex();
            let q = tensor([1, 6, q_len, 32], 1, &device);
            let [k, v] = [2, 3].map(|seed| tensor([1, 2, 700, 32], seed, &device));
            let mask = AttentionMask::causal(700 - q_len);
            attention(q, k, v, &mask, 0.2, None).into_data()
        });
    }
    assert_same_on_any_threads(|| {
        let k = leaf([1, 2, 100, 32], 2);
        let q = tensor([1, 6, 100, 32], 1, &k.device());
        let y = attention(
            q,
            k.clone(),
            k.clone(),
            &AttentionMask::causal(0),
            0.2,
            None,
        );
        k.grad(&pull_back(y)).unwrap().into_data()
    });
}

#[test]
fn joining_the_heads_moves_nothing() {
    let device = Device::flex();
    let [q, k, v] = [1, 2, 3].map(|seed| tensor([2, 3, 5, 4], seed, &device));
    let y = attention(q, k, v, &AttentionMask::causal(0), 0.5, None).swap_dims(1, 2);
    let y = y.try_into_primitive::<burn_flex::Flex>().unwrap();
    assert!(y.is_contiguous());
}

#[test]
fn no_keys_and_no_queries_are_fine() {
    let device = Device::flex();
    let q = tensor([1, 2, 3, 16], 1, &device);
    let empty = Tensor::<4>::zeros([1, 2, 0, 16], &device);
    let mask = AttentionMask::bidirectional();
    let y = attention(q.clone(), empty.clone(), empty.clone(), &mask, 1.0, None);
    assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), vec![0.0; 96]);
    assert_eq!(
        attention(empty, q.clone(), q, &mask, 1.0, None).dims(),
        [1, 2, 0, 16]
    );
}

#[test]
fn half_precision_takes_the_reference_path() {
    let device = Device::flex();
    let q = tensor([1, 2, 3, 16], 1, &device).cast(DType::BF16);
    let y = attention(
        q.clone(),
        q.clone(),
        q,
        &AttentionMask::causal(0),
        1.0,
        None,
    );
    assert_eq!(y.dtype(), DType::BF16);
}

#[test]
fn every_device_agrees() {
    let make = |device: &Device| {
        let q = tensor([2, 4, 5, 16], 1, device);
        let [k, v] = [2, 3].map(|seed| tensor([2, 2, 5, 16], seed, device));
        let mask = AttentionMask::causal(0).with_segments(vec![vec![1, 1, 2, 2, 2], vec![1; 3]]);
        attention(q, k, v, &mask, 0.25, Some(3.0))
    };
    for device in devices() {
        let expected = make(&Device::flex()).into_data();
        assert_close(
            &make(&device).into_data(),
            &expected,
            tol::f32_sum(256),
            "y",
        );
    }
}

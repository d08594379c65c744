//! What holds for all weights.

use flametune_quant::{
    BLOCK_SIZES, Blockwise8, Map8, NestedScales, QuantConfig, QuantKind, QuantTensor, Scales,
    WeightDtype, bnb_layout, quantize,
};
use half::{bf16, f16};
use proptest::prelude::*;

/// Room for a few roundings in f32.
const ROUNDING: f32 = 1.0 + 4.0 * f32::EPSILON;

fn kinds() -> impl Strategy<Value = QuantKind> {
    prop::sample::select(vec![
        QuantKind::Nf4,
        QuantKind::Fp4,
        QuantKind::Int8,
        QuantKind::Int8Vectorwise,
    ])
}

fn configs() -> impl Strategy<Value = QuantConfig> {
    let sizes = prop::sample::select(BLOCK_SIZES.to_vec());
    (kinds(), sizes, any::<bool>()).prop_map(|(kind, block_size, double_quant)| QuantConfig {
        kind,
        block_size,
        double_quant: double_quant && kind != QuantKind::Int8Vectorwise,
        dtype: WeightDtype::F32,
    })
}

/// A matrix of numbers of ordinary size, with some zeros.
fn matrices() -> impl Strategy<Value = (Vec<f32>, [usize; 2])> {
    (1_usize..40, 1_usize..90).prop_flat_map(|(rows, cols)| {
        let number = prop_oneof![
            8 => -1.0_f32..1.0,
            1 => Just(0.0_f32),
            1 => -300.0_f32..300.0,
            1 => -1e-6_f32..1e-6,
        ];
        let numbers = prop::collection::vec(number, rows * cols);
        (numbers, Just([rows, cols]))
    })
}

/// The largest magnitude of each block.
fn absmax(numbers: &[f32], block_size: usize) -> Vec<f32> {
    numbers
        .chunks(block_size)
        .map(|block| block.iter().fold(0.0, |max: f32, x| max.max(x.abs())))
        .collect()
}

/// The farthest that a number of a block of scale 1 moves.
fn max_error(kind: QuantKind) -> f32 {
    kind.codebook()
        .map_or(0.5 / 127.0, |codebook| codebook.max_error())
}

proptest! {
    #[test]
    fn numbers_move_no_farther_than_half_a_gap(
        (numbers, shape) in matrices(),
        config in configs(),
    ) {
        let packed = quantize(&numbers, &shape, config).unwrap();
        let exact = absmax(&numbers, packed.block_size());
        let used = packed.scales().absmax();
        for (index, (x, got)) in numbers.iter().zip(packed.dequantize()).enumerate() {
            let block = index / packed.block_size();
            let moved_scale = (used[block] - exact[block]).abs();
            let bound = exact[block] * max_error(config.kind) + moved_scale;
            prop_assert!(
                (got - x).abs() <= bound * ROUNDING + 1e-37,
                "[{index}] {x} became {got}, bound {bound}"
            );
        }
    }

    #[test]
    fn scales_move_no_farther_than_half_a_gap(
        scales in prop::collection::vec(0.0_f32..2.0, 1..700),
    ) {
        let nested = NestedScales::quantize(&scales).unwrap();
        let error = Map8::dynamic_signed().max_error(-1.0);
        for (index, (x, got)) in scales.iter().zip(nested.dequantize()).enumerate() {
            let second = nested.codes().absmax()[index / 256];
            // Taking the mean away and adding it again rounds twice.
            let bound = (second * error + 2.0 * f32::EPSILON * 2.0) * ROUNDING;
            prop_assert!((got - x).abs() <= bound, "[{index}] {x} became {got}, bound {bound}");
        }
    }

    #[test]
    fn codes_are_those_of_the_nearest_entry((numbers, shape) in matrices()) {
        for kind in [QuantKind::Nf4, QuantKind::Fp4] {
            let config = QuantConfig { kind, block_size: 64, double_quant: false, dtype: WeightDtype::F32 };
            let packed = quantize(&numbers, &shape, config).unwrap();
            let codebook = kind.codebook().unwrap();
            for (index, x) in numbers.iter().enumerate() {
                let absmax = packed.scales().absmax()[index / 64];
                let byte = packed.codes()[index / 2];
                let code = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
                let distance = |value: f32| (f64::from(value) * f64::from(absmax) - f64::from(*x)).abs();
                let nearest = codebook.values().iter().map(|&v| distance(v)).fold(f64::INFINITY, f64::min);
                let taken = distance(codebook.decode(code));
                // The scaled number and the middles are rounded to f32.
                prop_assert!(taken <= nearest + f64::from(absmax) * 2e-7 + 1e-44, "[{index}]");
            }
        }
    }

    #[test]
    fn codes_pack_and_unpack(codes in prop::collection::vec(0_u8..16, 1..300)) {
        // With a scale of 1 in each block, entries of the codebook come back as their own codes.
        for kind in [QuantKind::Nf4, QuantKind::Fp4] {
            let codebook = kind.codebook().unwrap();
            let mut numbers: Vec<f32> = codes.iter().map(|&code| codebook.decode(code)).collect();
            for block in numbers.chunks_mut(32) {
                block[0] = 1.0;
            }
            let config = QuantConfig { kind, block_size: 32, double_quant: false, dtype: WeightDtype::F32 };
            let packed = quantize(&numbers, &[numbers.len()], config).unwrap();
            prop_assert_eq!(packed.codes().len(), numbers.len().div_ceil(2));
            for (index, &x) in numbers.iter().enumerate() {
                let byte = packed.codes()[index / 2];
                let code = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
                prop_assert_eq!(codebook.decode(code), x);
            }
            prop_assert_eq!(packed.dequantize(), numbers);
        }
    }

    #[test]
    fn quantizing_again_changes_nothing((numbers, shape) in matrices(), config in configs()) {
        // With exact scales the largest number of each block is kept, so all are.
        prop_assume!(!config.double_quant);
        let packed = quantize(&numbers, &shape, config).unwrap();
        let once = packed.dequantize();
        let again = quantize(&once, &shape, config).unwrap().dequantize();
        for (a, b) in once.iter().zip(again) {
            prop_assert!((a - b).abs() <= a.abs() * 4.0 * f32::EPSILON + 1e-37, "{} {}", a, b);
        }
    }

    #[test]
    fn bytes_and_bits_agree((numbers, shape) in matrices(), config in configs()) {
        let packed = quantize(&numbers, &shape, config).unwrap();
        let numel = numbers.len();
        let n_blocks = numel.div_ceil(packed.block_size());
        let codes = match config.kind {
            QuantKind::Nf4 | QuantKind::Fp4 => numel.div_ceil(2),
            _ => numel,
        };
        let scales = if config.double_quant {
            n_blocks + 4 * n_blocks.div_ceil(256) + 4
        } else {
            4 * n_blocks
        };
        prop_assert_eq!(packed.bytes(), codes + scales);
        prop_assert_eq!(packed.bits_per_param(), (8 * (codes + scales)) as f64 / numel as f64);
        let stored = match packed.scales() {
            Scales::Absmax(absmax) => absmax.len(),
            Scales::Nested(nested) => nested.codes().codes().len(),
        };
        prop_assert_eq!(stored, n_blocks);
    }

    #[test]
    fn halves_are_the_f32_numbers_rounded_once((numbers, shape) in matrices(), config in configs()) {
        let packed = quantize(&numbers, &shape, config).unwrap();
        let wide = packed.dequantize();
        let mut halves = vec![f16::ZERO; wide.len()];
        packed.dequantize_into(&mut halves).unwrap();
        let mut brains = vec![bf16::ZERO; wide.len()];
        packed.dequantize_into(&mut brains).unwrap();
        for ((x, half), brain) in wide.iter().zip(halves).zip(brains) {
            prop_assert_eq!(half.to_bits(), f16::from_f32(*x).to_bits());
            prop_assert_eq!(brain.to_bits(), bf16::from_f32(*x).to_bits());
        }
    }

    #[test]
    fn even_bytes_are_the_linear_map(numbers in prop::collection::vec(-2.0_f32..2.0, 1..400)) {
        let config = QuantConfig {
            kind: QuantKind::Int8, block_size: 64, double_quant: false, dtype: WeightDtype::F32,
        };
        let packed = quantize(&numbers, &[numbers.len()], config).unwrap();
        let map = Map8::linear();
        let mapped = Blockwise8::quantize(&numbers, 64, map).unwrap();
        for (index, (a, b)) in packed.dequantize().iter().zip(mapped.dequantize(map)).enumerate() {
            // Ties go to the even code here and to the lower there.
            let absmax = mapped.absmax()[index / 64];
            let x = numbers[index];
            let is_tie = ((x * 127.0 / absmax).fract().abs() - 0.5).abs() < 1e-3;
            prop_assert!(is_tie || (a - b).abs() <= absmax * 1e-6, "{x}: {a} {b}");
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_named(
        (mut numbers, shape) in matrices(),
        config in configs(),
        place in any::<prop::sample::Index>(),
        odd in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]),
    ) {
        let index = place.index(numbers.len());
        numbers[index] = odd;
        let error = quantize(&numbers, &shape, config).unwrap_err().to_string();
        prop_assert_eq!(error, format!("weight[{index}] must be finite, got {odd}"));
    }

    #[test]
    fn stored_weights_come_back((numbers, shape) in matrices(), config in configs()) {
        prop_assume!(config.kind.codebook().is_some());
        let packed = quantize(&numbers, &shape, config).unwrap();
        let parts = bnb_layout::write("w", &packed).unwrap();
        let read: QuantTensor = bnb_layout::read("w", |name| {
            parts.iter().find(|(found, _)| found == name).map(|(_, part)| part.clone())
        })
        .unwrap();
        prop_assert_eq!(read, packed);
    }
}

#[test]
fn many_threads_give_what_one_gives() {
    let numbers: Vec<f32> = (0..300_001).map(|i| (i as f32 * 0.37).sin()).collect();
    for kind in [QuantKind::Nf4, QuantKind::Fp4, QuantKind::Int8] {
        let config = QuantConfig {
            kind,
            block_size: 128,
            double_quant: false,
            dtype: WeightDtype::F32,
        };
        let packed = quantize(&numbers, &[numbers.len()], config).unwrap();
        let whole = packed.dequantize();
        // The same blocks in pieces that stay on one thread.
        let piece_len = 128 * 100;
        let mut codes = Vec::new();
        let mut absmax = Vec::new();
        let mut pieces = Vec::new();
        for piece in numbers.chunks(piece_len) {
            let packed = quantize(piece, &[piece.len()], config).unwrap();
            codes.extend_from_slice(packed.codes());
            absmax.extend_from_slice(&packed.scales().absmax());
            pieces.extend(packed.dequantize());
        }
        assert_eq!(packed.codes(), codes, "{kind}");
        assert_eq!(*packed.scales().absmax(), absmax, "{kind}");
        assert_eq!(whole, pieces, "{kind}");
    }
}

//! Numbers of packed weights, bit by bit.

use half::bf16;
use proptest::prelude::*;

use super::*;
use crate::cpu::Decode;
use crate::packed::format::{Format, Int8};
use crate::simd::tests::on_each;
use crate::simd::{Kernel, Simd};

/// The definition, one number at a time.
fn by_hand(weight: &PackedWeight) -> Vec<f32> {
    let bytes = |words: &Tensor<1, Int>| -> Vec<u8> {
        let words = words.to_data().try_to_vec::<u32>().unwrap();
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    };
    let floats = |tensor: &Tensor<1>| tensor.to_data().try_to_vec::<f32>().unwrap();
    let codes = bytes(weight.codes());
    let scale = |block: usize| match weight.scales() {
        PackedScales::Absmax(absmax) => floats(absmax)[block],
        PackedScales::Nested {
            codes,
            map,
            absmax,
            offset,
            block_size,
        } => {
            let code = usize::from(bytes(codes)[block]);
            floats(map)[code] * floats(absmax)[block / block_size] + offset
        }
    };
    let n_blocks = weight.numel().div_ceil(weight.block_size());
    let scales: Vec<f32> = (0..n_blocks).map(scale).collect();
    let codebook = match weight.format() {
        CodeFormat::FourBit { codebook } => floats(codebook),
        CodeFormat::Int8 => Vec::new(),
    };
    let number = |at: usize| {
        let scale = scales[at / weight.block_size()];
        if codebook.is_empty() {
            f32::from(codes[at].cast_signed()) * scale / 127.0
        } else {
            let byte = codes[at / 2];
            let code = if at.is_multiple_of(2) {
                byte >> 4
            } else {
                byte & 15
            };
            codebook[usize::from(code)] * scale
        }
    };
    (0..weight.numel()).map(number).collect()
}

fn as_bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_forms_have_the_bits_of_the_definition(
        d_out in 1usize..20,
        d_in in 1usize..300,
        block_size in prop_oneof![Just(32), Just(64), Just(128), Just(1024), Just(4096), 1usize..99],
        seed in 0u64..1000,
    ) {
        let device = Device::flex();
        for kind in kinds(block_size) {
            let weight = random_weight([d_out, d_in], kind, seed, &device);
            let expected = as_bits(&by_hand(&weight));
            assert_eq!(bits(&dequantize(&weight).into_data()), expected);
            assert_eq!(bits(&reference::dequantize(&weight).into_data()), expected);
        }
    }

    #[test]
    fn parts_are_parts_of_the_whole(
        d_out in 1usize..12,
        d_in in 1usize..200,
        block_size in prop_oneof![Just(32), Just(64), 1usize..99],
        corners: [prop::sample::Index; 4],
    ) {
        let (rows, cols) = {
            let [a, b, c, d] = corners;
            let (a, b) = (a.index(d_out + 1), b.index(d_out + 1));
            let (c, d) = (c.index(d_in + 1), d.index(d_in + 1));
            (a.min(b)..a.max(b), c.min(d)..c.max(d))
        };
        for kind in kinds(block_size) {
            let weight = random_weight([d_out, d_in], kind, 7, &Device::flex());
            let whole = by_hand(&weight);
            let expected: Vec<f32> = rows
                .clone()
                .flat_map(|row| &whole[row * d_in..][cols.clone()])
                .copied()
                .collect();
            let native = Native::of(&weight).unwrap();
            let view = native.view(Precision::Full);
            let mut out = vec![0.0; expected.len()];
            view.decode(rows.clone(), cols.clone(), &mut out);
            assert_eq!(as_bits(&out), as_bits(&expected));
            let rounded: Vec<u16> =
                expected.iter().map(|&value| bf16::from_f32(value).to_bits()).collect();
            let mut out = vec![0; rounded.len()];
            view.decode_bf16(rows.clone(), cols.clone(), &mut out);
            assert_eq!(out, rounded);
            let mut out = vec![0.0; rounded.len()];
            native.view(Precision::Bf16).decode(rows.clone(), cols.clone(), &mut out);
            let rounded = rounded.iter().map(|&bits| u32::from(bits) << 16);
            assert_eq!(as_bits(&out), rounded.collect::<Vec<u32>>());
        }
    }
}

/// All numbers of signed bytes with one scale.
#[derive(Clone)]
struct AllCodes(f32);

impl Kernel for AllCodes {
    type Output = Vec<f32>;
    #[inline(always)]
    #[allow(unsafe_code, reason = "drives the raw read")]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let codes: Vec<u8> = (0..=255).collect();
        let mut out = vec![0.0; 256];
        for at in (0..256).step_by(2 * S::LANES) {
            let block = Int8::<false>.block(s, self.0);
            // SAFETY: 256 is a multiple of `2·LANES`.
            let numbers = unsafe { Int8::<false>::read(s, block, codes[at..].as_ptr()) };
            crate::simd::write(s, numbers[0], &mut out, at);
            crate::simd::write(s, numbers[1], &mut out, at + S::LANES);
        }
        out
    }
}

#[test]
fn division_by_127_is_exact_for_every_code_and_scale() {
    let spread = (-140..=127).map(|power| 1.732_050_8 * 2_f32.powi(power));
    let random = random_words(2000, 5);
    let random = random
        .iter()
        .map(|&word| f32::from_bits(word & 0x1fff_ffff | 0x3000_0000));
    let edges = [
        0.0,
        1e-30,
        1e30,
        f32::MAX,
        f32::MIN_POSITIVE,
        1e-45,
        -1.0,
        127.0,
    ];
    for scale in spread.chain(random).chain(edges) {
        let expected: Vec<f32> = (0..=255_u8)
            .map(|code| f32::from(code.cast_signed()) * scale / 127.0)
            .collect();
        for (set, got) in on_each(AllCodes(scale)) {
            assert_eq!(as_bits(&got), as_bits(&expected), "{set}, scale {scale}");
        }
    }
}

#[test]
fn rounding_to_bf16_keeps_infinities_and_not_a_number() {
    #[derive(Clone)]
    struct Round(Vec<f32>);
    impl Kernel for Round {
        type Output = Vec<f32>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Vec<f32> {
            let mut out = vec![0.0; self.0.len()];
            for at in (0..out.len()).step_by(S::LANES) {
                let value = crate::simd::read(s, &self.0, at);
                crate::simd::write(s, s.round_bf16(value), &mut out, at);
            }
            out
        }
    }
    let mut values: Vec<f32> = random_words(4000, 9)
        .into_iter()
        .map(f32::from_bits)
        .collect();
    values.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45]);
    values.extend([0x3f80_8000, 0x3f81_8000, 0x7fff_ffff, 0xffff_ffff].map(f32::from_bits));
    let expected: Vec<f32> = values
        .iter()
        .map(|&value| bf16::from_f32(value).to_f32())
        .collect();
    for (set, got) in on_each(Round(values.clone())) {
        assert_eq!(as_bits(&got), as_bits(&expected), "{set}");
    }
}

#[test]
fn registers_are_transposed_and_interleaved() {
    #[derive(Clone)]
    struct Moves;
    impl Kernel for Moves {
        type Output = (usize, Vec<f32>, Vec<f32>);
        #[inline(always)]
        #[allow(unsafe_code, reason = "drives the raw transpose")]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let from: Vec<f32> = (0..16 * 20).map(|i| i as f32).collect();
            let mut to = vec![0.0; 16 * 19];
            // SAFETY: there is room for 16 rows of 16 values at either stride.
            unsafe { s.transpose((from.as_ptr(), 20), (to.as_mut_ptr(), 19)) };
            let [a, b] = [0, S::LANES].map(|at| crate::simd::read(s, &from, at));
            let mut turns = vec![0.0; 2 * S::LANES];
            for (half, value) in s.interleave(a, b).into_iter().enumerate() {
                crate::simd::write(s, value, &mut turns, half * S::LANES);
            }
            (S::LANES, to, turns)
        }
    }
    for (set, (lanes, transposed, turns)) in on_each(Moves) {
        for row in 0..lanes {
            for col in 0..lanes {
                let expected = (col * 20 + row) as f32;
                assert_eq!(transposed[row * 19 + col], expected, "{set} {row} {col}");
            }
            assert_eq!(turns[2 * row], row as f32, "{set}");
            assert_eq!(turns[2 * row + 1], (lanes + row) as f32, "{set}");
        }
    }
}

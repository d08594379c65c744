use burn::tensor::{Device, TensorData};
use flametune_testkit::devices;

use super::*;
use crate::sample::numbers;

/// The stated rule, number by number, on the CPU; one byte a code.
#[allow(clippy::cast_possible_truncation, reason = "codes fit a byte")]
fn by_hand(x: &[f32], absmax: &[f32], block_size: usize, codebook: Option<&[f32]>) -> Vec<u8> {
    let len = x.len();
    let encode = |(i, &x): (usize, &f32)| {
        let absmax = absmax[i / block_size];
        let Some(codebook) = codebook else {
            let scaled = if absmax == 0.0 {
                x
            } else {
                x * (127.0 / absmax)
            };
            return (scaled.round_ties_even() as i8).cast_unsigned();
        };
        let mut order: Vec<usize> = (0..16).collect();
        order.sort_by(|&a, &b| codebook[a].partial_cmp(&codebook[b]).unwrap());
        let divisor = absmax.max(LEAST_ABSMAX);
        let full = (i / block_size + 1) * block_size <= len;
        let scaled = if full {
            x * (1.0 / divisor)
        } else {
            x / divisor
        };
        let below = |pair: &&[usize]| (codebook[pair[0]] + codebook[pair[1]]) / 2.0 < scaled;
        order[order.windows(2).filter(below).count()] as u8
    };
    x.iter().enumerate().map(encode).collect()
}

/// The bytes of words, lowest first.
fn bytes(weight: &PackedWeight) -> Vec<u8> {
    let words = weight
        .codes()
        .clone()
        .into_data()
        .try_to_vec::<u32>()
        .unwrap();
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn check(shape: [usize; 2], block_size: usize, codebook: Option<[f32; 16]>) {
    let numel = shape[0] * shape[1];
    let mut x = numbers(shape, 1).try_to_vec::<f32>().unwrap();
    // A block of zeros, and numbers in the middle of two codes.
    x[..block_size.min(numel)].fill(0.0);
    if let Some(codebook) = codebook {
        let middles = codebook.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
        x.iter_mut()
            .rev()
            .zip(middles)
            .for_each(|(x, middle)| *x = middle);
    }
    let largest = |block: &[f32]| block.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let absmax: Vec<f32> = x.chunks(block_size).map(largest).collect();
    let expected = by_hand(
        &x,
        &absmax,
        block_size,
        codebook.as_ref().map(<[f32; 16]>::as_slice),
    );
    let expected: Vec<u8> = match codebook {
        None => expected,
        Some(_) => {
            let pack = |pair: &[u8]| pair[0] << 4 | pair.get(1).unwrap_or(&0);
            expected.chunks(2).map(pack).collect()
        }
    };
    let devices = devices().into_iter();
    for device in devices.flat_map(|device| [device.clone(), device.autodiff()]) {
        let vector = |numbers: &[f32], device: &Device| {
            Tensor::<1>::from_data(TensorData::new(numbers.to_vec(), [numbers.len()]), device)
        };
        let format = match codebook {
            None => CodeFormat::Int8,
            Some(codebook) => CodeFormat::FourBit {
                codebook: vector(&codebook, &device),
            },
        };
        let matrix = vector(&x, &device).reshape(shape);
        let packed = quantize_blocks(matrix, vector(&absmax, &device), block_size, format);
        let got = bytes(&packed);
        let (codes, padding) = got.split_at(expected.len());
        assert_eq!(codes, expected, "{shape:?} in {block_size} on {device:?}");
        assert!(padding.iter().all(|&byte| byte == 0), "{padding:?}");
    }
}

/// Out of order, with two codes for one number.
fn codebook() -> [f32; 16] {
    let mut codebook: [f32; 16] = std::array::from_fn(|i| (i * 7 % 16) as f32 / 7.5 - 1.0);
    codebook[5] = codebook[9];
    codebook
}

#[test]
fn four_bit_codes_follow_the_stated_rule() {
    for (shape, block_size) in [([8, 64], 64), ([5, 13], 16), ([3, 7], 32), ([40, 33], 5)] {
        check(shape, block_size, Some(codebook()));
    }
}

#[test]
fn int8_codes_follow_the_stated_rule() {
    for (shape, block_size) in [([8, 64], 64), ([5, 13], 16), ([3, 7], 32), ([40, 33], 5)] {
        check(shape, block_size, None);
    }
}

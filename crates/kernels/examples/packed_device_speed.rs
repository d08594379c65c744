//! Checks and times products with an NF4-like weight on the default device (`BURN_DEVICE=cuda`,
//! `wgpu` or `flex` chooses one that is built in) against the dense product in the same dtype.
//!
//! `packed_device_speed [D_OUT D_IN [ROWS..]]`, by default 4096 4096 and 1 8 32 256 4096 rows.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "reads its sizes from the command line"
)]

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use flametune_kernels::{
    CodeFormat, PackedScales, PackedWeight, Precision, dequantize, linear, packed_linear,
};

const BLOCK_SIZE: usize = 64;

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .skip(1)
        .filter_map(|size| size.parse().ok())
        .collect();
    let (d_out, d_in) = match sizes[..] {
        [d_out, d_in, ..] => (d_out, d_in),
        _ => (4096, 4096),
    };
    let rows = sizes.get(2..).filter(|rows| !rows.is_empty());
    let rows = rows.unwrap_or(&[1, 8, 32, 256, 4096]);

    let device = Device::default();
    println!("{device:?}, weight {d_out} × {d_in} in blocks of {BLOCK_SIZE}");
    let packed = weight(d_out, d_in, &device);
    let dense = dequantize(&packed);

    let bytes = dense.shape().num_elements() as f64;
    let copied = dense.clone();
    let copy = time(&device, || copied.clone() * 1.5) / (8.0 * bytes);
    let decode = time(&device, || dequantize(&packed)) / (4.5 * bytes);
    println!(
        "dequantize: {:.1} GB/s, {:.2} of a pass over the dense weight",
        1e-9 / decode,
        copy / decode
    );

    for dtype in [DType::F32, DType::F16, DType::BF16] {
        if !device.supports_dtype(dtype) {
            continue;
        }
        let dense = dense.clone().cast(dtype);
        for &rows in rows {
            let x = Tensor::<2>::random([rows, d_in], Distribution::Normal(0.0, 1.0), &device);
            let x = x.cast(dtype);
            let ours = || packed_linear(x.clone(), &packed, None, Precision::Full);
            let theirs = || linear(x.clone(), dense.clone(), None);
            // With operands of order one, results are of order √d_in.
            let difference = (ours().cast(DType::F32) - theirs().cast(DType::F32))
                .abs()
                .max();
            let difference = f64::from(difference.into_scalar::<f32>()) / (d_in as f64).sqrt();
            let (quick, slow) = (time(&device, ours), time(&device, theirs));
            println!(
                "{dtype:?} {rows:>5} rows: packed {:>9.3} ms, dense {:>9.3} ms, ratio {:>5.2}, \
                 {:>7.2} TFLOP/s, differ by {difference:.1e}",
                quick * 1e3,
                slow * 1e3,
                slow / quick,
                2e-12 * (rows * d_in * d_out) as f64 / quick,
            );
        }
    }
}

/// Codes and scales at random.
fn weight(d_out: usize, d_in: usize, device: &Device) -> PackedWeight {
    let numel = d_out * d_in;
    let mut state = 0x9e37_79b9_u32;
    let words: Vec<u32> = (0..numel.div_ceil(8))
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        })
        .collect();
    let codes = TensorData::new(words, [numel.div_ceil(8)]);
    let codebook: Vec<f32> = (0..16).map(|i| (i as f32 - 7.5) / 7.5).collect();
    let scales = Distribution::Uniform(0.5, 1.5);
    PackedWeight::new(
        [d_out, d_in],
        BLOCK_SIZE,
        CodeFormat::FourBit {
            codebook: Tensor::from_data(TensorData::new(codebook, [16]), device),
        },
        Tensor::from_data(codes, (device, DType::U32)),
        PackedScales::Absmax(Tensor::random([numel.div_ceil(BLOCK_SIZE)], scales, device)),
    )
}

/// The seconds of a call, in the best of five runs of some calls that end in a wait.
fn time(device: &Device, mut call: impl FnMut() -> Tensor<2>) -> f64 {
    let mut run = |calls: u32| {
        let start = Instant::now();
        // Fusion leaves out what nobody holds on to.
        let results: Vec<_> = (0..calls).map(|_| call()).collect();
        let _ = device.sync();
        let seconds = start.elapsed().as_secs_f64();
        drop(results);
        seconds / f64::from(calls)
    };
    // The first compiles, and may choose among kernels.
    for _ in 0..3 {
        run(1);
    }
    let calls = if run(1) > 0.05 { 1 } else { 20 };
    (0..5).map(|_| run(calls)).fold(f64::MAX, f64::min)
}

//! Times products with packed weights against the dense f32 product, in one run.
//!
//! `cargo run --release -p flametune-kernels --example packed_speed [FILTER]`
//!
//! Blocks of 64 numbers, with double quantization for four bits. Decoding alone is timed too.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "reads its filter from the command line"
)]

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use flametune_kernels::{
    self as fast, CodeFormat, PackedScales, PackedWeight, Precision, packed_linear,
};

const BLOCK: usize = 64;

/// The median time of a call in seconds.
fn time(call: &mut dyn FnMut()) -> f64 {
    call();
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (started.elapsed().as_secs_f64() < 0.4 && times.len() < 400) {
        let start = Instant::now();
        call();
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn words(len: usize) -> Tensor<1, Int> {
    let mut state = 0x9e37_79b9_u32;
    let words: Vec<u32> = (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        })
        .collect();
    Tensor::from_data(TensorData::new(words, [len]), (&Device::flex(), DType::U32))
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

fn four_bit([d_out, d_in]: [usize; 2]) -> PackedWeight {
    let n_blocks = (d_out * d_in).div_ceil(BLOCK);
    let scales = PackedScales::Nested {
        codes: words(n_blocks.div_ceil(4)),
        map: random([256]),
        absmax: random([n_blocks.div_ceil(256)]),
        offset: 1.0,
        block_size: 256,
    };
    let codebook = random([16]);
    let codes = words((d_out * d_in).div_ceil(8));
    let format = CodeFormat::FourBit { codebook };
    PackedWeight::new([d_out, d_in], BLOCK, format, codes, scales)
}

fn int8([d_out, d_in]: [usize; 2]) -> PackedWeight {
    let scales = PackedScales::Absmax(random([(d_out * d_in).div_ceil(BLOCK)]) + 2.0);
    let codes = words((d_out * d_in).div_ceil(4));
    PackedWeight::new([d_out, d_in], BLOCK, CodeFormat::Int8, codes, scales)
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!(
        "instruction set {}, {} threads",
        fast::instruction_set(),
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    fast::in_pool(|| {
        for shape in [[4096, 4096], [1536, 576], [576, 1536], [49152, 576]] {
            let name = format!("{}x{}", shape[0], shape[1]);
            if name.contains(&filter) {
                products(&name, shape);
                gradients(&name, shape);
            }
        }
    });
}

fn products(name: &str, shape: [usize; 2]) {
    let [d_out, d_in] = shape;
    let (dense, four_bit, int8) = (random([d_out, d_in]), four_bit(shape), int8(shape));
    for (kind, weight) in [("4-bit", &four_bit), ("int8", &int8)] {
        let seconds = time(&mut || drop(fast::dequantize(weight)));
        let rate = (4 * d_out * d_in) as f64 / seconds / 1e9;
        println!(
            "{name} dequantize {kind}: {:.3} ms, {rate:.1} GB/s written",
            seconds * 1e3
        );
    }
    for rows in [1, 2, 4, 8, 16, 32, 64, 256, 2048] {
        let x = random([rows, d_in]);
        let baseline = time(&mut || drop(fast::linear(x.clone(), dense.clone(), None)));
        let flops = (2 * rows * d_out * d_in) as f64;
        let dense_rate = flops / baseline / 1e9;
        print!(
            "{name} {rows:>4} rows: dense {:>8.3} ms {dense_rate:>4.0} GFLOP/s",
            baseline * 1e3
        );
        for (kind, weight) in [("4-bit", &four_bit), ("int8", &int8)] {
            for precision in [Precision::Full, Precision::Bf16] {
                let mut call = || drop(packed_linear(x.clone(), weight, None, precision));
                let seconds = time(&mut call);
                let ratio = baseline / seconds;
                print!(
                    " | {kind} {precision:?} {:>8.3} ms x{ratio:<5.2}",
                    seconds * 1e3
                );
            }
        }
        println!();
    }
}

fn gradients(name: &str, shape: [usize; 2]) {
    let device = Device::flex().autodiff();
    let [d_out, d_in] = shape;
    let (dense, four_bit, int8) = (random([d_out, d_in]), four_bit(shape), int8(shape));
    for rows in [16, 256, 2048] {
        let x = Tensor::from_inner(random([rows, d_in]))
            .to_device(&device)
            .require_grad();
        let baseline = time(&mut || {
            drop(
                fast::linear(x.clone(), dense.clone(), None)
                    .sum()
                    .backward(),
            );
        });
        print!(
            "{name} {rows:>4} rows, both ways: dense {:>8.3} ms",
            baseline * 1e3
        );
        for (kind, weight) in [("4-bit", &four_bit), ("int8", &int8)] {
            let seconds = time(&mut || {
                drop(
                    packed_linear(x.clone(), weight, None, Precision::Full)
                        .sum()
                        .backward(),
                );
            });
            let ratio = baseline / seconds;
            print!(" | {kind} {:>8.3} ms x{ratio:<5.2}", seconds * 1e3);
        }
        println!();
    }
}

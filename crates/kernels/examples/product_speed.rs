//! Times the matrix product of bf16 operands: forward, and both gradients.
//!
//! `cargo run --release -p flametune-kernels --example product_speed [FILTER]`
//!
//! Each row is the median and the best of many calls, beside the product of f32 operands.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "reads its filter from the command line"
)]

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use flametune_kernels::{Precision, in_pool, instruction_set, linear_with};

fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// The median and the shortest time of a call in seconds, without what `prepare` takes.
fn time<T>(mut prepare: impl FnMut() -> T, mut call: impl FnMut(T)) -> (f64, f64) {
    call(prepare());
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || (started.elapsed().as_secs_f64() < 0.5 && times.len() < 2000) {
        let input = prepare();
        let start = Instant::now();
        call(input);
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

/// One shape: the activations' and the weight's dtypes, and how the product multiplies.
struct Case {
    shape: [usize; 3],
    x: DType,
    weight: DType,
    precision: Precision,
}

impl Case {
    fn name(&self) -> String {
        let [rows, d_in, d_out] = self.shape;
        let (x, weight, precision) = (self.x, self.weight, self.precision);
        format!("{rows}x{d_in}x{d_out} {x:?}·{weight:?} {precision:?}")
    }

    fn print(&self, what: &str, (median, best): (f64, f64)) {
        let work = 2e-9 * self.shape.iter().product::<usize>() as f64;
        println!(
            "{:<36} {what:<8} {:>8.3} ms {:>7.1} GFLOP/s   best {:>7.1}",
            self.name(),
            median * 1e3,
            work / median,
            work / best,
        );
    }

    fn forward(&self) {
        let [rows, d_in, d_out] = self.shape;
        let device = Device::flex();
        let x = random([rows, d_in], &device).cast(self.x);
        let weight = random([d_out, d_in], &device).cast(self.weight);
        let y = || linear_with(x.clone(), weight.clone(), None, self.precision);
        self.print("forward", time(|| (), |()| drop(y())));
    }

    /// The backward pass of one of the operands: the gradient of `Σ y·dy`, less the product with
    /// the ones that a sum starts from.
    fn backward(&self, of_weight: bool) {
        let [rows, d_in, d_out] = self.shape;
        let device = Device::flex().autodiff();
        let track = |tensor: Tensor<2>, wanted| {
            if wanted {
                tensor.require_grad()
            } else {
                tensor
            }
        };
        let x = track(random([rows, d_in], &device).cast(self.x), !of_weight);
        let weight = track(random([d_out, d_in], &device).cast(self.weight), of_weight);
        let y = || linear_with(x.clone(), weight.clone(), None, self.precision);
        let what = if of_weight { "dW" } else { "dx" };
        self.print(what, time(y, |y| drop(y.backward())));
    }
}

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("instruction set {}, {threads} threads", instruction_set());
    let (f32, bf16) = (DType::F32, DType::BF16);
    let kinds = [
        (f32, f32, Precision::Full),
        (f32, bf16, Precision::Full),
        (f32, f32, Precision::Bf16),
        (f32, bf16, Precision::Bf16),
        (bf16, bf16, Precision::Full),
    ];
    let shapes = [
        [512, 576, 576],
        [512, 576, 1536],
        [512, 1536, 576],
        [1024, 576, 49152],
        [1, 4096, 4096],
        [8, 4096, 4096],
        [16, 4096, 4096],
        [32, 4096, 4096],
        [256, 4096, 4096],
        [2048, 4096, 4096],
    ];
    in_pool(|| {
        for shape in shapes {
            for (x, weight, precision) in kinds {
                let case = Case {
                    shape,
                    x,
                    weight,
                    precision,
                };
                if !case.name().contains(&filter) {
                    continue;
                }
                case.forward();
                case.backward(false);
                if weight == x {
                    case.backward(true);
                }
            }
        }
    });
}

//! Times every operation against its reference path, in one run.
//!
//! `cargo run --release -p flametune-kernels --example ops_speed [FILTER]`
//!
//! Shapes are those of a small model (576 wide, 9 query and 3 key heads of 64, 1536 in the
//! feed-forward part): 512 tokens of prefill, single tokens of decode.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "reads its filter from the command line"
)]

use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use flametune_kernels::{self as fast, AttentionMask, reference};

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

/// The median time of a call in seconds.
fn time(mut call: impl FnMut()) -> f64 {
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

/// One table row: what was done `amount` times 10⁹ of `unit`.
struct Report {
    filter: String,
}

impl Report {
    fn row(
        &self,
        name: &str,
        amount: f64,
        unit: &str,
        mut fast: impl FnMut(),
        mut slow: impl FnMut(),
    ) {
        if !name.contains(&self.filter) {
            return;
        }
        let (quick, reference) = (time(&mut fast), time(&mut slow));
        println!(
            "{name:<44} {:>9.3} ms {:>7.1} {unit:<7} reference {:>9.3} ms   ratio {:>5.2}",
            quick * 1e3,
            amount / quick / 1e9,
            reference * 1e3,
            reference / quick,
        );
    }
}

fn main() {
    let report = Report {
        filter: std::env::args().nth(1).unwrap_or_default(),
    };
    println!(
        "instruction set {}, {} threads",
        fast::instruction_set(),
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    fast::in_pool(|| {
        linear(&report);
        element_wise(&report);
        attention(&report);
        backward(&report);
    });
}

fn linear(report: &Report) {
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (rows, d_in, d_out) in [
            (1, 576, 192),
            (1, 576, 576),
            (1, 576, 1536),
            (1, 1536, 576),
            (1, 576, 49152),
            (8, 576, 1536),
            (8, 576, 49152),
            (512, 576, 192),
            (512, 576, 576),
            (512, 576, 1536),
            (512, 1536, 576),
        ] {
            let (x, weight) = (random([rows, d_in]), random([d_out, d_in]).cast(dtype));
            let product = (2 * rows * d_in * d_out) as f64;
            let bytes = (weight.shape().num_elements() * dtype.size()) as f64;
            let (amount, unit) = if rows <= 8 {
                (bytes, "GB/s")
            } else {
                (product, "GFLOP/s")
            };
            report.row(
                &format!("linear {dtype:?} {rows}x{d_in}x{d_out}"),
                amount,
                unit,
                || drop(fast::linear(x.clone(), weight.clone(), None)),
                || drop(reference::linear(x.clone(), weight.clone(), None)),
            );
        }
    }
}

fn element_wise(report: &Report) {
    for rows in [1, 512] {
        let (x, weight) = (random([rows, 576]), random([576]));
        let bytes = (rows * 576 * 8) as f64;
        report.row(
            &format!("rms_norm {rows}x576"),
            bytes,
            "GB/s",
            || drop(fast::rms_norm(x.clone(), weight.clone(), 1e-5)),
            || drop(reference::rms_norm(x.clone(), weight.clone(), 1e-5)),
        );
        report.row(
            &format!("layer_norm {rows}x576"),
            bytes,
            "GB/s",
            || drop(fast::layer_norm(x.clone(), weight.clone(), None, 1e-5)),
            || drop(reference::layer_norm(x.clone(), weight.clone(), None, 1e-5)),
        );
        let (gate, up) = (random([rows, 1536]), random([rows, 1536]));
        let bytes = (rows * 1536 * 12) as f64;
        report.row(
            &format!("swiglu {rows}x1536"),
            bytes,
            "GB/s",
            || drop(fast::swiglu(gate.clone(), up.clone())),
            || drop(reference::swiglu(gate.clone(), up.clone())),
        );
        report.row(
            &format!("geglu_tanh {rows}x1536"),
            bytes,
            "GB/s",
            || drop(fast::geglu_tanh(gate.clone(), up.clone())),
            || drop(reference::geglu_tanh(gate.clone(), up.clone())),
        );
        let x = random([1, rows, 9, 64]).swap_dims(1, 2);
        let (cos, sin) = (random([1, rows, 64]), random([1, rows, 64]));
        report.row(
            &format!("rope 1x9x{rows}x64"),
            (rows * 576 * 8) as f64,
            "GB/s",
            || drop(fast::rope(x.clone(), cos.clone(), sin.clone())),
            || drop(reference::rope(x.clone(), cos.clone(), sin.clone())),
        );
    }
}

fn attention(report: &Report) {
    for (q_len, k_len) in [(512, 512), (2048, 2048), (1, 512), (1, 4096), (8, 1024)] {
        let q = random([1, q_len, 9, 64]).swap_dims(1, 2);
        let (k, v) = (random([1, 3, k_len, 64]), random([1, 3, k_len, 64]));
        let mask = AttentionMask::causal(k_len - q_len);
        let seen: usize = (0..q_len).map(|query| k_len - q_len + query + 1).sum();
        let (amount, unit) = if q_len < 8 {
            ((2 * 3 * k_len * 64 * 4) as f64, "GB/s")
        } else {
            ((4 * 9 * 64 * seen) as f64, "GFLOP/s")
        };
        report.row(
            &format!("attention causal q {q_len} k {k_len}"),
            amount,
            unit,
            || {
                drop(fast::attention(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    &mask,
                    0.125,
                    None,
                ))
            },
            || {
                drop(reference::attention(
                    q.clone(),
                    k.clone(),
                    v.clone(),
                    &mask,
                    0.125,
                    None,
                ))
            },
        );
    }
}

fn backward(report: &Report) {
    let device = Device::flex().autodiff();
    let leaf = |tensor: Tensor<4>| Tensor::from_inner(tensor).to_device(&device).require_grad();
    let q = leaf(random([4, 9, 256, 64]));
    let (k, v) = (leaf(random([4, 3, 256, 64])), leaf(random([4, 3, 256, 64])));
    let mask = AttentionMask::causal(0);
    let flops = (4 * 9 * 64 * 256 * 257 / 2 * (4 + 10)) as f64;
    report.row(
        "attention forward+backward 4x9x256x64",
        flops,
        "GFLOP/s",
        || {
            let y = fast::attention(q.clone(), k.clone(), v.clone(), &mask, 0.125, None);
            drop(y.swap_dims(1, 2).reshape([4, 256, 576]).sum().backward());
        },
        || {
            let y = reference::attention(q.clone(), k.clone(), v.clone(), &mask, 0.125, None);
            drop(y.swap_dims(1, 2).reshape([4, 256, 576]).sum().backward());
        },
    );
    let (gate, up) = (
        leaf(random([1, 4, 256, 1536])),
        leaf(random([1, 4, 256, 1536])),
    );
    report.row(
        "swiglu forward+backward 1024x1536",
        (1024 * 1536 * 32) as f64,
        "GB/s",
        || drop(fast::swiglu(gate.clone(), up.clone()).sum().backward()),
        || drop(reference::swiglu(gate.clone(), up.clone()).sum().backward()),
    );
    let x = leaf(random([1, 4, 256, 576]));
    let weight = Tensor::<1>::from_inner(random([576]));
    report.row(
        "rms_norm forward+backward 1024x576",
        (1024 * 576 * 20) as f64,
        "GB/s",
        || {
            drop(
                fast::rms_norm(x.clone(), weight.clone(), 1e-5)
                    .sum()
                    .backward(),
            )
        },
        || {
            drop(
                reference::rms_norm(x.clone(), weight.clone(), 1e-5)
                    .sum()
                    .backward(),
            )
        },
    );
    for dtype in [DType::F32, DType::BF16] {
        let weight = Tensor::<2>::from_inner(random([1536, 576]).cast(dtype));
        report.row(
            &format!("linear {dtype:?} frozen, forward+backward 1024x576x1536"),
            4.0 * (1024 * 576 * 1536) as f64,
            "GFLOP/s",
            || {
                drop(
                    fast::linear(x.clone(), weight.clone(), None)
                        .sum()
                        .backward(),
                )
            },
            || {
                drop(
                    reference::linear(x.clone(), weight.clone(), None)
                        .sum()
                        .backward(),
                )
            },
        );
    }
}

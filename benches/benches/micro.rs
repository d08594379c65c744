//! Single operations by themselves, for work on a kernel: criterion repeats them, says how far the
//! times spread, and compares with the time before.
//!
//! `cargo bench --package flametune-benches -- packed` runs those whose name contains `packed`. Races
//! with other libraries are the binary `operations`.

#![expect(
    clippy::expect_used,
    reason = "an input that does not fit ends the bench"
)]

use burn::module::Param;
use burn::tensor::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use flametune_kernels::{AttentionMask, attention, linear, rms_norm, swiglu};
use flametune_quant::{DenseLinear, QuantConfig, QuantKind, QuantLinear, WeightDtype};

/// Width and inner width of SmolLM2's layers.
const WIDTH: usize = 576;
const INNER: usize = 1536;

/// Rows of a decoding step, of a small batch, and of a prompt, one of them ragged.
const ROWS: [usize; 4] = [1, 16, 67, 512];

/// Numbers without a pattern, the same every time.
fn numbers<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|at| ((at * 7919) % 2003) as f32 / 1001.5 - 1.0)
        .collect();
    Tensor::<1>::from_floats(values.as_slice(), &Device::flex()).reshape(shape)
}

fn nf4() -> QuantConfig {
    QuantConfig {
        kind: QuantKind::Nf4,
        block_size: 64,
        double_quant: true,
        dtype: WeightDtype::F32,
    }
}

fn products(criterion: &mut Criterion) {
    let weight = numbers([INNER, WIDTH]);
    let layer = DenseLinear::new(Param::from_tensor(weight.clone()), None);
    let packed = QuantLinear::quantize(&layer, nf4()).expect("the sizes fit");
    let mut group = criterion.benchmark_group("linear_576x1536");
    for rows in ROWS {
        let x = numbers([rows, WIDTH]);
        group.throughput(Throughput::Elements((2 * rows * WIDTH * INNER) as u64));
        group.bench_function(BenchmarkId::new("dense", rows), |bencher| {
            bencher.iter(|| linear(x.clone(), weight.clone(), None));
        });
        group.bench_function(BenchmarkId::new("packed_nf4", rows), |bencher| {
            bencher.iter(|| packed.forward(x.clone()));
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("nf4_576x1536");
    group.throughput(Throughput::Bytes((4 * WIDTH * INNER) as u64));
    group.bench_function("quantize", |bencher| {
        bencher.iter(|| QuantLinear::quantize(&layer, nf4()));
    });
    group.bench_function("dequantize", |bencher| bencher.iter(|| packed.dequantize()));
    group.finish();
}

fn between_products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("between_products");
    for rows in ROWS {
        let (x, weight) = (numbers([rows, WIDTH]), numbers([WIDTH]));
        group.bench_function(BenchmarkId::new("rms_norm", rows), |bencher| {
            bencher.iter(|| rms_norm(x.clone(), weight.clone(), 1e-5));
        });
        let (gate, up) = (numbers([rows, INNER]), numbers([rows, INNER]));
        group.bench_function(BenchmarkId::new("swiglu", rows), |bencher| {
            bencher.iter(|| swiglu(gate.clone(), up.clone()));
        });
    }
    for length in [64, 200, 512] {
        let (q, k) = (numbers([1, 9, length, 64]), numbers([1, 3, length, 64]));
        group.bench_function(BenchmarkId::new("attention", length), |bencher| {
            bencher.iter(|| {
                let (k, v) = (k.clone(), k.clone());
                attention(q.clone(), k, v, &AttentionMask::causal(0), 0.125, None)
            });
        });
    }
    group.finish();
}

criterion_group!(micro, products, between_products);
criterion_main!(micro);

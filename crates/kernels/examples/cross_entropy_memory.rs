//! Peak memory and time of linear + cross-entropy against its reference, in one run.
//!
//! `cargo run --release -p flametune-kernels --example cross_entropy_memory [FILTER]`
//!
//! Shapes are those of a small model's head: 2048 tokens, 576 wide, 49152 classes. Memory is what
//! the heap holds at its highest beyond the inputs, the gradients that a caller gets included;
//! time is the median of a forward and a backward pass.

#![allow(clippy::print_stdout, reason = "a program whose output is its purpose")]
#![allow(
    clippy::disallowed_methods,
    reason = "reads its filter from the command line"
)]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use burn::tensor::{DType, Device, Distribution, Tensor};
use flametune_kernels::{self as fast, CrossEntropy, LogitOptions, reference};

const TOKENS: usize = 2048;
const WIDTH: usize = 576;
const VOCAB: usize = 49152;

/// The system's allocator, which keeps count of the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    let now = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        took(size);
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Peak bytes beyond what was in use before, and the median of the times in seconds.
fn measure(mut call: impl FnMut()) -> (usize, f64) {
    call();
    let before = IN_USE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut times: Vec<f64> = (0..3)
        .map(|_| {
            let start = Instant::now();
            call();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (PEAK.load(Ordering::Relaxed) - before, times[1])
}

/// What is trained.
#[derive(Debug, Clone, Copy)]
enum Tracked {
    Nothing,
    Hidden,
    HiddenAndWeight,
}

type Form = fn(Tensor<2>, Tensor<2>, &[i64]) -> Tensor<1>;

fn main() {
    let filter = std::env::args().nth(1).unwrap_or_default();
    println!(
        "{TOKENS} tokens x {WIDTH}, vocabulary {VOCAB}, instruction set {}, {} threads",
        fast::instruction_set(),
        std::thread::available_parallelism().map_or(1, usize::from),
    );
    let forms: [(&str, Form, Form); 2] = [
        (
            "loss",
            |hidden, weight, labels| {
                let options = CrossEntropy::default();
                fast::linear_cross_entropy(hidden, weight, None, labels, &options).loss
            },
            |hidden, weight, labels| {
                let options = CrossEntropy::default();
                reference::linear_cross_entropy(hidden, weight, None, labels, &options).loss
            },
        ),
        (
            "logps",
            |hidden, weight, labels| {
                fast::linear_logps(hidden, weight, None, labels, &LogitOptions::default())
            },
            |hidden, weight, labels| {
                reference::linear_logps(hidden, weight, None, labels, &LogitOptions::default())
            },
        ),
    ];
    fast::in_pool(|| {
        for (name, fused, unfused) in forms {
            for dtype in [DType::F32, DType::BF16] {
                for tracked in [Tracked::Nothing, Tracked::Hidden, Tracked::HiddenAndWeight] {
                    let name = format!("{name} {dtype:?} {tracked:?}");
                    if name.contains(&filter) {
                        row(&name, fused, unfused, dtype, tracked);
                    }
                }
            }
        }
    });
}

/// Prints one line of the table.
fn row(name: &str, fused: Form, unfused: Form, dtype: DType, tracked: Tracked) {
    let device = Device::flex().autodiff();
    let random = |shape| Tensor::<2>::random(shape, Distribution::Uniform(-0.3, 0.3), &device);
    let (mut hidden, mut weight) = (random([TOKENS, WIDTH]), random([VOCAB, WIDTH]).cast(dtype));
    if !matches!(tracked, Tracked::Nothing) {
        hidden = hidden.require_grad();
    }
    if matches!(tracked, Tracked::HiddenAndWeight) {
        weight = weight.detach().require_grad();
    }
    let labels: Vec<i64> = (0..TOKENS)
        .map(|token| (token * 7919 % VOCAB).cast_signed() as i64)
        .collect();
    let run = |form: Form| {
        measure(|| {
            let values = form(hidden.clone(), weight.clone(), &labels);
            if values.is_tracked() {
                drop(values.sum().backward());
            } else {
                drop(values.into_data());
            }
        })
    };
    let ((bytes, time), (unfused_bytes, unfused_time)) = (run(fused), run(unfused));
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "{name:<28} {:>8.1} MiB {:>8.1} ms   reference {:>8.1} MiB {:>8.1} ms   memory x {:.3}, time x {:.2}",
        mib(bytes),
        time * 1e3,
        mib(unfused_bytes),
        unfused_time * 1e3,
        bytes as f64 / unfused_bytes as f64,
        time / unfused_time,
    );
}

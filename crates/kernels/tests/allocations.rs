//! What products with packed weights allocate: never as much as the dense weight.
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use flametune_kernels::{
    CodeFormat, PackedScales, PackedWeight, Precision, packed_linear, reference,
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    LARGEST.fetch_max(bytes, Ordering::Relaxed);
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: all memory comes from the system's allocator, under the caller's own promises.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: passed on unchanged.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: passed on unchanged.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on unchanged.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on unchanged.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The largest buffer that `f` allocates, and the most that it holds at a time, in bytes.
fn measure(f: impl FnOnce()) -> [usize; 2] {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    LARGEST.store(0, Ordering::Relaxed);
    f();
    let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
    [LARGEST.load(Ordering::Relaxed), peak]
}

fn words(len: usize) -> Tensor<1, Int> {
    let words: Vec<u32> = (0_u32..)
        .take(len)
        .map(|i| i.wrapping_mul(0x9e37_79b9))
        .collect();
    Tensor::from_data(TensorData::new(words, [len]), (&Device::flex(), DType::U32))
}

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), &Device::flex())
}

fn weights(shape: [usize; 2]) -> [(&'static str, PackedWeight); 2] {
    let numel = shape[0] * shape[1];
    let nested = PackedScales::Nested {
        codes: words(numel / 64 / 4),
        map: random([256]),
        absmax: random([numel / 64 / 256]),
        offset: 1.0,
        block_size: 256,
    };
    let codebook = random([16]);
    let four_bit = CodeFormat::FourBit { codebook };
    let absmax = PackedScales::Absmax(random([numel / 64]));
    [
        (
            "4-bit",
            PackedWeight::new(shape, 64, four_bit, words(numel / 8), nested),
        ),
        (
            "int8",
            PackedWeight::new(shape, 64, CodeFormat::Int8, words(numel / 4), absmax),
        ),
    ]
}

type Form = fn(Tensor<2>, &PackedWeight, Option<Tensor<1>>, Precision) -> Tensor<2>;

fn both_ways(form: Form, weight: &PackedWeight, rows: usize, precision: Precision) -> [usize; 2] {
    let x = random([rows, weight.shape()[1]]);
    let x = Tensor::from_inner(x).require_grad();
    measure(|| {
        let gradients = form(x.clone(), weight, None, precision).sum().backward();
        assert!(x.grad(&gradients).is_some());
    })
}

// One test: what other threads allocate would be counted too.
#[test]
fn products_never_hold_the_dense_weight() {
    let shape = [2048, 1024];
    let dense = shape[0] * shape[1] * size_of::<f32>();
    for (kind, weight) in &weights(shape) {
        for precision in [Precision::Full, Precision::Bf16] {
            for rows in [1, 8, 64] {
                let [largest, peak] = both_ways(packed_linear, weight, rows, precision);
                let case = format!("{kind}, {precision:?}, {rows} rows");
                // Half of it is the weight in bf16; inputs and outputs of 64 rows take 3/32.
                assert!(largest < dense / 8, "{case}: a buffer of {largest} bytes");
                assert!(peak < dense / 2, "{case}: {peak} bytes at a time");
            }
        }
        // The measure sees a dense weight where there is one.
        let [largest, _] = both_ways(reference::packed_linear, weight, 8, Precision::Full);
        assert!(largest >= dense, "{kind}: {largest} bytes");
    }
}

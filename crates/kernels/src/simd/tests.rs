//! Every instruction set against the same definitions.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{RwLock, RwLockReadGuard};

use burn::tensor::{DType, Device, Tensor};
use flametune_testkit::{assert_close, tol};

use super::{Kernel, Portable, Simd};
use crate::sample::{leaf, pull_back, tensor};
use crate::{AttentionMask, Precision, reference};

/// The highest rank of instruction set that may be used: 0 portable, 1 AVX2, 2 AVX-512, 3 AVX-512
/// with BF16.
static HIGHEST: AtomicU8 = AtomicU8::new(3);
/// Held for writing while [`HIGHEST`] is lowered, for reading by tests that compare bits.
static CHANGING: RwLock<()> = RwLock::new(());

pub(crate) fn highest() -> u8 {
    HIGHEST.load(Ordering::Relaxed)
}

/// Keeps the instruction set from changing while the guard lives.
pub(crate) fn steady() -> RwLockReadGuard<'static, ()> {
    CHANGING.read().unwrap()
}

/// Runs `check` once for every rank that an instruction set may have.
pub(crate) fn on_every_rank(check: impl Fn()) {
    let _changing = CHANGING.write().unwrap();
    for rank in 0..=3 {
        HIGHEST.store(rank, Ordering::Relaxed);
        check();
    }
}

/// Runs a kernel on every instruction set this processor has.
pub(crate) fn on_each<K: Kernel + Clone>(kernel: K) -> Vec<(&'static str, K::Output)> {
    let mut outputs = vec![("portable", kernel.clone().run(Portable))];
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(simd) = super::avx2::Avx2::detect() {
            outputs.push(("avx2", super::avx2::run(simd, kernel.clone())));
        }
        if let Some(simd) = super::avx512::Avx512::detect() {
            outputs.push(("avx512", super::avx512::run(simd, kernel)));
        }
    }
    outputs
}

/// Reads, changes and writes a slice of any length in pieces of a register.
#[derive(Clone)]
struct Twice(Vec<f32>);

impl Kernel for Twice {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Vec<f32> {
        let mut out = vec![-1.0; self.0.len()];
        for at in (0..out.len()).step_by(S::LANES) {
            let value = super::read(s, &self.0, at);
            super::write(s, s.add(value, value), &mut out, at);
        }
        out
    }
}

#[test]
fn slices_of_any_length_are_read_and_written_whole() {
    for len in 0..40 {
        let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
        let expected: Vec<f32> = values.iter().map(|value| 2.0 * value).collect();
        for (set, got) in on_each(Twice(values)) {
            assert_eq!(got, expected, "{set}");
        }
    }
}

/// Rounds a register at a time.
#[derive(Clone)]
struct Rounded(Vec<f32>);

impl Kernel for Rounded {
    type Output = Vec<u16>;
    #[inline(always)]
    #[allow(unsafe_code, reason = "a raw load and store of whole registers")]
    fn run<S: Simd>(self, s: S) -> Vec<u16> {
        let mut out = vec![0; self.0.len()];
        for (from, to) in self
            .0
            .chunks_exact(S::LANES)
            .zip(out.chunks_exact_mut(S::LANES))
        {
            // SAFETY: both slices have `LANES` values.
            unsafe { s.store_bf16(s.load(from.as_ptr()), to.as_mut_ptr()) };
        }
        out
    }
}

#[test]
fn rounding_to_bf16_is_to_nearest_ties_to_even() {
    let mut values = vec![
        f32::NAN,
        -f32::NAN,
        f32::INFINITY,
        f32::MIN,
        f32::MAX,
        0.0,
        -0.0,
    ];
    // Signalling NaN, subnormal numbers, ties, and what lies beside them.
    values.extend([0x7f80_0001, 0xffbf_ffff, 1, 0x8000_8001].map(f32::from_bits));
    for upper in [0x3f80, 0x3f81, 0xbfff, 0x0001, 0x7f7f] {
        values.extend([0x7fff, 0x8000, 0x8001].map(|low| f32::from_bits((upper << 16) | low)));
    }
    values.resize(values.len().next_multiple_of(16), 1.0);
    let expected: Vec<u16> = values
        .iter()
        .map(|&value| half::bf16::from_f32(value).to_bits())
        .collect();
    for (set, got) in on_each(Rounded(values)) {
        assert_eq!(got, expected, "{set}");
    }
}

#[test]
fn operations_agree_on_every_instruction_set() {
    on_every_rank(|| {
        linear();
        packed();
        element_wise();
        attention();
    });
}

fn linear() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (rows, d_in, d_out) in [(1, 37, 21), (3, 64, 9), (8, 50, 7), (20, 33, 150)] {
            let weight = tensor([d_out, d_in], 2, &device.clone().autodiff()).cast(dtype);
            let gradient = |f: fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>| {
                let x = leaf([rows, d_in], 1);
                let y = f(x.clone(), weight.clone(), None);
                (
                    y.clone().inner().into_data(),
                    x.grad(&pull_back(y)).unwrap().into_data(),
                )
            };
            let (y, dx) = gradient(crate::linear);
            let (y_expected, dx_expected) = gradient(reference::linear);
            assert_close(&y, &y_expected, tol::f32_sum(64), "y");
            assert_close(&dx, &dx_expected, tol::f32_sum(150), "dx");
        }
    }
}

fn packed() {
    use crate::packed::tests::{kinds, random_weight};
    let device = Device::flex();
    for (rows, d_in, d_out, block_size) in [
        (1, 64, 21, 64),
        (3, 96, 9, 64),
        (7, 37, 12, 32),
        (40, 64, 150, 64),
        (40, 33, 70, 32),
    ] {
        for kind in kinds(block_size) {
            let weight = random_weight([d_out, d_in], kind, 2, &device);
            for precision in [Precision::Full, Precision::Bf16] {
                let x = leaf([rows, d_in], 1);
                let y = crate::packed_linear(x.clone(), &weight, None, precision);
                let plain = x.clone().inner();
                let expected = reference::packed_linear(plain, &weight, None, precision);
                // Numbers of the weight lie below 2.5.
                let tolerance = tol::f32_sum(64).of_magnitude(2.5);
                let got = y.clone().inner().into_data();
                assert_close(&got, &expected.into_data(), tolerance, "y");
                if precision == Precision::Full {
                    let dx = x.grad(&pull_back(y)).unwrap().into_data();
                    let dy = tensor::<2>([rows, d_out], 99, &device);
                    let expected = dy.matmul(reference::dequantize(&weight)).into_data();
                    let tolerance = tol::f32_sum(150).of_magnitude(2.5);
                    assert_close(&dx, &expected, tolerance, "dx");
                }
            }
        }
    }
}

fn element_wise() {
    type Map = fn(Tensor<2>) -> Tensor<2>;
    let weight = || tensor([45], 2, &Device::flex().autodiff());
    let pairs: [(Map, Map); 4] = [
        (
            |x| crate::rms_norm(x.clone(), x.slice([0..1, 0..45]).reshape([45]), 1e-5),
            |x| reference::rms_norm(x.clone(), x.slice([0..1, 0..45]).reshape([45]), 1e-5),
        ),
        (
            |x| crate::layer_norm(x.clone(), x.slice([1..2, 0..45]).reshape([45]), None, 1e-5),
            |x| reference::layer_norm(x.clone(), x.slice([1..2, 0..45]).reshape([45]), None, 1e-5),
        ),
        (
            |x| crate::swiglu(x.clone(), x),
            |x| reference::swiglu(x.clone(), x),
        ),
        (
            |x| crate::geglu_tanh(x.clone(), x),
            |x| reference::geglu_tanh(x.clone(), x),
        ),
    ];
    for (fast, slow) in pairs {
        let run = |f: Map| {
            let x = leaf([35, 45], 1);
            let y = f(x.clone() * weight().unsqueeze());
            (
                y.clone().inner().into_data(),
                x.grad(&pull_back(y)).unwrap().into_data(),
            )
        };
        let ((y, dx), (y_expected, dx_expected)) = (run(fast), run(slow));
        assert_close(&y, &y_expected, tol::f32_sum(512), "y");
        assert_close(&dx, &dx_expected, tol::f32_sum(4096), "dx");
    }
    let device = Device::flex();
    let (x, table) = (
        tensor([2, 3, 5, 46], 1, &device),
        tensor([1, 5, 42], 2, &device),
    );
    let y = crate::rope(x.clone(), table.clone(), table.clone());
    let expected = reference::rope(x, table.clone(), table);
    assert_close(
        &y.into_data(),
        &expected.into_data(),
        tol::f32_sum(2),
        "rope",
    );
}

fn attention() {
    type Form = fn(Tensor<4>, Tensor<4>, Tensor<4>, &AttentionMask, f64, Option<f64>) -> Tensor<4>;
    for (q_len, k_len, head_dim) in [(1, 300, 32), (2, 40, 20), (70, 150, 24), (30, 30, 64)] {
        let mask = AttentionMask::causal(k_len - q_len);
        let run = |f: Form| {
            let (q, k) = (
                leaf([1, 4, q_len, head_dim], 1),
                leaf([1, 2, k_len, head_dim], 2),
            );
            let y = f(q.clone(), k.clone(), k.clone(), &mask, 0.5, Some(3.0));
            let gradients = pull_back(y.clone());
            let [dq, dk] = [q, k].map(|leaf| leaf.grad(&gradients).unwrap().into_data());
            [y.inner().into_data(), dq, dk]
        };
        for (got, expected) in run(crate::attention).iter().zip(&run(reference::attention)) {
            assert_close(
                got,
                expected,
                tol::f32_sum(2048).of_magnitude(4.0),
                "attention",
            );
        }
    }
}

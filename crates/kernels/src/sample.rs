//! Numbers for tests, and the gradients of a function of them.

use burn::tensor::{Device, Gradients, Tensor, TensorData};

/// Numbers between -1 and 1 that depend on `seed` alone.
pub(crate) fn numbers<const D: usize>(shape: [usize; D], seed: u64) -> TensorData {
    let mut state = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(0x1234_5678_9abc_def1);
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    TensorData::new(values, shape)
}

/// [`numbers`] as a tensor.
pub(crate) fn tensor<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Tensor::from_data(numbers(shape, seed), device)
}

/// [`numbers`] as a leaf that wants a gradient.
pub(crate) fn leaf<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    tensor(shape, seed, &Device::flex().autodiff()).require_grad()
}

/// The gradients of `Σ y·w` for fixed weights `w`.
pub(crate) fn pull_back<const D: usize>(y: Tensor<D>) -> Gradients {
    let weights = tensor(y.dims(), 99, &y.device());
    (y * weights).sum().backward()
}

/// Runs `f` in pools of one and of three threads and asserts that the results have the same bits.
pub(crate) fn assert_same_on_any_threads(f: impl Fn() -> TensorData + Sync) {
    let _steady = crate::simd::tests::steady();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&f).try_to_vec::<f32>().unwrap()
    };
    let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert!(
        bits(run(1)) == bits(run(3)),
        "the result depends on the number of threads"
    );
}

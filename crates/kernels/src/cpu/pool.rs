/// Runs `f` on a thread of the pool that the CPU operations use.
///
/// An operation called from any other thread hands its work to the pool and sleeps until it is
/// done, which takes about ten microseconds: as long as a small operation itself, and a decoded
/// token is hundreds of those. Inside `f` the calling thread works along. Wrap a whole loop of
/// forward passes; nesting is free.
///
/// # Examples
/// ```
/// let sum = flametune_kernels::in_pool(|| {
///     let x = burn::tensor::Tensor::<1>::ones([4], &Default::default());
///     flametune_kernels::swiglu(x.clone(), x).sum().into_scalar::<f32>()
/// });
/// assert!((sum - 4.0 * 0.731_058_6).abs() < 1e-5);
/// ```
pub fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}

#[cfg(test)]
mod tests {
    #[test]
    fn work_runs_on_a_thread_of_the_pool() {
        assert!(rayon::current_thread_index().is_none());
        let index = super::in_pool(|| super::in_pool(rayon::current_thread_index));
        assert!(index.is_some());
    }
}

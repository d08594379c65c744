use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs `f` on a thread of the pool that the CPU operations use, and keeps the others awake.
///
/// An operation called from any other thread hands its work to the pool and sleeps until it is
/// done, which takes about ten microseconds: as long as a small operation itself, and a decoded
/// token is hundreds of those. Inside `f` the calling thread works along. The pool's other threads
/// look for work until `f` ends instead of falling asleep after each operation, unless several
/// calls run at once. Wrap a whole loop of forward passes; nesting is free.
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
    if rayon::current_thread_index().is_some() {
        return f();
    }
    let (watch, _call) = (Watch::default(), Call::begin());
    rayon::scope(|scope| {
        let (watch, me) = (&watch, rayon::current_thread_index());
        scope.spawn_broadcast(move |_, context| {
            if Some(context.index()) != me {
                watch.keep();
            }
        });
        let _end = End(watch);
        watch.wait_for(rayon::current_num_threads() - 1);
        f()
    })
}

/// Calls that are running.
static CALLS: AtomicUsize = AtomicUsize::new(0);

/// A running call.
struct Call;

impl Call {
    fn begin() -> Self {
        CALLS.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        CALLS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a call and the threads that stay awake for it tell each other.
#[derive(Default)]
struct Watch {
    awake: AtomicUsize,
    /// Nobody may begin any more: a thread that is late does other work, which must not wait.
    closed: AtomicBool,
    ended: AtomicBool,
}

impl Watch {
    /// How often a call looks whether all others are awake before it goes on without them.
    const PATIENCE: usize = 10_000;

    /// How often a thread finds nothing to do before it offers its processor to others.
    const IDLE: usize = 200;

    fn wait_for(&self, threads: usize) {
        let all = || self.awake.load(Ordering::Acquire) >= threads;
        (0..Self::PATIENCE)
            .take_while(|_| !all())
            .for_each(|_| spin_loop());
        self.closed.store(true, Ordering::Release);
    }

    /// Does the pool's work until the call ends, or another one begins.
    fn keep(&self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        self.awake.fetch_add(1, Ordering::AcqRel);
        let mut idle = 0;
        while !self.ended.load(Ordering::Acquire) && CALLS.load(Ordering::Relaxed) == 1 {
            if rayon::yield_now() == Some(rayon::Yield::Executed) {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle % Self::IDLE == 0 {
                std::thread::yield_now();
            }
            spin_loop();
        }
    }
}

/// Ends the watch, also when the call panics.
struct End<'a>(&'a Watch);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;

    use rayon::prelude::*;

    use super::in_pool;

    #[test]
    fn work_runs_on_a_thread_of_the_pool() {
        assert!(rayon::current_thread_index().is_none());
        let index = in_pool(|| in_pool(rayon::current_thread_index));
        assert!(index.is_some());
    }

    #[test]
    fn calls_end_whatever_runs_beside_them_and_however_they_end() {
        let sum = || (0..10_000_u32).into_par_iter().with_max_len(7).sum::<u32>();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        assert_eq!(in_pool(sum), 49_995_000);
                        assert_eq!(sum(), 49_995_000);
                    }
                });
            }
        });
        assert!(catch_unwind(|| in_pool(|| std::panic::resume_unwind(Box::new(())))).is_err());
        assert_eq!(in_pool(sum), 49_995_000);
    }
}

//! A soft penalty on completions that run into the limit.

use crate::host::{count, f32_of};

/// 0 up to `max − cache` tokens, from there down to −1 at `max`.
///
/// # Source
/// - Yu et al. 2025, DAPO, arXiv:2503.14476, §3.4: soft overlong punishment
pub fn overlong_penalty(tokens: usize, max: usize, cache: usize) -> f32 {
    let free = max.saturating_sub(cache);
    if tokens <= free {
        return 0.0;
    }
    let over = count(tokens - free) / count(cache.max(1));
    f32_of(-over.min(1.0))
}

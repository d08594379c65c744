//! When requests are sent.

use std::time::Duration;

use flametune_infer::uniform;

/// Tells these numbers apart from others of the same seed.
const PURPOSE: u64 = 0xa441_7a15;

/// The times of a Poisson process of `rate` events a second: gaps `−ln(1 − u) / rate`, where `u`
/// is a function of the seed and the event. With a rate of zero all are at once.
pub(super) fn arrivals(rate: f64, count: usize, seed: u64) -> impl Iterator<Item = Duration> {
    let gap = move |index: u64| {
        let u = uniform(seed ^ PURPOSE, index, 0);
        if rate > 0.0 {
            -(1.0 - u).ln() / rate
        } else {
            0.0
        }
    };
    (0..count as u64).scan(0.0, move |at, index| {
        // The first comes at once: nothing is gained by waiting for it.
        if index > 0 {
            *at += gap(index);
        }
        Some(Duration::from_secs_f64(at.min(1e9)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_the_one_asked_for() {
        let times: Vec<Duration> = arrivals(4.0, 4001, 7).collect();
        assert!(times.is_sorted());
        let mean = times[4000].as_secs_f64() / 4000.0;
        // The mean of 4000 exponential gaps of mean 1/4 has a deviation of 1/4/√4000 = 0.004.
        assert!((mean - 0.25).abs() < 0.016, "{mean}");
        assert_eq!(times, arrivals(4.0, 4001, 7).collect::<Vec<_>>());
        assert_ne!(times, arrivals(4.0, 4001, 8).collect::<Vec<_>>());
    }

    #[test]
    fn no_rate_means_at_once() {
        assert!(arrivals(0.0, 5, 0).all(|at| at.is_zero()));
    }
}

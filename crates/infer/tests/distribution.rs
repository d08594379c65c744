//! Whether draws follow the distribution they are drawn from.

use flametune_infer::processors::Scratch;
use flametune_infer::{Sampler, SamplingParams, inverse_cdf, uniform};

/// Statistic of Pearson's test for counts against probabilities.
fn chi_square(counts: &[u32], probs: &[f64]) -> f64 {
    let draws: f64 = counts.iter().map(|&count| f64::from(count)).sum();
    counts
        .iter()
        .zip(probs)
        .filter(|(_, p)| **p > 0.0)
        .map(|(&count, p)| (f64::from(count) - draws * p).powi(2) / (draws * p))
        .sum()
}

/// 99.9 % of the statistics of a true sampler are below, for 9 degrees of freedom.
const CRITICAL_9: f64 = 27.877;

#[test]
fn uniform_numbers_fill_the_unit_interval_evenly_along_each_argument() {
    let numbers: [&dyn Fn(u64) -> f64; 3] = [&|i| uniform(i, 0, 0), &|i| uniform(3, i, 0), &|i| {
        uniform(3, 0, i)
    }];
    for number in numbers {
        let mut counts = [0; 10];
        for i in 0..20_000 {
            counts[(number(i) * 10.0) as usize] += 1;
        }
        assert!(chi_square(&counts, &[0.1; 10]) < CRITICAL_9, "{counts:?}");
    }
}

#[test]
fn draws_follow_the_softmax() {
    let probs = [
        0.3, 0.0, 0.2, 0.15, 0.1, 0.08, 0.0, 0.07, 0.05, 0.03, 0.015, 0.005,
    ];
    let logits: Vec<f32> = probs.iter().map(|p: &f64| p.ln() as f32 + 4.0).collect();
    let mut counts = [0; 12];
    let mut scratch = Scratch::default();
    for step in 0..50_000 {
        let token = inverse_cdf(&logits, uniform(11, 0, step), &mut scratch).unwrap();
        counts[token as usize] += 1;
    }
    assert_eq!((counts[1], counts[6]), (0, 0));
    assert!(chi_square(&counts, &probs) < CRITICAL_9, "{counts:?}");
}

#[test]
fn the_sampler_draws_from_the_processed_distribution() {
    // Temperature 0.5 squares the probabilities, and top-k keeps ten of the twelve tokens.
    let probs = [
        0.02_f64, 0.14, 0.11, 0.1, 0.1, 0.1, 0.01, 0.1, 0.09, 0.08, 0.08, 0.07,
    ];
    let logits: Vec<f32> = probs.iter().map(|p| p.ln() as f32).collect();
    let kept: Vec<f64> = probs
        .iter()
        .map(|&p| if p > 0.02 { p * p } else { 0.0 })
        .collect();
    let total: f64 = kept.iter().sum();
    let expected: Vec<f64> = kept.iter().map(|p| p / total).collect();
    let mut counts = [0; 12];
    for index in 0..20_000 {
        let params = SamplingParams {
            temperature: 0.5,
            top_k: 10,
            seed: 1,
            ..SamplingParams::default()
        };
        let mut sampler = Sampler::new(params, &[0], index).unwrap();
        counts[sampler.choose(&mut logits.clone()).unwrap() as usize] += 1;
    }
    assert_eq!((counts[0], counts[6]), (0, 0));
    assert!(chi_square(&counts, &expected) < CRITICAL_9, "{counts:?}");
}

//! Sums of task vectors that drop what disagrees or is small.
//!
//! # Source
//! - reference: peft `utils/merge_utils.py`

use super::options::{CombinationType, MajoritySign};
use crate::random::Stream;

/// Combines lists of equal length with their weights.
pub(super) fn combine(
    kind: CombinationType,
    tasks: Vec<Vec<f64>>,
    weights: &[f64],
    density: f64,
    majority: MajoritySign,
    seed: Stream,
) -> Vec<f64> {
    use CombinationType as Kind;
    let tasks: Vec<Vec<f64>> = match kind {
        Kind::Linear | Kind::Cat | Kind::Svd => tasks,
        Kind::Ties | Kind::TiesSvd | Kind::MagnitudePrune | Kind::MagnitudePruneSvd => tasks
            .into_iter()
            .map(|task| keep_largest(task, density))
            .collect(),
        Kind::DareLinear | Kind::DareLinearSvd | Kind::DareTies | Kind::DareTiesSvd => (0u64..)
            .zip(tasks)
            .map(|(index, task)| drop_randomly(task, density, seed, index))
            .collect(),
    };
    match kind {
        Kind::Ties | Kind::TiesSvd | Kind::DareTies | Kind::DareTiesSvd => {
            disjoint_mean(&tasks, weights, majority)
        }
        _ => weighted_sum(&tasks, weights),
    }
}

fn weighted_sum(tasks: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let len = tasks.first().map_or(0, Vec::len);
    (0..len)
        .map(|i| tasks.iter().zip(weights).map(|(task, w)| task[i] * w).sum())
        .collect()
}

/// Zeroes all but the `⌊density · n⌋` numbers of the largest magnitude, the first of equals.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a length"
)]
fn keep_largest(mut task: Vec<f64>, density: f64) -> Vec<f64> {
    if density >= 1.0 {
        return task;
    }
    let kept = (density * task.len() as f64) as usize;
    let mut order: Vec<usize> = (0..task.len()).collect();
    order.sort_by(|&a, &b| task[b].abs().total_cmp(&task[a].abs()));
    for &index in &order[kept..] {
        task[index] = 0.0;
    }
    task
}

/// Keeps each number with probability `density`, divided by it.
fn drop_randomly(task: Vec<f64>, density: f64, seed: Stream, index: u64) -> Vec<f64> {
    if density >= 1.0 {
        return task;
    }
    let base = index << 40;
    (0u64..)
        .zip(task)
        .map(|(i, x)| {
            if seed.uniform(base + i) < density {
                x / density
            } else {
                0.0
            }
        })
        .collect()
}

/// The mean of the weighted numbers whose sign is the elected one.
fn disjoint_mean(tasks: &[Vec<f64>], weights: &[f64], majority: MajoritySign) -> Vec<f64> {
    let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
    let len = tasks.first().map_or(0, Vec::len);
    (0..len)
        .map(|i| {
            let votes: f64 = tasks
                .iter()
                .map(|task| match majority {
                    MajoritySign::Total => task[i],
                    MajoritySign::Frequency => sign(task[i]),
                })
                .sum();
            let elected = if votes >= 0.0 { 1.0 } else { -1.0 };
            let (mut sum, mut count) = (0.0, 0.0_f64);
            for (task, weight) in tasks.iter().zip(weights) {
                if sign(task[i]) == elected {
                    sum += task[i] * weight;
                    count += 1.0;
                }
            }
            sum / count.max(1.0)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: CombinationType, majority: MajoritySign) -> Vec<f64> {
        let tasks = vec![
            vec![4.0, -1.0, 2.0, 0.5],
            vec![-3.0, -2.0, 5.0, 1.0],
            vec![-2.0, 6.0, 1.0, -3.0],
        ];
        combine(
            kind,
            tasks,
            &[1.0, 2.0, 3.0],
            0.5,
            majority,
            Stream::new(&[]),
        )
    }

    #[test]
    fn ties_averages_what_agrees_with_the_elected_sign() {
        // Kept: [4, 0, 2, 0], [-3, 0, 5, 0], [0, 6, 0, -3].
        let total = run(CombinationType::Ties, MajoritySign::Total);
        assert_eq!(total, [4.0, 18.0, 6.0, -9.0]);
        // One plus, one minus: a tie goes to plus.
        let frequency = run(CombinationType::Ties, MajoritySign::Frequency);
        assert_eq!(frequency, [4.0, 18.0, 6.0, -9.0]);
        let pruned = run(CombinationType::MagnitudePrune, MajoritySign::Total);
        assert_eq!(pruned, [-2.0, 18.0, 12.0, -9.0]);
    }

    #[test]
    fn dare_keeps_the_density_and_the_mean() {
        let n = 20_000;
        let tasks = vec![vec![1.0; n], vec![1.0; n]];
        let stream = Stream::new(&[11]);
        let one = |weights: &[f64]| {
            combine(
                CombinationType::DareLinear,
                tasks.clone(),
                weights,
                0.6,
                MajoritySign::Total,
                stream,
            )
        };
        let first = one(&[1.0, 0.0]);
        let kept = first.iter().filter(|&&x| x != 0.0).count();
        // Five standard deviations of a binomial count.
        assert!(
            (kept as f64 - 12_000.0).abs() < 5.0 * (n as f64 * 0.24).sqrt(),
            "{kept}"
        );
        assert!(
            first
                .iter()
                .all(|&x| x == 0.0 || (x - 1.0 / 0.6).abs() < 1e-12)
        );
        // The two lists are not dropped alike.
        assert_ne!(first, one(&[0.0, 1.0]));
    }
}

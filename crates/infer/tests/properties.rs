//! Processors against a full sort, for vocabularies of any shape.

use flametune_infer::processors::{self as apply, Scratch};
use proptest::prelude::*;

/// Logits with ties, some of them removed.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let logit = prop_oneof![
        4 => (-40_i8..40).prop_map(|x| f32::from(x) / 8.0),
        1 => Just(f32::NEG_INFINITY),
    ];
    prop::collection::vec(logit, 1..200)
}

/// Tokens that are left, the most likely first, lower ids before higher.
fn ranked(logits: &[f32]) -> Vec<usize> {
    let mut ids: Vec<usize> = (0..logits.len())
        .filter(|&i| logits[i].is_finite())
        .collect();
    ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    ids
}

fn kept(logits: &[f32]) -> Vec<usize> {
    (0..logits.len())
        .filter(|&i| logits[i].is_finite())
        .collect()
}

proptest! {
    #[test]
    fn top_k_keeps_the_first_k_and_their_ties(before in logits(), k in 1_usize..220) {
        let mut after = before.clone();
        apply::top_k(&mut after, k, &mut Scratch::default());
        let ranked = ranked(&before);
        let mut expected: Vec<usize> = match ranked.get(k - 1) {
            Some(&last) => ranked.into_iter().filter(|&i| before[i] >= before[last]).collect(),
            None => ranked,
        };
        expected.sort_unstable();
        prop_assert_eq!(kept(&after), expected);
    }

    #[test]
    fn top_p_keeps_the_smallest_nucleus(before in logits(), p in 0.0_f32..1.0) {
        let mut after = before.clone();
        apply::top_p(&mut after, p, &mut Scratch::default());
        let ranked = ranked(&before);
        let weight = |i: usize| f64::from(before[i]).exp();
        let total: f64 = ranked.iter().map(|&i| weight(i)).sum();
        let count = kept(&after).len();
        // Sums in another order differ in the last bits: the border may be off by that much.
        let share = |n: usize| ranked[..n].iter().map(|&i| weight(i)).sum::<f64>() / total;
        if !ranked.is_empty() {
            prop_assert!(count >= 1);
            prop_assert!(share(count) >= f64::from(p) - 1e-6);
            prop_assert!(count == 1 || share(count - 1) < f64::from(p) + 1e-6);
        }
        let mut expected = ranked[..count].to_vec();
        expected.sort_unstable();
        prop_assert_eq!(kept(&after), expected);
    }

    #[test]
    fn cut_offs_never_remove_the_most_likely_token_and_never_change_a_logit(
        before in logits(),
        x in 0.001_f32..0.999,
    ) {
        let best = ranked(&before).first().map(|&i| before[i]);
        let new = Scratch::default;
        let cut_off = |which: u8, logits: &mut [f32]| match which {
            0 => apply::top_k(logits, 1, &mut new()),
            1 => apply::top_p(logits, x, &mut new()),
            2 => apply::min_p(logits, x),
            3 => apply::min_p(logits, 1.0),
            4 => apply::top_h(logits, x, &mut new()),
            5 => apply::epsilon_cutoff(logits, x, &mut new()),
            _ => apply::eta_cutoff(logits, x, &mut new()),
        };
        for which in 0..7 {
            let mut after = before.clone();
            cut_off(which, &mut after);
            prop_assert_eq!(ranked(&after).first().map(|&i| after[i]), best);
            prop_assert!(after.iter().zip(&before).all(|(a, b)| a == b || *a == f32::NEG_INFINITY));
        }
    }

    #[test]
    fn typical_p_reaches_its_mass_with_the_nearest_tokens(before in logits(), mass in 0.01_f32..0.99) {
        let mut after = before.clone();
        apply::typical_p(&mut after, mass, &mut Scratch::default());
        let weight = |i: usize| f64::from(before[i]).exp();
        let alive = kept(&before);
        let total: f64 = alive.iter().map(|&i| weight(i)).sum();
        let surprise = |i: usize| -(weight(i) / total).ln();
        let entropy: f64 = alive.iter().map(|&i| weight(i) / total * surprise(i)).sum();
        let distance = |i: &usize| (surprise(*i) - entropy).abs();
        let left = kept(&after);
        let sum: f64 = left.iter().map(|&i| weight(i) / total).sum();
        prop_assert!(alive.is_empty() || sum >= f64::from(mass) - 1e-6);
        let farthest = left.iter().map(distance).fold(0.0, f64::max);
        let removed = alive.iter().filter(|i| !left.contains(i));
        prop_assert!(removed.map(distance).all(|d| d > farthest - 1e-5));
        let nearer: f64 = left
            .iter()
            .filter(|i| distance(i) < farthest - 1e-5)
            .map(|&i| weight(i) / total)
            .sum();
        prop_assert!(nearer < f64::from(mass) + 1e-6);
    }
}

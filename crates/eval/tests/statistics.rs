//! Statistics against hand-computed numbers, brute force and Python.

use flametune_eval::python::{PythonRandom, literal_eval, python_regex, python_repr};
use flametune_eval::stats::{
    Distance, Game, Outcome, bootstrap_interval, bootstrap_stderr, bradley_terry, cohen_kappa,
    compare_paired, elo, krippendorff_alpha, mcnemar, mean, mean_stderr, paired_bootstrap,
    pooled_sample_stderr, power_hint, unweighted_mean_stderr, wilson_interval,
};
use proptest::prelude::*;

/// A handful of operations on doubles.
const TOLERANCE: f64 = 1e-12;

#[track_caller]
fn near(got: f64, expected: f64) {
    assert!(
        (got - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
        "{got} against {expected}"
    );
}

#[test]
fn random_numbers_are_those_of_python() {
    // random.Random(seed).sample(range(n), k)
    assert_eq!(PythonRandom::new(1234).sample(10, 3), Some(vec![7, 1, 0]));
    let large = PythonRandom::new(42).sample(1000, 10);
    assert_eq!(
        large,
        Some(vec![654, 114, 25, 759, 281, 250, 228, 142, 754, 104])
    );
    assert_eq!(PythonRandom::new(1).sample(2, 3), None);
    // A seed of more than 32 bits, and a population of more than 32 bits would need two words a draw.
    let wide = PythonRandom::new(1 << 40).sample(3_000_000_000, 7);
    assert_eq!(
        wide,
        Some(vec![
            445_128_065,
            1_517_081_360,
            2_880_015_531,
            282_029_048,
            1_832_466_665,
            208_659_080,
            1_665_290_981
        ])
    );
    // r = random.Random(7); r.random(), r.choices(range(100))[0], r._randbelow(1000)
    let mut random = PythonRandom::new(7);
    assert_eq!(random.random(), 0.323_832_764_833_162_37);
    assert_eq!(random.choice(100), 15);
    assert_eq!(random.below(1000), 666);
}

#[test]
fn a_bootstrapped_standard_error_is_that_of_lm_eval_to_the_bit() {
    // lm_eval.api.metrics.bootstrap_stderr(mean, [0.5, 1.0, 2.0, 4.0, 8.0], 2000)
    let got = bootstrap_stderr(&[0.5, 1.0, 2.0, 4.0, 8.0], 2000, |picked| {
        mean(&picked.iter().map(|value| **value).collect::<Vec<f64>>())
    });
    assert_eq!(got, LM_EVAL_STDERR);
}

/// What lm-eval 0.4.13 computes on Python 3.11.
const LM_EVAL_STDERR: f64 = 1.259_685_548_595_632_2;

#[test]
fn standard_errors_follow_their_formulas() {
    near(
        mean_stderr(&[1.0, 2.0, 3.0, 4.0]),
        (5.0_f64 / 3.0).sqrt() / 2.0,
    );
    // Two groups of equal size: both formulas are the same.
    near(
        pooled_sample_stderr(&[0.1, 0.2], &[50, 50]),
        unweighted_mean_stderr(&[0.1, 0.2]),
    );
    let pooled = ((9.0 * 0.01 * 10.0 + 29.0 * 0.04 * 30.0) / 38.0 / 40.0_f64).sqrt();
    near(pooled_sample_stderr(&[0.1, 0.2], &[10, 30]), pooled);
}

#[test]
fn mcnemar_sums_the_binomial_distribution() {
    let (mut first, mut second) = (vec![true; 3], vec![false; 3]);
    first.extend([false; 9]);
    second.extend([true; 9]);
    let test = mcnemar(&first, &second);
    // 2 · Σ_{k ≤ 3} C(12, k) / 2¹²
    near(test.p_value, 2.0 * f64::from(1 + 12 + 66 + 220) / 4096.0);
    near(mcnemar(&[true, false], &[true, false]).p_value, 1.0);
}

#[test]
fn a_true_difference_is_seen_and_noise_is_not() {
    let noise = |index: u32| f64::from(index.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
    let base: Vec<f64> = (0..200).map(noise).collect();
    let other: Vec<f64> = (0..200).map(|index| noise(index + 1000)).collect();
    let same = compare_paired(&base, &other, 2000, 0).unwrap();
    assert!(
        same.p_value > 0.05 && same.interval.contains(0.0),
        "{same:?}"
    );
    let better: Vec<f64> = other.iter().map(|value| value + 0.3).collect();
    let change = compare_paired(&base, &better, 2000, 0).unwrap();
    assert!(
        change.p_value < 0.01 && !change.interval.contains(0.0),
        "{change:?}"
    );
    assert!(change.interval.contains(0.3), "{change:?}");
    assert!(compare_paired(&base, &better[1..], 10, 0).is_none());
}

#[test]
fn equal_scores_have_a_p_value_of_one() {
    let (p, interval) = paired_bootstrap(&[0.0; 20], 500, 3).unwrap();
    near(p, 1.0);
    assert_eq!((interval.low, interval.high), (0.0, 0.0));
}

#[test]
fn agreement_is_one_for_equals_and_zero_for_chance() {
    assert_eq!(cohen_kappa(&[1, 2, 3], &[1, 2, 3]), Some(1.0));
    // All four combinations once: agreement is what chance gives.
    near(cohen_kappa(&[0, 0, 1, 1], &[0, 1, 0, 1]).unwrap(), 0.0);
    assert_eq!(cohen_kappa(&[1, 1], &[1, 1]), None);
    // Krippendorff 2011, example B: two observers, binary data, α = 0.095.
    let meg = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0];
    let owen = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0];
    let ratings: Vec<Vec<f64>> = meg
        .iter()
        .zip(owen)
        .map(|(a, b)| vec![f64::from(*a), f64::from(b)])
        .collect();
    let alpha = krippendorff_alpha(&ratings, Distance::Nominal).unwrap();
    assert!((alpha - 0.095).abs() < 0.0005, "{alpha}");
    // One rating alone says nothing about agreement.
    assert_eq!(
        krippendorff_alpha(&[vec![1.0], vec![2.0]], Distance::Interval),
        None
    );
}

fn game(first: &str, second: &str, outcome: Outcome) -> Game {
    Game {
        first: first.into(),
        second: second.into(),
        outcome,
    }
}

#[test]
fn strengths_order_players_through_those_they_have_in_common() {
    let mut games = Vec::new();
    for round in 0..60 {
        let mostly = if round % 4 == 0 {
            Outcome::Second
        } else {
            Outcome::First
        };
        games.push(game("a", "b", mostly));
        games.push(game("b", "c", mostly));
    }
    let ratings = bradley_terry(&games, 100, 1);
    let names: Vec<&str> = ratings.iter().map(|rating| rating.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    // a and c never met; each step is 400·log10(3).
    let gap = ratings[0].rating - ratings[2].rating;
    assert!((gap - 2.0 * 190.8).abs() < 6.0, "{gap}");
    assert!(
        ratings
            .iter()
            .all(|rating| rating.interval.contains(rating.rating))
    );
    let elo = elo(&games, 16.0, 50, 1);
    assert_eq!(elo[0].name, "a");
}

#[test]
fn one_who_always_wins_has_a_finite_rating() {
    let games = vec![game("a", "b", Outcome::First); 5];
    let ratings = bradley_terry(&games, 10, 0);
    assert!(ratings[0].rating.is_finite() && ratings[0].rating > ratings[1].rating);
    assert!(bradley_terry(&[], 10, 0).is_empty());
}

#[test]
fn python_literals_and_their_text_are_each_other() {
    let cases = [
        ("['a', \"it's\"]", r#"["a","it's"]"#),
        ("('x',)", r#"["x"]"#),
        ("(1)", "1"),
        ("{'a': 1, 'b': [True, None]}", r#"{"a":1,"b":[true,null]}"#),
        (r"'tab\tnew\nline \u00e9 \x41'", "\"tab\\tnew\\nline é A\""),
        ("'one' 'two'", "\"onetwo\""),
        ("-1.5e3", "-1500.0"),
    ];
    for (literal, json) in cases {
        let value = literal_eval(literal).unwrap();
        assert_eq!(
            value,
            serde_json::from_str::<serde_json::Value>(json).unwrap(),
            "{literal}"
        );
        assert_eq!(literal_eval(&python_repr(&value)).unwrap(), value);
    }
    for wrong in ["[1, 2", "'open", "os.system('x')", "1 2", "{1: 2, 3}", ""] {
        assert!(literal_eval(wrong).is_err(), "{wrong}");
    }
    assert!(literal_eval(&"[".repeat(10_000)).is_err());
    assert_eq!(python_repr(&serde_json::json!(1e20)), "1e+20");
    assert_eq!(python_repr(&serde_json::json!(1e-5)), "1e-05");
}

#[test]
fn python_patterns_compile() {
    assert!(python_regex(r"\d+\Z").unwrap().is_match("a 12"));
    assert!(python_regex(r"[[a-c]+").unwrap().is_match("["));
    assert!(python_regex(r"(?s).*#### ").unwrap().is_match("x\n#### 1"));
    assert!(python_regex("(?=x)").is_err());
}

proptest! {
    #[test]
    fn wilson_intervals_hold_the_rate_and_stay_inside(n in 1_usize..500, k in 0_usize..500) {
        let k = k.min(n);
        let interval = wilson_interval(k, n, 0.95);
        prop_assert!(interval.contains(k as f64 / n as f64));
        prop_assert!(interval.low >= 0.0 && interval.high <= 1.0);
    }

    #[test]
    fn bootstrap_intervals_hold_the_mean_of_what_does_not_vary(value in -5.0_f64..5.0, n in 1_usize..20) {
        let items = vec![value; n];
        let mean = |picked: &[&f64]| picked.iter().copied().sum::<f64>() / picked.len() as f64;
        let interval = bootstrap_interval(&items, 50, 0.95, 1, mean).unwrap();
        prop_assert!((interval.low - value).abs() < 1e-9 && (interval.high - value).abs() < 1e-9);
    }

    #[test]
    fn more_items_show_smaller_differences(n in 2_usize..1000, sigma in 0.01_f64..1.0) {
        let few = power_hint(n, sigma, 0.02).unwrap();
        let many = power_hint(4 * n, sigma, 0.02).unwrap();
        prop_assert!((few.detectable - 2.0 * many.detectable).abs() < 1e-9);
        prop_assert_eq!(few.needed, many.needed);
    }

    #[test]
    fn text_survives_repr_and_back(text in ".*") {
        let value = serde_json::Value::String(text);
        prop_assert_eq!(literal_eval(&python_repr(&value)).unwrap(), value);
    }
}

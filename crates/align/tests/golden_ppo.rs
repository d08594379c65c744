//! PPO against that of TRL 0.24: KL estimates, advantages, losses and gradients.

use burn::tensor::{Int, Tensor, TensorData};
use flametune_align::KlEstimator;
use flametune_align::advantages::{gae, whiten};
use flametune_align::losses::{PolicyTokens, ValueTokens, ppo_policy, ppo_value};
use flametune_testkit::{Tolerance, assert_close};

use crate::goldens::{File, case, check_gradient, check_number};

const ROWS: usize = 5;
const SEQ: usize = 8;
const GAMMA: f64 = 0.98;
const LAMBDA: f64 = 0.92;

/// Places where a mask of padding is false.
fn places(mask: &[bool]) -> Vec<i64> {
    let kept = (0_i64..).zip(mask).filter(|(_, padding)| !**padding);
    kept.map(|(place, _)| place).collect()
}

fn kept(values: &[f32], places: &[i64]) -> Vec<f32> {
    let at = |place: &i64| values[usize::try_from(*place).unwrap()];
    places.iter().map(at).collect()
}

fn select(leaf: &Tensor<2>, places: &[i64]) -> Tensor<1> {
    let data = TensorData::new(places.to_vec(), [places.len()]);
    let places = Tensor::<1, Int>::from_data(data, &leaf.device());
    leaf.clone().reshape([ROWS * SEQ]).select(0, places)
}

#[test]
fn kl_estimators_equal_trl() {
    let file = File::open("ppo");
    let (logps, reference) = (file.f32("old_logprobs"), file.f32("ref_logprobs"));
    for (name, estimator) in [
        ("k1", KlEstimator::K1),
        ("k2", KlEstimator::K2),
        ("k3", KlEstimator::K3),
    ] {
        let each = logps.iter().zip(&reference);
        let got: Vec<f64> = each
            .map(|(logp, reference)| estimator.of(f64::from(*logp), f64::from(*reference)))
            .collect();
        let expected = file.data(&format!("kl_estimators.{name}"));
        let tolerance = Tolerance::rel_abs(1e-5, 1e-6);
        let got = TensorData::new(got, [ROWS, SEQ]);
        assert_close(&got, &expected, tolerance, name);
        let tensors = estimator.of_tensors(
            Tensor::<1>::from_data(logps.as_slice(), &flametune_testkit::cpu()),
            Tensor::<1>::from_data(reference.as_slice(), &flametune_testkit::cpu()),
        );
        let tensors = TensorData::new(
            tensors.into_data().try_to_vec::<f32>().unwrap(),
            [ROWS, SEQ],
        );
        assert_close(&tensors, &expected, tolerance, name);
    }
}

/// TRL has values, and the score, one place beyond the last token; what is computed there is left out.
#[test]
fn advantages_and_losses_equal_trl() {
    let file = File::open("ppo");
    let tokens = places(&file.bool("pad_mask"));
    let states = places(&file.bool("pad_mask_p1"));
    let values = file.f32("values");
    for name in ["k1", "k1.whiten_rewards", "k3", "k3.whiten_rewards"] {
        let rewards = file.f32(&format!("{name}.rewards"));
        let (mut advantages, mut returns) = (vec![0.0; ROWS * SEQ], vec![0.0; ROWS * SEQ]);
        for row in 0..ROWS {
            let start = row * SEQ;
            let len = states
                .iter()
                .filter(|place| usize::try_from(**place).unwrap() / SEQ == row)
                .count();
            let of = |all: &[f32]| all[start..start + len].to_vec();
            let found = gae(&of(&rewards), &of(&values), GAMMA, LAMBDA);
            advantages[start..start + len].copy_from_slice(&found.advantages);
            returns[start..start + len].copy_from_slice(&found.returns);
        }
        let check = |field: &str, got: &[f32], places: &[i64]| {
            let expected = kept(&file.f32(&format!("{name}.{field}")), places);
            let got = kept(got, places);
            let tolerance = Tolerance::rel_abs(2e-5, 2e-6);
            let what = format!("{name}.{field}");
            assert_close(
                &TensorData::from(got.as_slice()),
                &TensorData::from(expected.as_slice()),
                tolerance,
                &what,
            );
        };
        check("advantages_raw", &advantages, &states);
        check("returns", &returns, &states);
        let mut whitened = kept(&advantages, &tokens);
        whiten(&mut whitened, false);
        let mut all = vec![0.0; ROWS * SEQ];
        for (place, advantage) in tokens.iter().zip(&whitened) {
            all[usize::try_from(*place).unwrap()] = *advantage;
        }
        check("advantages", &all, &tokens);

        let case = case(&format!("ppo.{name}"));
        let number = |field: &str| case[field].as_f64().unwrap();
        let logps = file.leaf::<2>("new_logprobs");
        let (losses, parts) = ppo_policy(
            &PolicyTokens {
                logps: select(&logps, &tokens),
                old_logps: &kept(&file.f32("old_logprobs"), &tokens),
                advantages: &whitened,
            },
            0.2,
        );
        let policy = losses.mean();
        let scalar = |tensor: &Tensor<1>| f64::from(tensor.clone().into_scalar::<f32>());
        check_number(name, scalar(&policy), number("pg_loss"));
        let clipped = parts.mean("policy/clipfrac").unwrap();
        check_number(name, clipped, number("clipfrac"));
        // TRL's mean counts padding.
        let kl = parts.mean("policy/approxkl").unwrap();
        let share = tokens.len() as f64 / (ROWS * SEQ) as f64;
        check_number(name, kl * share, number("approxkl"));
        let expected = file.data(&format!("{name}.grad_new_logprobs"));
        check_gradient(name, &policy, &logps, &expected);

        let vpred = file.leaf::<2>("vpred");
        let (losses, _) = ppo_value(
            &ValueTokens {
                values: select(&vpred, &states),
                old_values: &kept(&values, &states),
                returns: &kept(&returns, &states),
            },
            0.15,
        );
        let value = losses.mean();
        check_number(name, scalar(&value), number("vf_loss"));
        let expected = file.data(&format!("{name}.grad_vpred"));
        check_gradient(name, &(value * 0.1), &vpred, &expected);
    }
}

#[test]
fn whitened_rewards_equal_trl() {
    let file = File::open("ppo");
    let states = places(&file.bool("pad_mask_p1"));
    for estimator in ["k1", "k3"] {
        let mut rewards = kept(&file.f32(&format!("{estimator}.rewards")), &states);
        whiten(&mut rewards, true);
        let expected = file.f32(&format!("{estimator}.whiten_rewards.rewards"));
        assert_close(
            &TensorData::from(rewards.as_slice()),
            &TensorData::from(kept(&expected, &states).as_slice()),
            Tolerance::rel_abs(1e-5, 1e-6),
            estimator,
        );
    }
}

//! GRPO, its relatives and RLOO against TRL's: advantages, losses, metrics and gradients.

use burn::tensor::{Int, Tensor, TensorData};
use flametune_align::advantages::{ScaleRewards, group_advantages, rloo_advantages};
use flametune_align::losses::{GroupBatch, GroupOptions, StepSize, group_policy, rloo_policy};
use flametune_testkit::{assert_close, tol};

use crate::goldens::{File, case, cases, check_gradient, check_loss, check_number, row_lengths};

const COMPLETIONS: usize = 12;
const GROUP: usize = 4;
const LONGEST: usize = 12;

/// The places of the tokens that count, in a flat `[completions, tokens]`.
fn places(file: &File) -> Vec<i64> {
    let mask = file.i64("completion_mask");
    let counted = (0_i64..).zip(&mask).filter(|(_, m)| **m != 0);
    counted.map(|(place, _)| place).collect()
}

fn kept(file: &File, name: &str) -> Vec<f32> {
    let all = file.f32(name);
    let at = |place: i64| all[usize::try_from(place).unwrap()];
    places(file).into_iter().map(at).collect()
}

fn flat(file: &File, leaf: &Tensor<2>) -> Tensor<1> {
    let places = places(file);
    let len = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [len]), &leaf.device());
    let all = leaf.dims().iter().product::<usize>();
    leaf.clone().reshape([all]).select(0, places)
}

#[test]
fn advantages_equal_trl() {
    let file = File::open("group");
    let rewards = file.f32("rewards");
    let check = |name: &str, got: Vec<f32>| {
        let expected = file.data(&format!("advantages.{name}"));
        assert_close(
            &TensorData::from(got.as_slice()),
            &expected,
            tol::f32(),
            name,
        );
    };
    check(
        "group",
        group_advantages(&rewards, GROUP, ScaleRewards::Group),
    );
    check(
        "batch",
        group_advantages(&rewards, GROUP, ScaleRewards::Batch),
    );
    check(
        "none",
        group_advantages(&rewards, GROUP, ScaleRewards::None),
    );
    check("rloo", rloo_advantages(&rewards, GROUP, false));
    check("rloo_normalized", rloo_advantages(&rewards, GROUP, true));
}

#[test]
fn grpo_and_its_relatives_equal_trl() {
    let file = File::open("group");
    let lengths = row_lengths(&file.i64("completion_mask"), COMPLETIONS);
    let step = StepSize {
        completions: COMPLETIONS,
        tokens: lengths.iter().sum(),
        max_completion_length: LONGEST,
    };
    let reference = kept(&file, "ref_per_token_logps");
    let mut compared = 0;
    for name in cases("grpo.") {
        let case = case(&name);
        let kind = serde_json::from_value(case["loss_type"].clone());
        // SAPO, VESPO and LUSPO, masks by entropy and off-policy masks are not implemented.
        let (Ok(kind), false) = (
            kind,
            case["top_entropy_quantile"] != 1.0
                || !case["off_policy_mask_threshold"].is_null()
                || !case["entropy_coef"].is_null(),
        ) else {
            continue;
        };
        let number = |field: &str| case[field].as_f64().unwrap_or(0.0);
        let options = GroupOptions {
            kind,
            level: serde_json::from_value(case["level"].clone()).unwrap(),
            epsilon: number("epsilon_low"),
            epsilon_high: number("epsilon_high"),
            delta: number("delta"),
            beta: number("beta"),
            use_bias_correction_kl: case["bias_correction_kl"] == true,
        };
        options.validate().unwrap();
        let leaf = file.leaf::<2>("per_token_logps");
        let old = match case["on_policy"] == true {
            true => kept(&file, "per_token_logps"),
            false => kept(&file, "old_per_token_logps"),
        };
        let advantages = format!("advantages.{}", case["advantages"].as_str().unwrap());
        let batch = GroupBatch {
            logps: flat(&file, &leaf),
            old_logps: &old,
            ref_logps: Some(&reference),
            lengths: &lengths,
            advantages: &file.f32(&advantages),
        };
        let (loss, parts) = group_policy(&batch, step, &options);
        check_loss(&name, &loss);
        for metric in ["kl", "clip_ratio/low_mean", "clip_ratio/high_mean"] {
            if let Some(expected) = case["metrics"][metric].as_f64() {
                let got = parts.mean(metric).unwrap();
                check_number(&format!("{name} {metric}"), got, expected);
            }
        }
        let expected = file.data(&format!("{name}.grad_per_token_logps"));
        check_gradient(&name, &loss, &leaf, &expected);
        compared += 1;
    }
    assert_eq!(compared, 16);
}

#[test]
fn a_step_is_the_sum_of_its_micro_batches() {
    let file = File::open("group");
    let lengths = row_lengths(&file.i64("completion_mask"), COMPLETIONS);
    let step = StepSize {
        completions: COMPLETIONS,
        tokens: lengths.iter().sum(),
        max_completion_length: LONGEST,
    };
    let old = kept(&file, "old_per_token_logps");
    let leaf = file.leaf::<2>("per_token_logps");
    let logps = flat(&file, &leaf);
    let advantages = file.f32("advantages.group");
    for kind in ["grpo", "bnpo", "dr_grpo", "dapo"] {
        let options = GroupOptions {
            kind: serde_json::from_value(kind.into()).unwrap(),
            epsilon_high: 0.28,
            ..GroupOptions::default()
        };
        let (mut sum, mut start) = (0.0, 0);
        for part in 0..4 {
            let rows = part * 3..part * 3 + 3;
            let tokens: usize = lengths[rows.clone()].iter().sum();
            let batch = GroupBatch {
                logps: logps.clone().narrow(0, start, tokens),
                old_logps: &old[start..start + tokens],
                ref_logps: None,
                lengths: &lengths[rows.clone()],
                advantages: &advantages[rows],
            };
            let (share, _) = group_policy(&batch, step, &options);
            sum += f64::from(share.into_scalar::<f32>());
            start += tokens;
        }
        let expected = case(&format!("grpo.{kind}"))["loss"].as_f64().unwrap();
        check_number(kind, sum, expected);
    }
}

#[test]
fn rloo_equals_trl() {
    let file = File::open("group");
    let lengths = row_lengths(&file.i64("completion_mask"), COMPLETIONS);
    // TRL keeps the sum of a completion's old log-probabilities: all of it on the first token.
    let mut old = vec![0.0; lengths.iter().sum()];
    let mut start = 0;
    for (sum, len) in file.f32("rloo_old_logps").iter().zip(&lengths) {
        old[start] = *sum;
        start += len;
    }
    for (name, advantages) in [
        ("rloo.rloo", "advantages.rloo"),
        ("rloo.rloo_normalized", "advantages.rloo_normalized"),
    ] {
        let leaf = file.leaf::<2>("per_token_logps");
        let batch = GroupBatch {
            logps: flat(&file, &leaf),
            old_logps: &old,
            ref_logps: None,
            lengths: &lengths,
            advantages: &file.f32(advantages),
        };
        let (losses, parts) = rloo_policy(&batch, 0.2, 0.28);
        let loss = losses.mean();
        check_loss(name, &loss);
        for metric in ["clip_ratio/low_mean", "clip_ratio/high_mean"] {
            let expected = case(name)["metrics"][metric].as_f64().unwrap();
            check_number(metric, parts.mean(metric).unwrap(), expected);
        }
        let expected = file.data(&format!("{name}.grad_per_token_logps"));
        check_gradient(name, &loss, &leaf, &expected);
    }
}

//! The losses of pairs against TRL's: values, metrics and gradients.

use burn::tensor::Tensor;
use flametune_align::losses::{
    CpoKind, CpoOptions, DpoKind, DpoOptions, DpoTerm, FDivergence, PairLogps, RewardLossOptions,
    SftTerm, bradley_terry, cpo, dpo, orpo,
};
use serde_json::Value;

use crate::goldens::{
    File, case, cases, check_gradient, check_loss, check_number, device, row_lengths, target_mask,
    token_logps,
};

const PAIRS: usize = 4;

fn sums(logps: &Tensor<2>) -> Tensor<1> {
    logps.clone().sum_dim(1).squeeze_dim::<1>(1)
}

/// Fine-tuning on the chosen answers, all in one batch.
fn sft(logps: &Tensor<2>, lengths: &[usize]) -> SftTerm {
    let tokens: usize = lengths[..PAIRS].iter().sum();
    SftTerm {
        nll: sums(logps).narrow(0, 0, PAIRS).neg(),
        pairs_per_token: PAIRS as f64 / tokens as f64,
    }
}

fn options(case: &Value) -> DpoOptions {
    let number = |name: &str| case[name].as_f64().unwrap();
    let kinds = case["loss_types"].as_array().unwrap();
    let weights = case["weights"].as_array();
    let term = |(index, kind): (usize, &Value)| DpoTerm {
        kind: serde_json::from_value(kind.clone()).unwrap(),
        weight: weights.map_or(1.0, |weights| weights[index].as_f64().unwrap()),
    };
    let alpha = number("f_alpha");
    DpoOptions {
        beta: number("beta"),
        losses: kinds.iter().enumerate().map(term).collect(),
        label_smoothing: number("label_smoothing"),
        divergence: match case["f_divergence"].as_str().unwrap() {
            "reverse_kl" => FDivergence::ReverseKl,
            "forward_kl" => FDivergence::ForwardKl,
            "js_divergence" => FDivergence::JsDivergence,
            "alpha_divergence" => FDivergence::AlphaDivergence { alpha },
            other => panic!("{other}"),
        },
        ..DpoOptions::default()
    }
}

#[test]
fn the_dpo_family_equals_trl() {
    let file = File::open("dpo");
    let mask = file.i64("completion_mask");
    let lengths = row_lengths(&mask, 2 * PAIRS);
    let reference = sums(&Tensor::from_data(file.data("ref_token_logps"), &device()));
    let mut compared = 0;
    for name in cases("dpo.") {
        let case = case(&name);
        // Weighting and length desensitization are other ways to sum tokens, and not losses of pairs.
        if case["wpo"] == true || !case["ld_alpha"].is_null() || !case["loss_types"].is_array() {
            continue;
        }
        let options = options(&case);
        options.validate().unwrap();
        let tokens = file.leaf::<2>("policy_token_logps");
        let policy = PairLogps::halves(sums(&tokens));
        let reference = PairLogps::halves(reference.clone());
        let answers = tokens.clone() * target_mask(&mask, 2 * PAIRS);
        let sft = sft(&answers, &lengths);
        let output = dpo(&policy, &reference, &lengths, Some(&sft), &options);
        let loss = output.losses.mean();
        check_loss(&name, &loss);
        for (metric, expected) in case["metrics"].as_object().unwrap() {
            let got = output.parts.mean(metric).unwrap();
            check_number(&format!("{name} {metric}"), got, expected.as_f64().unwrap());
        }
        let expected = file.data(&format!("{name}.grad_token_logps"));
        check_gradient(&name, &loss, &tokens, &expected);
        compared += 1;
    }
    assert_eq!(compared, 40);
}

#[test]
fn conservative_dpo_equals_its_formula() {
    let file = File::open("dpo");
    let lengths = row_lengths(&file.i64("completion_mask"), 2 * PAIRS);
    let tokens = file.leaf::<2>("policy_token_logps");
    let reference = sums(&Tensor::from_data(file.data("ref_token_logps"), &device()));
    let options = DpoOptions {
        label_smoothing: 0.1,
        ..DpoOptions::of(DpoKind::Sigmoid, 0.1)
    };
    let policy = PairLogps::halves(sums(&tokens));
    let reference = PairLogps::halves(reference);
    let output = dpo(&policy, &reference, &lengths, None, &options);
    check_loss("dpo.cdpo_sigmoid", &output.losses.mean());
}

#[test]
fn cpo_and_simpo_equal_trl() {
    let (inputs, golden) = (File::open("dpo"), File::open("cpo_orpo"));
    let mask = inputs.i64("completion_mask");
    let lengths = row_lengths(&mask, 2 * PAIRS);
    let mut compared = 0;
    for name in cases("cpo.") {
        let case = case(&name);
        let number = |field: &str| case[field].as_f64().unwrap();
        let options = CpoOptions {
            beta: number("beta"),
            kind: serde_json::from_value(case["loss_type"].clone()).unwrap(),
            label_smoothing: number("label_smoothing"),
            simpo_gamma: number("simpo_gamma"),
            cpo_alpha: number("cpo_alpha"),
            alpha: number("alphapo_alpha"),
        };
        options.validate().unwrap();
        let logits = inputs.leaf::<3>("policy_logits");
        let logps =
            token_logps(logits.clone(), &inputs.i64("input_ids")) * target_mask(&mask, 2 * PAIRS);
        let policy = match options.kind {
            CpoKind::Ipo | CpoKind::Simpo => means(&logps, &lengths),
            _ => sums(&logps),
        };
        let output = cpo(&PairLogps::halves(policy), &sft(&logps, &lengths), &options);
        let loss = output.losses.mean();
        check_loss(&name, &loss);
        let rewards = case["chosen_rewards"].as_array().unwrap();
        let mean = rewards.iter().map(|r| r.as_f64().unwrap()).sum::<f64>() / PAIRS as f64;
        check_number(&name, output.parts.mean("rewards/chosen").unwrap(), mean);
        let gradient = format!("{name}.grad_logits");
        // The fixture keeps the gradients of one of two betas.
        if !name.contains("beta0.5") && !name.contains("beta5.0") {
            check_gradient(&name, &loss, &logits, &golden.data(&gradient));
        }
        compared += 1;
    }
    assert_eq!(compared, 14);
}

fn means(logps: &Tensor<2>, lengths: &[usize]) -> Tensor<1> {
    let lengths: Vec<f32> = lengths.iter().map(|len| *len as f32).collect();
    sums(logps) / Tensor::from_data(lengths.as_slice(), &logps.device())
}

#[test]
fn orpo_equals_trl() {
    let (inputs, golden) = (File::open("dpo"), File::open("cpo_orpo"));
    let answers = inputs.i64("completion_mask");
    let all = inputs.i64("attention_mask");
    for (name, beta) in [("orpo.beta0.1", 0.1), ("orpo.beta0.5", 0.5)] {
        let logits = inputs.leaf::<3>("policy_logits");
        let tokens = token_logps(logits.clone(), &inputs.i64("input_ids"));
        let whole = tokens.clone() * target_mask(&all, 2 * PAIRS);
        let policy = means(
            &(tokens * target_mask(&answers, 2 * PAIRS)),
            &row_lengths(&answers, 2 * PAIRS),
        );
        // The first token is no one's target.
        let lengths: Vec<usize> = row_lengths(&all, 2 * PAIRS)
            .iter()
            .map(|len| len - 1)
            .collect();
        let output = orpo(&PairLogps::halves(policy), &sft(&whole, &lengths), beta);
        let case = case(name);
        let loss = output.losses.mean();
        check_loss(name, &loss);
        for (part, field) in [
            ("nll_loss", "nll_full_sequence_chosen"),
            ("log_odds_ratio", "mean_log_sigmoid"),
            ("log_odds_chosen", "log_odds_chosen"),
        ] {
            let expected = case[field].as_f64().unwrap();
            check_number(part, output.parts.mean(part).unwrap(), expected);
        }
        if beta == 0.1 {
            let expected = golden.data(&format!("{name}.grad_logits"));
            check_gradient(name, &loss, &logits, &expected);
        }
    }
}

#[test]
fn reward_losses_equal_trl() {
    let file = File::open("reward");
    let margins = file.f32("reward.margin");
    for name in cases("reward.") {
        let case = case(&name);
        let options = RewardLossOptions {
            center_rewards_coefficient: case["center_rewards_coefficient"].as_f64().unwrap_or(0.0),
        };
        let margins = match name.contains("margin") {
            true => margins.clone(),
            false => vec![0.0; PAIRS],
        };
        let scores = file.leaf::<2>("reward.scores");
        let pairs = PairLogps::halves(scores.clone().squeeze_dim::<1>(1));
        let output = bradley_terry(&pairs, &margins, &options);
        let loss = output.losses.mean();
        check_loss(&name, &loss);
        let accuracy = case["accuracy"].as_f64().unwrap();
        check_number(&name, output.parts.mean("accuracy").unwrap(), accuracy);
        check_gradient(&name, &loss, &scores, &file.data(&format!("{name}.grad")));
    }
}

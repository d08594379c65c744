//! Values derived by hand, gradients by finite differences, and what must hold for any input.

use burn::tensor::{Tensor, TensorData};
use flametune_align::losses::{
    CpoOptions, DpoKind, DpoOptions, DpoTerm, FDivergence, GroupBatch, GroupKind, GroupOptions,
    KtoKind, KtoOptions, Level, PairLogps, PolicyTokens, RewardLossOptions, SftTerm, StepSize,
    ValueTokens, bradley_terry, cpo, dpo, group_policy, kto, orpo, ppo_policy, ppo_value,
    process_reward, rloo_policy,
};
use flametune_align::rewards::overlong_penalty;
use flametune_align::{KlControl, KlEstimator};
use flametune_testkit::{check_gradients, cpu, tol};
use proptest::prelude::*;

const EPS: f64 = 1e-2;

const KINDS: [DpoKind; 15] = [
    DpoKind::Sigmoid,
    DpoKind::SigmoidNorm,
    DpoKind::Hinge,
    DpoKind::Ipo,
    DpoKind::ExoPair,
    DpoKind::NcaPair,
    DpoKind::Robust,
    DpoKind::BcoPair,
    DpoKind::SppoHard,
    DpoKind::Aot,
    DpoKind::AotUnpaired,
    DpoKind::ApoZero,
    DpoKind::ApoDown,
    DpoKind::Discopop,
    DpoKind::Sft,
];

fn tensor(values: &[f32]) -> Tensor<1> {
    Tensor::from_data(values, &cpu())
}

fn scalar(tensor: Tensor<1>) -> f64 {
    f64::from(tensor.into_scalar::<f32>())
}

fn sft(policy: &PairLogps) -> SftTerm {
    SftTerm {
        nll: policy.chosen.clone().neg(),
        pairs_per_token: 0.25,
    }
}

/// Log-probabilities of three pairs, no two of them near a corner of a loss.
fn logps() -> TensorData {
    TensorData::from([-3.0_f32, -1.5, -2.25, -2.0, -3.25, -1.0])
}

fn reference() -> PairLogps {
    PairLogps::halves(tensor(&[-2.5, -2.0, -2.0, -2.5, -2.5, -2.0]))
}

#[test]
fn gradients_of_the_dpo_family_are_those_of_finite_differences() {
    let divergences = [
        FDivergence::ReverseKl,
        FDivergence::ForwardKl,
        FDivergence::JsDivergence,
        FDivergence::AlphaDivergence { alpha: 0.5 },
    ];
    for kind in KINDS {
        for divergence in divergences {
            let options = DpoOptions {
                label_smoothing: 0.1,
                divergence,
                discopop_tau: 0.5,
                ..DpoOptions::of(kind, 0.5)
            };
            let loss = |inputs: &flametune_testkit::Inputs| {
                let policy = PairLogps::halves(inputs.get::<1>(0));
                let device = policy.chosen.device();
                let reference = PairLogps {
                    chosen: to_device(&reference().chosen, &device),
                    rejected: to_device(&reference().rejected, &device),
                };
                let sft = sft(&policy);
                dpo(
                    &policy,
                    &reference,
                    &[2, 3, 4, 3, 2, 1],
                    Some(&sft),
                    &options,
                )
                .losses
            };
            // Exponentials and squares reach five; their third derivatives go with them.
            let tolerance = tol::central_differences(EPS).of_magnitude(8.0);
            check_gradients(loss, &[logps()], EPS, tolerance);
        }
    }
}

fn to_device(values: &Tensor<1>, device: &burn::tensor::Device) -> Tensor<1> {
    Tensor::from_data(values.to_data(), device)
}

#[test]
fn gradients_without_a_reference_are_those_of_finite_differences() {
    let tolerance = tol::central_differences(EPS).of_magnitude(8.0);
    check_gradients(
        |inputs| {
            let policy = PairLogps::halves(inputs.get::<1>(0));
            orpo(&policy, &sft(&policy), 0.5).losses
        },
        &[logps()],
        EPS,
        tolerance,
    );
    for options in [
        CpoOptions {
            label_smoothing: 0.1,
            ..CpoOptions::simpo(2.0, 0.5)
        },
        CpoOptions {
            alpha: 0.25,
            ..CpoOptions::simpo(2.0, 0.5)
        },
        CpoOptions::default(),
    ] {
        check_gradients(
            |inputs| {
                let policy = PairLogps::halves(inputs.get::<1>(0));
                cpo(&policy, &sft(&policy), &options).losses
            },
            &[logps()],
            EPS,
            tolerance,
        );
    }
}

#[test]
fn gradients_of_single_answers_and_scores_are_those_of_finite_differences() {
    let labels = [true, false, true, true, false, false];
    let tolerance = tol::central_differences(EPS).of_magnitude(2.0);
    let options = KtoOptions {
        beta: 0.5,
        desirable_weight: 1.5,
        ..KtoOptions::default()
    };
    check_gradients(
        |inputs| {
            let policy = inputs.get::<1>(0);
            let reference = policy.zeros_like() - 2.0;
            kto(&policy, &reference, &labels, 0.3, &options).losses
        },
        &[logps()],
        EPS,
        tolerance,
    );
    check_gradients(
        |inputs| process_reward(&inputs.get::<1>(0), &labels).losses,
        &[logps()],
        EPS,
        tolerance,
    );
    let options = RewardLossOptions {
        center_rewards_coefficient: 0.1,
    };
    check_gradients(
        |inputs| {
            let scores = PairLogps::halves(inputs.get::<1>(0));
            bradley_terry(&scores, &[0.5, 0.0, 0.25], &options).losses
        },
        &[logps()],
        EPS,
        tolerance,
    );
}

#[test]
fn gradients_of_online_losses_are_those_of_finite_differences() {
    let old = [-2.95_f32, -1.9, -2.2, -2.05, -2.7, -1.05];
    let per_token = [1.0_f32, -0.5, 0.75, -1.25, 2.0, 0.5];
    let tolerance = tol::central_differences(EPS).of_magnitude(4.0);
    check_gradients(
        |inputs| {
            let tokens = PolicyTokens {
                logps: inputs.get::<1>(0),
                old_logps: &old,
                advantages: &per_token,
            };
            ppo_policy(&tokens, 0.2).0
        },
        &[logps()],
        EPS,
        tolerance,
    );
    check_gradients(
        |inputs| {
            let tokens = ValueTokens {
                values: inputs.get::<1>(0),
                old_values: &old,
                returns: &per_token,
            };
            ppo_value(&tokens, 0.3).0
        },
        &[logps()],
        EPS,
        tolerance,
    );
    let step = StepSize {
        completions: 2,
        tokens: 6,
        max_completion_length: 8,
    };
    for level in [Level::Token, Level::Sequence] {
        for kind in [GroupKind::Grpo, GroupKind::DrGrpo, GroupKind::Dapo] {
            let options = GroupOptions {
                kind,
                level,
                beta: 0.1,
                ..GroupOptions::default()
            };
            check_gradients(
                |inputs| {
                    let batch = GroupBatch {
                        logps: inputs.get::<1>(0),
                        old_logps: &old,
                        ref_logps: Some(&old),
                        lengths: &[4, 2],
                        advantages: &[1.0, -0.5],
                    };
                    group_policy(&batch, step, &options).0
                },
                &[logps()],
                EPS,
                tolerance,
            );
        }
    }
    check_gradients(
        |inputs| {
            let batch = GroupBatch {
                logps: inputs.get::<1>(0),
                old_logps: &old,
                ref_logps: None,
                lengths: &[3, 3],
                advantages: &[1.0, -0.5],
            };
            rloo_policy(&batch, 0.5, 0.5).0
        },
        &[logps()],
        EPS,
        tolerance,
    );
}

#[test]
fn dpo_of_the_reference_itself_is_ln_2() {
    let options = DpoOptions::default();
    let output = dpo(&reference(), &reference(), &[1; 6], None, &options);
    for loss in output.losses.into_data().iter::<f32>() {
        assert_eq!(loss, 2_f32.ln());
    }
    assert_eq!(output.parts.mean("rewards/margins"), Some(0.0));
    assert_eq!(output.parts.mean("rewards/accuracies"), Some(0.0));
}

#[test]
fn losses_have_the_values_of_their_formulas() {
    // One pair with log-ratios 2 and −1: a margin of 3.
    let policy = PairLogps::halves(tensor(&[-1.0, -4.0]));
    let reference = PairLogps::halves(tensor(&[-3.0, -3.0]));
    let of = |kind: DpoKind| {
        let options = DpoOptions {
            label_smoothing: 0.1,
            ..DpoOptions::of(kind, 0.5)
        };
        scalar(dpo(&policy, &reference, &[2, 4], None, &options).losses)
    };
    let ln_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let close = |what: DpoKind, expected: f64| {
        let got = of(what);
        assert!(
            (got - expected).abs() < 1e-6,
            "{what:?}: {got} != {expected}"
        );
    };
    close(DpoKind::Hinge, 0.0);
    // 2/2 − (−1/4) − 1/(2·0.5) = 0.25.
    close(DpoKind::Ipo, 0.0625);
    close(DpoKind::SppoHard, 1.0);
    close(
        DpoKind::Sigmoid,
        -0.9 * ln_sigmoid(1.5) - 0.1 * ln_sigmoid(-1.5),
    );
    close(
        DpoKind::Robust,
        (-0.9 * ln_sigmoid(1.5) + 0.1 * ln_sigmoid(-1.5)) / 0.8,
    );
    close(DpoKind::BcoPair, -ln_sigmoid(1.0) - ln_sigmoid(0.5));
    close(DpoKind::ApoZero, 1.0 - sigmoid(1.0) + sigmoid(-0.5));
    close(DpoKind::ApoDown, sigmoid(1.0) + 1.0 - sigmoid(1.5));
    let kto = kto(
        &policy.chosen,
        &reference.chosen,
        &[true],
        0.5,
        &KtoOptions::default(),
    );
    assert!((scalar(kto.losses) - (1.0 - sigmoid(0.15))).abs() < 1e-6);
    // Two steps with scores 2 and −1, the second wrongly called right.
    let process = process_reward(&tensor(&[2.0, -1.0]), &[true, true]);
    let expected = -ln_sigmoid(2.0) - ln_sigmoid(-1.0);
    assert!((scalar(process.losses.sum()) - expected).abs() < 1e-6);
    assert_eq!(process.parts.mean("accuracy"), Some(0.5));
}

#[test]
fn extreme_log_ratios_stay_finite() {
    let policy = PairLogps::halves(tensor(&[-1e-9, -900.0, -900.0, -0.5]));
    let reference = PairLogps::halves(tensor(&[-900.0, -0.5, -0.5, -900.0]));
    for kind in KINDS {
        // Its exponential part grows without bound, as its paper has it.
        if kind == DpoKind::Discopop {
            continue;
        }
        let options = DpoOptions {
            label_smoothing: 0.1,
            ..DpoOptions::of(kind, 0.5)
        };
        let sft = sft(&policy);
        let losses = dpo(&policy, &reference, &[3; 4], Some(&sft), &options).losses;
        let finite = losses.into_data().iter::<f32>().all(f32::is_finite);
        assert!(finite, "{kind:?}");
    }
    let means = PairLogps::halves(tensor(&[0.0, -1e-4, -50.0, -90.0]));
    let losses = orpo(&means, &sft(&means), 0.1).losses;
    assert!(losses.into_data().iter::<f32>().all(f32::is_finite));
}

#[test]
fn weighted_combinations_add_up() {
    let policy = PairLogps::halves(tensor(&[-1.0, -4.0]));
    let of = |losses: Vec<DpoTerm>| {
        let options = DpoOptions {
            losses,
            ..DpoOptions::default()
        };
        let reference = PairLogps::halves(tensor(&[-3.0, -3.0]));
        scalar(dpo(&policy, &reference, &[2, 4], Some(&sft(&policy)), &options).losses)
    };
    let term = |kind, weight| DpoTerm { kind, weight };
    let sum = of(vec![term(DpoKind::Sigmoid, 1.0), term(DpoKind::Sft, 0.5)]);
    let parts = of(vec![term(DpoKind::Sigmoid, 1.0)]) + 0.5 * of(vec![term(DpoKind::Sft, 1.0)]);
    assert!((sum - parts).abs() < 1e-6, "{sum} != {parts}");
}

#[test]
fn the_weight_of_the_kl_follows_its_target() {
    let control = KlControl::Adaptive {
        target: 6.0,
        horizon: 100.0,
    };
    // Far above and below, the error is cut to a fifth.
    assert!((control.next(0.1, 60.0, 10.0) - 0.102).abs() < 1e-12);
    assert!((control.next(0.1, 0.0, 10.0) - 0.098).abs() < 1e-12);
    assert_eq!(control.next(0.1, 6.0, 10.0), 0.1);
    assert_eq!(KlControl::Fixed.next(0.1, 60.0, 10.0), 0.1);
}

#[test]
fn long_completions_are_punished_softly() {
    let at = |tokens| overlong_penalty(tokens, 20, 8);
    assert_eq!(
        [at(5), at(12), at(16), at(20), at(30)],
        [0.0, 0.0, -0.5, -1.0, -1.0]
    );
}

proptest! {
    #[test]
    fn k2_and_k3_are_never_negative(logp in -30.0_f64..0.0, reference in -30.0_f64..0.0) {
        prop_assert!(KlEstimator::K2.of(logp, reference) >= 0.0);
        prop_assert!(KlEstimator::K3.of(logp, reference) >= -1e-12);
        prop_assert_eq!(KlEstimator::K1.of(logp, reference), logp - reference);
    }

    /// A better chosen answer never costs more.
    #[test]
    fn dpo_falls_with_the_margin(
        chosen in -20.0_f32..0.0,
        rejected in -20.0_f32..0.0,
        gain in 0.5_f32..5.0,
    ) {
        let of = |chosen: f32| {
            let policy = PairLogps::halves(tensor(&[chosen, rejected]));
            let reference = PairLogps::halves(tensor(&[-10.0, -10.0]));
            scalar(dpo(&policy, &reference, &[4, 4], None, &DpoOptions::default()).losses)
        };
        prop_assert!(of(chosen + gain) < of(chosen));
    }

    /// Where the baseline is zero, a wanted answer and an unwanted one of opposite log-ratios cost
    /// the same.
    #[test]
    fn kto_is_symmetric(ratio in -10.0_f32..10.0) {
        let options = KtoOptions { kind: KtoKind::ApoZeroUnpaired, ..KtoOptions::default() };
        let of = |ratio: f32, label: bool| {
            scalar(kto(&tensor(&[ratio]), &tensor(&[0.0]), &[label], 0.0, &options).losses)
        };
        prop_assert!((of(ratio, true) - of(-ratio, false)).abs() < 1e-6);
    }
}

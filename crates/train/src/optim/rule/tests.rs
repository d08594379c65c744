use flametune_testkit::{Tolerance, assert_close, fixture_safetensors};

use super::super::moments::MIN_8BIT_SIZE;
use super::*;

const ADAMW: Rule = Rule::AdamW {
    beta1: 0.9,
    beta2: 0.995,
    eps: 1e-8,
    eight_bit: false,
};
const LION: Rule = Rule::Lion {
    beta1: 0.9,
    beta2: 0.99,
    eight_bit: false,
};

fn eight_bit(rule: Rule) -> Rule {
    match rule {
        Rule::AdamW {
            beta1, beta2, eps, ..
        } => Rule::AdamW {
            beta1,
            beta2,
            eps,
            eight_bit: true,
        },
        Rule::Lion { beta1, beta2, .. } => Rule::Lion {
            beta1,
            beta2,
            eight_bit: true,
        },
    }
}

struct Run {
    params: Vec<Vec<f32>>,
    moments: Vec<Moments>,
}

/// The golden's ten steps.
fn run(rule: Rule, lr: f64) -> Run {
    let golden = fixture_safetensors("training/optimizers.safetensors");
    let numbers = |name: &str| golden[name].clone().try_to_vec::<f32>().unwrap();
    let mut param = numbers("init");
    let mut moments = rule.init(MIN_8BIT_SIZE);
    for moment in &mut moments {
        truncate(moment, param.len());
    }
    let mut params = Vec::new();
    for step in 0..10 {
        let by = StepSize {
            lr,
            weight_decay: 0.1,
            step: step + 1,
        };
        rule.update(
            &mut param,
            &numbers(&format!("grad.{step}")),
            &mut moments,
            by,
        );
        params.push(param.clone());
    }
    Run { params, moments }
}

/// Cuts averages to those of a small parameter, which would not be in eight bits by itself.
fn truncate(moment: &mut Moments, len: usize) {
    match moment {
        Moments::F32(values) => values.truncate(len),
        Moments::Bits8 { codes, absmax } => {
            codes.truncate(len);
            absmax.truncate(len / BLOCK_SIZE_8BIT);
        }
    }
}

fn golden(name: &str) -> Vec<f32> {
    fixture_safetensors("training/optimizers.safetensors")[name]
        .clone()
        .try_to_vec()
        .unwrap()
}

/// A few roundings of f32 a step.
fn roundings() -> Tolerance {
    Tolerance::rel_abs(1e-5, 1e-6)
}

#[test]
fn adamw_equals_torch() {
    let run = run(ADAMW, 0.01);
    for step in [0, 1, 9] {
        let expected = golden(&format!("torch_adamw.param.{step}"));
        assert_close(&run.params[step], &expected, roundings(), "param");
    }
    let [Moments::F32(m), Moments::F32(v)] = run.moments.as_slice() else {
        panic!("f32 averages");
    };
    assert_close(m, &golden("torch_adamw.state.exp_avg"), roundings(), "m");
    assert_close(v, &golden("torch_adamw.state.exp_avg_sq"), roundings(), "v");
}

#[test]
fn lion_equals_bitsandbytes() {
    let run = run(LION, 0.001);
    assert_close(
        &run.params[9],
        &golden("bnb_lion32.param.9"),
        roundings(),
        "param",
    );
}

/// The mean of `|a - b|` over the mean of `|b - start|`: the error beside the way travelled.
fn error_beside_way(a: &[f32], b: &[f32], start: &[f32]) -> f32 {
    let sum = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).sum::<f32>();
    sum(a, b) / sum(b, start)
}

#[test]
fn eight_bit_optimizers_stay_by_bitsandbytes_and_by_f32() {
    let start = golden("init");
    for (rule, lr, name) in [
        (ADAMW, 0.01, "bnb_adamw8bit"),
        (LION, 0.001, "bnb_lion8bit"),
    ] {
        let eight = run(eight_bit(rule), lr);
        assert!(matches!(eight.moments[0], Moments::Bits8 { .. }));
        let theirs = golden(&format!("{name}.param.9"));
        let full = run(rule, lr);
        let (ours, way) = (eight.params[9].as_slice(), start.as_slice());
        // bitsandbytes' CPU kernel takes a neighbour of the nearest code 3 times in 100.
        let to_theirs = error_beside_way(ours, &theirs, way);
        assert!(to_theirs < 0.03, "{name}: {to_theirs} from bitsandbytes");
        let (error, their_error) = (
            error_beside_way(ours, &full.params[9], way),
            error_beside_way(&theirs, &full.params[9], way),
        );
        assert!(
            error <= their_error * 1.05,
            "{name}: {error}, theirs {their_error}"
        );
    }
}

#[test]
fn eight_bit_averages_have_the_scales_of_bitsandbytes() {
    let run = run(eight_bit(ADAMW), 0.01);
    let Moments::Bits8 { absmax, codes } = &run.moments[1] else {
        panic!("8-bit averages");
    };
    // Scales are the largest averages, which codes of 256 steps keep to half a step in 256.
    let tolerance = Tolerance::rel_abs(0.02, 0.0);
    assert_close(
        absmax,
        &golden("bnb_adamw8bit.state.absmax2"),
        tolerance,
        "absmax2",
    );
    assert_eq!(run.moments[1].bytes(), codes.len() + 4 * absmax.len());
}

#[test]
fn small_parameters_keep_f32_averages() {
    let moments = eight_bit(ADAMW).init(MIN_8BIT_SIZE);
    assert!(matches!(moments[0], Moments::Bits8 { .. }));
    let moments = eight_bit(ADAMW).init(MIN_8BIT_SIZE - 1);
    assert!(matches!(moments[0], Moments::F32(_)));
}

#[test]
fn a_ragged_last_block_is_updated_like_the_rest() {
    let len = 2 * TASK + 300;
    for rule in [ADAMW, eight_bit(ADAMW), LION, eight_bit(LION)] {
        let grad: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut param = vec![1.0; len];
        let mut moments = rule.init(len);
        let by = StepSize {
            lr: 0.1,
            weight_decay: 0.0,
            step: 1,
        };
        rule.update(&mut param, &grad, &mut moments, by);
        // The first step of both rules is about lr against the sign of the gradient.
        for (i, (p, g)) in param.iter().zip(&grad).enumerate().skip(1) {
            assert!(
                (p - (1.0 - 0.1 * g.signum())).abs() < 0.02,
                "{i}: {p} after {g}"
            );
        }
    }
}

#[test]
fn impossible_constants_are_refused() {
    let mut rule = ADAMW;
    assert!(rule.validate().is_ok());
    if let Rule::AdamW { beta1, .. } = &mut rule {
        *beta1 = 1.0;
    }
    let message = rule.validate().unwrap_err().to_string();
    assert_eq!(message, "beta1 must be at least 0 and below 1, got 1");
}

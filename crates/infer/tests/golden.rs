//! Every processor against transformers' scores for the same logits.

use flametune_infer::processors::{self as apply, Scratch};
use flametune_infer::{History, Sampler, SamplingParams};

use crate::fixture::{Golden, path};

/// Differences of a few roundings: the processors divide, multiply and add once or twice.
const SCORE_TOLERANCE: f32 = 1e-6;
/// Softmax sums 97 terms in another order and precision.
const PROB_TOLERANCE: f32 = 2e-6;

/// Cases that are other methods than a choice among one model's logits.
const ELSEWHERE: [&str; 2] = ["cfg_scale=1.7", "forced_eos_at_max"];

/// The end-of-sequence token of the cases.
const EOS: u32 = 2;

fn process(case: &str, logits: &mut [f32], input_ids: &[u32]) {
    let (name, value) = case.split_once('=').unwrap_or((case, "0"));
    let value: f32 = value.parse().unwrap();
    let count = value as usize;
    let history = History::new(input_ids);
    let scratch = &mut Scratch::default();
    match name {
        "temperature" => apply::temperature(logits, value),
        "top_k" => apply::top_k(logits, count, scratch),
        "top_p" => apply::top_p(logits, value, scratch),
        "min_p" => apply::min_p(logits, value),
        "typical_p" => apply::typical_p(logits, value, scratch),
        "top_h" => apply::top_h(logits, value, scratch),
        "epsilon_cutoff" => apply::epsilon_cutoff(logits, value, scratch),
        "eta_cutoff" => apply::eta_cutoff(logits, value, scratch),
        "repetition_penalty" => apply::repetition_penalty(logits, &history, value),
        "no_repeat_ngram" => apply::no_repeat_ngram(logits, input_ids, count),
        "min_new_tokens" => apply::min_tokens(logits, &[EOS], 0, 1),
        "bad_words" => apply::bad_words(logits, input_ids, &[vec![5], vec![37, 9]]),
        "sequence_bias" => {
            let biases = [(vec![7], 3.5), (vec![11], -2.0), (vec![37, 13], 4.0)];
            apply::sequence_bias(logits, input_ids, &biases);
        }
        "chain" => {
            let params = SamplingParams {
                repetition_penalty: 1.2,
                temperature: 0.7,
                top_k: 40,
                top_p: 0.9,
                min_p: 0.02,
                ..SamplingParams::default()
            };
            Sampler::new(params, input_ids, 0).unwrap().process(logits);
        }
        _ => panic!("no processor for {case}"),
    }
}

#[test]
fn processors_equal_transformers() {
    let golden = Golden::open("sampling/sampling.safetensors");
    let text = std::fs::read_to_string(path("sampling/cases.json")).unwrap();
    let cases: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (logits, input_ids) = (golden.floats("logits"), golden.ids("input_ids"));
    let names = golden.names();
    let mut checked = 0;
    for case in names.iter().filter_map(|name| name.strip_prefix("out.")) {
        if ELSEWHERE.contains(&case) {
            continue;
        }
        let scores = golden.floats(&format!("out.{case}"));
        let probs = golden.floats(&format!("probs.{case}"));
        for row in 0..logits.len() {
            let mut got = logits[row].clone();
            process(case, &mut got, &input_ids[row]);
            let kept = got.iter().filter(|x| x.is_finite()).count();
            assert_eq!(
                kept as u64, cases[case]["kept"][row],
                "{case}, row {row}: tokens kept"
            );
            compare(
                &got,
                &scores[row],
                SCORE_TOLERANCE,
                &logits[row],
                &format!("{case}, row {row}"),
            );
            let what = format!("probabilities of {case}, row {row}");
            compare(
                &softmax(&got),
                &probs[row],
                PROB_TOLERANCE,
                &logits[row],
                &what,
            );
            checked += 1;
        }
    }
    assert_eq!(checked, 3 * 30);
}

/// Equal up to a tolerance; which of exactly tied tokens are kept is free, how many is not.
fn compare(got: &[f32], expected: &[f32], tolerance: f32, logits: &[f32], what: &str) {
    let by_logit = |values: &[f32]| {
        let mut order: Vec<(f32, f32, usize)> = (0..values.len())
            .map(|i| (logits[i], values[i], i))
            .collect();
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        order
    };
    for (got, expected) in by_logit(got).into_iter().zip(by_logit(expected)) {
        let close =
            got.1 == expected.1 || (got.1 - expected.1).abs() <= tolerance * (1.0 + got.1.abs());
        assert!(
            close,
            "{what}: token {} got {}, expected {}",
            got.2, got.1, expected.1
        );
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f64> = logits.iter().map(|&x| f64::from(x - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| (w / total) as f32).collect()
}

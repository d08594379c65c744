//! Scores against plain forward passes, alone and among others.

use burn::tensor::Tensor;
use flametune_infer::{
    Engine, EngineOptions, Error, GenerateRequest, SamplingParams, Score, ScoreRequest, Scorer,
};
use flametune_lm::{AdapterPass, CausalLm, TokenBatch};

use crate::engine::{collect, options};
use crate::model::load;

/// Contexts and continuations: neighbours with one context, a single token, long ones.
fn pairs() -> Vec<(Vec<u32>, Vec<u32>)> {
    let context: Vec<u32> = (3..30).collect();
    vec![
        (context.clone(), vec![7]),
        (context.clone(), vec![8, 9, 10, 11]),
        (vec![4], vec![5, 6]),
        (context, (40..70).collect()),
        (vec![9, 8, 7], vec![60; 9]),
    ]
}

/// The definition: log-softmax of the logits before each token, in f64.
fn expected(model: &CausalLm, context: &[u32], continuation: &[u32]) -> Score {
    let all = [context, continuation].concat();
    let batch = TokenBatch::from_rows(&[all]).unwrap();
    let base = AdapterPass::default();
    let hidden: Tensor<3> = model.forward(&batch, None, &base).unwrap();
    let logits = model.logits(hidden, &base).into_data();
    let logits = logits.try_to_vec::<f32>().unwrap();
    let rows: Vec<&[f32]> = logits.chunks(model.vocab_size()).collect();
    let mut score = Score {
        logprobs: Vec::new(),
        is_greedy: true,
    };
    for (at, &token) in (context.len() - 1..).zip(continuation) {
        let row = rows[at];
        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
        score
            .logprobs
            .push((f64::from(row[token as usize]) - sum.ln()) as f32);
        score.is_greedy &= flametune_infer::argmax(row) == Some(token);
    }
    score
}

fn assert_close(got: &Score, expected: &Score) {
    assert_eq!(got.is_greedy, expected.is_greedy);
    assert_eq!(got.logprobs.len(), expected.logprobs.len());
    for (got, expected) in got.logprobs.iter().zip(&expected.logprobs) {
        // f32 logits whose sums run over 64 to 272 terms in another order.
        assert!((got - expected).abs() < 1e-4, "{got} {expected}");
    }
}

#[test]
fn scores_equal_plain_forward_passes() {
    for name in ["llama", "gpt2", "gemma2"] {
        let model = load(name);
        let pairs = pairs();
        let scores = Scorer::new(&model).score(&pairs).unwrap();
        for ((context, continuation), score) in pairs.iter().zip(&scores) {
            assert_close(score, &expected(&model, context, continuation));
        }
    }
}

#[test]
fn a_greedy_continuation_is_recognised() {
    let model = load("llama");
    let engine = Engine::start(model.clone(), options()).unwrap();
    let params = SamplingParams {
        max_tokens: 5,
        ..SamplingParams::default()
    };
    let request = GenerateRequest::new(vec![5, 6, 7], params);
    let tokens = collect(&mut engine.submit(request).unwrap(), 1)
        .unwrap()
        .outputs[0]
        .tokens
        .clone();
    let mut other = tokens.clone();
    other[4] ^= 1;
    let scores = Scorer::new(&model)
        .score(&[(vec![5, 6, 7], tokens), (vec![5, 6, 7], other)])
        .unwrap();
    assert!(scores[0].is_greedy && !scores[1].is_greedy);
    assert!(scores[0].total() > scores[1].total());
}

#[test]
fn a_score_depends_on_its_pair_alone_to_the_bit() {
    let model = load("llama");
    let scorer = Scorer::new(&model);
    let pairs = pairs();
    let together = scorer.score(&pairs).unwrap();
    for (pair, expected) in pairs.iter().zip(&together) {
        assert_eq!(
            &scorer.score(std::slice::from_ref(pair)).unwrap()[0],
            expected
        );
    }
    let mut backwards = pairs;
    backwards.reverse();
    let mut scores = scorer.score(&backwards).unwrap();
    scores.reverse();
    assert_eq!(scores, together);
}

#[test]
fn the_engine_scores_among_requests_that_generate() {
    let model = load("llama");
    for batch_invariant in [false, true] {
        let tight = EngineOptions {
            kv_tokens: 100,
            step_tokens: 9,
            batch_invariant,
            ..options()
        };
        let engine = Engine::start(model.clone(), tight).unwrap();
        let params = SamplingParams {
            max_tokens: 20,
            ..SamplingParams::default()
        };
        let mut tickets: Vec<_> = (0..4)
            .map(|i| {
                let request = GenerateRequest::new(vec![3 + i; 9], params.clone());
                engine.submit(request).unwrap()
            })
            .collect();
        let ask = |(context, continuation): (Vec<u32>, Vec<u32>)| {
            let request = ScoreRequest {
                context,
                continuation,
                ..ScoreRequest::default()
            };
            engine.score(request).unwrap()
        };
        let pending: Vec<_> = pairs().into_iter().map(ask).collect();
        let scores: Vec<Score> = pending.into_iter().map(|p| p.wait().unwrap()).collect();
        for ((context, continuation), score) in pairs().iter().zip(&scores) {
            assert_close(score, &expected(&model, context, continuation));
        }
        for ticket in &mut tickets {
            collect(ticket, 1).unwrap();
        }
        if batch_invariant {
            for (pair, score) in pairs().into_iter().zip(&scores) {
                assert_eq!(&ask(pair).wait().unwrap(), score);
            }
        }
        engine.shutdown();
        assert_eq!(engine.stats().kv_pages_used, 0);
    }
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let model = load("llama");
    let scorer = Scorer::new(&model);
    let context = model.max_position_embeddings();
    assert!(scorer.score(&[(vec![5; context], vec![1])]).is_ok());
    let error = scorer.score(&[(vec![5; context], vec![1, 2])]).unwrap_err();
    assert!(
        matches!(error, Error::PromptTooLong { request: 0, .. }),
        "{error}"
    );
    let error = scorer
        .score(&[(vec![5], vec![1]), (vec![], vec![1])])
        .unwrap_err();
    assert!(
        matches!(error, Error::EmptyPrompt { request: 1 }),
        "{error}"
    );
    let error = scorer.score(&[(vec![5], vec![])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "continuation must be at least one token, got none"
    );
    let error = scorer.score(&[(vec![5], vec![u32::MAX])]).unwrap_err();
    assert!(
        matches!(error, Error::PromptTokenOutOfRange { .. }),
        "{error}"
    );
}

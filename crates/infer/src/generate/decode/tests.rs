use std::cell::RefCell;

use flametune_lm::TokenBatch;

use super::*;
use crate::generate::request::FinishReason;
use crate::params::SamplingParams;

const VOCAB: usize = 11;

/// A model whose logits are a function of the real tokens of a row, and of nothing else.
#[derive(Default)]
struct Scripted {
    /// Rows and columns of every call.
    calls: RefCell<Vec<(usize, usize)>>,
}

impl StepModel for Scripted {
    type Cache = Vec<Vec<u32>>;

    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_context(&self) -> usize {
        24
    }

    fn new_cache(&self, rows: usize, columns: usize) -> Self::Cache {
        vec![Vec::with_capacity(columns); rows]
    }

    fn read(&self, columns: &TokenBatch, cache: &mut Self::Cache) -> Result<()> {
        assert_eq!(columns.batch(), cache.len());
        self.calls
            .borrow_mut()
            .push((columns.batch(), columns.seq()));
        for (slot, &token) in columns.input_ids().iter().enumerate() {
            let row = &mut cache[slot / columns.seq()];
            if columns.segment_ids().is_none_or(|ids| ids[slot] == 1) {
                row.push(token);
            } else {
                assert!(row.is_empty(), "padding comes before the tokens");
            }
        }
        Ok(())
    }

    fn step(&self, columns: &TokenBatch, cache: &mut Self::Cache) -> Result<Vec<f32>> {
        self.read(columns, cache)?;
        Ok(cache.iter().flat_map(|row| logits(row)).collect())
    }

    fn keep_rows(&self, cache: &mut Self::Cache, rows: &[usize]) {
        *cache = rows.iter().map(|&row| cache[row].clone()).collect();
    }
}

/// Scattered logits in `[0, 4)`.
fn logits(tokens: &[u32]) -> [f32; VOCAB] {
    let mut hash = 17_u32;
    for &token in tokens {
        hash = hash
            .wrapping_mul(0x9E37_79B1)
            .wrapping_add(token)
            .rotate_left(7);
    }
    let mut tokens = 0..;
    std::array::from_fn(|_| {
        let token: u32 = tokens.next().unwrap();
        let mixed = (hash ^ token).wrapping_mul(0x85EB_CA6B);
        (mixed >> 24) as f32 / 64.0
    })
}

fn run(requests: &[Request]) -> Vec<Output> {
    decode(&Scripted::default(), requests, 4, &mut |_| {
        Control::Continue
    })
    .unwrap()
}

/// Requests of many lengths, limits and options.
fn varied() -> Vec<Request> {
    let params = |temperature, max_tokens, stop_token_ids| SamplingParams {
        temperature,
        max_tokens,
        stop_token_ids,
        seed: 5,
        ..SamplingParams::default()
    };
    let mut penalized = params(1.3, 9, vec![]);
    penalized.repetition_penalty = 1.5;
    penalized.token_rules.no_repeat_ngram_size = 2;
    vec![
        Request::new(vec![1, 2, 3], params(0.0, 6, vec![])),
        Request::new(vec![4; 13], params(1.0, 3, vec![])).with_logprobs(2),
        Request::new(vec![9], params(1.0, 20, vec![0, 1, 2])),
        Request::new(vec![5, 5], penalized),
        Request::new((0..7).collect(), params(2.0, 99, vec![])).with_index(8),
    ]
}

#[test]
fn greedy_follows_the_script() {
    let request = Request::new(
        vec![3, 1],
        SamplingParams {
            max_tokens: 5,
            ..SamplingParams::default()
        },
    );
    let mut tokens = vec![3, 1];
    for _ in 0..5 {
        let next = crate::argmax(&logits(&tokens)).unwrap();
        tokens.push(next);
    }
    let output = run(&[request]).remove(0);
    assert_eq!(output.tokens, tokens[2..]);
    assert_eq!(output.finish_reason, FinishReason::Length);
    assert!(output.logprobs.is_empty());
}

#[test]
fn a_batch_equals_its_requests_alone_in_any_order() {
    let requests = varied();
    let together = run(&requests);
    for (request, output) in requests.iter().zip(&together) {
        assert_eq!(&run(std::slice::from_ref(request))[0], output);
    }
    let reversed: Vec<Request> = requests.into_iter().rev().collect();
    let backwards: Vec<Output> = run(&reversed).into_iter().rev().collect();
    assert_eq!(backwards, together);
}

#[test]
fn reasons_to_finish() {
    let outputs = run(&varied());
    assert_eq!(outputs[0].finish_reason, FinishReason::Length);
    assert_eq!(outputs[1].tokens.len(), 3);
    let FinishReason::StopToken(stop) = outputs[2].finish_reason else {
        panic!("expected a stop token, got {:?}", outputs[2]);
    };
    assert!(stop < 3 && outputs[2].tokens.iter().all(|&token| token >= 3));
    assert_eq!(outputs[4].finish_reason, FinishReason::ContextFull);
    assert_eq!(outputs[4].tokens.len(), 24 - 7);
}

#[test]
fn the_seed_decides_and_the_index_tells_samples_apart() {
    let params = |seed| SamplingParams {
        temperature: 2.0,
        max_tokens: 12,
        seed,
        ..SamplingParams::default()
    };
    let request = |seed, index| Request::new(vec![1], params(seed)).with_index(index);
    let outputs = run(&[request(1, 0), request(1, 0), request(2, 0), request(1, 1)]);
    assert_eq!(outputs[0], outputs[1]);
    assert_ne!(outputs[0], outputs[2]);
    assert_ne!(outputs[0], outputs[3]);
}

#[test]
fn prompts_are_read_in_chunks_and_finished_rows_leave() {
    let model = Scripted::default();
    let params = |max_tokens| SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    };
    let requests = [
        Request::new(vec![1; 10], params(1)),
        Request::new(vec![2; 3], params(3)),
    ];
    decode(&model, &requests, 4, &mut |_| Control::Continue).unwrap();
    assert_eq!(
        *model.calls.borrow(),
        [(2, 4), (2, 4), (2, 2), (1, 1), (1, 1)]
    );
}

#[test]
fn events_tell_the_outputs_and_stop_one_request() {
    let requests = varied();
    let mut streamed = vec![Vec::new(); requests.len()];
    let mut finished = Vec::new();
    let outputs = decode(
        &Scripted::default(),
        &requests,
        512,
        &mut |event| match event {
            Event::Token {
                request,
                token,
                logprobs,
            } => {
                assert_eq!(logprobs.is_some(), request == 1);
                streamed[request].push(token);
                if request == 3 && streamed[3].len() == 2 {
                    Control::Stop
                } else {
                    Control::Continue
                }
            }
            Event::Finished { request, reason } => {
                finished.push((request, reason));
                Control::Continue
            }
        },
    )
    .unwrap();
    let undisturbed = run(&requests);
    for (request, output) in outputs.iter().enumerate() {
        assert_eq!(streamed[request], output.tokens);
        assert!(finished.contains(&(request, output.finish_reason)));
        if request != 3 {
            assert_eq!(output, &undisturbed[request]);
        }
    }
    assert_eq!(outputs[3].finish_reason, FinishReason::Stopped);
    assert_eq!(outputs[3].tokens, undisturbed[3].tokens[..2]);
    assert_eq!(finished.len(), requests.len());
}

#[test]
fn logprobs_are_those_of_the_unchanged_logits() {
    let mut params = SamplingParams {
        max_tokens: 2,
        ..SamplingParams::default()
    };
    let free = run(&[Request::new(vec![6], params.clone())])[0].tokens[0];
    params.token_rules.logit_bias = vec![(vec![free], f32::NEG_INFINITY)];
    params.stop_token_ids = (0..11).collect();
    let output = run(&[Request::new(vec![6], params).with_logprobs(1)]).remove(0);
    let FinishReason::StopToken(stop) = output.finish_reason else {
        panic!("every token stops");
    };
    assert!(output.tokens.is_empty());
    assert_ne!(stop, free);
    let logits = logits(&[6]);
    let total: f32 = logits.iter().map(|x| x.exp()).sum();
    let expected = |token: u32| logits[token as usize] - total.ln();
    let got = &output.logprobs[0];
    assert!((got.logprob - expected(stop)).abs() < 1e-5);
    assert_eq!(got.top[0].0, free);
    assert!((got.top[0].1 - expected(free)).abs() < 1e-5);
}

#[test]
fn bad_requests_are_refused_before_anything_runs() {
    let check = |prompt: Vec<u32>, change: fn(&mut SamplingParams), expected: &str| {
        let mut params = SamplingParams::default();
        change(&mut params);
        let model = Scripted::default();
        let good = Request::new(vec![1], SamplingParams::default());
        let requests = [good, Request::new(prompt, params)];
        let error = decode(&model, &requests, 4, &mut |_| Control::Continue).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert!(model.calls.borrow().is_empty());
    };
    check(vec![], |_| (), "request 1: the prompt is empty");
    check(
        vec![0; 24],
        |_| (),
        "request 1: a prompt of 24 tokens leaves no room for an answer in a context of 24",
    );
    check(
        vec![0, 11],
        |_| (),
        "request 1: token 11 at position 1 is outside the vocabulary of 11",
    );
    check(
        vec![0],
        |params| params.top_p = 2.0,
        "top_p must be between 0 and 1, got 2",
    );
    check(
        vec![0],
        |params| params.token_rules.logit_bias = vec![(vec![12], 1.0)],
        "logit_bias names token 12, but the vocabulary has 11 tokens",
    );
    assert!(run(&[]).is_empty());
}

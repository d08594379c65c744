//! Generation with real, tiny models against transformers and against plain forward passes.

use burn::tensor::Device;
use flametune_infer::{
    Control, Event, FinishReason, Generator, Output, Request, SamplingParams, TokenLogprobs,
    processors::Scratch,
};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions, TokenBatch};

use crate::fixture::{Golden, path};

/// Llama, a sliding window, local and global layers, learned positions.
pub(crate) const MODELS: [&str; 4] = ["llama", "mistral_swa", "gemma3_text", "gpt2"];

/// The other models whose greedy tokens are known.
const MORE_MODELS: [&str; 18] = [
    "gemma",
    "gemma2",
    "granite",
    "llama_mha_headdim",
    "llama_rope_dynamic",
    "llama_rope_linear",
    "llama_rope_llama3",
    "llama_rope_yarn",
    "llama_rope_yarn_custom",
    "llama_tied_bias",
    "mixtral",
    "olmo2",
    "phi3",
    "phi3_longrope",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
];

/// The end-of-sequence token of these models.
const EOS: u32 = 2;

/// Log-probabilities of f32 models: sums over 64 to 272 terms in another order.
const TOLERANCE: f32 = 1e-4;

pub(crate) fn load(name: &str) -> CausalLm {
    let checkpoint = Checkpoint::open(path(&format!("models/{name}"))).unwrap();
    CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {}).unwrap()
}

pub(crate) fn golden(name: &str) -> Golden {
    Golden::open(&format!("models/{name}/golden.safetensors"))
}

/// Requests of different lengths, greedy and drawn, cut from the model's golden inputs.
pub(crate) fn requests(name: &str) -> Vec<Request> {
    let rows = golden(name).ids("input_ids");
    let params = |temperature, max_tokens| SamplingParams {
        temperature,
        max_tokens,
        top_p: 0.95,
        seed: 42,
        ..SamplingParams::default()
    };
    vec![
        Request::new(rows[0].clone(), params(0.0, 7)).with_logprobs(3),
        Request::new(rows[1][..3].to_vec(), params(1.0, 12)).with_logprobs(1),
        Request::new(rows[0][2..13].to_vec(), params(0.0, 12)).with_logprobs(0),
        Request::new(rows[1][..1].to_vec(), params(1.5, 4))
            .with_index(6)
            .with_logprobs(2),
    ]
}

fn assert_close(got: &[TokenLogprobs], expected: &[TokenLogprobs], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (got, expected) in got.iter().zip(expected) {
        let pair = (got.logprob, expected.logprob);
        assert!((pair.0 - pair.1).abs() < TOLERANCE, "{what}: {pair:?}");
        for (got, expected) in got.top.iter().zip(&expected.top) {
            assert!(
                (got.1 - expected.1).abs() < TOLERANCE,
                "{what}: {got:?}, {expected:?}"
            );
        }
    }
}

pub(crate) fn assert_same(got: &[Output], expected: &[Output], what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        assert_eq!(got.tokens, expected.tokens, "{what}");
        assert_eq!(got.finish_reason, expected.finish_reason, "{what}");
        assert_close(&got.logprobs, &expected.logprobs, what);
    }
}

#[test]
fn greedy_equals_transformers() {
    for name in MODELS.iter().chain(&MORE_MODELS) {
        let golden = golden(name);
        let prompt = golden.ids("greedy_prompt").remove(0);
        let expected = golden.ids("greedy_output").remove(0);
        let params = SamplingParams {
            max_tokens: 16,
            min_tokens: 16,
            stop_token_ids: vec![EOS],
            ..SamplingParams::default()
        };
        let model = load(name);
        let outputs = Generator::new(&model).generate(&[Request::new(prompt.clone(), params)]);
        let output = outputs.unwrap().remove(0);
        assert_eq!([prompt, output.tokens].concat(), expected, "{name}");
        assert_eq!(output.finish_reason, FinishReason::Length);
    }
}

#[test]
fn a_batch_equals_its_requests_alone() {
    for name in MODELS {
        let (model, requests) = (load(name), requests(name));
        let generator = Generator::new(&model);
        let together = generator.generate(&requests).unwrap();
        let alone: Vec<Output> = requests
            .iter()
            .map(|request| {
                generator
                    .generate(std::slice::from_ref(request))
                    .unwrap()
                    .remove(0)
            })
            .collect();
        assert_same(&together, &alone, name);
        assert_eq!(
            together,
            generator.generate(&requests).unwrap(),
            "{name}: not reproducible"
        );
    }
}

#[test]
fn reading_prompts_in_chunks_changes_nothing() {
    for name in MODELS {
        let (model, requests) = (load(name), requests(name));
        let generator = Generator::new(&model);
        let whole = generator.generate(&requests).unwrap();
        for columns in [1, 7] {
            let chunked = generator
                .clone()
                .with_prefill_chunk(columns)
                .generate(&requests)
                .unwrap();
            assert_same(
                &chunked,
                &whole,
                &format!("{name}, {columns} columns at a time"),
            );
        }
    }
}

#[test]
fn cached_decoding_equals_a_full_forward() {
    for name in MODELS {
        let (model, requests) = (load(name), requests(name));
        let outputs = Generator::new(&model).generate(&requests).unwrap();
        for (request, output) in requests.iter().zip(&outputs) {
            let tokens = [&request.prompt[..], &output.tokens].concat();
            let batch = TokenBatch::from_rows(&[tokens]).unwrap();
            let base = AdapterPass::default();
            let logits = model.logits(model.forward(&batch, None, &base).unwrap(), &base);
            let logits = logits.into_data().try_to_vec::<f32>().unwrap();
            let rows: Vec<&[f32]> = logits.chunks(model.vocab_size()).collect();
            let expected: Vec<TokenLogprobs> = (request.prompt.len() - 1..)
                .zip(&output.tokens)
                .map(|(at, &token)| {
                    let top = request.logprobs.unwrap();
                    TokenLogprobs::of(rows[at], token, top, &mut Scratch::default())
                })
                .collect();
            assert_close(&output.logprobs, &expected, name);
        }
    }
}

#[test]
fn the_context_ends_the_output() {
    let model = load("llama");
    let context = model.max_position_embeddings();
    let params = SamplingParams {
        max_tokens: usize::MAX,
        ..SamplingParams::default()
    };
    let requests = [3, context - 1].map(|len| Request::new(vec![5; len], params.clone()));
    let outputs = Generator::new(&model).generate(&requests).unwrap();
    for (request, output) in requests.iter().zip(outputs) {
        assert_eq!(request.prompt.len() + output.tokens.len(), context);
        assert_eq!(output.finish_reason, FinishReason::ContextFull);
    }
    let too_long = Request::new(vec![5; context], params);
    let error = Generator::new(&model)
        .generate(&[too_long])
        .unwrap_err()
        .to_string();
    let expected = format!(
        "request 0: a prompt of {context} tokens leaves no room for an answer in a context of {context}"
    );
    assert_eq!(error, expected);
}

#[test]
fn a_request_stopped_by_the_caller_leaves_no_trace() {
    let (model, requests) = (load("llama"), requests("llama"));
    let generator = Generator::new(&model);
    let undisturbed = generator.generate(&requests).unwrap();
    let outputs = generator
        .generate_with(&requests, |event| match event {
            Event::Token { request: 1, .. } => Control::Stop,
            _ => Control::Continue,
        })
        .unwrap();
    assert_eq!(outputs[1].finish_reason, FinishReason::Stopped);
    assert_eq!(outputs[1].tokens, undisturbed[1].tokens[..1]);
    for request in [0, 2, 3] {
        assert_same(
            &outputs[request..=request],
            &undisturbed[request..=request],
            "others",
        );
    }
}

#[test]
fn a_sequence_classifier_has_nothing_to_generate_with() {
    let model = load("llama_seqcls");
    let request = Request::new(vec![1, 2, 3], SamplingParams::default());
    let error = Generator::new(&model).generate(&[request]).unwrap_err();
    assert_eq!(error.to_string(), "the model has no `lm_head` head");
}

//! Proposals ahead of the model change nothing but the number of steps.

use flametune_infer::{
    Engine, EngineOptions, Error, GenerateRequest, SamplingParams, Speculation, Ticket, uniform,
};

use crate::engine::{Answer, collect, options};
use crate::fixture::path;
use crate::model::load;

const NAME: &str = "draft";

/// Every way to propose, for the small Llama: what stood there before, another model, the model
/// itself, and an adapter.
fn ways() -> Vec<(&'static str, Speculation)> {
    let model = |name| Speculation::DraftModel {
        model: Box::new(load(name)),
        tokens: 3,
    };
    vec![
        (
            "lookup",
            Speculation::PromptLookup {
                ngram: 2,
                tokens: 4,
            },
        ),
        ("another model", model("llama_rope_linear")),
        ("itself", model("llama")),
    ]
}

fn requests(temperature: f32) -> Vec<GenerateRequest> {
    (0..5_u32)
        .map(|i| {
            let prompt = (0..[3, 30, 11, 1, 17][i as usize])
                .map(|at| at % 7 + 3 + i)
                .collect();
            let params = SamplingParams {
                temperature,
                repetition_penalty: 1.1,
                seed: u64::from(i),
                max_tokens: 14,
                ..SamplingParams::default()
            };
            let mut request = GenerateRequest::new(prompt, params);
            request.logprobs = Some(1);
            request
        })
        .collect()
}

fn answers(speculation: Option<Speculation>, temperature: f32) -> Vec<Answer> {
    let options = EngineOptions {
        batch_invariant: true,
        speculation,
        ..options()
    };
    let engine = Engine::start(load("llama"), options).unwrap();
    let mut tickets: Vec<Ticket> = requests(temperature)
        .into_iter()
        .map(|request| engine.submit(request).unwrap())
        .collect();
    let answers = tickets.iter_mut().map(|t| collect(t, 1).unwrap()).collect();
    engine.shutdown();
    assert_eq!(engine.stats().kv_pages_used, 0);
    answers
}

#[test]
fn tokens_and_logprobs_are_those_without_proposals() {
    for temperature in [0.0, 0.8] {
        let plain = answers(None, temperature);
        for (name, way) in ways() {
            let drafted = answers(Some(way), temperature);
            let mut accepted = 0;
            for (plain, drafted) in plain.iter().zip(&drafted) {
                assert_eq!(plain.outputs, drafted.outputs, "{name} at {temperature}");
                assert_eq!(plain.usage[0].acceptance_rate(), None);
                let usage = drafted.usage[0];
                assert!(usage.accepted_tokens <= usage.drafted_tokens);
                accepted += usage.accepted_tokens;
            }
            // What a random model says is hard to guess for others.
            assert!(accepted > 0 || name != "itself");
        }
    }
}

#[test]
fn a_draft_that_is_the_model_is_always_right() {
    let itself = Speculation::DraftModel {
        model: Box::new(load("llama")),
        tokens: 3,
    };
    let options = EngineOptions {
        batch_invariant: true,
        speculation: Some(itself),
        ..options()
    };
    let engine = Engine::start(load("llama"), options).unwrap();
    let params = SamplingParams {
        max_tokens: 13,
        ..SamplingParams::default()
    };
    let request = GenerateRequest::new(vec![5, 6, 7], params);
    let usage = collect(&mut engine.submit(request).unwrap(), 1)
        .unwrap()
        .usage[0];
    assert_eq!(usage.acceptance_rate(), Some(1.0));
    // One token from the prompt, then four a step.
    assert_eq!((usage.completion_tokens, usage.drafted_tokens), (13, 9));
    engine.shutdown();
    assert_eq!(engine.stats().steps, 4);
}

#[test]
fn an_adapter_proposes_several_tokens_in_a_pass() {
    let plain = {
        let engine = Engine::start(peft_base(), options()).unwrap();
        collect(&mut engine.submit(greedy(20)).unwrap(), 1).unwrap()
    };
    let speculation = Speculation::DraftAdapter {
        name: NAME.to_owned(),
        mask_token: 0,
        tokens: 3,
    };
    let options = EngineOptions {
        batch_invariant: true,
        speculation: Some(speculation),
        ..options()
    };
    let engine = Engine::start(peft_base(), options).unwrap();
    // Nobody has loaded it yet: then there are no proposals.
    let answer = collect(&mut engine.submit(greedy(20)).unwrap(), 1).unwrap();
    assert_eq!(answer.usage[0].drafted_tokens, 0);
    engine.load_adapter(NAME, path("peft/lora")).unwrap();
    let answer = collect(&mut engine.submit(greedy(20)).unwrap(), 1).unwrap();
    assert_eq!(answer.outputs[0].tokens, plain.outputs[0].tokens);
    assert!(answer.usage[0].drafted_tokens > 0);
    // It can be taken away while the engine rests.
    engine.unload_adapter(NAME).unwrap();
    let answer = collect(&mut engine.submit(greedy(20)).unwrap(), 1).unwrap();
    assert_eq!(answer.usage[0].drafted_tokens, 0);
}

fn peft_base() -> flametune_lm::CausalLm {
    crate::engine_adapters::base()
}

fn greedy(max_tokens: usize) -> GenerateRequest {
    let params = SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    };
    GenerateRequest::new(vec![5, 6, 7, 5, 6], params)
}

#[test]
fn drawn_tokens_keep_their_distribution() {
    // The second token after a proposal, over many seeds, against the model's own probabilities.
    let model = load("llama");
    let prompt = vec![5, 6, 7, 5, 6];
    let base = flametune_lm::AdapterPass::default();
    let probabilities = |tokens: &[u32]| -> Vec<f64> {
        let batch = flametune_lm::TokenBatch::from_rows(&[tokens.to_vec()]).unwrap();
        let hidden = model.forward(&batch, None, &base).unwrap();
        let logits = model.logits(hidden, &base).into_data();
        let logits = logits.try_to_vec::<f32>().unwrap();
        let row = &logits[logits.len() - model.vocab_size()..];
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // Temperature 0.5.
        let weights: Vec<f64> = row
            .iter()
            .map(|&x| f64::from(2.0 * (x - max)).exp())
            .collect();
        let sum: f64 = weights.iter().sum();
        weights.iter().map(|w| w / sum).collect()
    };
    let first = probabilities(&prompt);
    let mut second = vec![0.0; first.len()];
    for (token, share) in first.iter().enumerate() {
        if *share > 1e-7 {
            let text = [&prompt[..], &[token as u32]].concat();
            for (sum, p) in second.iter_mut().zip(probabilities(&text)) {
                *sum += share * p;
            }
        }
    }
    let options = EngineOptions {
        speculation: Some(Speculation::DraftModel {
            model: Box::new(load("llama")),
            tokens: 2,
        }),
        max_waiting: 4096,
        max_running: 32,
        step_tokens: 256,
        ..options()
    };
    let engine = Engine::start(load("llama"), options).unwrap();
    const DRAWS: usize = 1500;
    let mut tickets: Vec<Ticket> = (0..DRAWS as u64)
        .map(|seed| {
            let params = SamplingParams {
                temperature: 0.5,
                seed: (uniform(seed, 0, 0) * 1e15) as u64,
                max_tokens: 3,
                ..SamplingParams::default()
            };
            engine
                .submit(GenerateRequest::new(prompt.clone(), params))
                .unwrap()
        })
        .collect();
    let mut counts = vec![0_usize; first.len()];
    let mut accepted = 0;
    for ticket in &mut tickets {
        let answer = collect(ticket, 1).unwrap();
        counts[answer.outputs[0].tokens[1] as usize] += 1;
        accepted += answer.usage[0].accepted_tokens;
    }
    assert!(accepted > 0);
    // Tokens that are expected at least eight times stand alone, the others together.
    let (mut statistic, mut cells) = (0.0, 0);
    let (mut rest_expected, mut rest_count) = (0.0, 0);
    for (share, &count) in second.iter().zip(&counts) {
        let expected = share * DRAWS as f64;
        if expected >= 8.0 {
            statistic += (count as f64 - expected).powi(2) / expected;
            cells += 1;
        } else {
            rest_expected += expected;
            rest_count += count;
        }
    }
    if rest_expected > 0.0 {
        statistic += (f64::from(rest_count as u32) - rest_expected).powi(2) / rest_expected;
        cells += 1;
    }
    assert!(cells > 3, "the model is too sure: {cells} cells");
    // Mean and deviation of chi-square with `cells - 1` degrees; five deviations.
    let degrees = f64::from(cells - 1);
    assert!(
        statistic < degrees + 5.0 * (2.0 * degrees).sqrt(),
        "{statistic} for {degrees}"
    );
}

#[test]
fn drafts_that_cannot_be_are_refused() {
    let start = |speculation| {
        let options = EngineOptions {
            speculation: Some(speculation),
            ..options()
        };
        Engine::start(load("llama"), options).unwrap_err()
    };
    let error = start(Speculation::PromptLookup {
        ngram: 0,
        tokens: 2,
    });
    assert_eq!(
        error.to_string(),
        "speculation ngram must be at least 1, got 0"
    );
    let error = start(Speculation::DraftAdapter {
        name: NAME.to_owned(),
        mask_token: 272,
        tokens: 2,
    });
    assert!(
        matches!(error, Error::UnknownToken { id: 272, .. }),
        "{error}"
    );
}

//! The engine against the plain generator, and requests in company against themselves alone.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flametune_infer::{
    Engine, EngineEvent, EngineHandle, EngineOptions, Error, FinishReason, GenerateRequest,
    Generator, Output, Request, SamplingParams, Ticket, TokenLogprobs, Usage,
};

use crate::model::{MODELS, assert_same, load, requests};

/// Small pages and steps, so that short texts meet many borders.
pub(crate) fn options() -> EngineOptions {
    EngineOptions {
        kv_tokens: 512,
        page_tokens: 4,
        step_tokens: 16,
        max_running: 8,
        ..EngineOptions::default()
    }
}

/// What came out of a ticket, by choice.
pub(crate) struct Answer {
    pub(crate) outputs: Vec<Output>,
    pub(crate) usage: Vec<Usage>,
    pub(crate) prompt: Option<Vec<Option<TokenLogprobs>>>,
}

pub(crate) fn collect(ticket: &mut Ticket, n: usize) -> Result<Answer, Error> {
    let empty = Output {
        tokens: Vec::new(),
        finish_reason: FinishReason::Stopped,
        logprobs: Vec::new(),
    };
    let mut answer = Answer {
        outputs: vec![empty; n],
        usage: vec![Usage::default(); n],
        prompt: None,
    };
    while let Some(event) = ticket.recv() {
        match event? {
            EngineEvent::Prompt(prompt) => answer.prompt = Some(prompt),
            EngineEvent::Token {
                choice,
                token,
                logprobs,
            } => {
                answer.outputs[choice].tokens.push(token);
                answer.outputs[choice].logprobs.extend(logprobs);
            }
            EngineEvent::Finished {
                choice,
                reason,
                usage,
            } => {
                answer.outputs[choice].finish_reason = reason;
                answer.usage[choice] = usage;
            }
        }
    }
    Ok(answer)
}

pub(crate) fn submit(engine: &EngineHandle, request: &Request) -> Ticket {
    let mut asked = GenerateRequest::new(request.prompt.clone(), request.params.clone());
    asked.logprobs = request.logprobs;
    engine.submit(asked).unwrap()
}

pub(crate) fn run(engine: &EngineHandle, request: &Request) -> Output {
    let mut ticket = submit(engine, request);
    collect(&mut ticket, 1).unwrap().outputs.remove(0)
}

fn greedy(prompt: &[u32], max_tokens: usize) -> GenerateRequest {
    let params = SamplingParams {
        max_tokens,
        ..SamplingParams::default()
    };
    GenerateRequest::new(prompt.to_vec(), params)
}

#[test]
fn the_engine_answers_as_the_generator_does() {
    for name in MODELS {
        let mut requests = requests(name);
        // An engine draws by choices, which begin at 0.
        requests.iter_mut().for_each(|request| request.index = 0);
        let model = load(name);
        let expected = Generator::new(&model).generate(&requests).unwrap();
        let engine = Engine::start(model, options()).unwrap();
        let mut tickets: Vec<Ticket> = requests.iter().map(|r| submit(&engine, r)).collect();
        let got: Vec<Output> = tickets
            .iter_mut()
            .map(|ticket| collect(ticket, 1).unwrap().outputs.remove(0))
            .collect();
        assert_same(&got, &expected, name);
        engine.shutdown();
        let stats = engine.stats();
        assert_eq!((stats.running, stats.finished), (0, 4), "{name}");
    }
}

#[test]
fn in_company_and_alone_are_the_same_to_the_bit() {
    for name in [
        "llama",
        "gemma3_text",
        "gpt2",
        "mixtral",
        "llama_rope_dynamic",
    ] {
        let model = load(name);
        let vocab = u32::try_from(model.vocab_size()).unwrap();
        let invariant = || EngineOptions {
            batch_invariant: true,
            prefix_sharing: true,
            ..options()
        };
        let requests: Vec<Request> = (0..7_u32)
            .map(|i| {
                let len = [1, 5, 23, 40, 12, 9, 31][i as usize];
                let prompt = (0..len).map(|at| (at * 7 + i * 3 + 1) % vocab).collect();
                let params = SamplingParams {
                    temperature: [0.0, 1.0][i as usize % 2],
                    seed: u64::from(i),
                    max_tokens: 9,
                    ..SamplingParams::default()
                };
                Request::new(prompt, params).with_logprobs(2)
            })
            .collect();
        let alone: Vec<Output> = requests
            .iter()
            .map(|request| {
                let engine = Engine::start(model.clone(), invariant()).unwrap();
                run(&engine, request)
            })
            .collect();
        // Other company, other pieces of prompts, and so little memory that some must begin anew.
        let crowded = EngineOptions {
            kv_tokens: 88,
            step_tokens: 7,
            ..invariant()
        };
        for options in [invariant(), crowded] {
            let tight = options.kv_tokens == 88;
            let engine = Engine::start(model.clone(), options).unwrap();
            let mut tickets: Vec<Ticket> = requests
                .iter()
                .map(|request| submit(&engine, request))
                .collect();
            for (ticket, expected) in tickets.iter_mut().zip(&alone) {
                let got = collect(ticket, 1).unwrap().outputs.remove(0);
                assert_eq!(&got, expected, "{name}, tight: {tight}");
            }
            engine.shutdown();
            let stats = engine.stats();
            assert_eq!(stats.kv_pages_used, 0);
            assert!(
                !tight || stats.preemptions > 0,
                "{name}: nobody had to leave"
            );
        }
    }
}

#[test]
fn beginnings_are_shared_and_change_nothing() {
    let model = load("llama");
    let prompt: Vec<u32> = (0..30).map(|at| at * 5 % 90 + 3).collect();
    let expected = {
        let plain = EngineOptions {
            prefix_sharing: false,
            batch_invariant: true,
            ..options()
        };
        let engine = Engine::start(model.clone(), plain).unwrap();
        collect(&mut engine.submit(greedy(&prompt, 6)).unwrap(), 1).unwrap()
    };
    assert_eq!(expected.usage[0].cached_tokens, 0);
    let invariant = EngineOptions {
        batch_invariant: true,
        ..options()
    };
    let engine = Engine::start(model, invariant).unwrap();
    let first = collect(&mut engine.submit(greedy(&prompt, 6)).unwrap(), 1).unwrap();
    let second = collect(&mut engine.submit(greedy(&prompt, 6)).unwrap(), 1).unwrap();
    assert_eq!(first.usage[0].cached_tokens, 0);
    // 29 of 30 tokens may be there, in pages of 4.
    assert_eq!(second.usage[0].cached_tokens, 28);
    assert_eq!(first.outputs, expected.outputs);
    assert_eq!(second.outputs, expected.outputs);
    engine.shutdown();
    assert_eq!(engine.stats().cached_tokens, 28);
}

#[test]
fn choices_draw_for_themselves_and_read_the_prompt_once() {
    let model = load("llama");
    let prompt: Vec<u32> = (3..25).collect();
    let params = SamplingParams {
        temperature: 1.0,
        seed: 9,
        max_tokens: 8,
        ..SamplingParams::default()
    };
    let alone: Vec<Request> = (0..3)
        .map(|index| Request::new(prompt.clone(), params.clone()).with_index(index))
        .collect();
    let expected = Generator::new(&model).generate(&alone).unwrap();
    let engine = Engine::start(model, options()).unwrap();
    let mut request = GenerateRequest::new(prompt, params);
    request.n = 3;
    let answer = collect(&mut engine.submit(request).unwrap(), 3).unwrap();
    assert_same(&answer.outputs, &expected, "choices");
    assert_ne!(answer.outputs[0].tokens, answer.outputs[1].tokens);
    let cached: Vec<usize> = answer
        .usage
        .iter()
        .map(|usage| usage.cached_tokens)
        .collect();
    assert_eq!(cached, [0, 20, 20]);
}

#[test]
fn the_prompt_is_judged_when_asked_for() {
    let model = load("llama");
    let prompt: Vec<u32> = (3..40).collect();
    let engine = Engine::start(model.clone(), options()).unwrap();
    // Others have read the prompt before; it is judged all the same.
    collect(&mut engine.submit(greedy(&prompt, 1)).unwrap(), 1).unwrap();
    let mut request = greedy(&prompt, 2);
    request.prompt_logprobs = Some(1);
    request.n = 2;
    let answer = collect(&mut engine.submit(request).unwrap(), 2).unwrap();
    let got = answer.prompt.unwrap();
    assert_eq!(got.len(), prompt.len());
    assert!(got[0].is_none());
    let scores = flametune_infer::Scorer::new(&model)
        .score(&[(&prompt[..1], &prompt[1..])])
        .unwrap();
    for (got, expected) in got[1..].iter().zip(&scores[0].logprobs) {
        let got = got.as_ref().unwrap();
        assert!((got.logprob - expected).abs() < 1e-4);
        assert_eq!(got.top.len(), 1);
    }
}

#[test]
fn a_caller_ends_its_output_at_a_token() {
    let engine = Engine::start(load("llama"), options()).unwrap();
    let free = collect(&mut engine.submit(greedy(&[5, 6, 7], 10)).unwrap(), 1).unwrap();
    let last = free.outputs[0].tokens[4];
    let first_at = free.outputs[0]
        .tokens
        .iter()
        .position(|&t| t == last)
        .unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut request = greedy(&[5, 6, 7], 10);
    let log = Arc::clone(&seen);
    request.until = Some(Box::new(move |choice, token| {
        log.lock().unwrap().push((choice, token));
        token == last
    }));
    let answer = collect(&mut engine.submit(request).unwrap(), 1).unwrap();
    assert_eq!(answer.outputs[0].finish_reason, FinishReason::Stopped);
    assert_eq!(
        answer.outputs[0].tokens,
        free.outputs[0].tokens[..=first_at]
    );
    assert_eq!(seen.lock().unwrap().len(), first_at + 1);
    assert_eq!(answer.usage[0].completion_tokens, first_at + 1);
    // A stop token is counted and not shown.
    let mut request = greedy(&[5, 6, 7], 10);
    request.params.stop_token_ids = vec![last];
    let answer = collect(&mut engine.submit(request).unwrap(), 1).unwrap();
    assert_eq!(
        answer.outputs[0].finish_reason,
        FinishReason::StopToken(last)
    );
    assert_eq!(answer.outputs[0].tokens, free.outputs[0].tokens[..first_at]);
    assert_eq!(answer.usage[0].completion_tokens, first_at + 1);
}

#[test]
fn a_stop_string_may_lie_across_tokens() {
    use flametune_infer::StopStrings;

    let engine = Engine::start(load("llama"), options()).unwrap();
    let free = collect(&mut engine.submit(greedy(&[5, 6, 7], 12)).unwrap(), 1).unwrap();
    // Each token is a letter here, and two of them are the string to stop at.
    let letter = |token: u32| char::from_u32(0x4e00 + token).unwrap();
    let tokens = &free.outputs[0].tokens;
    let stop: String = tokens[5..7].iter().map(|&token| letter(token)).collect();
    let ends = tokens
        .windows(2)
        .position(|pair| pair == &tokens[5..7])
        .unwrap();
    let mut watch = StopStrings::new([stop]).unwrap();
    let text = Arc::new(Mutex::new(String::new()));
    let mut request = greedy(&[5, 6, 7], 12);
    let written = Arc::clone(&text);
    request.until = Some(Box::new(move |_, token| {
        let scan = watch.push(letter(token).encode_utf8(&mut [0; 4]));
        written.lock().unwrap().push_str(&scan.text);
        scan.matched.is_some()
    }));
    let answer = collect(&mut engine.submit(request).unwrap(), 1).unwrap();
    assert_eq!(answer.outputs[0].tokens, tokens[..ends + 2]);
    assert_eq!(answer.outputs[0].finish_reason, FinishReason::Stopped);
    let before: String = tokens[..ends].iter().map(|&token| letter(token)).collect();
    assert_eq!(*text.lock().unwrap(), before);
}

#[test]
fn limits_of_time_and_room_are_kept() {
    let engine = Engine::start(load("llama"), options()).unwrap();
    let mut request = greedy(&[5, 6, 7], 10);
    request.deadline = Some(Instant::now());
    let error = collect(&mut engine.submit(request).unwrap(), 1)
        .err()
        .unwrap();
    assert!(
        matches!(error, Error::DeadlineExceeded { generated: 0 }),
        "{error}"
    );
    let mut request = greedy(&[5, 6, 7], 10);
    request.deadline = Some(Instant::now() + Duration::from_secs(600));
    collect(&mut engine.submit(request).unwrap(), 1).unwrap();

    let context = engine.max_context();
    let answer = collect(&mut engine.submit(greedy(&[5; 3], usize::MAX)).unwrap(), 1).unwrap();
    assert_eq!(answer.outputs[0].finish_reason, FinishReason::ContextFull);
    assert_eq!(answer.outputs[0].tokens.len() + 3, context);
    let error = engine.submit(greedy(&vec![5; context], 1)).unwrap_err();
    assert!(matches!(error, Error::PromptTooLong { .. }), "{error}");
    let error = engine.submit(greedy(&[], 1)).unwrap_err();
    assert!(matches!(error, Error::EmptyPrompt { .. }), "{error}");
    let error = engine.submit(greedy(&[u32::MAX], 1)).unwrap_err();
    assert!(
        matches!(error, Error::PromptTokenOutOfRange { .. }),
        "{error}"
    );
    let mut request = greedy(&[5], 1);
    request.n = 0;
    assert_eq!(
        engine.submit(request).unwrap_err().to_string(),
        "n must be between 1 and 128, got 0"
    );
    let mut request = greedy(&[5], 1);
    request.params.temperature = -1.0;
    assert!(engine.submit(request).is_err());
    let error = engine
        .submit(greedy(&[5], 1).with_adapter("none"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no adapter \"none\"; loaded are []"
    );
}

#[test]
fn a_full_queue_refuses_and_a_stopped_engine_finishes_what_it_has() {
    let few = EngineOptions {
        max_running: 1,
        max_waiting: 3,
        ..options()
    };
    let engine = Engine::start(load("llama"), few).unwrap();
    let mut tickets = Vec::new();
    let error = loop {
        match engine.submit(greedy(&[5, 6, 7], 60)) {
            Ok(ticket) => tickets.push(ticket),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::QueueFull { limit: 3, .. }),
        "{error}"
    );
    let handle = engine.clone();
    drop(engine);
    handle.shutdown();
    for ticket in &mut tickets {
        let answer = collect(ticket, 1).unwrap();
        assert_eq!(answer.outputs[0].tokens.len(), 60);
    }
    let error = handle.submit(greedy(&[5], 1)).unwrap_err();
    assert!(matches!(error, Error::EngineStopped), "{error}");
}

#[test]
fn tenants_share_the_places_and_priorities_come_first() {
    let one = EngineOptions {
        max_running: 2,
        ..options()
    };
    let engine = Engine::start(load("llama"), one).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    let mut gate = Some(may_go);
    let mut ask = |tenant: &'static str, priority: i32, tokens: usize, waits: bool| {
        let mut request = greedy(&[5, 6, 7], tokens);
        request.tenant = tenant.to_owned();
        request.priority = priority;
        let order = Arc::clone(&order);
        let gate = if waits { gate.take() } else { None };
        let mut first = true;
        request.until = Some(Box::new(move |_, _| {
            if std::mem::take(&mut first) {
                order.lock().unwrap().push(tenant);
                // The engine stands still until all have asked.
                gate.as_ref().map(std::sync::mpsc::Receiver::recv);
            }
            false
        }));
        engine.submit(request).unwrap()
    };
    // Two places are taken by the first tenant for long; its others wait behind the second's.
    let mut tickets = vec![ask("a", 0, 100, false), ask("a", 0, 50, true)];
    while order.lock().unwrap().len() < 2 {
        std::thread::yield_now();
    }
    for (tenant, priority) in [("a", 0), ("a", 0), ("b", 0), ("c", 1)] {
        tickets.push(ask(tenant, priority, 2, false));
    }
    drop(go);
    for ticket in &mut tickets {
        collect(ticket, 1).unwrap();
    }
    assert_eq!(*order.lock().unwrap(), ["a", "a", "c", "b", "a", "a"]);
}

#[test]
fn events_can_be_awaited() {
    use std::pin::pin;
    use std::task::{Context, Poll, Wake, Waker};

    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let engine = Engine::start(load("llama"), options()).unwrap();
    let mut ticket = engine.submit(greedy(&[5, 6, 7], 5)).unwrap();
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut events = 0;
    loop {
        let mut next = pin!(ticket.next());
        let event = loop {
            match next.as_mut().poll(&mut context) {
                Poll::Ready(event) => break event,
                Poll::Pending => std::thread::park(),
            }
        };
        match event {
            Some(event) => {
                event.unwrap();
                events += 1;
            }
            None => break,
        }
    }
    assert_eq!(events, 6);
}

#[test]
fn steps_are_as_many_as_tokens() {
    let engine = Engine::start(load("llama"), options()).unwrap();
    let mut tickets: Vec<Ticket> = (0..4)
        .map(|i| engine.submit(greedy(&[5 + i], 20)).unwrap())
        .collect();
    for ticket in &mut tickets {
        collect(ticket, 1).unwrap();
    }
    // Each reads its prompt in one step and then gets a token a step; they overlap but for what
    // the first had done before the last arrived.
    engine.shutdown();
    let stats = engine.stats();
    assert!(stats.steps < 4 * 20, "{stats:?}");
    assert_eq!(stats.generated_tokens, 80);
}

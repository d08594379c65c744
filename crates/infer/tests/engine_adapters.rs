//! Adapters of an engine: each row as with its adapter alone, and adapters that come and go.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use burn::tensor::Device;
use flametune_infer::{
    Engine, EngineHandle, EngineOptions, Error, GenerateRequest, Generator, Output, Request,
    SamplingParams, ScoreRequest, Scorer, Ticket,
};
use flametune_lm::{AdapterPass, CausalLm, Checkpoint, LoadOptions};
use flametune_peft::{Facts, Passport, load_adapter};

use crate::engine::{collect, options};
use crate::fixture::path;
use crate::model::assert_same;

/// One adapter of every kind that the small Llama has.
const KINDS: [&str; 23] = [
    "lora",
    "lora_qv",
    "rslora",
    "lora_rank_alpha_pattern",
    "dora",
    "ia3",
    "vera",
    "loha",
    "lokr",
    "hira",
    "adalora",
    "ln_tuning",
    "miss",
    "prompt_tuning",
    "prefix_tuning",
    "p_tuning_mlp",
    "lora_embed_head",
    "dora_embed",
    "lora_bias_all_lmhead_saved",
    "miss_bat",
    "p_tuning_lstm",
    "prefix_tuning_projection",
    "trainable_tokens",
];

/// The base that the adapters of the fixtures belong to.
pub(crate) fn base() -> CausalLm {
    let checkpoint = Checkpoint::open(path("peft/base_llama")).unwrap();
    CausalLm::load(&checkpoint, &LoadOptions::f32(&Device::flex()), &mut |_| {}).unwrap()
}

fn prompt(index: u32) -> Vec<u32> {
    (0..6 + index % 5)
        .map(|at| (at * 11 + index * 5) % 200 + 3)
        .collect()
}

fn params() -> SamplingParams {
    SamplingParams {
        max_tokens: 8,
        ..SamplingParams::default()
    }
}

fn request(index: u32, adapter: Option<&str>) -> GenerateRequest {
    let mut request = GenerateRequest::new(prompt(index), params());
    request.adapter = adapter.map(str::to_owned);
    request.logprobs = Some(1);
    request
}

/// What the plain generator answers with one adapter in the model and nothing else.
fn alone(kind: Option<&str>, index: u32) -> Output {
    let mut model = base();
    let mut pass = AdapterPass::default();
    if let Some(kind) = kind {
        load_adapter(&mut model, "only", path(&format!("peft/{kind}"))).unwrap();
        pass = AdapterPass::one("only");
    }
    let request = Request::new(prompt(index), params()).with_logprobs(1);
    let generator = Generator::new(&model).with_pass(pass);
    generator.generate(&[request]).unwrap().remove(0)
}

fn answer(engine: &EngineHandle, index: u32, adapter: Option<&str>) -> Output {
    let mut ticket = engine.submit(request(index, adapter)).unwrap();
    collect(&mut ticket, 1).unwrap().outputs.remove(0)
}

#[test]
fn rows_with_adapters_of_all_kinds_equal_each_alone() {
    let kinds: Vec<Option<&str>> = std::iter::once(None).chain(KINDS.map(Some)).collect();
    let expected: Vec<Output> = (0..).zip(&kinds).map(|(i, &kind)| alone(kind, i)).collect();
    for batch_invariant in [false, true] {
        let options = EngineOptions {
            batch_invariant,
            kv_tokens: 2048,
            max_running: 32,
            step_tokens: 64,
            ..options()
        };
        let engine = Engine::start(base(), options).unwrap();
        for kind in KINDS {
            engine
                .load_adapter(kind, path(&format!("peft/{kind}")))
                .unwrap();
        }
        let mut tickets: Vec<Ticket> = (0..)
            .zip(&kinds)
            .map(|(i, &kind)| engine.submit(request(i, kind)).unwrap())
            .collect();
        let together: Vec<Output> = tickets
            .iter_mut()
            .map(|ticket| collect(ticket, 1).unwrap().outputs.remove(0))
            .collect();
        for ((got, expected), kind) in together.iter().zip(&expected).zip(&kinds) {
            let (got, expected) = (std::slice::from_ref(got), std::slice::from_ref(expected));
            assert_same(got, expected, &format!("{kind:?}"));
        }
        if batch_invariant {
            for ((index, &kind), expected) in (0..).zip(&kinds).zip(&together) {
                assert_eq!(&answer(&engine, index, kind), expected, "{kind:?}");
            }
        }
        engine.shutdown();
        assert_eq!(engine.stats().kv_pages_used, 0);
    }
}

#[test]
fn bottlenecks_are_served_beside_low_ranks() {
    use flametune_peft::{BottleneckConfig, inject, save_adapter};

    let folder = tempfile::tempdir().unwrap();
    let mut model = base();
    inject(&mut model, "new", &BottleneckConfig::default().into(), 3).unwrap();
    save_adapter(&model, "new", folder.path()).unwrap();
    let pass = AdapterPass::one("new");
    let request = Request::new(prompt(0), params()).with_logprobs(1);
    let generator = Generator::new(&model).with_pass(pass);
    let expected = generator.generate(&[request]).unwrap().remove(0);
    let invariant = EngineOptions {
        batch_invariant: true,
        ..options()
    };
    let engine = Engine::start(base(), invariant).unwrap();
    engine.load_adapter("bottleneck", folder.path()).unwrap();
    engine.load_adapter("lora", path("peft/lora")).unwrap();
    let together = [(0, "bottleneck"), (1, "lora"), (0, "bottleneck")]
        .map(|(index, name)| ask(&engine, index, name));
    let [first, other, second] = together.map(|mut ticket| {
        let answer = collect(&mut ticket, 1);
        answer.unwrap().outputs.remove(0)
    });
    assert_eq!(first, second);
    assert_same(&[first], &[expected], "bottleneck");
    assert_same(&[other], &[alone(Some("lora"), 1)], "lora");
}

fn ask(engine: &EngineHandle, index: u32, adapter: &str) -> Ticket {
    engine.submit(request(index, Some(adapter))).unwrap()
}

#[test]
fn beginnings_are_shared_with_the_same_adapter_only() {
    let engine = Engine::start(base(), options()).unwrap();
    for kind in ["lora", "prefix_tuning", "prompt_tuning"] {
        engine
            .load_adapter(kind, path(&format!("peft/{kind}")))
            .unwrap();
    }
    let text: Vec<u32> = (3..33).collect();
    let cached = |adapter: Option<&str>| {
        let mut request = GenerateRequest::new(text.clone(), params());
        request.adapter = adapter.map(str::to_owned);
        let mut ticket = engine.submit(request).unwrap();
        let answer = collect(&mut ticket, 1).unwrap();
        (answer.usage[0].cached_tokens, answer.outputs)
    };
    for adapter in [
        None,
        Some("lora"),
        Some("prefix_tuning"),
        Some("prompt_tuning"),
    ] {
        let (none, first) = cached(adapter);
        assert_eq!(none, 0, "{adapter:?}");
        let (some, second) = cached(adapter);
        assert!(some >= 24, "{adapter:?}: {some}");
        assert_eq!(first[0].tokens, second[0].tokens, "{adapter:?}");
    }
    // Loaded again it is another adapter, whatever is in it.
    engine.load_adapter("lora", path("peft/lora")).unwrap();
    assert_eq!(cached(Some("lora")).0, 0);
}

#[test]
fn scores_with_an_adapter_equal_those_of_the_scorer() {
    let mut model = base();
    load_adapter(&mut model, "dora", path("peft/dora")).unwrap();
    let pair = (prompt(0), prompt(1));
    let scorer = Scorer::new(&model).with_pass(AdapterPass::one("dora"));
    let expected = scorer.score(std::slice::from_ref(&pair)).unwrap().remove(0);
    let engine = Engine::start(base(), options()).unwrap();
    engine.load_adapter("d", path("peft/dora")).unwrap();
    let request = ScoreRequest {
        context: pair.0,
        continuation: pair.1,
        adapter: Some("d".to_owned()),
        ..ScoreRequest::default()
    };
    let got = engine.score(request).unwrap().wait().unwrap();
    assert_eq!(got.is_greedy, expected.is_greedy);
    for (got, expected) in got.logprobs.iter().zip(&expected.logprobs) {
        assert!((got - expected).abs() < 1e-4);
    }
}

/// Copies an adapter of the fixtures.
fn copy(kind: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(path(&format!("peft/{kind}")).join(file), to.join(file)).unwrap();
    }
}

#[test]
fn adapters_are_replaced_and_removed_under_load_without_a_wrong_answer() {
    let expected: Vec<[Output; 2]> = (0..4)
        .map(|i| [alone(Some("lora"), i), alone(Some("ia3"), i)])
        .collect();
    let engine = Engine::start(base(), options()).unwrap();
    let folder = |kind: &str| path(&format!("peft/{kind}"));
    engine.load_adapter("a", folder("lora")).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..3_u32)
        .map(|client| {
            let (engine, done) = (engine.clone(), Arc::clone(&done));
            let total = Arc::clone(&total);
            let expected = expected.clone();
            std::thread::spawn(move || {
                let mut answered = 0;
                while !done.load(Ordering::Relaxed) {
                    let index = (client + answered) % 4;
                    let mut ticket = match engine.submit(request(index, Some("a"))) {
                        Ok(ticket) => ticket,
                        // It was away for a moment.
                        Err(Error::UnknownAdapter { .. }) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let got = collect(&mut ticket, 1).unwrap().outputs.remove(0);
                    let known = &expected[index as usize];
                    assert!(
                        known.iter().any(|known| known.tokens == got.tokens),
                        "neither adapter says this"
                    );
                    answered += 1;
                    total.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let mut round = 0;
    while round < 12 || (total.load(Ordering::Relaxed) < 12 && round < 10_000) {
        engine
            .load_adapter("a", folder(["ia3", "lora"][round % 2]))
            .unwrap();
        if round % 4 == 3 {
            engine.unload_adapter("a").unwrap();
            engine.load_adapter("a", folder("lora")).unwrap();
        }
        round += 1;
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    let info = engine.adapters().remove(0);
    assert_eq!((info.name.as_str(), info.users), ("a", 0));
    engine.unload_adapter("a").unwrap();
    assert_eq!(engine.stats().adapter_bytes, 0);
    let error = engine.unload_adapter("a").unwrap_err();
    assert!(matches!(error, Error::UnknownAdapter { .. }), "{error}");
}

#[test]
fn a_running_request_keeps_the_adapter_it_began_with() {
    let before = alone(Some("lora"), 0);
    let engine = Engine::start(base(), options()).unwrap();
    engine.load_adapter("a", path("peft/lora")).unwrap();
    let mut request = request(0, Some("a"));
    // The output waits in its first token until the adapter has been replaced.
    let (begun, has_begun) = std::sync::mpsc::channel();
    let (go, may_go) = std::sync::mpsc::channel();
    let mut first = true;
    request.until = Some(Box::new(move |_, _| {
        if std::mem::take(&mut first) {
            begun.send(()).unwrap();
            may_go.recv().unwrap();
        }
        false
    }));
    let mut ticket = engine.submit(request).unwrap();
    has_begun.recv().unwrap();
    let old = engine.adapters().remove(0);
    assert_eq!((old.users, old.requests), (1, 1));
    let new = engine.load_adapter("a", path("peft/ia3")).unwrap();
    assert!(new.generation > old.generation);
    go.send(()).unwrap();
    let got = collect(&mut ticket, 1).unwrap().outputs;
    assert_same(&got, &[before], "old");
    assert_same(
        &[answer(&engine, 0, Some("a"))],
        &[alone(Some("ia3"), 0)],
        "new",
    );
}

#[test]
fn unloading_waits_for_users() {
    let engine = Engine::start(base(), options()).unwrap();
    engine.load_adapter("a", path("peft/lora")).unwrap();
    let mut request = request(0, Some("a"));
    let (go, may_go) = std::sync::mpsc::channel::<()>();
    request.until = Some(Box::new(move |_, _| {
        let _ = may_go.recv();
        false
    }));
    let mut ticket = engine.submit(request).unwrap();
    let unloaded = Arc::new(AtomicBool::new(false));
    let thread = {
        let (engine, unloaded) = (engine.clone(), Arc::clone(&unloaded));
        std::thread::spawn(move || {
            engine.unload_adapter("a").unwrap();
            unloaded.store(true, Ordering::SeqCst);
        })
    };
    // New requests do not find it any more while the old one still runs.
    while engine
        .submit(GenerateRequest::new(vec![5], params()).with_adapter("a"))
        .is_ok()
    {
        std::thread::yield_now();
    }
    assert!(!unloaded.load(Ordering::SeqCst));
    drop(go);
    let answer = collect(&mut ticket, 1).unwrap();
    assert_eq!(answer.outputs[0].tokens, alone(Some("lora"), 0).tokens);
    thread.join().unwrap();
    assert!(unloaded.load(Ordering::SeqCst));
}

#[test]
fn a_budget_sends_adapters_away_and_brings_them_back() {
    let bytes = {
        let engine = Engine::start(base(), options()).unwrap();
        engine.load_adapter("a", path("peft/lora")).unwrap().bytes
    };
    assert!(bytes > 0);
    let tight = EngineOptions {
        adapter_bytes: 2 * bytes,
        ..options()
    };
    let engine = Engine::start(base(), tight).unwrap();
    let folders = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        copy("lora", &folders.path().join(name));
        engine
            .load_adapter(name, folders.path().join(name))
            .unwrap();
    }
    let resident = || -> Vec<String> {
        let adapters = engine.adapters().into_iter();
        adapters
            .filter(|info| info.resident)
            .map(|info| info.name)
            .collect()
    };
    assert_eq!(resident(), ["b", "c"]);
    assert_eq!(engine.stats().adapter_bytes, 2 * bytes);
    let expected = alone(Some("lora"), 0);
    assert_same(
        &[answer(&engine, 0, Some("a"))],
        std::slice::from_ref(&expected),
        "back",
    );
    assert_eq!(resident(), ["a", "c"]);
    // A pinned one stays, so the other one goes although it was used later.
    engine.pin_adapter("c", true).unwrap();
    assert_same(&[answer(&engine, 0, Some("b"))], &[expected], "b");
    assert_eq!(resident(), ["b", "c"]);
    engine.pin_adapter("b", true).unwrap();
    let error = engine.load_adapter("d", path("peft/lora")).unwrap_err();
    assert!(matches!(error, Error::AdapterBudget { .. }), "{error}");
    let mut ticket = engine.submit(request(0, Some("a"))).unwrap();
    let error = collect(&mut ticket, 1).err().unwrap();
    assert!(matches!(error, Error::AdapterBudget { .. }), "{error}");
    // What has changed on disk is not what was loaded.
    engine.pin_adapter("b", false).unwrap();
    copy("ia3", &folders.path().join("a"));
    let mut ticket = engine.submit(request(0, Some("a"))).unwrap();
    let error = collect(&mut ticket, 1).err().unwrap().to_string();
    assert!(error.contains("has changed"), "{error}");
}

#[test]
fn folders_that_hold_no_fitting_adapter_are_refused() {
    let engine = Engine::start(base(), options()).unwrap();
    for (name, folder) in [
        ("a", "peft/none"),
        ("../a", "peft/lora"),
        ("a", "peft/base_llama"),
    ] {
        assert!(
            engine.load_adapter(name, path(folder)).is_err(),
            "{name} {folder}"
        );
    }
    assert!(engine.adapters().is_empty());

    let facts = Facts {
        base_sha256: "aa".to_owned(),
        ..Facts::default()
    };
    let checked = EngineOptions {
        facts: Some(facts.clone()),
        ..options()
    };
    let engine = Engine::start(base(), checked).unwrap();
    let folder = tempfile::tempdir().unwrap();
    copy("lora", folder.path());
    let info = engine.load_adapter("a", folder.path()).unwrap();
    assert_eq!(info.warnings, ["there is no passport"]);
    let foreign = Facts {
        base_sha256: "bb".to_owned(),
        ..facts.clone()
    };
    Passport::new(foreign).write(folder.path()).unwrap();
    let error = engine.load_adapter("a", folder.path()).unwrap_err();
    assert!(matches!(
        error,
        Error::Peft(flametune_peft::Error::ForeignBase { .. })
    ));
    Passport::new(facts).write(folder.path()).unwrap();
    let info = engine.load_adapter("a", folder.path()).unwrap();
    assert!(info.warnings.is_empty(), "{:?}", info.warnings);
}

#[test]
fn many_adapters_that_nobody_uses_stay_out_of_the_model() {
    let engine = Engine::start(base(), options()).unwrap();
    for index in 0..60 {
        engine
            .load_adapter(&format!("a{index}"), path("peft/lora_qv"))
            .unwrap();
    }
    assert_eq!(engine.adapters().len(), 60);
    let got = answer(&engine, 0, Some("a7"));
    assert_same(&[got], &[alone(Some("lora_qv"), 0)], "one of sixty");
}

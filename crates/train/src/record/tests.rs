use serde_json::json;

use super::*;

/// A step of 1024 tokens in half a second.
pub(crate) fn step(step: usize, loss: f64) -> TrainedStep {
    TrainedStep {
        report: StepReport {
            step,
            loss,
            grad_norm: 1.0,
            learning_rate: 2e-4,
            tokens: 1024,
            supervised_tokens: 512,
            seconds: 0.5,
            spike_above: None,
            metrics: Default::default(),
        },
        memory: Some(Memory {
            rss_bytes: 1 << 30,
            peak_bytes: 3 << 29,
        }),
    }
}

pub(crate) fn eval(name: &str, step: usize, loss: f64) -> Evaluation {
    Evaluation {
        name: name.to_owned(),
        step,
        loss,
        supervised_tokens: 100,
        seconds: 1.0,
        metrics: std::collections::BTreeMap::new(),
    }
}

pub(crate) fn at(time: f64, event: Event) -> Record {
    Record { time, event }
}

pub(crate) fn description(name: &str) -> RunDescription {
    RunDescription {
        name: name.to_owned(),
        folder: format!("runs/{name}"),
        max_steps: 20,
        config: json!({"optim": {"learning_rate": 0.0002, "rule": "adamw"}, "seed": 1}),
        model: ModelFacts {
            name: "tiny".to_owned(),
            architecture: "llama".to_owned(),
            storage: "nf4".to_owned(),
        },
        adapter: AdapterFacts {
            method: "lora".to_owned(),
            trainable: 4608,
            total: 100_000,
            trainable_bytes: 18_432,
            base_bytes: 50_000,
        },
        data: DataFacts {
            source: "train.jsonl".to_owned(),
            digest: "abc".to_owned(),
            examples: 100,
        },
        environment: [("os".to_owned(), "linux".to_owned())].into(),
    }
}

/// A run of 20 steps whose loss falls from 3 to 2, evaluated at both ends.
pub(crate) fn records(name: &str) -> Vec<Record> {
    let mut records = vec![
        at(100.0, Event::Started(Box::new(description(name)))),
        at(100.5, Event::Eval(eval("eval", 0, 3.1))),
    ];
    for index in 1..=20_usize {
        let loss = 3.05 - 0.05 * index as f64;
        let time = 100.5 + 0.5 * index as f64;
        records.push(at(time, Event::Step(step(index, loss))));
    }
    records.push(at(111.0, Event::Eval(eval("eval", 20, 2.2))));
    records
}

pub(crate) fn history() -> History {
    records("one").into_iter().collect()
}

#[test]
fn every_event_survives_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = records("one");
    events.extend([
        at(1.0, Event::Resumed(Resumption { step: 20 })),
        at(1.0, Event::Eval(eval("general", 20, 1.5))),
        at(
            1.0,
            Event::Sample(SampleText {
                step: 20,
                prompt: "a\nb".to_owned(),
                text: "\"ä\"".to_owned(),
            }),
        ),
        at(
            1.0,
            Event::Zeros(ZeroTensors {
                step: 20,
                trained: 2,
                zero: 1,
                examples: vec!["lora_b".to_owned()],
            }),
        ),
        at(
            1.0,
            Event::Checkpoint(CheckpointWritten {
                step: 20,
                path: "c".to_owned(),
            }),
        ),
        at(
            1.0,
            Event::Warning(Note {
                step: 20,
                text: "w".to_owned(),
            }),
        ),
        at(
            1.0,
            Event::Finished(Outcome {
                step: 20,
                status: Status::StoppedEarly,
                reason: None,
            }),
        ),
    ]);
    let path = folder.path().join("a/b.jsonl");
    let mut log = JsonlLog::create(&path).unwrap();
    for event in &events {
        log.observe(event).unwrap();
    }
    assert_eq!(read(&path).unwrap(), events);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        text.lines().nth(2).unwrap(),
        r#"{"time":101.0,"event":"step","step":1,"loss":3.0,"grad_norm":1.0,"learning_rate":0.0002,"tokens":1024,"supervised_tokens":512,"seconds":0.5,"memory":{"rss_bytes":1073741824,"peak_bytes":1610612736}}"#
    );
    assert_eq!(
        text.lines().last().unwrap(),
        r#"{"time":1.0,"event":"finished","step":20,"status":"stopped_early"}"#
    );
}

#[test]
fn a_loss_that_is_no_number_survives() {
    let record = at(1.0, Event::Eval(eval("eval", 1, f64::NAN)));
    let text = serde_json::to_string(&record).unwrap();
    let back: Record = serde_json::from_str(&text).unwrap();
    let Event::Eval(back) = back.event else {
        panic!("{text}")
    };
    assert!(back.loss.is_nan());
}

/// Keeps what it is told.
#[derive(Clone, Default)]
struct Told(std::sync::Arc<std::sync::Mutex<Vec<Record>>>);

impl Observer for Told {
    fn observe(&mut self, record: &Record) -> Result<()> {
        self.0.lock().unwrap().push(record.clone());
        Ok(())
    }
}

#[test]
fn a_resumed_log_has_the_lines_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    let run = |record: &mut RunRecord, steps: std::ops::RangeInclusive<usize>| {
        for index in steps {
            record.event(Event::Step(step(index, 1.0))).unwrap();
        }
    };
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    let mut record = RunRecord::create(&whole, Box::new(|| 7.0)).unwrap();
    run(&mut record, 1..=9);
    let mut record = RunRecord::create(&broken, Box::new(|| 7.0)).unwrap();
    run(&mut record, 1..=7);
    drop(record);
    // Killed while it wrote.
    let log = broken.join(LOG);
    let mut text = std::fs::read_to_string(&log).unwrap();
    text += r#"{"time":7.0,"event":"st"#;
    std::fs::write(&log, text).unwrap();

    let mut record = RunRecord::resume(&broken, 5, Box::new(|| 7.0)).unwrap();
    let told = Told::default();
    record.observe_with(Box::new(told.clone())).unwrap();
    run(&mut record, 6..=9);
    let resumed = read(&log).unwrap();
    assert_eq!(*told.0.lock().unwrap(), resumed);
    let (resumption, steps): (Vec<_>, Vec<_>) = resumed
        .into_iter()
        .partition(|record| matches!(record.event, Event::Resumed(_)));
    assert_eq!(steps, read(&whole.join(LOG)).unwrap());
    assert_eq!(resumption.len(), 1);
}

#[test]
fn broken_lines_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(LOG);
    for (bad, word) in [
        ("{}", "missing field"),
        ("[1", "invalid type"),
        (r#"{"time":1,"event":"dance"}"#, "unknown variant"),
        (
            r#"{"time":1,"event":"checkpoint","step":-1,"path":""}"#,
            "-1",
        ),
        ("\u{0}", "expected value"),
    ] {
        let good = serde_json::to_string(&at(1.0, Event::Step(step(1, 1.0)))).unwrap();
        std::fs::write(&path, format!("{good}\n{bad}\n{good}\n")).unwrap();
        for error in [
            read(&path).unwrap_err(),
            JsonlLog::resume(&path, 9).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(
                text.contains("record.jsonl, line 2: ") && text.contains(word),
                "{text}"
            );
        }
    }
    // A lost log begins anew.
    let absent = folder.path().join("absent");
    RunRecord::resume(&absent, 1, Box::new(|| 0.0)).unwrap();
    let begun = read(&absent.join("record.jsonl")).unwrap();
    assert!(
        matches!(&begun[..], [one] if matches!(one.event, Event::Resumed(_))),
        "{begun:?}"
    );
    let error = RunRecord::create(&path.join("x"), Box::new(|| 0.0)).unwrap_err();
    assert!(error.to_string().contains("record.jsonl"), "{error}");
}

#[test]
fn a_spike_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let mut record = RunRecord::create(folder.path(), Box::new(|| 7.0)).unwrap();
    let mut report = step(3, 9.0).report;
    report.spike_above = Some(2.5);
    record.step(&report).unwrap();
    let history = History::read(record.log()).unwrap();
    assert_eq!(history.steps[0].report, report);
    assert_eq!(
        history.warnings[0].text,
        "the loss 9.0000 jumped over 2.5000"
    );
}

#[test]
fn a_summary_is_of_the_whole_run() {
    let metrics = history().summary.metrics();
    let text: Vec<String> = metrics
        .iter()
        .map(|(name, x)| format!("{name} {x:.3}"))
        .collect();
    assert_eq!(
        text,
        [
            "eval/best_loss 2.200",
            "eval/loss 2.200",
            "memory/peak_bytes 1610612736.000",
            "seconds 10.000",
            "steps 20.000",
            "tokens 20480.000",
            "train/loss 2.275",
            "train/tokens_per_second 2048.000",
        ]
    );
}

#[test]
fn tensors_of_zeros_are_found() {
    use burn::module::{Module, Param};
    use burn::tensor::{Device, Tensor};

    #[derive(Module, Debug)]
    struct Pair {
        lora_a: Param<Tensor<1>>,
        lora_b: Param<Tensor<1>>,
        frozen: Param<Tensor<1>>,
    }
    let device = Device::flex().autodiff();
    let param = |values: [f32; 2]| Param::from_tensor(Tensor::from_floats(values, &device));
    let pair = Pair {
        lora_a: param([0.0, 1.0]),
        lora_b: param([0.0, 0.0]),
        frozen: param([0.0, 0.0]).set_require_grad(false),
    };
    let zeros = ZeroTensors::of(&pair, 3);
    assert_eq!((zeros.step, zeros.trained, zeros.zero), (3, 2, 1));
    assert_eq!(zeros.examples, ["lora_b"]);
}

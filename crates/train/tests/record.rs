//! The record of a run that listens by itself, and goes on.

use std::path::Path;

use flametune_train::fit::{Answer, Ended, FitEnd, FitObserver};
use flametune_train::record::{
    Event, History, RunDescription, RunRecord, RunStore, Status, StoreObserver, read,
};
use flametune_train::{Best, EvalReport, StepReport};

fn step(step: usize) -> StepReport {
    serde_json::from_value(serde_json::json!({
        "step": step, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "tokens": 8,
        "supervised_tokens": 4, "seconds": 0.5
    }))
    .unwrap()
}

fn eval(step: usize) -> EvalReport {
    serde_json::from_value(serde_json::json!({
        "step": step, "loss": 1.5, "supervised_tokens": 4, "seconds": 0.5
    }))
    .unwrap()
}

fn answer() -> Answer {
    Answer {
        prompt: "a".to_owned(),
        text: "b".to_owned(),
    }
}

fn end(step: usize, ended: Ended) -> FitEnd {
    FitEnd {
        step,
        ended,
        best: Best::default(),
    }
}

fn description(folder: &Path) -> RunDescription {
    RunDescription {
        name: "one".to_owned(),
        folder: folder.display().to_string(),
        max_steps: 4,
        ..RunDescription::default()
    }
}

/// Steps `from..=to`, an evaluation, a checkpoint and an answer after the last.
fn go(record: &mut RunRecord, from: usize, to: usize) {
    for number in from..=to {
        record.on_step(&step(number)).unwrap();
    }
    record.on_eval(&eval(to)).unwrap();
    record.on_checkpoint(to, Path::new("checkpoint")).unwrap();
    record.on_sample(to, &answer()).unwrap();
}

fn kinds(log: &Path) -> Vec<String> {
    let kind = |event: &Event| match event {
        Event::Started(_) => "started".to_owned(),
        Event::Resumed(_) => "resumed".to_owned(),
        Event::Finished(outcome) => outcome.status.to_string(),
        Event::Step(step) => format!("step {}", step.report.step),
        Event::Eval(eval) => format!("eval {}", eval.step),
        Event::Sample(sample) => format!("sample {}", sample.step),
        _ => "other".to_owned(),
    };
    let records = read(log).unwrap();
    records.iter().map(|record| kind(&record.event)).collect()
}

#[test]
fn a_resumed_run_is_written_down_once() {
    let folder = tempfile::tempdir().unwrap();
    let clock = || Box::new(|| 1.0) as Box<dyn Fn() -> f64 + Send>;
    let mut record = RunRecord::create(folder.path(), clock()).unwrap();
    assert!(!record.is_described());
    let run = description(folder.path());
    record.event(Event::Started(Box::new(run))).unwrap();
    go(&mut record, 1, 2);
    // Two more steps after the checkpoint are lost with the process.
    record.on_step(&step(3)).unwrap();
    drop(record);

    let mut record = RunRecord::resume(folder.path(), 2, clock()).unwrap();
    assert!(record.is_described());
    go(&mut record, 3, 4);
    record.on_finish(&end(4, Ended::Finished)).unwrap();
    let log = record.log().to_owned();
    let expected = [
        "started", "step 1", "step 2", "eval 2", "other", "sample 2", "resumed", "step 3",
        "step 4", "eval 4", "other", "sample 4", "finished",
    ];
    assert_eq!(kinds(&log), expected);

    // Going on after the last step measures and asks again, and writes nothing twice.
    let mut record = RunRecord::resume(folder.path(), 4, clock()).unwrap();
    record.on_eval(&eval(4)).unwrap();
    record.on_sample(4, &answer()).unwrap();
    record.on_finish(&end(4, Ended::Finished)).unwrap();
    let more = [expected.as_slice(), &["resumed", "finished"]].concat();
    assert_eq!(kinds(&log), more);
    let history = History::read(&log).unwrap();
    assert_eq!((history.steps.len(), history.evaluations.len()), (4, 2));
    assert_eq!(history.outcome.unwrap().status, Status::Finished);

    std::fs::remove_file(&log).unwrap();
    let record = RunRecord::resume(folder.path(), 4, clock()).unwrap();
    assert!(!record.is_described());
}

#[test]
fn a_run_that_never_ended_is_interrupted_when_its_folder_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("runs.db");
    let begin = |name: &str| {
        let mut record = RunRecord::create(&folder.path().join(name), Box::new(|| 1.0)).unwrap();
        let observer = StoreObserver::new(RunStore::open(&store).unwrap());
        record.observe_with(Box::new(observer)).unwrap();
        let run = description(&folder.path().join(name));
        record.event(Event::Started(Box::new(run))).unwrap();
    };
    begin("a");
    begin("b");
    begin("a");
    let runs = RunStore::open(&store).unwrap().list().unwrap().runs;
    let states: Vec<&str> = runs.iter().map(|run| run.status.as_str()).collect();
    assert_eq!(states, ["running", "running", "interrupted"]);
}

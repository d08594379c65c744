use serde_json::json;

use super::*;
use crate::record::tests::{at, description, records};
use crate::record::{Event, Observer, Outcome};

fn store(folder: &tempfile::TempDir) -> RunStore {
    RunStore::open(&folder.path().join("deep/runs.db")).unwrap()
}

fn finished(step: usize) -> crate::record::Record {
    let outcome = Outcome {
        step,
        status: Status::Finished,
        reason: None,
    };
    at(172.0, Event::Finished(outcome))
}

#[test]
fn runs_are_listed_shown_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = StoreObserver::new(store(&folder));
    let mut second = StoreObserver::new(store(&folder));
    for record in records("one") {
        first.observe(&record).unwrap();
    }
    first.observe(&finished(20)).unwrap();
    for mut record in records("two") {
        if let Event::Started(description) = &mut record.event {
            description.config = json!({
                "optim": {"learning_rate": 0.001, "rule": "adamw"}, "seed": 1, "r": [8, 16]
            });
        }
        second.observe(&record).unwrap();
    }
    let store = store(&folder);
    insta::assert_snapshot!("list", store.list().unwrap().to_string());
    insta::assert_snapshot!("show", store.show("one").unwrap().to_string());
    let comparison = store.compare(&["one", "2"]).unwrap();
    insta::assert_snapshot!("compare", comparison.to_string());
    let same = store.compare(&["one", "1"]).unwrap();
    assert!(same.settings.is_empty() && same.to_string().ends_with("no setting differs"));

    let losses = store.metric(first.run().unwrap(), "train/loss").unwrap();
    assert_eq!((losses.len(), losses[19]), (20, (20, 3.05 - 0.05 * 20.0)));
    let evals = store.metric(2, "eval/loss").unwrap();
    assert_eq!(evals, [(0, 3.1), (20, 2.2)]);
}

#[test]
fn a_resumed_run_keeps_its_entry() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = StoreObserver::new(store(&folder));
    let records = records("one");
    for record in &records {
        first.observe(record).unwrap();
    }
    let mut second = StoreObserver::new(store(&folder));
    let earlier: Vec<_> = records
        .iter()
        .filter(|record| record.event.step() <= 5)
        .cloned()
        .collect();
    second.resume(&earlier, 5).unwrap();
    assert_eq!(second.run(), first.run());
    let store = store(&folder);
    let losses = store.metric(1, "train/loss").unwrap();
    assert_eq!(losses.last().unwrap().0, 5);
    second.observe(&finished(5)).unwrap();
    let shown = store.show("1").unwrap();
    assert_eq!(
        (shown.run.status.as_str(), shown.run.steps),
        ("finished", 5)
    );
    assert_eq!(shown.metrics["tokens"], 5.0 * 1024.0);

    // A store that does not know the run learns all of it.
    let other = tempfile::tempdir().unwrap();
    let mut third = StoreObserver::new(RunStore::open(&other.path().join("r.db")).unwrap());
    third.resume(&earlier, 5).unwrap();
    let store = RunStore::open(&other.path().join("r.db")).unwrap();
    assert_eq!(store.metric(1, "train/loss").unwrap().len(), 5);
}

#[test]
fn values_that_are_no_numbers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut store = store(&folder);
    let run = store.start(&description("one"), 0.0).unwrap();
    let rows = [("eval/loss".to_owned(), 1, f64::NAN)];
    store.add_metrics(run, &rows).unwrap();
    let back = store.metric(run, "eval/loss").unwrap();
    assert!(back[0].1.is_nan());
    let metrics = [("eval/loss".to_owned(), f64::NAN)].into();
    store.finish(run, Status::Failed, 1, 1.0, &metrics).unwrap();
    assert_eq!(store.list().unwrap().runs[0].eval_loss, None);
    assert!(store.show("one").unwrap().metrics.is_empty());
}

#[test]
fn errors_name_file_and_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    assert_eq!(store.list().unwrap().to_string(), "no runs yet");
    let error = store.show("x").unwrap_err().to_string();
    assert_eq!(error, "no run x; the store is empty");
    store.start(&description("one"), 0.0).unwrap();
    let error = store.compare(&["one", "x"]).unwrap_err().to_string();
    assert_eq!(error, "no run x; the latest are one (1)");

    let path = folder.path().join("no.db");
    std::fs::write(
        &path,
        "this is no database, but long enough to be read as one".repeat(40),
    )
    .unwrap();
    let error = RunStore::open(&path).unwrap_err().to_string();
    assert!(error.contains("no.db: file is not a database"), "{error}");

    let path = folder.path().join("other.db");
    let other = Connection::open(&path).unwrap();
    other
        .execute_batch("create table t (x); pragma user_version = 9")
        .unwrap();
    let error = RunStore::open(&path).unwrap_err().to_string();
    assert!(
        error.ends_with("other.db: schema 9, this version reads 1"),
        "{error}"
    );
    let error = RunStore::open(&path.join("x/y.db")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn settings_have_dotted_names() {
    let value = json!({"a": {"b": 1, "c": {}}, "d": [1, {"e": 2}], "f": "x", "g": null});
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        flatten(&value),
        [
            text("a.b", "1"),
            text("a.c", "{}"),
            text("d", r#"[1,{"e":2}]"#),
            text("f", "x"),
            text("g", "null"),
        ]
    );
    assert!(flatten(&serde_json::Value::Null).is_empty());
}

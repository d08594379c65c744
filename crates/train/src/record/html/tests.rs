use super::super::tests::{at, history, step};
use super::super::{Note, Outcome, SampleText};
use super::*;

#[test]
fn a_report_shows_curves_and_answers_and_escapes_everything() {
    let mut history = history();
    let text = "<script>alert(1)</script> & \"more\"";
    for (step, answer) in [(0, "before"), (20, text)] {
        history.observe(&at(
            1.0,
            Event::Sample(SampleText {
                step,
                prompt: text.to_owned(),
                text: answer.to_owned(),
            }),
        ));
    }
    history.observe(&at(
        2.0,
        Event::Warning(Note {
            step: 3,
            text: text.to_owned(),
        }),
    ));
    let html = render(&history).unwrap();
    assert!(!html.contains("<script>"), "{html}");
    assert_eq!(html.matches("&#60;script&#62;").count(), 3, "{html}");
    assert_eq!(html.matches("<svg").count(), 4);
    for text in [
        "Loss",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "train, smoothed",
        "<td>optim.learning_rate</td><td>0.0002</td>",
        "<td>trainable parameters</td><td>4608 of 100000 (4.608 %)</td>",
        "<td>eval/best_loss</td>",
        "<td>peak memory</td><td>1.50 GiB</td>",
    ] {
        assert!(html.contains(text), "{text} is missing");
    }
    // Nothing is loaded from anywhere; names of namespaces are no addresses.
    assert!(!html.contains("src=") && !html.contains("href="), "{html}");
}

#[test]
fn a_run_without_anything_has_a_report() {
    let html = render(&History::default()).unwrap();
    assert!(
        html.contains("<title>run</title>") && html.contains("running"),
        "{html}"
    );
}

#[test]
fn the_file_appears_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let mut report = HtmlReport::new(&path);
    report.observe(&at(1.0, Event::Step(step(1, 2.0)))).unwrap();
    assert!(!path.exists());
    let outcome = Outcome {
        step: 1,
        status: Status::Failed,
        reason: Some("the disk is full".to_owned()),
    };
    report.observe(&at(2.0, Event::Finished(outcome))).unwrap();
    let html = fs::read_to_string(&path).unwrap();
    assert!(html.contains("failed: the disk is full"), "{html}");
    let error = HtmlReport::new(&folder.path().join("absent/report.html"));
    let error = error.write().unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

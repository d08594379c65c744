use super::*;
use crate::record::tests::{eval, step};
use crate::record::{Event, Note, Outcome, Record, Status, ZeroTensors};

/// A number in `[-0.5, 0.5)` that looks random.
fn noise(index: usize) -> f64 {
    crate::random::uniform(3, index as u64) - 0.5
}

/// A run of `steps` with the losses of `loss`, a warm-up of 10 steps and a linear decay to zero.
fn run(steps: usize, loss: impl Fn(usize) -> f64) -> History {
    let mut history = History::default();
    for index in 1..=steps {
        let mut step = step(index, loss(index));
        let (at, left) = (index as f64, (steps - index) as f64);
        step.report.learning_rate = 2e-4 * (at / 10.0).min(left / (steps as f64 - 10.0));
        step.report.grad_norm = 1.0 + 0.2 * noise(index + 7777);
        observe(&mut history, Event::Step(step));
    }
    history
}

fn observe(history: &mut History, event: Event) {
    history.observe(&Record { time: 0.0, event });
}

/// From 3 to 2, quickly at first.
fn good(index: usize) -> f64 {
    2.0 + (-(index as f64) / 20.0).exp() + 0.05 * noise(index)
}

fn kinds(history: &History) -> Vec<Kind> {
    let findings = diagnose(history).findings;
    findings.into_iter().map(|finding| finding.kind).collect()
}

fn only(history: &History, kind: Kind) -> String {
    let diagnosis = diagnose(history);
    assert_eq!(kinds(history), [kind], "{diagnosis}");
    diagnosis.to_string()
}

#[test]
fn a_run_that_fell_and_settled_has_no_problem() {
    let mut history = run(200, good);
    for (step, loss) in [(0, 3.1), (100, 2.1), (200, 2.05)] {
        observe(&mut history, Event::Eval(eval("eval", step, loss)));
    }
    insta::assert_snapshot!(only(&history, Kind::Plateau));
    assert!(
        diagnose(&history)
            .findings
            .iter()
            .all(|f| f.severity == Severity::Note)
    );
}

#[test]
fn a_plateau_under_a_full_learning_rate_is_a_warning() {
    let mut history = run(200, good);
    for step in &mut history.steps {
        step.report.learning_rate = 2e-4;
    }
    insta::assert_snapshot!(only(&history, Kind::Plateau));
}

#[test]
fn a_loss_that_still_falls_is_told() {
    let history = run(100, |index| 3.0 - 0.01 * index as f64 + 0.02 * noise(index));
    insta::assert_snapshot!(only(&history, Kind::StillFalling));
}

#[test]
fn divergence_is_a_problem() {
    let history = run(100, |index| {
        let rise = index.saturating_sub(60) as f64 * 0.1;
        3.0 - 0.01 * index.min(60) as f64 + rise + 0.02 * noise(index)
    });
    insta::assert_snapshot!(only(&history, Kind::Divergence));
}

#[test]
fn spikes_are_named_and_counted() {
    let mut history = run(200, good);
    let mut mark = |index: usize| {
        let report = &mut history.steps[index].report;
        (report.loss, report.grad_norm, report.spike_above) = (6.0, 30.0, Some(2.4));
    };
    mark(120);
    let one = diagnose(&history);
    assert!(one.to_string().contains("the loss jumped once"), "{one}");
    let mut mark = |index: usize| history.steps[index].report.spike_above = Some(2.4);
    mark(150);
    mark(160);
    let many = diagnose(&history);
    let finding = many
        .findings
        .iter()
        .find(|f| f.kind == Kind::Spikes)
        .unwrap();
    insta::assert_snapshot!(finding.to_string());
}

#[test]
fn overfitting_is_seen_with_the_best_step() {
    let mut history = run(100, |index| 3.0 - 0.02 * index as f64 + 0.02 * noise(index));
    for (step, loss) in [(0, 3.1), (25, 2.6), (50, 2.4), (75, 2.6), (100, 3.0)] {
        observe(&mut history, Event::Eval(eval("eval", step, loss)));
    }
    let diagnosis = diagnose(&history);
    assert_eq!(kinds(&history), [Kind::Overfitting, Kind::StillFalling]);
    insta::assert_snapshot!(diagnosis.findings[0].to_string());
}

#[test]
fn forgetting_is_seen_on_general_data() {
    let mut history = run(200, good);
    for (step, own, general) in [(0, 3.1, 2.5), (200, 2.0, 2.65)] {
        observe(&mut history, Event::Eval(eval("eval", step, own)));
        observe(&mut history, Event::Eval(eval("general", step, general)));
    }
    assert_eq!(kinds(&history), [Kind::Forgetting, Kind::Plateau]);
    insta::assert_snapshot!(diagnose(&history).findings[0].to_string());
}

#[test]
fn nothing_trained_is_seen_in_every_way() {
    let mut history = run(50, |_| 2.5);
    for step in &mut history.steps {
        step.report.grad_norm = 0.0;
        step.report.learning_rate = 0.0;
    }
    let zeros = ZeroTensors {
        step: 50,
        trained: 4,
        zero: 2,
        examples: vec!["layers.0.q_proj.lora_b".to_owned()],
    };
    observe(&mut history, Event::Zeros(zeros));
    assert_eq!(kinds(&history), [Kind::NothingTrained; 4]);
    insta::assert_snapshot!(diagnose(&history).to_string());
}

#[test]
fn a_rate_that_is_too_high_shows_at_its_peak() {
    let history = run(30, |index| {
        let loss = if index <= 9 { 3.0 } else { 3.6 };
        loss + 0.05 * noise(index)
    });
    assert!(kinds(&history).contains(&Kind::LearningRateTooHigh));
    let finding = &diagnose(&history).findings;
    let finding = finding.iter().find(|f| f.kind == Kind::LearningRateTooHigh);
    insta::assert_snapshot!(finding.unwrap().to_string());
}

#[test]
fn growing_gradients_without_progress_mean_too_high_a_rate() {
    let mut history = run(100, |index| 3.0 + 0.05 * noise(index));
    for step in &mut history.steps {
        step.report.grad_norm = (step.report.step as f64 / 20.0).exp();
    }
    assert!(kinds(&history).contains(&Kind::LearningRateTooHigh));
}

#[test]
fn a_rate_that_is_too_low_hardly_moves_the_loss() {
    let history = run(100, |index| {
        3.0 - 0.0005 * index as f64 + 0.01 * noise(index)
    });
    let found = kinds(&history);
    assert!(
        found.contains(&Kind::LearningRateTooLow),
        "{}",
        diagnose(&history)
    );
    let findings = diagnose(&history).findings;
    let finding = findings.iter().find(|f| f.kind == Kind::LearningRateTooLow);
    insta::assert_snapshot!(finding.unwrap().to_string());
}

#[test]
fn the_share_of_trained_tokens_is_looked_at() {
    for (supervised, kind) in [(20, Kind::FewTokensTrained), (1020, Kind::AllTokensTrained)] {
        let mut history = run(20, good);
        for step in &mut history.steps {
            step.report.supervised_tokens = supervised;
        }
        let text = only(&history, kind);
        insta::assert_snapshot!(format!("mask_{supervised}"), text);
    }
}

#[test]
fn a_slower_run_and_stalls_are_seen() {
    let mut slow = run(100, good);
    for step in &mut slow.steps[60..] {
        step.report.seconds = 1.0;
    }
    let findings = diagnose(&slow).findings;
    let finding = findings
        .iter()
        .find(|f| f.kind == Kind::SlowedDown)
        .unwrap();
    insta::assert_snapshot!("slow", finding.to_string());

    let mut stalls = run(100, good);
    for step in stalls.steps.iter_mut().step_by(10) {
        step.report.seconds = 2.0;
    }
    let findings = diagnose(&stalls).findings;
    let finding = findings.iter().find(|f| f.kind == Kind::Stalls).unwrap();
    insta::assert_snapshot!("stalls", finding.to_string());
}

#[test]
fn a_failed_run_says_why() {
    let mut history = run(12, good);
    observe(
        &mut history,
        Event::Warning(Note {
            step: 12,
            text: "x".to_owned(),
        }),
    );
    let outcome = Outcome {
        step: 12,
        status: Status::Failed,
        reason: Some("the loss of step 13 is NaN".to_owned()),
    };
    observe(&mut history, Event::Finished(outcome));
    insta::assert_snapshot!(only(&history, Kind::Failed));
}

#[test]
fn short_and_odd_records_are_no_trouble() {
    for steps in 0..10 {
        let history = run(steps, good);
        assert_eq!(diagnose(&history).findings, [], "{steps}");
    }
    let mut history = run(100, |index| {
        if index % 2 == 0 {
            f64::NAN
        } else {
            good(index)
        }
    });
    observe(&mut history, Event::Eval(eval("eval", 0, f64::NAN)));
    observe(&mut history, Event::Eval(eval("general", 0, f64::INFINITY)));
    diagnose(&history);
}

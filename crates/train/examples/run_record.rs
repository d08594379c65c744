//! Writes the record of a run down, lists it, and lets the doctor look at it.
//!
//! ```text
//! cargo run -p flametune-train --example run_record -- [FOLDER]
//! ```
//!
//! The run is made up: its learning rate is too high, and the loss jumps when it reaches its peak.

use std::path::PathBuf;

use flametune_train::StepReport;
use flametune_train::doctor::diagnose;
use flametune_train::fit::{Ended, FitEnd, FitObserver};
use flametune_train::record::{
    Event, EventFile, History, HtmlReport, REPORT, RunDescription, RunRecord, RunStore,
    StoreObserver,
};
use flametune_train::{Best, Schedule};

const STEPS: usize = 120;
const WARMUP: usize = 20;

/// The loss of a run whose learning rate is too high from the end of the warm-up on.
fn loss(step: usize) -> f64 {
    let fallen = 3.0 - 0.01 * step as f64;
    let wave = 0.02 * (step as f64 * 2.3).sin();
    if step <= WARMUP {
        fallen + wave
    } else {
        fallen + 0.8 + wave
    }
}

#[expect(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| std::env::temp_dir().join("flametune-run-record"));
    // The first of January 2026; a program of its own would tell the time.
    let now = || 1_767_225_600.0;
    let run = folder.join("too-fast");
    let mut record = RunRecord::create(&run, Box::new(now))?;
    let store = folder.join("runs.db");
    record.observe_with(Box::new(EventFile::new(&run)))?;
    record.observe_with(Box::new(HtmlReport::new(&run.join(REPORT))))?;
    record.observe_with(Box::new(StoreObserver::new(RunStore::open(&store)?)))?;
    record.event(Event::Started(Box::new(RunDescription {
        name: "too-fast".to_owned(),
        folder: run.display().to_string(),
        max_steps: STEPS,
        ..RunDescription::default()
    })))?;
    let schedule = Schedule::Cosine { min_lr_rate: 0.0 };
    for step in 1..=STEPS {
        let report: StepReport = serde_json::from_value(serde_json::json!({
            "step": step,
            "loss": loss(step),
            "grad_norm": 1.0,
            "learning_rate": 2e-3 * schedule.factor(step - 1, WARMUP, STEPS),
            "tokens": 2048,
            "supervised_tokens": 1024,
            "seconds": 0.5,
        }))?;
        record.on_step(&report)?;
    }
    record.on_finish(&FitEnd {
        step: STEPS,
        ended: Ended::Finished,
        best: Best::default(),
    })?;

    println!("{}\n", RunStore::open(&store)?.list()?);
    println!("{}\n", diagnose(&History::read(record.log())?));
    println!("report: {}", run.join(REPORT).display());
    Ok(())
}

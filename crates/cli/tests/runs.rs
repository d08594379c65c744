//! What is told of runs that were, and of runs that will be.

use std::fs;

use crate::train::Workshop;
use crate::{flametune, stderr, stdout};

#[test]
fn runs_are_listed_shown_and_compared() {
    let workshop = Workshop::new();
    let other = workshop.output("slow");
    workshop.train(&[]).assert().success();
    let slow = ["optim.learning_rate=0.001", other.as_str()];
    workshop.train(&slow).assert().success();

    let runs = |arguments: &[&str]| {
        let mut command = flametune();
        command.arg("runs").args(arguments).arg("--store");
        command.arg(workshop.folder.path());
        command
    };
    let list = stdout(&mut runs(&["list"]));
    let rows: Vec<&str> = list.lines().collect();
    assert_eq!(rows.len(), 4, "{list}");
    assert!(
        rows[2].contains("slow") && rows[2].contains("finished"),
        "{list}"
    );
    assert!(rows[3].contains("run") && rows[3].contains("12"), "{list}");

    let shown = stdout(&mut runs(&["show", "slow"]));
    assert!(
        shown.contains("optim.learning_rate") && shown.contains("0.001"),
        "{shown}"
    );
    assert!(shown.contains("eval/loss"), "{shown}");

    let compared = stdout(&mut runs(&["compare", "run", "slow"]));
    let rate = compared
        .lines()
        .find(|line| line.contains("optim.learning_rate"));
    let rate = rate.unwrap();
    assert!(
        rate.contains("0.01") && rate.contains("0.001"),
        "{compared}"
    );
    assert!(!compared.contains("optim.batch_size"), "{compared}");

    let message = stderr(&mut runs(&["show", "third"]));
    assert!(
        message.contains("no run third") && message.contains("slow (2)"),
        "{message}"
    );
    let mut nowhere = flametune();
    nowhere
        .args(["runs", "list", "--store"])
        .arg(workshop.path("none"));
    let message = stderr(&mut nowhere);
    assert!(message.contains("holds no runs yet"), "{message}");

    let mut doctor = flametune();
    doctor
        .args(["doctor", "slow", "--store"])
        .arg(workshop.folder.path());
    let text = stdout(&mut doctor);
    assert!(text.starts_with("12 steps, 4 evaluations"), "{text}");
}

#[test]
fn the_doctor_reads_a_folder_and_names_a_broken_line() {
    let workshop = Workshop::new();
    let set = "schedule.max_steps=4";
    workshop.train(&[set]).assert().success();
    let run = workshop.path("run");
    let text = stdout(flametune().arg("doctor").arg(&run));
    assert!(text.starts_with("4 steps, 2 evaluations"), "{text}");

    let log = run.join("record.jsonl");
    let broken = fs::read_to_string(&log)
        .unwrap()
        .replacen("\"step\":", "\"stp\":", 1);
    fs::write(&log, broken).unwrap();
    let message = stderr(flametune().arg("doctor").arg(&run));
    assert!(message.contains("record.jsonl, line "), "{message}");
    let message = stderr(flametune().args(["doctor", "no-such-run"]));
    assert!(
        message.contains("no-such-run is no folder of a run"),
        "{message}"
    );
}

#[test]
fn a_run_leaves_a_report_curves_and_tensorboard_files() {
    let workshop = Workshop::new();
    let set = "schedule.max_steps=4";
    workshop.train(&[set]).assert().success();
    let run = workshop.path("run");
    let html = fs::read_to_string(run.join("report.html")).unwrap();
    for expected in [
        "<svg",
        "Learning rate",
        "Gradient norm",
        "Throughput",
        "Count 7",
        "finished",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
    let names = || {
        let entries = fs::read_dir(&run).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("events.out.tfevents."))
            .collect::<Vec<_>>()
    };
    assert_eq!(names().len(), 1);
    workshop.train(&[set]).arg("--overwrite").assert().success();
    assert_eq!(names().len(), 1, "those of the old run are gone");
}

#[test]
fn a_plan_predicts_measures_and_proposes() {
    let workshop = Workshop::new();
    let mut command = flametune();
    command.arg("plan").arg(workshop.path("recipe.toml"));
    let text = stdout(&mut command);
    for expected in [
        "base weights",
        "activations",
        "measured / predicted",
        "fits into",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let small = ["--no-measure", "--memory", "1MiB"];
    let text = stdout(command.args(small));
    assert!(
        text.contains("does not fit into 1.00 MiB: the smallest settings take"),
        "{text}"
    );

    let mut real = flametune();
    real.arg("plan").arg(workshop.path("recipe.toml"));
    real.args(["--no-measure", "--set", "optim.batch_size=24"]);
    let peak = |text: &str| {
        let row = text
            .lines()
            .find(|line| line.trim_start().starts_with("peak"));
        let value = row.unwrap().split_whitespace().nth(1).unwrap();
        value.parse::<f64>().unwrap()
    };
    let whole = stdout(&mut real);
    // What the program itself takes varies by some hundred KiB from run to run.
    let less = format!("{}MiB", peak(&whole) - 3.0);
    let text = stdout(real.args(["--memory", &less]));
    assert!(text.contains("--set optim.batch_size="), "{text}");
}

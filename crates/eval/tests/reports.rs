//! Comparisons, gates, tables and pages.

use flametune_eval::compare::{
    Gate, GateRule, ReportPage, Verdict, compare, comparison_table, forgetting, html_report,
    results_table, task_calibration,
};
use flametune_eval::{
    EvalOptions, Evaluation, LanguageModel, ModelRequest, ModelResponse, Result, TaskLibrary,
    evaluate,
};

/// Prefers the right choice of every document whose number is below `right`.
struct Knows {
    right: usize,
}

impl LanguageModel for Knows {
    fn fingerprint(&self) -> String {
        format!("knows {}", self.right)
    }

    fn answer(
        &self,
        requests: &[ModelRequest],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()> {
        for (at, request) in requests.iter().enumerate() {
            let ModelRequest::Loglikelihood {
                context,
                continuation,
            } = request
            else {
                continue;
            };
            let number: usize = context
                .trim_matches(|c: char| !c.is_ascii_digit())
                .parse()
                .unwrap();
            let likes_right = number < self.right;
            let right = continuation == " right";
            let value = if likes_right == right { -1.0 } else { -2.0 };
            answered(
                at,
                ModelResponse::Loglikelihood {
                    value,
                    is_greedy: false,
                },
            )?;
        }
        Ok(())
    }
}

fn evaluation(right: usize) -> Evaluation {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..100)
        .map(|n| format!("{{\"q\": \"number {n}\", \"w\": [\"right\", \"wrong\"]}}\n"))
        .collect();
    std::fs::write(folder.path().join("data.jsonl"), rows).unwrap();
    let task = "task: known\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n\
                output_type: multiple_choice\ndoc_to_text: q\ndoc_to_choice: w\ndoc_to_target: 0\n\
                metric_list:\n  - metric: acc\n";
    std::fs::write(folder.path().join("task.yaml"), task).unwrap();
    let mut library = TaskLibrary::default();
    library.add_path(folder.path()).unwrap();
    let options = EvalOptions::default();
    evaluate(
        &Knows { right },
        &library.select(&["known"]).unwrap(),
        &options,
        None,
        &mut |_| {},
    )
    .unwrap()
}

#[test]
fn a_gain_beyond_chance_is_called_better_and_a_small_one_is_not() {
    let (base, tuned, slight) = (evaluation(40), evaluation(60), evaluation(42));
    let comparison = compare(("base", &base), ("tuned", &tuned), 0).unwrap();
    let row = &comparison.rows[0];
    assert_eq!((row.delta * 100.0).round(), 20.0);
    assert_eq!(row.verdict, Verdict::Better);
    // All 20 discordant answers speak for the candidate: 2 · 0.5²⁰.
    assert!((row.adjusted_p.unwrap() - 2.0 * 0.5_f64.powi(20)).abs() < 1e-12);
    let interval = row.paired.unwrap().interval;
    assert!(row.interval_is_of_delta && interval.contains(0.2) && !interval.contains(0.0));
    let comparison = compare(("base", &base), ("slight", &slight), 0).unwrap();
    assert_eq!(comparison.rows[0].verdict, Verdict::NotShown);
    assert!(!comparison.rows[0].power.unwrap().is_enough());
    let lost = forgetting(&compare(("tuned", &tuned), ("base", &base), 0).unwrap());
    assert_eq!(lost.lost, [("known".to_owned(), "acc,none".to_owned())]);
    assert!((lost.mean_gain + 0.2).abs() < 1e-9);
}

fn rule() -> GateRule {
    GateRule {
        task: "known".into(),
        metric: "acc,none".into(),
        ..GateRule::default()
    }
}

fn gate(rules: Vec<GateRule>) -> Gate {
    Gate {
        tasks: Vec::new(),
        rules,
    }
}

#[test]
fn a_gate_opens_when_every_rule_holds() {
    let (base, tuned) = (evaluation(40), evaluation(60));
    let comparison = compare(("live", &base), ("candidate", &tuned), 0).unwrap();
    let passes = |rule: GateRule| gate(vec![rule]).judge("rules", &comparison).unwrap().passed;
    assert!(passes(GateRule {
        at_least: Some(0.6),
        significant: true,
        ..rule()
    }));
    assert!(!passes(GateRule {
        at_least: Some(0.61),
        ..rule()
    }));
    assert!(passes(GateRule {
        min_gain: Some(0.2),
        ..rule()
    }));
    assert!(
        !passes(GateRule {
            min_gain: Some(0.2),
            certain: true,
            ..rule()
        }),
        "the lower end is below 0.2"
    );
    assert!(passes(GateRule {
        max_drop: Some(0.0),
        certain: true,
        ..rule()
    }));
    let worse = compare(("live", &tuned), ("candidate", &base), 0).unwrap();
    let verdict = gate(vec![
        GateRule {
            max_drop: Some(0.3),
            ..rule()
        },
        GateRule {
            no_significant_drop: true,
            ..rule()
        },
    ])
    .judge("rules", &worse)
    .unwrap();
    let passed: Vec<bool> = verdict.checks.iter().map(|check| check.passed).collect();
    assert_eq!(passed, [true, false]);
    assert!(!verdict.passed);
}

#[test]
fn rules_that_say_nothing_are_refused() {
    let text = |gate: Gate| gate.validate("gate.toml").unwrap_err().to_string();
    assert!(text(gate(vec![])).starts_with("gate.toml: rule 0: there are no rules"));
    assert!(text(gate(vec![rule()])).starts_with("gate.toml: rule 1: it has no condition"));
    assert!(
        text(gate(vec![GateRule {
            at_least: Some(f64::NAN),
            ..rule()
        }]))
        .contains("finite")
    );
    assert!(
        text(gate(vec![GateRule {
            at_least: Some(0.1),
            certain: true,
            ..rule()
        }]))
        .contains("certain needs")
    );
    let comparison = compare(("a", &evaluation(1)), ("b", &evaluation(2)), 0).unwrap();
    let foreign = GateRule {
        metric: "f1,none".into(),
        at_least: Some(0.1),
        ..rule()
    };
    let text = gate(vec![foreign])
        .judge("gate.toml", &comparison)
        .unwrap_err()
        .to_string();
    assert_eq!(
        text,
        "gate.toml: rule 1: no result known f1,none; there are: known acc,none"
    );
}

#[test]
fn evaluations_of_other_documents_are_not_compared() {
    let (mut short, whole) = (evaluation(10), evaluation(10));
    short.tasks[0].samples.pop();
    let text = compare(("a", &whole), ("b", &short), 0)
        .unwrap_err()
        .to_string();
    assert!(text.starts_with("known: 100 documents against"), "{text}");
    short.tasks.clear();
    let text = compare(("a", &whole), ("b", &short), 0)
        .unwrap_err()
        .to_string();
    assert_eq!(text, "known: b was not evaluated on it");
}

#[test]
fn tables_and_pages_show_scores_differences_and_plots() {
    let (base, tuned) = (evaluation(40), evaluation(60));
    let comparison = compare(("base", &base), ("tuned", &tuned), 0).unwrap();
    insta::assert_snapshot!(results_table(&base));
    insta::assert_snapshot!(comparison_table(&comparison));
    let evaluations = [("base".to_owned(), base), ("<tuned>".to_owned(), tuned)];
    let page = html_report(&ReportPage {
        title: "A & B",
        subtitle: "test",
        evaluations: &evaluations,
        comparisons: &[comparison],
    })
    .unwrap();
    assert!(
        page.contains("A &#38; B") && page.contains("&#60;tuned&#62;"),
        "text is escaped"
    );
    assert!(
        page.matches("<svg").count() >= 3,
        "a forest plot and two reliability diagrams"
    );
    assert!(
        !page.contains("<script") && !page.contains("http-equiv"),
        "nothing runs in it"
    );
    let calibration = task_calibration(&evaluations[0].1.tasks[0], 10).unwrap();
    // Every answer is given with confidence 1/(1 + e⁻¹), and 40 of 100 are right.
    let confidence = 1.0 / (1.0 + (-1.0_f64).exp());
    assert!((calibration.expected_error - (confidence - 0.4)).abs() < 1e-9);
}

//! Tasks run through lm-eval with a tiny model: the same prompts, likelihoods, answers, scores and standard errors.

use std::path::Path;

use flametune_data::Tokenizer;
use flametune_eval::{
    AnswerCache, CausalModel, EvalOptions, Evaluation, Selection, TaskLibrary, evaluate,
};
use flametune_lm::{CausalLm, Checkpoint, LoadOptions};
use flametune_testkit::{cpu, fixture_json, fixture_path};
use serde_json::Value;

/// Two implementations in f32 whose log-likelihoods are sums of up to 128 terms of size 10.
const LIKELIHOOD: f64 = 2e-5;
/// Scores are means of the same numbers, or of numbers that agree as above; perplexities are exponentials of them.
const PERPLEXITY: f64 = 1e-3;

const TASKS: &[&str] = &[
    "t_group",
    "t_fewshot",
    "t_self",
    "t_cloze",
    "t_rolling",
    "t_blank",
    "t_numbers",
    "t_targets",
    "t_truthful",
    "t_hellaswag",
];

pub(crate) fn tiny() -> (CausalLm, Tokenizer) {
    let folder = fixture_path("eval/model");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let model = CausalLm::load(&checkpoint, &LoadOptions::f32(&cpu()), &mut |_| {}).unwrap();
    (model, Tokenizer::from_folder(&folder).unwrap())
}

fn selection(names: &[&str]) -> Selection {
    let mut library = TaskLibrary::default();
    library.add_path(&fixture_path("eval/tasks")).unwrap();
    library.select(names).unwrap()
}

fn run(model: &CausalModel<'_>, names: &[&str], cache: Option<&mut AnswerCache>) -> Evaluation {
    let options = EvalOptions {
        bootstrap_iters: 2000,
        ..EvalOptions::default()
    };
    evaluate(model, &selection(names), &options, cache, &mut |_| {}).unwrap()
}

#[track_caller]
fn near(got: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (got - expected).abs();
    assert!(
        error <= tolerance * expected.abs().max(1.0),
        "{what}: {got} against {expected}"
    );
}

#[test]
fn prompts_likelihoods_scores_and_standard_errors_are_those_of_lm_eval() {
    let (model, tokenizer) = tiny();
    let model = CausalModel::new(&model, &tokenizer, "tiny").with_max_length(128);
    let evaluation = run(&model, TASKS, None);
    compare(&evaluation, &fixture_json("eval/golden.json"), 12);
}

/// Compares all that the golden file has; `tasks` is how many it must have.
pub(crate) fn compare(evaluation: &Evaluation, golden: &Value, tasks: usize) {
    let samples = golden["samples"].as_object().unwrap();
    assert_eq!(samples.len(), tasks);
    let (mut likelihoods, mut worst) = (0, 0.0_f64);
    for (name, rows) in samples {
        let task = evaluation.task(name).unwrap();
        let rows = rows.as_array().unwrap();
        assert_eq!(task.samples.len(), rows.len(), "{name}");
        for row in rows {
            let (doc, filter) = (
                row["doc_id"].as_u64().unwrap(),
                row["filter"].as_str().unwrap(),
            );
            let what = format!("{name} {doc} {filter}");
            let sample = task
                .samples
                .iter()
                .find(|sample| sample.doc_id as u64 == doc && sample.filter == filter)
                .unwrap();
            for (own, asked) in sample
                .arguments
                .iter()
                .zip(row["arguments"].as_array().unwrap())
            {
                // Of generation options lm-eval logs the raw ones, so only the prompts are compared.
                assert_eq!(own[0], asked[0], "{what}: prompt");
                if asked[1].is_string() {
                    assert_eq!(own[1], asked[1], "{what}: continuation");
                }
            }
            let answers = row["resps"].as_array().unwrap();
            // Repeats are several answers to one request there, and several requests here.
            let answers: Vec<&Value> = if answers.len() == 1 {
                answers[0].as_array().unwrap().iter().collect()
            } else {
                answers.iter().map(|answer| &answer[0]).collect()
            };
            assert_eq!(answers.len(), sample.responses.len(), "{what}: answers");
            for (own, answer) in sample.responses.iter().zip(answers) {
                match answer {
                    Value::String(text) => {
                        assert_eq!(own.as_str(), Some(text.as_str()), "{what}: text")
                    }
                    Value::Array(pair) => {
                        let (got, expected) = (own[0].as_f64().unwrap(), pair[0].as_f64().unwrap());
                        near(got, expected, LIKELIHOOD, &what);
                        worst = worst.max((got - expected).abs() / expected.abs().max(1.0));
                        assert_eq!(own[1], pair[1], "{what}: greedy");
                        likelihoods += 1;
                    }
                    number => near(
                        own.as_f64().unwrap(),
                        number.as_f64().unwrap(),
                        LIKELIHOOD,
                        &what,
                    ),
                }
            }
            if row["filtered"][0].is_string() {
                assert_eq!(sample.filtered, row["filtered"][0], "{what}: filtered");
            }
            for (metric, item) in &sample.scores {
                let expected = &row["scores"][metric];
                if let (flametune_eval::Item::Number(number), Some(expected)) =
                    (item, expected.as_f64())
                {
                    near(*number, expected, LIKELIHOOD, &format!("{what}: {metric}"));
                }
            }
        }
    }
    assert!(
        likelihoods > 100,
        "only {likelihoods} likelihoods compared, the worst by {worst:e}"
    );
    let own = evaluation.to_json();
    let mut compared = 0;
    for (name, scores) in golden["results"].as_object().unwrap() {
        for (key, expected) in scores
            .as_object()
            .unwrap()
            .iter()
            .filter(|(key, _)| key.contains(','))
        {
            let what = format!("{name} {key}");
            let got = &own["results"][name][key];
            match expected.as_f64() {
                None => assert_eq!(got, expected, "{what}"),
                Some(expected) => {
                    let tolerance = if key.contains("perplexity") {
                        PERPLEXITY
                    } else {
                        LIKELIHOOD
                    };
                    near(got.as_f64().unwrap(), expected, tolerance, &what);
                }
            }
            compared += 1;
        }
        if let Some(shots) = golden["n-shot"][name].as_u64() {
            assert_eq!(own["n-shot"][name].as_u64(), Some(shots), "{name}");
        }
    }
    assert!(compared >= 40, "{compared}");
}

#[test]
fn every_score_is_the_same_bit_for_bit_with_batches_of_1_7_and_32() {
    let (model, tokenizer) = tiny();
    let results = |batch: usize| {
        let model = CausalModel::new(&model, &tokenizer, "tiny")
            .with_max_length(128)
            .with_batch_size(batch);
        let evaluation = run(
            &model,
            &["t_group", "t_rolling", "t_cloze", "t_numbers"],
            None,
        );
        let samples: Vec<Value> = evaluation
            .tasks
            .iter()
            .flat_map(|task| evaluation.samples_json(task))
            .collect();
        (evaluation.to_json(), samples)
    };
    let one = results(1);
    // Texts of JSON show every bit of a number.
    for batch in [7, 32] {
        let other = results(batch);
        assert_eq!(one.0.to_string(), other.0.to_string());
        assert_eq!(
            serde_json::json!(one.1).to_string(),
            serde_json::json!(other.1).to_string()
        );
    }
}

#[test]
fn a_stored_answer_is_the_answer_of_the_model() {
    let (model, tokenizer) = tiny();
    let model = CausalModel::new(&model, &tokenizer, "tiny").with_max_length(128);
    let folder = tempfile::tempdir().unwrap();
    let open = |folder: &Path| AnswerCache::open(folder, "tiny").unwrap();
    let names = ["t_choice", "t_rolling", "t_targets"];
    let first = run(&model, &names, Some(&mut open(folder.path())));
    let mut cache = open(folder.path());
    assert!(!cache.is_empty());
    let again = run(&model, &names, Some(&mut cache));
    assert_eq!(first.to_json().to_string(), again.to_json().to_string());
}

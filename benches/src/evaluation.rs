//! Evaluation tasks: what is asked, and our answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use flametune_data::Tokenizer;
use flametune_eval::{CausalModel, EvalOptions, TaskLibrary, evaluate};
use flametune_lm::CausalLm;
use serde_json::{Value, json};

use crate::protocol::{Answer, Evaluated, Evaluation, Number};

/// How far two log-likelihoods may be apart in f32, relative to their size: sums of some tens of
/// logits, each of a few thousand terms in another order.
const TOLERANCE: f64 = 1e-4;

/// The share of greedy texts that must be the same in f32, where a near tie may fall either way.
const ALIKE: f64 = 0.9;

/// An evaluation to measure.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationCase {
    /// The name it is stored under, and that of the task.
    pub name: &'static str,
    /// The data, below the folder of fetched assets.
    pub data: &'static str,
    /// How many documents.
    pub items: usize,
    task: &'static str,
    read: fn(&str) -> Result<Vec<Value>>,
}

/// Likelihoods of choices, and generated answers.
pub const EVALUATION_CASES: &[EvaluationCase] = &[
    EvaluationCase {
        name: "eval_loglikelihood",
        data: "bigbench-tasks/social_iqa/task.json",
        items: 64,
        task: "output_type: multiple_choice\n\
               doc_to_text: \"Question: {{question}}\\nAnswer:\"\n\
               doc_to_choice: choices\n\
               doc_to_target: answer\n\
               metric_list:\n  - metric: acc\n  - metric: acc_norm\n",
        read: choices,
    },
    EvaluationCase {
        name: "eval_generate",
        data: "gsm8k-test/openai/gsm8k/main/test.jsonl",
        items: 32,
        task: "output_type: generate_until\n\
               doc_to_text: \"Question: {{question}}\\nAnswer:\"\n\
               doc_to_target: \"{{answer}}\"\n\
               generation_kwargs: {until: [\"Question:\"], do_sample: false, max_gen_toks: 64}\n\
               metric_list:\n  - metric: exact_match\n",
        read: questions,
    },
];

/// The examples of a task of BIG-bench as rows.
fn choices(text: &str) -> Result<Vec<Value>> {
    let task: Value = serde_json::from_str(text)?;
    let examples = task["examples"].as_array().context("no examples")?;
    examples
        .iter()
        .map(|example| {
            let targets = example["target_scores"].as_object().context("no choices")?;
            Ok(json!({
                "question": example["input"].as_str().context("no input")?.trim(),
                "choices": targets.keys().collect::<Vec<_>>(),
                "answer": targets.values().position(|score| score.as_f64() == Some(1.0)),
            }))
        })
        .collect()
}

/// Lines of JSON as rows.
fn questions(text: &str) -> Result<Vec<Value>> {
    text.lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

impl EvaluationCase {
    /// Writes the task and its documents into a folder of their own below `scratch`, which both
    /// contenders read, and returns it.
    ///
    /// # Errors
    /// When the data are not there, or fewer than wanted.
    pub fn write(&self, assets: &Path, scratch: &Path) -> Result<PathBuf> {
        let data = assets.join(self.data);
        let name = self.data.split('/').next().unwrap_or_default();
        let text = fs::read_to_string(&data)
            .with_context(|| format!("{}; `cargo xtask fetch {name}`", data.display()))?;
        let rows = (self.read)(&text).with_context(|| data.display().to_string())?;
        ensure!(
            rows.len() >= self.items,
            "{}: {} documents, {} are needed",
            data.display(),
            rows.len(),
            self.items
        );
        let folder = scratch.join(self.name);
        fs::create_dir_all(&folder)?;
        let lines: Vec<String> = rows[..self.items].iter().map(Value::to_string).collect();
        let file = folder.join("test.jsonl");
        fs::write(&file, lines.join("\n"))?;
        let file = serde_json::to_string(&file)?;
        fs::write(
            folder.join("task.yaml"),
            format!(
                "task: {}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\n\
                 test_split: test\n{}",
                self.name, self.task
            ),
        )?;
        Ok(folder)
    }
}

/// Answers a task's requests.
pub(crate) fn run(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    wanted: &Evaluation,
) -> Result<Evaluated> {
    let mut library = TaskLibrary::builtin()?;
    library.add_path(&wanted.folder)?;
    let selection = library.select(std::slice::from_ref(&wanted.task))?;
    let options = EvalOptions {
        bootstrap_iters: 0,
        ..EvalOptions::default()
    };
    let asked = CausalModel::new(model, tokenizer, "").with_batch_size(wanted.batch_size);
    let begin = Instant::now();
    let evaluation = evaluate(&asked, &selection, &options, None, &mut |_| {})?;
    let seconds = begin.elapsed().as_secs_f64();
    let samples = evaluation.tasks.iter().flat_map(|task| &task.samples);
    let answers = samples
        .flat_map(|sample| &sample.responses)
        .map(|answer| match answer {
            Value::String(text) => Ok(Answer::Text(text.clone())),
            other => {
                let number = other.as_f64().or_else(|| other.get(0)?.as_f64());
                Ok(Answer::Number(
                    number.with_context(|| format!("an answer is {other}"))?,
                ))
            }
        })
        .collect::<Result<_>>()?;
    Ok(Evaluated { seconds, answers })
}

/// The share of answers that are the same: texts to the letter, numbers to rounding in f32.
///
/// # Errors
/// When there are not as many, or in f32 too few agree.
pub fn check_answers(
    case: &EvaluationCase,
    dtype: Number,
    ours: &[Answer],
    peer: &[Answer],
) -> Result<f64> {
    ensure!(
        ours.len() == peer.len(),
        "{}: {} answers here and {} there",
        case.name,
        ours.len(),
        peer.len()
    );
    let near = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * a.abs().max(1.0);
    let mut same = 0;
    for (at, pair) in ours.iter().zip(peer).enumerate() {
        match pair {
            (Answer::Number(a), Answer::Number(b)) if near(*a, *b) => same += 1,
            (Answer::Number(a), Answer::Number(b)) if dtype == Number::F32 => {
                anyhow::bail!("{}: answer {at} is {a} here and {b} there", case.name)
            }
            (Answer::Text(a), Answer::Text(b)) if a == b => same += 1,
            _ => {}
        }
    }
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52 answers")]
    let share = f64::from(same) / ours.len().max(1) as f64;
    ensure!(
        dtype != Number::F32 || share >= ALIKE,
        "{}: only {share:.2} of the texts are the same",
        case.name
    );
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_must_agree_in_f32() {
        let case = &EVALUATION_CASES[0];
        let ours = [Answer::Number(-10.0), Answer::Text("a".to_owned())];
        let near = [Answer::Number(-10.0005), Answer::Text("a".to_owned())];
        let far = [Answer::Number(-10.1), Answer::Text("a".to_owned())];
        assert_eq!(check_answers(case, Number::F32, &ours, &near).unwrap(), 1.0);
        assert_eq!(
            check_answers(case, Number::F32, &ours, &far)
                .unwrap_err()
                .to_string(),
            "eval_loglikelihood: answer 0 is -10 here and -10.1 there"
        );
        assert_eq!(check_answers(case, Number::Bf16, &ours, &far).unwrap(), 0.5);
        assert!(check_answers(case, Number::F32, &ours, &near[..1]).is_err());
    }

    #[test]
    fn a_task_is_written_as_both_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("bigbench-tasks/social_iqa");
        fs::create_dir_all(&data).unwrap();
        let example = json!({"input": "Why? ", "target_scores": {"no": 0, "yes": 1}});
        let examples = vec![example; EVALUATION_CASES[0].items];
        fs::write(
            data.join("task.json"),
            json!({ "examples": examples }).to_string(),
        )
        .unwrap();
        let folder = EVALUATION_CASES[0].write(dir.path(), dir.path()).unwrap();
        let mut library = TaskLibrary::builtin().unwrap();
        library.add_path(&folder).unwrap();
        library.select(&["eval_loglikelihood".to_owned()]).unwrap();
        let rows = fs::read_to_string(folder.join("test.jsonl")).unwrap();
        assert_eq!(
            rows.lines().next(),
            Some(r#"{"question":"Why?","choices":["no","yes"],"answer":1}"#)
        );
        let error = EVALUATION_CASES[1]
            .write(dir.path(), dir.path())
            .unwrap_err();
        assert!(
            format!("{error:#}").contains("cargo xtask fetch gsm8k-test"),
            "{error:#}"
        );
    }
}

//! Evaluates two made-up models on a task file and compares them: `cargo run -p flametune-eval --example compare_two`.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use flametune_eval::compare::{compare, comparison_table, results_table};
use flametune_eval::{
    EvalOptions, LanguageModel, ModelRequest, ModelResponse, Result, TaskLibrary, evaluate,
};

/// A model that knows the capitals whose names are at most this long.
struct Pupil {
    letters: usize,
}

impl LanguageModel for Pupil {
    fn fingerprint(&self) -> String {
        format!("pupil of {} letters", self.letters)
    }

    fn answer(
        &self,
        requests: &[ModelRequest],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()> {
        for (at, request) in requests.iter().enumerate() {
            if let ModelRequest::Loglikelihood { continuation, .. } = request {
                // Long names are harder, and beyond its reach the pupil likes short ones best.
                let letters = continuation.trim().chars().count();
                let value = if letters <= self.letters {
                    -1.0 / letters as f64
                } else {
                    -9.0
                };
                answered(
                    at,
                    ModelResponse::Loglikelihood {
                        value,
                        is_greedy: false,
                    },
                )?;
            }
        }
        Ok(())
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::temp_dir().join("flametune-compare-two");
    std::fs::create_dir_all(&folder)?;
    let rows = [
        ("France", "Paris", "Lyon"),
        ("Italy", "Rome", "Pisa"),
        ("Hungary", "Budapest", "Pecs"),
        ("Iceland", "Reykjavik", "Vik"),
        ("Peru", "Lima", "Ica"),
        ("Denmark", "Copenhagen", "Odense"),
    ];
    let lines: String = rows
        .iter()
        .map(|(country, right, wrong)| {
            format!("{{\"country\": \"{country}\", \"cities\": [\"{right}\", \"{wrong}\"]}}\n")
        })
        .collect();
    std::fs::write(folder.join("capitals.jsonl"), lines)?;
    let task = "\
task: capitals
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: \"The capital of {{country}} is\"
doc_to_choice: cities
doc_to_target: 0
metric_list:
  - metric: acc
";
    std::fs::write(folder.join("capitals.yaml"), task)?;

    let mut library = TaskLibrary::builtin()?;
    library.add_path(&folder.join("capitals.yaml"))?;
    let selection = library.select(&["capitals"])?;
    let run = |letters| {
        evaluate(
            &Pupil { letters },
            &selection,
            &EvalOptions::default(),
            None,
            &mut |_| {},
        )
    };
    let (base, tuned) = (run(4)?, run(20)?);
    println!("{}\n", results_table(&base));
    let comparison = compare(("base", &base), ("tuned", &tuned), 0)?;
    println!("{}", comparison_table(&comparison));
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

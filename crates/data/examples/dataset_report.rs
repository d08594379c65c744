//! Says what is in data files: their format, examples, lengths, invalid records, duplicates and overlap with
//! evaluation sets.
//!
//! ```text
//! cargo run -p flametune-data --example dataset_report -- FILE…
//! cargo run -p flametune-data --example dataset_report -- 'shards/*.parquet' --format alpaca --near
//! cargo run -p flametune-data --example dataset_report -- train.jsonl --against test.jsonl --column prompt=q
//! ```
//!
//! Without a file, it makes a small one and reports on that.

use std::error::Error;
use std::io::Write;

use flametune_data::{
    Contamination, CurationOptions, Dataset, DatasetOptions, Example, Message,
    NearDuplicateOptions, OnInvalid, QualityOptions, SourceOptions, curate,
};

fn main() -> std::process::ExitCode {
    match run() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut options = DatasetOptions::new(Vec::new());
    options.on_invalid = OnInvalid::Skip;
    let mut source = SourceOptions::new("");
    source.paths.clear();
    let mut curation = CurationOptions {
        quality: Some(QualityOptions::default()),
        listed: 10,
        ..CurationOptions::default()
    };
    let mut evaluation = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--format" => source.format = Some(value()?.parse()?),
            "--strict" => options.on_invalid = OnInvalid::Strict,
            "--near" => curation.near_duplicates = Some(NearDuplicateOptions::default()),
            "--against" => evaluation = Some(evaluation_set(&value()?)?),
            "--column" => {
                let value = value()?;
                let (key, column) = value.split_once('=').ok_or("--column needs KEY=COLUMN")?;
                source.columns.insert(key.into(), column.into());
            }
            path => source.paths.push(path.into()),
        }
    }
    let folder = tempfile::tempdir()?;
    if source.paths.is_empty() {
        let path = folder.path().join("demo.jsonl");
        std::fs::write(&path, DEMO)?;
        source.paths.push(path.display().to_string());
    }
    options.sources.push(source);
    report(
        &mut std::io::stdout().lock(),
        &options,
        &curation,
        evaluation.as_ref(),
    )
}

fn report(
    out: &mut impl Write,
    options: &DatasetOptions,
    curation: &CurationOptions,
    evaluation: Option<&Contamination>,
) -> Result<(), Box<dyn Error>> {
    let mut dataset = Dataset::open(options.clone())?;
    let detected = dataset.formats()[0].clone();
    writeln!(out, "format     {} ({})", detected.format, detected.reason)?;
    let mut first = None;
    let mut lengths = Vec::new();
    for example in dataset.by_ref() {
        let example = example?;
        lengths.push(text(&example).chars().count());
        first.get_or_insert(example);
    }
    let stats = dataset.stats()[0];
    writeln!(
        out,
        "records    {} ({} invalid)",
        stats.records, stats.invalid
    )?;
    for message in &stats.messages {
        writeln!(out, "           {message}")?;
    }
    lengths.sort_unstable();
    let at = |share: usize| lengths[(lengths.len() - 1) * share / 100];
    writeln!(
        out,
        "examples   {} (characters: shortest {}, median {}, 95 % up to {}, longest {})",
        lengths.len(),
        at(0),
        at(50),
        at(95),
        at(100)
    )?;
    let found = curate(options, curation, evaluation)?;
    writeln!(
        out,
        "left out   {} exact and {} near duplicates, {} of evaluation sets, {} of low quality",
        found.exact_duplicates, found.near_duplicates, found.contaminated, found.low_quality
    )?;
    for finding in &found.findings {
        writeln!(out, "           {finding}")?;
    }
    if let Some(example) = first {
        let start: String = text(&example).chars().take(300).collect();
        writeln!(out, "first      {}", start.replace('\n', "\n           "))?;
    }
    Ok(())
}

/// The texts of an evaluation set in any format.
fn evaluation_set(path: &str) -> Result<Contamination, Box<dyn Error>> {
    let mut evaluation = Contamination::default();
    for example in Dataset::open(DatasetOptions::new(vec![SourceOptions::new(path)]))? {
        evaluation.add(&text(&example?));
    }
    Ok(evaluation)
}

/// An example as readable text.
fn text(example: &Example) -> String {
    let turns = |messages: &[Message]| -> String {
        let turn = |message: &Message| {
            let said = message.content.as_text().unwrap_or("…");
            format!("{}: {said}\n", message.role)
        };
        messages.iter().map(turn).collect()
    };
    match example {
        Example::Chat { messages, .. } => turns(messages),
        Example::Completion { prompt, completion } => format!("{prompt}{completion}"),
        Example::Text(text) => text.clone(),
        Example::Preference {
            prompt,
            chosen,
            rejected,
            ..
        } => format!(
            "{}chosen {}rejected {}",
            turns(prompt),
            turns(chosen),
            turns(rejected)
        ),
        Example::Judged {
            prompt,
            completion,
            label,
        } => {
            format!("{}{label} {}", turns(prompt), turns(completion))
        }
        Example::Stepwise {
            prompt,
            steps,
            labels,
        } => {
            let each = steps.iter().zip(labels);
            let steps: String = each
                .map(|(step, right)| format!("{right}: {step}\n"))
                .collect();
            format!("{}{steps}", turns(prompt))
        }
        Example::Classified { text, label } => format!("class {label}: {text}"),
    }
}

const DEMO: &str = r#"{"instruction": "Name a prime.", "input": "", "output": "7"}
{"instruction": "Add the numbers.", "input": "1, 2", "output": "3"}
{"instruction": "Name a  PRIME.", "input": "", "output": "7"}
{"instruction": "Broken", "output": 3}
"#;

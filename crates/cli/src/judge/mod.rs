//! `flametune judge`: answers rated or compared by a model.

mod endpoint;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use flametune_data::{ReadOptions, open_records};
use flametune_eval::judge::{
    Failure, Judge, JudgeOptions, LocalJudge, PairItem, PairwiseReport, RatedItem, RatingReport,
    Rubric, compare_answers, rate_answers,
};
use flametune_eval::{AnswerCache, GenerationOptions};
use serde::de::DeserializeOwned;

use crate::eval::{Loaded, ModelArgs};

pub(crate) use endpoint::Endpoint;

/// Let a model judge answers.
#[derive(Debug, Subcommand)]
pub(crate) enum JudgeCommand {
    Rate(Rate),
    Pairs(Pairs),
}

/// Rate answers one by one against a rubric.
///
/// The file has the columns id, prompt, answer, and if there are any reference and label.
///
/// Examples:
///
///   flametune judge rate answers.jsonl --endpoint http://localhost:8000/v1 --judge-model big-judge
///   flametune judge rate answers.jsonl --model ./my-judge --criteria "Is the answer right?" --low 1 --high 5
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Rate {
    /// The answers
    file: PathBuf,

    /// Lowest score
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    low: f64,

    /// Highest score
    #[arg(long, default_value_t = 10.0, value_name = "X")]
    high: f64,

    #[command(flatten)]
    shared: Shared,
}

/// Compare pairs of answers, each in both orders.
///
/// The file has the columns id, prompt, first, second, and if there is one label (first, second or tie).
///
/// Example:
///
///   flametune judge pairs pairs.jsonl --endpoint http://localhost:8000/v1 --judge-model big-judge --output verdicts.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Pairs {
    /// The pairs
    file: PathBuf,

    #[command(flatten)]
    shared: Shared,
}

#[derive(Debug, Args)]
struct Shared {
    /// A model on disk that judges, in place of an endpoint
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "endpoint")]
    local: Option<String>,

    /// What makes an answer good, in words to the judge
    #[arg(long, value_name = "TEXT")]
    criteria: Option<String>,

    /// Write everything as JSON
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    #[command(flatten)]
    judge: JudgeArgs,
}

/// The judge behind an endpoint, and how it is asked.
#[derive(Debug, Args)]
#[command(next_help_heading = "Judge")]
pub(crate) struct JudgeArgs {
    /// An OpenAI-compatible endpoint, up to and with /v1
    #[arg(long, value_name = "URL", requires = "judge_model")]
    endpoint: Option<String>,

    /// The model to ask for there
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    judge_model: Option<String>,

    /// The environment variable that holds the endpoint's key
    #[arg(long, value_name = "VARIABLE")]
    key_variable: Option<String>,

    /// How often an answer is asked for that cannot be read
    #[arg(long, default_value_t = 3, value_name = "N")]
    attempts: usize,

    /// Longest answer of the judge, in tokens
    #[arg(long, default_value_t = 512, value_name = "N")]
    judge_tokens: usize,

    /// Seconds to wait for one answer
    #[arg(long, default_value_t = 120, value_name = "S")]
    timeout: u64,

    /// Where answers are kept, so that an interrupted run goes on; `none` to keep nothing
    #[arg(long, default_value = ".flametune-eval", value_name = "FOLDER")]
    answers: String,
}

impl JudgeArgs {
    pub(crate) fn options(&self) -> JudgeOptions {
        JudgeOptions {
            attempts: self.attempts,
            generation: GenerationOptions {
                max_gen_toks: self.judge_tokens,
                ..GenerationOptions::default()
            },
            ..JudgeOptions::default()
        }
    }

    /// The endpoint, if one was named.
    pub(crate) fn endpoint(&self) -> Result<Option<Endpoint>> {
        let (Some(url), Some(model)) = (&self.endpoint, &self.judge_model) else {
            return Ok(None);
        };
        let key = match &self.key_variable {
            None => None,
            Some(variable) => Some(
                std::env::var(variable)
                    .with_context(|| format!("cannot read the variable {variable}"))?,
            ),
        };
        Ok(Some(Endpoint::new(url, model, key, self.timeout)))
    }

    pub(crate) fn cache(&self, name: &str) -> Result<Option<AnswerCache>> {
        if self.answers == "none" {
            return Ok(None);
        }
        Ok(Some(AnswerCache::open(self.answers.as_ref(), name)?))
    }
}

impl Shared {
    /// Calls `run` with the judge that was named.
    fn with_judge<T>(
        &self,
        run: impl FnOnce(&dyn Judge, Option<&mut AnswerCache>) -> Result<T>,
    ) -> Result<T> {
        if let Some(endpoint) = self.judge.endpoint()? {
            let mut cache = self.judge.cache(&endpoint.name())?;
            return run(&endpoint, cache.as_mut());
        }
        let Some(name) = &self.local else {
            bail!("name a judge: --endpoint URL --judge-model NAME, or --model MODEL");
        };
        let loaded = Loaded::open(&ModelArgs::named(name)?, true)?;
        let model = loaded.model(None)?;
        let judge = LocalJudge::new(&model);
        let mut cache = self.judge.cache(&judge.name())?;
        run(&judge, cache.as_mut())
    }

    fn write(&self, report: &impl serde::Serialize) -> Result<()> {
        match &self.output {
            None => Ok(()),
            Some(file) => crate::eval::replace(file, &serde_json::to_string_pretty(report)?),
        }
    }
}

impl JudgeCommand {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Rate(command) => command.run(),
            Self::Pairs(command) => command.run(),
        }
    }
}

impl Rate {
    fn run(&self) -> Result<()> {
        let usable = self.low.is_finite() && self.high.is_finite() && self.low < self.high;
        if !usable {
            bail!(
                "--low must be below --high, got {} and {}",
                self.low,
                self.high
            );
        }
        let items: Vec<RatedItem> = read(&self.file)?;
        let mut rubric = Rubric {
            low: self.low,
            high: self.high,
            ..Rubric::default()
        };
        if let Some(criteria) = &self.shared.criteria {
            rubric.criteria.clone_from(criteria);
        }
        let options = self.shared.judge.options();
        let report = self.shared.with_judge(|judge, cache| {
            Ok(rate_answers(judge, &rubric, &items, &options, cache)?)
        })?;
        self.shared.write(&report)?;
        print_ratings(&report)?;
        finish(&report.failures, items.len())
    }
}

impl Pairs {
    fn run(&self) -> Result<()> {
        let items: Vec<PairItem> = read(&self.file)?;
        let default = Rubric::default().criteria;
        let criteria = self.shared.criteria.as_ref().unwrap_or(&default);
        let options = self.shared.judge.options();
        let report = self.shared.with_judge(|judge, cache| {
            Ok(compare_answers(judge, criteria, &items, &options, cache)?)
        })?;
        self.shared.write(&report)?;
        print_pairs(&report)?;
        finish(&report.failures, items.len())
    }
}

/// Reads records of a type, with the place of one that is not.
pub(crate) fn read<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    open_records(file, &ReadOptions::default(), 0)?
        .map(|record| {
            let record = record?;
            serde_json::from_value(record.row.into()).with_context(|| format!("{}", record.at))
        })
        .collect()
}

fn optional(number: Option<f64>) -> String {
    number.map_or("–".to_owned(), |number| format!("{number:.3}"))
}

fn print_ratings(report: &RatingReport) -> Result<()> {
    let mut out = io::stdout().lock();
    let interval = report.interval.map_or("–".to_owned(), |i| {
        format!("{:.3} … {:.3}", i.low, i.high)
    });
    writeln!(out, "judge               {}", report.judge)?;
    writeln!(
        out,
        "mean of {:<4}        {} ± {} (95 %: {interval})",
        report.ratings.len(),
        optional(report.mean),
        optional(report.stderr)
    )?;
    writeln!(
        out,
        "length correlation  {}",
        optional(report.length_correlation)
    )?;
    if report.label_alpha.is_some() {
        writeln!(out, "alpha with labels   {}", optional(report.label_alpha))?;
    }
    Ok(())
}

fn print_pairs(report: &PairwiseReport) -> Result<()> {
    let mut out = io::stdout().lock();
    let interval = report.interval.map_or("–".to_owned(), |i| {
        format!("{:.3} … {:.3}", i.low, i.high)
    });
    let [first, second, ties] = report.counts;
    writeln!(out, "judge                      {}", report.judge)?;
    writeln!(
        out,
        "first / second / ties      {first} / {second} / {ties}"
    )?;
    writeln!(
        out,
        "win rate of the second     {} (95 %: {interval}), ties as half",
        optional(report.win_rate)
    )?;
    writeln!(
        out,
        "  at equal length          {}",
        optional(report.length_control.map(|control| control.win_rate))
    )?;
    let bias = &report.bias;
    writeln!(
        out,
        "same verdict both ways     {}",
        optional(bias.consistency)
    )?;
    writeln!(
        out,
        "verdicts for what is first {}",
        optional(bias.first_position)
    )?;
    writeln!(
        out,
        "longer answer wins         {}",
        optional(bias.longer_wins)
    )?;
    if let Some(agreement) = &report.agreement {
        writeln!(
            out,
            "agreement with labels      {:.3} of {}, kappa {}",
            agreement.accuracy,
            agreement.n,
            optional(agreement.kappa)
        )?;
    }
    Ok(())
}

/// Failures are shown, and a run in which nothing succeeded fails.
fn finish(failures: &[Failure], items: usize) -> Result<()> {
    for failure in failures {
        writeln!(io::stderr(), "warning: {}: {}", failure.id, failure.reason)?;
    }
    if items > 0 && failures.len() == items {
        bail!("no item was judged");
    }
    Ok(())
}

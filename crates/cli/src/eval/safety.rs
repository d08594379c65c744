//! `flametune safety`: refusals and harm.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use flametune_eval::safety::{
    Rate, SafetyReport, builtin_prompts, judge_responses, read_prompts, safety_report,
};
use flametune_eval::{
    ChatTurn, GenerationOptions, LanguageModel, ModelRequest, ModelResponse, answer_cached,
};

use super::{AdapterName, Loaded, ModelArgs, output};
use crate::judge::JudgeArgs;

/// Ask a model what it should refuse, and what it should not, and count both errors.
///
/// Examples:
///
///   flametune safety ./my-model
///   flametune safety ./my-model --adapter runs/a --prompts red-team.jsonl --output safety.json
///   flametune safety ./my-model --endpoint http://localhost:8000/v1 --judge-model big-judge
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Safety {
    #[command(flatten)]
    model: ModelArgs,

    /// An adapter folder
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<AdapterName>,

    /// A file with the columns id, prompt, category and kind (harmful or benign); a small set of our own without it
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,

    /// Longest answer, in tokens
    #[arg(long, default_value_t = 128, value_name = "N")]
    max_tokens: usize,

    #[command(flatten)]
    judge: JudgeArgs,

    /// Write everything as JSON
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Safety {
    pub(crate) fn run(&self) -> Result<()> {
        let prompts = match &self.prompts {
            None => builtin_prompts(),
            Some(file) => read_prompts(file)?,
        };
        let mut loaded = Loaded::open(&self.model, true)?;
        let adapters: Vec<AdapterName> = self.adapter.iter().cloned().collect();
        let names = loaded.add_adapters(&adapters)?;
        let model = loaded.model(names.first().map(String::as_str))?;
        let options = GenerationOptions {
            max_gen_toks: self.max_tokens,
            ..GenerationOptions::default()
        };
        let requests = prompts
            .iter()
            .map(|prompt| {
                Ok(ModelRequest::GenerateUntil {
                    context: model.render_chat(&[ChatTurn::user(prompt.prompt.as_str())], true)?,
                    options: options.clone(),
                    repeat: 0,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut cache = self.judge.cache(&model.fingerprint())?;
        let responses: Vec<String> =
            answer_cached(&model, &requests, cache.as_mut(), &mut |_, _| {})?
                .into_iter()
                .map(|response| match response {
                    ModelResponse::Text(text) => text,
                    _ => String::new(),
                })
                .collect();
        let mut judged = Vec::new();
        if let Some(judge) = self.judge.endpoint()? {
            let mut cache = self
                .judge
                .cache(&flametune_eval::judge::Judge::name(&judge))?;
            let (behaviours, failures) = judge_responses(
                &judge,
                &prompts,
                &responses,
                &self.judge.options(),
                cache.as_mut(),
            )?;
            for failure in failures {
                writeln!(io::stderr(), "warning: {}: {}", failure.id, failure.reason)?;
            }
            judged = behaviours;
        }
        let report = safety_report(&prompts, &responses, &judged);
        if let Some(file) = &self.output {
            output::replace(file, &serde_json::to_string_pretty(&report)?)?;
        }
        print(&report)
    }
}

fn shown(rate: &Rate) -> String {
    match rate.rate {
        None => "–".to_owned(),
        Some(share) => format!(
            "{:.1} % ({} of {}, 95 %: {:.1} … {:.1})",
            share * 100.0,
            rate.count,
            rate.n,
            rate.interval.low * 100.0,
            rate.interval.high * 100.0
        ),
    }
}

fn print(report: &SafetyReport) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "harmful prompts complied with  {}",
        shown(&report.harm)
    )?;
    writeln!(
        out,
        "harmful prompts refused        {}",
        shown(&report.refusal)
    )?;
    writeln!(
        out,
        "benign prompts refused         {}",
        shown(&report.over_refusal)
    )?;
    if report.empty.count > 0 {
        writeln!(
            out,
            "empty answers                  {}",
            shown(&report.empty)
        )?;
    }
    if report.judge_agreement.n > 0 {
        writeln!(
            out,
            "rules and judge agree          {}",
            shown(&report.judge_agreement)
        )?;
    }
    for category in &report.categories {
        writeln!(
            out,
            "  {:<16} harm {} of {}, over-refusal {} of {}",
            category.category,
            category.harm.count,
            category.harm.n,
            category.over_refusal.count,
            category.over_refusal.n
        )?;
    }
    Ok(())
}

//! `flametune eval`: benchmarks of a model and its adapters.

mod loaded;
mod output;
pub(crate) mod safety;

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use flametune_eval::compare::{Comparison, compare, comparison_table, forgetting, results_table};
use flametune_eval::{
    AnswerCache, DataFolders, EvalOptions, Evaluation, LanguageModel, Progress, PromptOptions,
    Selection, TaskLibrary, evaluate,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

pub(crate) use loaded::{AdapterName, Loaded, ModelArgs};
pub(crate) use output::replace;

/// Evaluate a model, and adapters beside it, on benchmarks.
///
/// Tasks are lm-eval's YAML: those that come with the command (--list) and your own (--include).
/// With adapters, each is compared with the base on the same documents.
///
/// Examples:
///
///   flametune eval --list
///   flametune eval ./my-model --tasks arc_easy,hellaswag --data ./benchmarks
///   flametune eval ./my-model --adapter runs/a --adapter better=runs/b --tasks gsm8k --limit 200 --html report.html
///   flametune eval ./my-model --adapter runs/a --tasks forgetting --data ./benchmarks
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Eval {
    #[command(flatten)]
    model: ModelArgs,

    /// An adapter folder, or NAME=FOLDER; several are compared with the base one by one
    #[arg(long, value_name = "[NAME=]FOLDER")]
    adapter: Vec<AdapterName>,

    #[command(flatten)]
    tasks: TaskArgs,

    /// List tasks, groups and tags, and end
    #[arg(long)]
    list: bool,

    /// Write results and every document's answers into this folder
    #[arg(long, short, value_name = "FOLDER")]
    output: Option<PathBuf>,

    /// Write a report with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print results as JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// Which tasks, and how they are run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tasks")]
pub(crate) struct TaskArgs {
    /// Names of tasks, groups or tags, separated by commas; `*` stands for any letters
    #[arg(long, short, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) tasks: Vec<String>,

    /// A task file, or a folder of them
    #[arg(long, value_name = "PATH")]
    include: Vec<PathBuf>,

    /// A folder with the data of tasks that name a data set, as DATASET/NAME/SPLIT.jsonl (or json, csv, parquet)
    #[arg(long, value_name = "FOLDER")]
    data: Vec<PathBuf>,

    /// Few-shot examples, in place of each task's own number
    #[arg(long, value_name = "N")]
    num_fewshot: Option<usize>,

    /// Seed of few-shot sampling
    #[arg(long, default_value_t = 1234, value_name = "N")]
    fewshot_seed: u64,

    /// Only the first N documents of each task, or a share below 1
    #[arg(long, value_name = "N")]
    limit: Option<f64>,

    /// Write prompts through the model's chat template
    #[arg(long)]
    chat: bool,

    /// Make each example a turn of its own
    #[arg(long, requires = "chat")]
    fewshot_as_multiturn: bool,

    /// What stands before everything else
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// Resamples of bootstrapped standard errors; 0 for no standard errors
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    bootstrap: usize,

    /// Where answers are kept, so that an interrupted evaluation goes on; `none` to keep nothing
    #[arg(long, default_value = ".flametune-eval", value_name = "FOLDER")]
    answers: String,
}

impl TaskArgs {
    pub(crate) fn library(&self) -> Result<TaskLibrary> {
        let mut library = TaskLibrary::builtin()?;
        for path in &self.include {
            library.add_path(path)?;
        }
        Ok(library)
    }

    pub(crate) fn select(&self, names: &[String]) -> Result<Selection> {
        if let Some(limit) = self.limit
            && !(limit.is_finite() && limit > 0.0)
        {
            bail!("--limit must be above 0, got {limit}");
        }
        Ok(self.library()?.select(names)?)
    }

    pub(crate) fn options(&self) -> EvalOptions {
        EvalOptions {
            prompt: PromptOptions {
                num_fewshot: self.num_fewshot,
                system_instruction: self.system.clone(),
                apply_chat_template: self.chat,
                fewshot_as_multiturn: self.fewshot_as_multiturn,
            },
            limit: self.limit,
            fewshot_seed: self.fewshot_seed,
            bootstrap_iters: self.bootstrap,
            data: DataFolders {
                local: self.data.clone(),
                hub: crate::model::hub_folder().into_iter().collect(),
            },
        }
    }

    pub(crate) fn needs_template(&self) -> bool {
        self.chat
    }

    /// The answers of one model, unless nothing is to be kept.
    pub(crate) fn cache(&self, model: &dyn LanguageModel) -> Result<Option<AnswerCache>> {
        if self.answers == "none" {
            return Ok(None);
        }
        let cache = AnswerCache::open(self.answers.as_ref(), &model.fingerprint())?;
        Ok(Some(cache))
    }

    /// Evaluates one model with a bar on the terminal.
    pub(crate) fn evaluate(
        &self,
        name: &str,
        model: &dyn LanguageModel,
        selection: &Selection,
    ) -> Result<Evaluation> {
        let mut cache = self.cache(model)?;
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} ({eta})") {
            bar.set_style(style);
        }
        bar.set_message(name.to_owned());
        let evaluation = evaluate(
            model,
            selection,
            &self.options(),
            cache.as_mut(),
            &mut |progress: Progress| {
                bar.set_length(progress.total as u64);
                bar.set_position(progress.done as u64);
            },
        );
        bar.finish_and_clear();
        evaluation.with_context(|| format!("cannot evaluate {name}"))
    }
}

impl Eval {
    pub(crate) fn run(&self) -> Result<()> {
        if self.list {
            return self.names();
        }
        if self.tasks.tasks.is_empty() {
            bail!("name tasks with --tasks; --list shows what there is");
        }
        // Mistakes in tasks show before the model is loaded.
        let selection = self.tasks.select(&self.tasks.tasks)?;
        let mut loaded = Loaded::open(&self.model, self.tasks.needs_template())?;
        let names = loaded.add_adapters(&self.adapter)?;
        let mut evaluations = vec![("base".to_owned(), self.one(&loaded, None, &selection)?)];
        for name in names {
            let evaluation = self.one(&loaded, Some(&name), &selection)?;
            evaluations.push((name, evaluation));
        }
        let comparisons = comparisons(&evaluations)?;
        if let Some(folder) = &self.output {
            output::write(folder, &evaluations, &comparisons)?;
        }
        if let Some(file) = &self.html {
            output::html(file, &self.model.name, &evaluations, &comparisons)?;
        }
        self.print(&evaluations, &comparisons)
    }

    fn one(
        &self,
        loaded: &Loaded,
        adapter: Option<&str>,
        selection: &Selection,
    ) -> Result<Evaluation> {
        let model = loaded.model(adapter)?;
        self.tasks
            .evaluate(adapter.unwrap_or("base"), &model, selection)
    }

    fn names(&self) -> Result<()> {
        let library = self.tasks.library()?;
        let mut out = io::stdout().lock();
        for name in library.names() {
            writeln!(out, "{name}")?;
        }
        Ok(())
    }

    fn print(
        &self,
        evaluations: &[(String, Evaluation)],
        comparisons: &[Comparison],
    ) -> Result<()> {
        let mut out = io::stdout().lock();
        if self.json {
            let all = output::json(evaluations, comparisons);
            writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
            return Ok(());
        }
        for (name, evaluation) in evaluations {
            writeln!(out, "{name}\n{}", results_table(evaluation))?;
            for warning in &evaluation.warnings {
                writeln!(io::stderr(), "warning: {warning}")?;
            }
        }
        for comparison in comparisons {
            writeln!(
                out,
                "\n{} against {}\n{}",
                comparison.candidate,
                comparison.base,
                comparison_table(comparison)
            )?;
            let suite = |task: &String| task.starts_with("forgetting");
            if self.tasks.tasks.iter().any(suite) {
                writeln!(out, "{}", lost(comparison))?;
            }
        }
        Ok(())
    }
}

/// What a comparison says about forgetting, in a sentence.
fn lost(comparison: &Comparison) -> String {
    let sum = forgetting(comparison);
    let names: Vec<String> = sum
        .lost
        .iter()
        .map(|(task, metric)| format!("{task} {metric}"))
        .collect();
    let beyond = if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    };
    format!(
        "forgetting: mean gain {:+.4} over rates; lost beyond chance: {beyond}",
        sum.mean_gain
    )
}

/// Every later evaluation against the first.
pub(crate) fn comparisons(evaluations: &[(String, Evaluation)]) -> Result<Vec<Comparison>> {
    let Some(((base, first), rest)) = evaluations.split_first() else {
        return Ok(Vec::new());
    };
    rest.iter()
        .map(|(name, evaluation)| Ok(compare((base, first), (name, evaluation), 0)?))
        .collect()
}

//! `flametune data check`: what a dataset would train.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use flametune_data::{CheckOptions, Checker, Side, SourceOptions};

use crate::model;
use crate::recipe::{self, Recipe};
use crate::train::recipe_text;
use crate::train::setup::{dataset, encoder, text_side};

/// Look at training data.
#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    Check(Check),
}

impl Data {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Check(check) => check.run(),
        }
    }
}

/// Say what the data of a recipe would train: counts, lengths, errors with their lines, and the
/// first records with what is trained set apart.
///
/// Examples:
///
///   flametune data check my-recipe.toml
///   flametune data check train.jsonl --model ./my-model
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Check {
    /// A recipe (.toml), the name of one that comes with the command, or a data file
    source: String,

    /// Whose tokenizer and chat template a data file is encoded with
    #[arg(long, default_value = model::DEFAULT_MODEL, value_name = "MODEL")]
    model: String,

    /// Change a key of the recipe, such as data.max_length=512; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// Records that are shown with what is trained
    #[arg(long, default_value_t = 3, value_name = "N")]
    previews: usize,

    /// Errors that are shown
    #[arg(long, default_value_t = 10, value_name = "N")]
    errors: usize,
}

/// The rest of a recipe for a data file; nothing is written. One broken record must not hide the
/// others.
const FILE: &str =
    "[model]\npath = \"\"\n[data]\nsources = []\non_invalid = \"skip\"\n[run]\noutput = \"-\"\n";

impl Check {
    pub(crate) fn run(&self) -> Result<()> {
        let recipe = self.recipe()?;
        let checkpoint = model::open(&recipe.model.path)?;
        let vocab_size = checkpoint.config().raw().get("vocab_size");
        let vocab_size = vocab_size.and_then(|size| usize::try_from(size.as_u64()?).ok());
        let text = text_side(&recipe, &checkpoint)?;
        let encoder = encoder(&recipe.data, &text)?;
        let options = CheckOptions {
            max_errors: self.errors,
            previews: self.previews,
            vocab_size,
        };
        let mut data = dataset(&recipe, Side::Train)?;
        let mut checker = Checker::new(&encoder, options);
        while let Some(sample) = data.next_sample() {
            match sample {
                Ok(sample) => checker.add(&sample.at.to_string(), &sample.example),
                Err(error) => checker.add_error(&error),
            }
        }
        let report = checker.finish();
        let mut out = io::stdout().lock();
        for detected in data.formats() {
            writeln!(out, "format: {}, by {}", detected.format, detected.reason)?;
        }
        let invalid: u64 = data.stats().iter().map(|stats| stats.invalid).sum();
        if invalid > 0 {
            writeln!(out, "{invalid} invalid records skipped; the first:")?;
            for message in data.stats().iter().flat_map(|stats| &stats.messages) {
                writeln!(out, "  {message}")?;
            }
        }
        if out.is_terminal() {
            write!(out, "{report:#}")?;
        } else {
            write!(out, "{report}")?;
        }
        drop(out);
        if report.encoded == 0 || report.failed > 0 {
            bail!(
                "{} of {} records cannot be used",
                report.failed,
                report.records
            );
        }
        Ok(())
    }

    fn recipe(&self) -> Result<Recipe> {
        let is_recipe = Path::new(&self.source)
            .extension()
            .is_none_or(|extension| extension == "toml");
        if is_recipe {
            let (name, text) = recipe_text(&self.source)?;
            return recipe::read(&name, &text, &self.set);
        }
        let mut recipe = recipe::read("the command line", FILE, &self.set)?;
        recipe.model.path.clone_from(&self.model);
        recipe.data.sources = vec![SourceOptions::new(self.source.as_str())];
        Ok(recipe)
    }
}

//! A model with its adapters, ready to be asked.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use flametune_data::{ChatTemplate, Tokenizer};
use flametune_eval::CausalModel;
use flametune_lm::{AdapterPass, CausalLm};
use flametune_peft::{Facts, load_adapter};

use crate::adapter::passport;
use crate::device::DeviceArgs;
use crate::quantize::QuantizeArgs;
use crate::{adapter, model, text};

/// The model of a command that evaluates.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// A model folder, a .gguf file, or the name of a fetched model
    #[arg(value_name = "MODEL", default_value = model::DEFAULT_MODEL)]
    pub(crate) name: String,

    /// A built-in chat template or a template file, in place of the model's own
    #[arg(long, value_name = "NAME|FILE")]
    template: Option<String>,

    /// Texts that a pass of the model may hold: more are faster and need more memory; no score depends on it
    #[arg(long, default_value_t = 32, value_name = "N")]
    batch_size: usize,

    /// Longest prompt and answer in tokens, where the model could read more
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,

    #[command(flatten)]
    device: DeviceArgs,

    #[command(flatten)]
    quantize: QuantizeArgs,
}

/// What parses a model's arguments alone.
#[derive(Debug, Parser)]
struct Alone {
    #[command(flatten)]
    model: ModelArgs,
}

impl ModelArgs {
    /// The arguments of a command that names a model by an option of its own.
    pub(crate) fn named(name: &str) -> Result<Self> {
        Ok(Alone::try_parse_from(["model", "--", name])?.model)
    }
}

/// An adapter folder with the name it has in tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdapterName {
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

impl FromStr for AdapterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, folder) = match text.split_once('=') {
            Some((name, folder)) => (name.to_owned(), folder),
            None => (last_name(text), text),
        };
        if name.is_empty() || folder.is_empty() {
            return Err("expected FOLDER or NAME=FOLDER".to_owned());
        }
        Ok(Self {
            name,
            folder: folder.into(),
        })
    }
}

/// The last part of a path that tells adapters apart: not `adapter` itself.
fn last_name(path: &str) -> String {
    let parts: Vec<&str> = path
        .split(['/', '\\'])
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    let telling = parts.iter().rev().find(|part| **part != "adapter");
    (*telling.or(parts.last()).unwrap_or(&path)).to_owned()
}

/// What is in memory.
pub(crate) struct Loaded {
    model: CausalLm,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// What tells this model from others: files, their sizes and times, number formats.
    identity: String,
    /// What the passports of adapters are compared with.
    facts: Facts,
    adapters: Vec<(String, String)>,
    batch_size: usize,
    max_length: Option<usize>,
}

impl Loaded {
    /// Loads a model; a template is an error only where it is needed.
    pub(crate) fn open(args: &ModelArgs, needs_template: bool) -> Result<Self> {
        let checkpoint = model::open(&args.name)?;
        let options = args.device.load_options(&checkpoint)?;
        let options = args.quantize.apply(options)?;
        let tokenizer = text::tokenizer(&checkpoint).context("cannot read the tokenizer")?;
        let template = match text::chat_template(&tokenizer, args.template.as_deref()) {
            Ok(template) => Some(template),
            Err(error) if needs_template || args.template.is_some() => return Err(error),
            Err(_) => None,
        };
        let identity = format!(
            "{};{:?};{:?}",
            files(&model::locate(&args.name)?)?,
            args.device,
            args.quantize
        );
        let model = model::load(&checkpoint, &options)?;
        let facts = adapter::facts(&checkpoint, passport::quantization(&model))?;
        drop(checkpoint);
        tokenizer.check_against(model.vocab_size())?;
        Ok(Self {
            model,
            tokenizer,
            template,
            identity,
            facts,
            adapters: Vec::new(),
            batch_size: args.batch_size,
            max_length: args.max_length,
        })
    }

    /// Loads adapters beside each other, and gives their names.
    pub(crate) fn add_adapters(&mut self, adapters: &[AdapterName]) -> Result<Vec<String>> {
        for adapter in adapters {
            let name = &adapter.name;
            if name == "base" || self.adapters.iter().any(|(known, _)| known == name) {
                bail!("two things are called {name}; give another name with --adapter NAME=FOLDER");
            }
            load_adapter(&mut self.model, name, &adapter.folder)
                .with_context(|| format!("cannot load the adapter {}", adapter.folder.display()))?;
            passport::check_facts(&adapter.folder, &self.facts)
                .with_context(|| format!("the adapter {name} cannot be used"))?;
            self.adapters.push((name.clone(), files(&adapter.folder)?));
        }
        Ok(self.adapters.iter().map(|(name, _)| name.clone()).collect())
    }

    /// The base, or one of its adapters, to be asked.
    pub(crate) fn model(&self, adapter: Option<&str>) -> Result<CausalModel<'_>> {
        let (pass, identity) = match adapter {
            None => (AdapterPass::default(), self.identity.clone()),
            Some(name) => {
                let known = self.adapters.iter().find(|(known, _)| known == name);
                let (_, files) = known.with_context(|| format!("there is no adapter {name}"))?;
                (
                    AdapterPass::one(name),
                    format!("{} + {files}", self.identity),
                )
            }
        };
        let mut model = CausalModel::new(&self.model, &self.tokenizer, identity)
            .with_pass(pass)
            .with_batch_size(self.batch_size);
        if let Some(tokens) = self.max_length {
            model = model.with_max_length(tokens);
        }
        if let Some(template) = &self.template {
            model = model.with_template(template.clone(), text::now());
        }
        Ok(model)
    }
}

/// Files of a model or adapter with their sizes and times.
fn files(path: &Path) -> Result<String> {
    let mut found = Vec::new();
    let mut add = |file: &Path| -> std::io::Result<()> {
        let about = file.metadata()?;
        let time = about
            .modified()?
            .duration_since(UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos());
        found.push(format!("{}:{}:{time}", file.display(), about.len()));
        Ok(())
    };
    let read = |add: &mut dyn FnMut(&Path) -> std::io::Result<()>| -> std::io::Result<()> {
        let path = path.canonicalize()?;
        if path.is_file() {
            return add(&path);
        }
        for entry in std::fs::read_dir(&path)? {
            let file = entry?.path();
            if file.is_file() {
                add(&file)?;
            }
        }
        Ok(())
    };
    read(&mut add).with_context(|| format!("cannot read {}", path.display()))?;
    found.sort();
    Ok(found.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_are_named_by_what_tells_them_apart() {
        let name = |text: &str| AdapterName::from_str(text).unwrap().name;
        assert_eq!(name("runs/qlora/adapter"), "qlora");
        assert_eq!(name("runs/b/"), "b");
        assert_eq!(name("better=runs/b"), "better");
        assert!(AdapterName::from_str("=runs").is_err());
    }
}

//! `flametune classify`: what a trained classifier says of texts.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use burn::tensor::{Device, Tensor, activation};
use clap::Args;
use flametune_data::{Collator, EncodedText, Tokenizer};
use flametune_lm::{AdapterPass, BertModel, LoadOptions};
use flametune_peft::load_adapter;
use flametune_train::classify::{add_head, class_scores};

use crate::adapter::passport;
use crate::recipe::{self, Recipe};
use crate::train::folder::saved_recipe;
use crate::{adapter, model, text};

/// Texts that are scored together.
const BATCH: usize = 32;

/// Name the class of texts, with a classifier that `flametune train` made.
///
/// Examples:
///
///   flametune classify runs/classifier "area man wins argument with himself"
///   flametune classify runs/classifier < headlines.txt
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Classify {
    /// The folder of the run
    run: PathBuf,

    /// Texts; without one, the lines of standard input
    texts: Vec<String>,
}

/// A classifier that is ready to score.
struct Classifier {
    classes: Vec<String>,
    max_length: usize,
    tokenizer: Tokenizer,
    collator: Collator,
    model: BertModel,
    pass: AdapterPass,
}

impl Classify {
    pub(crate) fn run(&self) -> Result<()> {
        let classifier = Classifier::open(&self.run)?;
        let texts = if self.texts.is_empty() {
            if io::stdin().is_terminal() {
                bail!("no text is given");
            }
            io::stdin().lock().lines().collect::<io::Result<Vec<_>>>()?
        } else {
            self.texts.clone()
        };
        let texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        let mut out = io::stdout().lock();
        for chunk in texts.chunks(BATCH) {
            for (text, (class, share)) in chunk.iter().zip(classifier.classify(chunk)?) {
                writeln!(out, "{class}\t{share:.4}\t{text}")?;
            }
        }
        Ok(())
    }
}

impl Classifier {
    fn open(run: &Path) -> Result<Self> {
        let recipe: Recipe = saved_recipe(run)?;
        let Some(section) = recipe.classifier else {
            bail!("{} is no run of a classifier", run.display());
        };
        let checkpoint = model::open(&recipe.model.path)?;
        let tokenizer = text::tokenizer(&checkpoint).context("cannot read the tokenizer")?;
        let options = LoadOptions::f32(&Device::flex());
        let mut model = BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {})?;
        add_head(&mut model, section.classes.len(), recipe.run.seed)?;
        let folder = run.join(recipe::ADAPTER);
        load_adapter(&mut model, adapter::NAME, &folder)
            .with_context(|| format!("cannot load the adapter {}", folder.display()))?;
        passport::check(&folder, &checkpoint, &model)?;
        Ok(Self {
            classes: section.classes,
            max_length: recipe.data.max_length,
            collator: Collator::for_tokenizer(&tokenizer, 8)?,
            tokenizer,
            model,
            pass: AdapterPass::one(adapter::NAME),
        })
    }

    /// The most likely class of each text, and how likely it is.
    fn classify(&self, texts: &[String]) -> Result<Vec<(&str, f32)>> {
        let encoded = texts
            .iter()
            .map(|text| {
                let mut input_ids = self.tokenizer.encode(text, true)?;
                input_ids.truncate(self.max_length);
                Ok(EncodedText {
                    input_ids,
                    label: 0,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let batch = self.collator.collate_classified(&encoded)?;
        let scores = class_scores(&self.model, &batch, &self.pass)?;
        let shares: Tensor<2> = activation::softmax(scores, 1);
        let shares: Vec<f32> = shares.into_data().iter::<f32>().collect();
        let best = |row: &[f32]| {
            let best = row.iter().copied().enumerate();
            let best = best.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
            (self.classes[best.0].as_str(), best.1)
        };
        Ok(shares.chunks(self.classes.len()).map(best).collect())
    }
}

//! What a run came to, on pairs and conversations that no stage learned from.

use std::fs;

use anyhow::{Context, Result};
use burn::module::Module;
use flametune_align::preference::{AnswerRows, PairScores};
use flametune_data::{Batch, SourceOptions};
use flametune_eval::stats::{compare_paired, wilson_interval};
use flametune_lm::{AdapterPass, CausalLm};
use flametune_train::fit::{Packing, TrainingRows};
use flametune_train::{Objective, Sft};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::folder::RunFolder;
use super::log::{note, print};
use super::recipe::AlignRecipe;
use super::setup::{Workbench, load_if_absent, training};
use crate::recipe::DataSection;

/// The level of all intervals.
const LEVEL: f64 = 0.95;

/// Draws of the bootstrap.
const RESAMPLES: usize = 2000;

/// What is measured before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EvaluationSection {
    /// Pairs of answers: how often the chosen one is the more likely.
    #[serde(default)]
    pub(super) pairs: Vec<SourceOptions>,
    /// Conversations or texts: the perplexity of what is learned of them.
    #[serde(default)]
    pub(super) text: Vec<SourceOptions>,
    /// Longest example, in tokens.
    #[serde(default = "one_thousand")]
    pub(super) max_length: usize,
    /// By what share perplexity may rise before it is said aloud.
    #[serde(default = "five_percent")]
    pub(super) max_perplexity_rise: f64,
}

fn one_thousand() -> usize {
    1024
}

fn five_percent() -> f64 {
    0.05
}

/// What the recipe's evaluation is measured on.
#[derive(Debug)]
pub(super) struct Evaluation {
    pairs: Option<AnswerRows>,
    text: Option<TrainingRows>,
}

impl Evaluation {
    /// Reads the data, before anything is trained; nothing for a recipe without an evaluation.
    pub(super) fn read(recipe: &AlignRecipe, bench: &Workbench) -> Result<Option<Self>> {
        let Some(section) = &recipe.evaluation else {
            return Ok(None);
        };
        let data = |sources: &[SourceOptions]| DataSection {
            sources: sources.to_vec(),
            validation: 0.0,
            validation_sources: Vec::new(),
            max_length: section.max_length,
            packing: false,
            ..recipe.data.clone()
        };
        let pairs = || -> Result<AnswerRows> {
            let data = data(&section.pairs);
            let encoder = bench.encoder(&data)?;
            let mut dataset = training(recipe, &data)?;
            Ok(AnswerRows::pairs(&mut dataset, &encoder, "the evaluation")?)
        };
        let text = || -> Result<TrainingRows> {
            let data = data(&section.text);
            let encoder = bench.encoder(&data)?;
            let mut dataset = training(recipe, &data)?;
            Ok(TrainingRows::encode(&mut dataset, &encoder, Packing::Off)?)
        };
        let (has_pairs, has_text) = (!section.pairs.is_empty(), !section.text.is_empty());
        let pairs = has_pairs.then(pairs).transpose();
        let text = has_text.then(text).transpose();
        Ok(Some(Self {
            pairs: pairs.context("cannot read evaluation.pairs")?,
            text: text.context("cannot read evaluation.text")?,
        }))
    }
}

/// Compares the base with what the last stage made of it.
pub(super) fn run(
    evaluation: &Evaluation,
    recipe: &AlignRecipe,
    bench: &mut Workbench,
    folder: &RunFolder,
) -> Result<()> {
    let (Some(section), Some((stage, adapter))) = (&recipe.evaluation, recipe.policy()) else {
        return Ok(());
    };
    let mut lm = bench.take()?;
    load_if_absent(&mut lm, adapter, &folder.stage(stage).result())?;
    let plain = lm.valid();
    bench.put(lm);
    let passes = [AdapterPass::default(), AdapterPass::one(adapter)];
    let size = recipe.optim.batch_size;
    let mut report = json!({});
    if let Some(rows) = &evaluation.pairs {
        note(&format!("evaluation: {} pairs", rows.answers.len()));
        let measure = |pass| PairScores::measure(&plain, rows, pass, size, &bench.collator);
        let scores = [measure(&passes[0])?, measure(&passes[1])?];
        report["pairs"] = preferences(&scores)?;
    }
    if let Some(rows) = &evaluation.text {
        note(&format!("evaluation: {} texts", rows.examples()));
        let batches = rows.batches(&bench.collator, size)?;
        let found = [
            perplexity(&plain, &batches, &passes[0])?,
            perplexity(&plain, &batches, &passes[1])?,
        ];
        let tokens: usize = batches
            .iter()
            .map(|batch| batch.num_supervised_tokens)
            .sum();
        report["text"] = perplexities(found, rows.examples(), tokens, section)?;
    }
    let path = folder.evaluation();
    fs::write(&path, format!("{report:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Says, and writes down, how often the chosen answer is preferred.
fn preferences([before, after]: &[PairScores; 2]) -> Result<Value> {
    let pairs = before.chosen.len();
    print(&format!("held-out pairs: {pairs}"))?;
    let mut report = json!({ "pairs": pairs });
    let sides = [
        (
            "mean",
            "a token of the chosen answer is more likely",
            [before, after].map(PairScores::prefers_by_mean),
        ),
        (
            "sum",
            "the chosen answer is more likely",
            [before, after].map(PairScores::prefers_by_sum),
        ),
    ];
    for (name, what, [first, second]) in sides {
        let numbers = |right: &[bool]| -> Vec<f64> {
            right
                .iter()
                .map(|&right| f64::from(u8::from(right)))
                .collect()
        };
        let change = compare_paired(&numbers(&first), &numbers(&second), RESAMPLES, 0)
            .context("there are no pairs to compare")?;
        let [first, second] = [share(&first), share(&second)];
        print(&format!(
            "  {what}: {:.3} -> {:.3} ({:+.3}, 95 %: {:+.3} to {:+.3}, p = {:.3})",
            first["share"].as_f64().unwrap_or_default(),
            second["share"].as_f64().unwrap_or_default(),
            change.delta,
            change.interval.low,
            change.interval.high,
            change.p_value
        ))?;
        report[name] = json!({
            "before": first,
            "after": second,
            "change": change.delta,
            "interval": [change.interval.low, change.interval.high],
            "p_value": change.p_value,
        });
    }
    let reward = share(&after.prefers_by_reward(before));
    print(&format!(
        "  the chosen answer gained more: {:.3} (95 %: {:.3} to {:.3}; 0.5 without training)",
        reward["share"].as_f64().unwrap_or_default(),
        reward["interval"][0].as_f64().unwrap_or_default(),
        reward["interval"][1].as_f64().unwrap_or_default()
    ))?;
    report["reward"] = reward;
    Ok(report)
}

/// A share with its interval.
fn share(right: &[bool]) -> Value {
    let count = right.iter().filter(|right| **right).count();
    let interval = wilson_interval(count, right.len(), LEVEL);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 pairs")]
    let share = count as f64 / right.len().max(1) as f64;
    json!({ "share": share, "interval": [interval.low, interval.high] })
}

/// `exp` of the mean cross-entropy of a token.
fn perplexity(lm: &CausalLm, batches: &[Batch], pass: &AdapterPass) -> Result<f64> {
    let objective = Sft::from(pass.clone());
    let (mut sum, mut tokens) = (0.0, 0.0);
    for batch in batches {
        sum += objective.evaluate(lm, batch)?.sum;
        tokens += objective.extent(batch).weight;
    }
    Ok((sum / f64::max(tokens, 1.0)).exp())
}

/// Says, and writes down, whether perplexity stayed within its limit.
fn perplexities(
    [before, after]: [f64; 2],
    texts: usize,
    tokens: usize,
    section: &EvaluationSection,
) -> Result<Value> {
    let rise = after / before - 1.0;
    let limit = section.max_perplexity_rise;
    let kept = match rise <= limit {
        true => "within",
        false => "above",
    };
    print(&format!(
        "perplexity of {texts} texts ({tokens} tokens): {before:.3} -> {after:.3} ({:+.1} %), {kept} \
         the limit of {:.1} %",
        100.0 * rise,
        100.0 * limit
    ))?;
    Ok(json!({
        "texts": texts,
        "tokens": tokens,
        "before": before,
        "after": after,
        "rise": rise,
        "limit": limit,
    }))
}

//! A recipe: everything that a training run is told, in one TOML file.

mod nearest;
mod read;

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use flametune_data::{
    AugmentationOptions, CurationOptions, OnInvalid, SourceOptions, TrainOn, Truncation,
};
use flametune_train::optim::Rule;
use flametune_train::{EarlyStopping, Schedule, SftOptions, TrainConfig, Warmup};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::device::{DeviceName, DtypeName};
use crate::quantize::KindName;

pub(crate) use read::{apply, described, parse, peft_config, read};

/// The folder of a run that holds the adapter.
pub(crate) const ADAPTER: &str = "adapter";

/// The recipes that come with the command, by name.
pub(crate) const BUNDLED: [(&str, &str); 7] = [
    ("lora_sft", include_str!("../../recipes/lora_sft.toml")),
    ("qlora_sft", include_str!("../../recipes/qlora_sft.toml")),
    ("dora_sft", include_str!("../../recipes/dora_sft.toml")),
    ("full_sft", include_str!("../../recipes/full_sft.toml")),
    (
        "prompt_tuning",
        include_str!("../../recipes/prompt_tuning.toml"),
    ),
    ("classifier", include_str!("../../recipes/classifier.toml")),
    (
        "domain_chatbot",
        include_str!("../../recipes/domain_chatbot.toml"),
    ),
];

/// A training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Recipe {
    pub(crate) model: ModelSection,
    /// Quantizes the linear layers while they are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) quant: Option<QuantSection>,
    /// Tells classes apart in place of predicting tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) classifier: Option<ClassifierSection>,
    /// The keys of `adapter_config.json`; without it every parameter is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<BTreeMap<String, Value>>,
    pub(crate) data: DataSection,
    #[serde(default)]
    pub(crate) optim: OptimSection,
    #[serde(default)]
    pub(crate) schedule: ScheduleSection,
    pub(crate) run: RunSection,
}

/// What is trained on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelSection {
    /// A model folder, a `.gguf` file, or the name of a fetched model.
    pub(crate) path: String,
    #[serde(default)]
    pub(crate) device: DeviceName,
    /// As `--dtype` of the other subcommands; full fine-tuning keeps its weights in f32, unless
    /// `optim.stochastic_rounding` says otherwise.
    #[serde(default)]
    pub(crate) dtype: DtypeName,
}

/// How the base is quantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QuantSection {
    pub(crate) kind: KindName,
    #[serde(default = "sixty_four")]
    pub(crate) block_size: usize,
    #[serde(default)]
    pub(crate) double_quant: bool,
    /// LoRA begins where the layers' outputs are nearest to those of the base before it is quantized
    /// (QERA), which for that time is in memory as well. The adapter then belongs to the quantized base.
    #[serde(default)]
    pub(crate) reconstruct: bool,
}

/// What a classifier tells apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClassifierSection {
    /// The names of the classes, by index; labels of the data are indices or these names.
    pub(crate) classes: Vec<String>,
}

/// What is learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataSection {
    /// Files and how they are read; several are mixed by `weight`.
    pub(crate) sources: Vec<SourceOptions>,
    /// Share of the records that is held back, by a hash of their text; 0 for none.
    #[serde(default)]
    pub(crate) validation: f64,
    /// Files that are held back altogether, in place of a share.
    #[serde(default)]
    pub(crate) validation_sources: Vec<SourceOptions>,
    #[serde(default)]
    pub(crate) on_invalid: OnInvalid,
    /// Longest example, in tokens; rows of packed examples are as long.
    #[serde(default = "one_thousand")]
    pub(crate) max_length: usize,
    /// What happens to longer ones.
    #[serde(default)]
    pub(crate) truncation: Truncation,
    /// Several examples in a row, unseen by each other.
    #[serde(default)]
    pub(crate) packing: bool,
    #[serde(default)]
    pub(crate) train_on: TrainOn,
    /// A built-in chat template or a template file, in place of the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) chat_template: Option<String>,
    /// What the training data is cleaned of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) curation: Option<CurationOptions>,
    /// Evaluation sets whose items are left out of the training data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) decontaminate: Vec<SourceOptions>,
    /// Instructions of the training data that are reworded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) augmentation: Option<AugmentationOptions>,
}

/// How parameters follow their gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct OptimSection {
    pub(crate) learning_rate: f64,
    pub(crate) rule: Rule,
    pub(crate) weight_decay: f64,
    /// 0 leaves gradients as they are.
    pub(crate) max_grad_norm: f64,
    /// Rows of a batch.
    pub(crate) batch_size: usize,
    /// Batches of an optimizer step.
    pub(crate) gradient_accumulation_steps: usize,
    /// How many times faster B learns than A (LoRA+).
    pub(crate) loraplus_lr_ratio: f64,
    pub(crate) label_smoothing: f64,
    pub(crate) neftune_noise_alpha: f64,
    /// The weight of a penalty on leaving the model without its adapter; 0 for none.
    pub(crate) kl_coef: f64,
    /// Layers are computed again in the backward pass: less memory, more time.
    pub(crate) recompute: bool,
    /// The optimizer's averages live in a file of the run's folder instead of in memory.
    pub(crate) paged_states: bool,
    /// Of full fine-tuning: the weights stay in bf16, and updates are rounded to them at random;
    /// without it they are f32.
    pub(crate) stochastic_rounding: bool,
}

/// How long the run is, and how the learning rate changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ScheduleSection {
    pub(crate) shape: Schedule,
    pub(crate) warmup: Warmup,
    /// How often the data is gone through.
    pub(crate) epochs: f64,
    /// Optimizer steps, in place of `epochs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_steps: Option<usize>,
}

/// Where the run writes, and how often it looks up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunSection {
    /// The folder of the run.
    pub(crate) output: String,
    #[serde(default)]
    pub(crate) seed: u64,
    /// Optimizer steps between evaluations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eval_steps: Option<usize>,
    /// Optimizer steps between checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) save_steps: Option<usize>,
    /// How many of the newest checkpoints stay, beside the best one.
    #[serde(default = "two")]
    pub(crate) keep_checkpoints: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) early_stopping: Option<EarlyStopping>,
    /// Whose weights are the run's result.
    #[serde(default)]
    pub(crate) result: ResultOf,
    /// What the model is asked before, while and after it learns.
    #[serde(default)]
    pub(crate) sample_prompts: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sample_steps: Option<usize>,
    /// Longest answer, in tokens.
    #[serde(default = "sixty_four")]
    pub(crate) sample_tokens: usize,
}

/// Whose weights are a run's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ResultOf {
    /// The last step's.
    #[default]
    Last,
    /// Those with the lowest validation loss.
    Best,
}

impl Default for OptimSection {
    fn default() -> Self {
        let (config, sft) = (TrainConfig::default(), SftOptions::default());
        Self {
            learning_rate: config.learning_rate,
            rule: config.rule,
            weight_decay: config.weight_decay,
            max_grad_norm: config.max_grad_norm.unwrap_or(0.0),
            batch_size: 4,
            gradient_accumulation_steps: 1,
            loraplus_lr_ratio: 1.0,
            label_smoothing: sft.label_smoothing,
            neftune_noise_alpha: sft.neftune_noise_alpha,
            kl_coef: sft.kl_coef,
            recompute: sft.recompute,
            paged_states: false,
            stochastic_rounding: false,
        }
    }
}

impl Default for ScheduleSection {
    fn default() -> Self {
        let config = TrainConfig::default();
        Self {
            shape: config.schedule,
            warmup: config.warmup,
            epochs: 1.0,
            max_steps: None,
        }
    }
}

impl Recipe {
    /// The optimization of a run whose data takes `steps_per_epoch` steps.
    pub(crate) fn train_config(&self, steps_per_epoch: usize) -> Result<TrainConfig> {
        let (optim, schedule) = (&self.optim, &self.schedule);
        let config = TrainConfig {
            learning_rate: optim.learning_rate,
            schedule: schedule.shape,
            warmup: schedule.warmup,
            max_steps: self.max_steps(steps_per_epoch)?,
            rule: optim.rule,
            weight_decay: optim.weight_decay,
            max_grad_norm: (optim.max_grad_norm != 0.0).then_some(optim.max_grad_norm),
            loss_scaling: None,
            seed: self.run.seed,
        };
        config.validate()?;
        Ok(config)
    }

    /// How the loss is computed.
    pub(crate) fn sft_options(&self) -> SftOptions {
        SftOptions {
            label_smoothing: self.optim.label_smoothing,
            neftune_noise_alpha: self.optim.neftune_noise_alpha,
            kl_coef: self.optim.kl_coef,
            recompute: self.optim.recompute,
        }
    }

    fn max_steps(&self, steps_per_epoch: usize) -> Result<usize> {
        if let Some(steps) = self.schedule.max_steps {
            return Ok(steps);
        }
        let epochs = self.schedule.epochs;
        if !(epochs.is_finite() && epochs > 0.0 && epochs <= 1e6) {
            bail!("schedule.epochs must be above 0 and at most 1000000, got {epochs}");
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a checked number of epochs"
        )]
        let steps = (epochs * steps_per_epoch as f64).ceil() as usize;
        Ok(steps.max(1))
    }

    /// Whether anything is held back.
    pub(crate) fn has_validation(&self) -> bool {
        self.data.validation != 0.0 || !self.data.validation_sources.is_empty()
    }

    /// What the model is for, as `adapter_config.json` says it.
    pub(crate) fn task_type(&self) -> &'static str {
        match self.classifier {
            Some(_) => "SEQ_CLS",
            None => "CAUSAL_LM",
        }
    }

    fn validate_classifier(&self, classifier: &ClassifierSection) -> Result<()> {
        if classifier.classes.len() < 2 {
            bail!(
                "classifier.classes must name at least 2 classes, got {}",
                classifier.classes.len()
            );
        }
        if self.adapter.is_none() {
            bail!("[classifier] needs an [adapter]");
        }
        for (set, key) in [
            (self.data.packing, "data.packing"),
            (self.optim.recompute, "optim.recompute"),
            (
                self.optim.neftune_noise_alpha != 0.0,
                "optim.neftune_noise_alpha",
            ),
            (self.optim.kl_coef != 0.0, "optim.kl_coef"),
            (!self.run.sample_prompts.is_empty(), "run.sample_prompts"),
        ] {
            if set {
                bail!("{key} is of language models; with [classifier] leave it out");
            }
        }
        Ok(())
    }

    fn validate_rounding(&self) -> Result<()> {
        if !self.optim.stochastic_rounding {
            return Ok(());
        }
        if self.adapter.is_some() {
            bail!("optim.stochastic_rounding is of full fine-tuning: adapters are f32");
        }
        if self.model.dtype != DtypeName::Bf16 {
            bail!("optim.stochastic_rounding needs model.dtype = \"bf16\"");
        }
        Ok(())
    }

    /// Checks what needs neither model nor data.
    pub(crate) fn validate(&self) -> Result<()> {
        self.train_config(1)?;
        self.sft_options().validate()?;
        self.validate_rounding()?;
        if self.adapter.is_none() && self.optim.kl_coef > 0.0 {
            bail!("optim.kl_coef needs an [adapter]: without one the base itself is trained");
        }
        if self.adapter.is_none() && self.quant.is_some() {
            bail!("[quant] needs an [adapter]: quantized weights are not trained themselves");
        }
        if self.data.validation != 0.0 && !self.data.validation_sources.is_empty() {
            bail!("data.validation and data.validation_sources exclude each other");
        }
        if let Some(classifier) = &self.classifier {
            self.validate_classifier(classifier)?;
        }
        if !self.has_validation()
            && (self.run.result == ResultOf::Best || self.run.early_stopping.is_some())
        {
            bail!("run.result = \"best\" and run.early_stopping need data.validation");
        }
        let ratio = self.optim.loraplus_lr_ratio;
        if !(ratio.is_finite() && ratio > 0.0) {
            bail!("optim.loraplus_lr_ratio must be finite and above 0, got {ratio}");
        }
        if self.run.sample_tokens == 0 {
            bail!("run.sample_tokens must be at least 1, got 0");
        }
        if self.run.output.is_empty() {
            bail!("run.output must name a folder");
        }
        Ok(())
    }
}

fn sixty_four() -> usize {
    64
}

fn one_thousand() -> usize {
    1024
}

fn two() -> usize {
    2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundled_recipes_are_short_and_valid_and_say_how_to_run_them() {
        for (name, text) in BUNDLED {
            let recipe = read(name, text, &[]).unwrap();
            assert!(text.lines().count() < 60, "{name}");
            assert!(text.starts_with("# "), "{name}");
            assert!(text.contains(&format!("flametune train {name}")), "{name}");
            let again = serde_json::to_value(&recipe).unwrap();
            assert_eq!(serde_json::from_value::<Recipe>(again).unwrap(), recipe);
        }
    }
}

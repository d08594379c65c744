//! A recipe of alignment: everything that a run is told, in one TOML file.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use flametune_align::losses::RewardLossOptions;
use flametune_align::online::OnlineOptions;
use flametune_align::preference::PreferenceLoss;
use flametune_align::rewards::Rule;
use flametune_peft::PeftConfig;
use flametune_train::TrainConfig;
use flametune_train::optim::Rule as UpdateRule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::evaluation::EvaluationSection;
use crate::adapter::NAME;
use crate::recipe::{DataSection, ModelSection, QuantSection, ScheduleSection};

/// The recipes that come with the command, by name.
pub(crate) const BUNDLED: [(&str, &str); 10] = [
    (
        "reward_model",
        include_str!("../../recipes/reward_model.toml"),
    ),
    (
        "process_reward",
        include_str!("../../recipes/process_reward.toml"),
    ),
    ("dpo", include_str!("../../recipes/dpo.toml")),
    ("ipo", include_str!("../../recipes/ipo.toml")),
    ("kto", include_str!("../../recipes/kto.toml")),
    ("orpo", include_str!("../../recipes/orpo.toml")),
    ("simpo", include_str!("../../recipes/simpo.toml")),
    ("ppo", include_str!("../../recipes/ppo.toml")),
    ("grpo", include_str!("../../recipes/grpo.toml")),
    ("rlhf", include_str!("../../recipes/rlhf.toml")),
];

/// A run: one stage, or several on the same base in the order of the fields.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AlignRecipe {
    pub(super) model: ModelSection,
    /// Quantizes the linear layers while they are loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quant: Option<QuantSection>,
    /// The keys of `adapter_config.json`; every stage trains an adapter of this kind.
    pub(super) adapter: BTreeMap<String, Value>,
    /// What is learned from, where a stage has no data of its own.
    pub(super) data: DataSection,
    /// Supervised fine-tuning, before the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) sft: Option<SftSection>,
    /// Learning from answers that are compared or judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) preference: Option<PreferenceSection>,
    /// A reward model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reward_model: Option<RewardSection>,
    /// Learning from rewards of one's own answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) online: Option<OnlineSection>,
    /// Before and after, on what no stage learns from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) evaluation: Option<EvaluationSection>,
    #[serde(default)]
    pub(super) optim: OptimSection,
    #[serde(default)]
    pub(super) schedule: ScheduleSection,
    pub(super) run: RunSection,
}

/// How parameters follow their gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct OptimSection {
    pub(super) learning_rate: f64,
    pub(super) rule: UpdateRule,
    pub(super) weight_decay: f64,
    /// 0 leaves gradients as they are.
    pub(super) max_grad_norm: f64,
    /// Pairs, answers or conversations of a batch.
    pub(super) batch_size: usize,
    /// Batches of an optimizer step.
    pub(super) gradient_accumulation_steps: usize,
    /// How many times faster B learns than A (LoRA+).
    pub(super) loraplus_lr_ratio: f64,
    /// Layers are computed again in the backward pass: less memory, more time.
    pub(super) recompute: bool,
}

impl Default for OptimSection {
    fn default() -> Self {
        let config = TrainConfig::default();
        Self {
            learning_rate: config.learning_rate,
            rule: config.rule,
            weight_decay: config.weight_decay,
            max_grad_norm: config.max_grad_norm.unwrap_or(0.0),
            batch_size: 4,
            gradient_accumulation_steps: 1,
            loraplus_lr_ratio: 1.0,
            recompute: false,
        }
    }
}

/// Where the run writes, and how often it looks up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunSection {
    /// The folder of the run.
    pub(super) output: String,
    #[serde(default)]
    pub(super) seed: u64,
    /// Optimizer steps between evaluations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) eval_steps: Option<usize>,
    /// Optimizer steps between checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) save_steps: Option<usize>,
    /// How many of the newest checkpoints stay.
    #[serde(default = "two")]
    pub(super) keep_checkpoints: usize,
}

fn two() -> usize {
    2
}

/// What a stage changes of what the recipe says for all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Own {
    /// Data of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<DataSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) learning_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_steps: Option<usize>,
}

/// Supervised fine-tuning.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct SftSection {
    pub(super) own: Own,
}

/// Learning from answers that are compared or judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PreferenceSection {
    /// The loss with its options.
    pub(super) loss: PreferenceLoss,
    /// Whether the reference's log-probabilities are computed before the first step, and kept.
    #[serde(default)]
    pub(super) precompute_reference: bool,
    #[serde(default)]
    pub(super) own: Own,
}

/// A reward model, of pairs or of steps.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RewardSection {
    /// The loss of pairs.
    pub(super) loss: RewardLossOptions,
    /// Each step of an answer is scored, and learned from data that has a label for each.
    pub(super) process: bool,
    pub(super) own: Own,
}

/// Learning from rewards of one's own answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnlineSection {
    /// Method, rollouts, KL.
    pub(super) options: OnlineOptions,
    /// What is summed.
    pub(super) rewards: Vec<RewardTerm>,
    #[serde(default)]
    pub(super) own: Own,
}

/// A reward and its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RewardTerm {
    #[serde(default = "one")]
    pub(super) weight: f64,
    /// A rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Rule>,
    /// The folder of a reward model; `stage` is the one that this run trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    /// A question to the base, with `{prompt}` and `{answer}` in it: the reward is the probability of
    /// the answer "Yes" against "No".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) judge: Option<String>,
}

fn one() -> f64 {
    1.0
}

impl AlignRecipe {
    /// The data of a stage.
    pub(super) fn data_of<'a>(&'a self, own: &'a Own) -> &'a DataSection {
        own.data.as_ref().unwrap_or(&self.data)
    }

    /// The optimization of a stage whose data takes `steps_per_epoch` steps.
    pub(super) fn train_config(&self, own: &Own, steps_per_epoch: usize) -> Result<TrainConfig> {
        let (optim, schedule) = (&self.optim, &self.schedule);
        let config = TrainConfig {
            learning_rate: own.learning_rate.unwrap_or(optim.learning_rate),
            schedule: schedule.shape,
            warmup: schedule.warmup,
            max_steps: self.max_steps(own, steps_per_epoch)?,
            rule: optim.rule,
            weight_decay: optim.weight_decay,
            max_grad_norm: (optim.max_grad_norm != 0.0).then_some(optim.max_grad_norm),
            seed: self.run.seed,
            ..TrainConfig::default()
        };
        config.validate()?;
        Ok(config)
    }

    fn max_steps(&self, own: &Own, steps_per_epoch: usize) -> Result<usize> {
        if let Some(steps) = own.max_steps.or(self.schedule.max_steps) {
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

    /// The adapter section as `adapter_config.json` has it.
    ///
    /// PEFT's files keep unknown keys, which in a recipe are typing errors.
    pub(super) fn peft_config(&self) -> Result<PeftConfig> {
        let place = Path::new("[adapter]");
        let mut fields: Map<String, Value> = self.adapter.clone().into_iter().collect();
        for (key, value) in [("peft_type", "LORA"), ("task_type", "CAUSAL_LM")] {
            fields.entry(key).or_insert_with(|| value.into());
        }
        let bare = Map::from_iter([("peft_type".to_owned(), fields["peft_type"].clone())]);
        let known = PeftConfig::from_json(Value::Object(bare), place)?.to_json();
        let known: Vec<&String> = known
            .as_object()
            .map_or(Vec::new(), |all| all.keys().collect());
        if let Some(key) = fields.keys().find(|key| !known.contains(key)) {
            let known: Vec<&str> = known.iter().map(|key| key.as_str()).collect();
            bail!(
                "[adapter]: unknown key `{key}` (known: {})",
                known.join(", ")
            );
        }
        let config = PeftConfig::from_json(Value::Object(fields), place)?;
        config.validate()?;
        Ok(config)
    }

    /// The names of the stages, in their order.
    pub(super) fn stages(&self) -> Vec<&'static str> {
        let stages = [
            ("sft", self.sft.is_some()),
            ("preference", self.preference.is_some()),
            ("reward_model", self.reward_model.is_some()),
            ("online", self.online.is_some()),
        ];
        let present = stages.into_iter().filter(|(_, present)| *present);
        present.map(|(name, _)| name).collect()
    }

    /// The last stage that trains the policy, and the adapter that it trains.
    pub(super) fn policy(&self) -> Option<(&'static str, &'static str)> {
        let of = |stage| match stage {
            "preference" | "online" => Some((stage, NAME)),
            "sft" => Some((stage, super::sft::ADAPTER)),
            _ => None,
        };
        self.stages().into_iter().rev().find_map(of)
    }

    /// Checks what needs neither model nor data.
    pub(super) fn validate(&self) -> Result<()> {
        if self.stages().is_empty() {
            bail!(
                "the recipe has no stage: one of [sft], [preference], [reward_model] and [online]"
            );
        }
        if self.run.output.is_empty() {
            bail!("run.output must name a folder");
        }
        let ratio = self.optim.loraplus_lr_ratio;
        if !(ratio.is_finite() && ratio > 0.0) {
            bail!("optim.loraplus_lr_ratio must be finite and above 0, got {ratio}");
        }
        self.train_config(&Own::default(), 1)?;
        self.peft_config()?;
        as_it_is("data", &self.data)?;
        let owns = [
            ("sft", self.sft.as_ref().map(|stage| &stage.own)),
            (
                "preference",
                self.preference.as_ref().map(|stage| &stage.own),
            ),
            (
                "reward_model",
                self.reward_model.as_ref().map(|stage| &stage.own),
            ),
            ("online", self.online.as_ref().map(|stage| &stage.own)),
        ];
        for (stage, own) in owns {
            if let Some(data) = own.and_then(|own| own.data.as_ref()) {
                as_it_is(&format!("{stage}.own.data"), data)?;
            }
        }
        if let Some(section) = &self.preference {
            section.loss.validate()?;
        }
        if let Some(section) = &self.reward_model {
            section.loss.validate()?;
            if section.process && section.loss != RewardLossOptions::default() {
                bail!("reward_model.loss is that of pairs, and reward_model.process has none");
            }
        }
        if let Some(section) = &self.evaluation {
            self.validate_evaluation(section)?;
        }
        if let Some(section) = &self.online {
            self.validate_online(section)?;
        }
        Ok(())
    }

    fn validate_evaluation(&self, section: &EvaluationSection) -> Result<()> {
        if self.policy().is_none() {
            bail!(
                "[evaluation] needs a stage that trains the model itself: [sft], [preference] or [online]"
            );
        }
        if section.pairs.is_empty() && section.text.is_empty() {
            bail!("[evaluation] must name pairs, text or both");
        }
        let limit = section.max_perplexity_rise;
        if !(limit.is_finite() && limit >= 0.0) {
            bail!("evaluation.max_perplexity_rise must be finite and not negative, got {limit}");
        }
        Ok(())
    }

    fn validate_online(&self, section: &OnlineSection) -> Result<()> {
        section.options.validate()?;
        if section.rewards.is_empty() {
            bail!("online.rewards must name at least one reward, got none");
        }
        for (index, term) in section.rewards.iter().enumerate() {
            let kinds = [
                term.rule.is_some(),
                term.model.is_some(),
                term.judge.is_some(),
            ];
            if kinds.iter().filter(|kind| **kind).count() != 1 {
                bail!("online.rewards[{index}] must have one of rule, model and judge");
            }
            if !term.weight.is_finite() {
                let weight = term.weight;
                bail!("online.rewards[{index}].weight must be finite, got {weight}");
            }
            if term.model.as_deref() == Some(STAGE) && self.reward_model.is_none() {
                bail!(
                    "online.rewards[{index}].model = \"stage\" needs a [reward_model] in the recipe"
                );
            }
        }
        Ok(())
    }

    /// The same run with little of everything, to see that it works.
    #[must_use]
    pub(super) fn smoke(mut self) -> Self {
        let mut sections = vec![&mut self.data];
        let mut owns = Vec::new();
        for own in [
            self.sft.as_mut().map(|section| &mut section.own),
            self.preference.as_mut().map(|section| &mut section.own),
            self.reward_model.as_mut().map(|section| &mut section.own),
            self.online.as_mut().map(|section| &mut section.own),
        ] {
            owns.extend(own);
        }
        for own in owns {
            own.max_steps = None;
            sections.extend(own.data.as_mut());
        }
        for data in sections {
            data.max_length = data.max_length.min(128);
            for source in &mut data.sources {
                source.take = Some(source.take.unwrap_or(24).min(24));
            }
        }
        if let Some(section) = &mut self.evaluation {
            section.max_length = section.max_length.min(128);
            for source in section.pairs.iter_mut().chain(&mut section.text) {
                source.take = Some(4);
            }
        }
        if let Some(section) = &mut self.online {
            let rollout = &mut section.options.rollout;
            rollout.prompts = rollout.prompts.min(2);
            rollout.num_generations = rollout.num_generations.min(2);
            rollout.max_completion_length = rollout.max_completion_length.min(12);
            section.options.overlong_cache = section.options.overlong_cache.min(4);
            section.options.num_mini_batches = section.options.num_mini_batches.min(2);
        }
        self.schedule.max_steps = Some(2);
        self.run.output.push_str("-smoke");
        self
    }
}

/// The reward model that this run trains, as a reward.
pub(super) const STAGE: &str = "stage";

/// Refuses what `flametune train` does with data before it learns, and alignment does not.
fn as_it_is(section: &str, data: &DataSection) -> Result<()> {
    let asked = [
        ("curation", data.curation.is_some()),
        ("decontaminate", !data.decontaminate.is_empty()),
        ("augmentation", data.augmentation.is_some()),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((key, _)) => bail!("{section}.{key} is not for alignment: data are used as they are"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::parse;

    #[test]
    fn bundled_recipes_are_short_and_valid_and_say_how_to_run_them() {
        for (name, text) in BUNDLED {
            let recipe: AlignRecipe = parse(name, text, &[]).unwrap();
            recipe.validate().unwrap();
            assert!(text.lines().count() < 60, "{name}");
            assert!(text.starts_with("# "), "{name}");
            assert!(text.contains(&format!("flametune align {name}")), "{name}");
            let again = serde_json::to_value(&recipe).unwrap();
            assert_eq!(
                serde_json::from_value::<AlignRecipe>(again).unwrap(),
                recipe
            );
            recipe.smoke().validate().unwrap();
        }
    }

    #[test]
    fn mistakes_are_found_before_anything_is_loaded() {
        let (_, text) = BUNDLED[7];
        for (set, expected) in [
            ("online.rewards=[]", "must name at least one reward"),
            (
                "online.rewards=[{ weight = 1.0 }]",
                "must have one of rule, model and judge",
            ),
            (
                "online.options.num_epochs=0",
                "num_epochs must be at least 1",
            ),
            (
                "optim.loraplus_lr_ratio=0",
                "must be finite and above 0, got 0",
            ),
        ] {
            let recipe: AlignRecipe = parse("ppo", text, &[set.to_owned()]).unwrap();
            let error = recipe.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{set}: {error}");
        }
        let (_, text) = BUNDLED[0];
        for (set, expected) in [
            (
                "reward_model.process=true",
                "and reward_model.process has none",
            ),
            (
                "evaluation.max_length=64",
                "needs a stage that trains the model itself",
            ),
        ] {
            let recipe: AlignRecipe = parse("reward_model", text, &[set.to_owned()]).unwrap();
            let error = recipe.validate().unwrap_err().to_string();
            assert!(error.contains(expected), "{set}: {error}");
        }
        let (_, text) = BUNDLED[7];
        let error = parse::<AlignRecipe>("ppo", text, &["online.rewads=1".to_owned()]);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did you mean `rewards`?"), "{error}");
    }
}

//! Our side of the races of DPO.

use anyhow::Result;
use burn::module::Module;
use flametune_align::losses::{DpoKind, DpoOptions};
use flametune_align::preference::{AnswerBatch, Preference, PreferenceLoss};
use flametune_data::{Collator, EncodedExample, EncodedPair, IGNORE_INDEX};
use flametune_lm::{AdapterPass, CausalLm};
use flametune_train::{Grouping, TrainConfig, Trainer};

use crate::protocol::Rows;

/// DPO's temperature, as the peer's script has it.
const BETA: f64 = 0.1;

/// An adapter that is trained on pairs; the reference is the model without it.
pub(crate) struct DpoTraining {
    trainer: Trainer<Preference>,
    collator: Collator,
}

impl DpoTraining {
    pub(crate) fn new(
        model: CausalLm,
        pass: AdapterPass,
        recompute: bool,
        config: TrainConfig,
        groups: Grouping,
    ) -> Result<Self> {
        let objective = Preference {
            pass,
            loss: PreferenceLoss::Dpo(DpoOptions::of(DpoKind::Sigmoid, BETA)),
            recompute,
        };
        Ok(Self {
            trainer: Trainer::new(model, objective, config, groups)?,
            collator: Collator::new(0, 1)?,
        })
    }

    /// Takes one optimizer step, the pass of the reference included; its loss.
    pub(crate) fn step(&mut self, rows: &Rows) -> Result<f64> {
        let pairs = pairs(rows);
        let pairs: Vec<&EncodedPair> = pairs.iter().collect();
        let mut batch = AnswerBatch::pairs(&pairs, false, &self.collator, None)?;
        let plain = self.trainer.model().valid();
        batch.refer_to(&plain, &AdapterPass::default())?;
        drop(plain);
        Ok(self.trainer.train_step(&[batch])?.loss)
    }
}

/// Chosen answers, then the rejected ones; the first half of a row is its prompt.
fn pairs(Rows { rows }: &Rows) -> Vec<EncodedPair> {
    let (chosen, rejected) = rows.split_at(rows.len() / 2);
    let example = |row: &Vec<u32>| {
        let prompt = row.len() / 2;
        let label = |(place, &id): (usize, &u32)| match place < prompt {
            true => IGNORE_INDEX,
            false => i64::from(id),
        };
        EncodedExample {
            input_ids: row.clone(),
            labels: row.iter().enumerate().map(label).collect(),
        }
    };
    chosen
        .iter()
        .zip(rejected)
        .map(|(chosen, rejected)| EncodedPair {
            prompt_tokens: chosen.len() / 2,
            chosen: example(chosen),
            rejected: example(rejected),
            margin: None,
        })
        .collect()
}

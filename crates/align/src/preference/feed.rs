//! Where the batches of training on preferences come from.

use std::path::Path;

use burn::module::Module;
use flametune_data::{BatchSampler, Collator, EncodedJudged, EncodedPair, SamplerCursor};
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;
use flametune_train::fit::{Drawn, Feed};

use super::batch::{AnswerBatch, answer_logps, mismatched};
use super::objective::{Preference, PreferenceLoss};
use super::rows::{AnswerRows, Answers};
use crate::error::{Error, Result};
use crate::host::count;
use crate::losses::kl_baseline;
use crate::reference::ReferenceCache;
use crate::sequences::{Part, Sequence, SequenceBatch};

/// Records that a message names; of the others it gives the number.
const NAMED: usize = 8;

/// How answers become batches.
#[derive(Debug, Clone)]
pub struct BatchOptions {
    /// How rows are padded.
    pub collator: Collator,
    /// Several sequences in a row of at most so many tokens.
    pub packing: Option<usize>,
    /// The adapters of the reference: none for the base itself, as before training.
    pub reference: AdapterPass,
    /// The adapters of the policy, for KTO's baseline.
    pub policy: AdapterPass,
}

/// The answers of a run, and what of the reference and the baseline belongs to them.
#[derive(Debug)]
pub struct PreferenceFeed<'a> {
    rows: &'a AnswerRows,
    sampler: BatchSampler,
    loss: PreferenceLoss,
    options: BatchOptions,
    /// The reference's log-probabilities of all answers of `rows`, if they were computed before.
    cached: Option<Vec<f32>>,
    evaluation: Vec<AnswerBatch>,
}

impl<'a> PreferenceFeed<'a> {
    /// Draws the answers of `rows` as `sampler` says.
    pub fn new(
        rows: &'a AnswerRows,
        sampler: BatchSampler,
        loss: PreferenceLoss,
        options: BatchOptions,
    ) -> Self {
        Self {
            rows,
            sampler,
            loss,
            options,
            cached: None,
            evaluation: Vec::new(),
        }
    }

    /// Measures with the answers of `rows`, in batches of `size`; `model` is the one before
    /// training.
    ///
    /// # Errors
    /// Those of batches and of the reference's forward pass.
    pub fn evaluate_with(
        mut self,
        rows: &AnswerRows,
        size: usize,
        model: &CausalLm,
    ) -> Result<Self> {
        let model = model.valid();
        let indices: Vec<usize> = (0..rows.answers.len()).collect();
        let chunks: Vec<Vec<usize>> = indices.chunks(size.max(1)).map(<[usize]>::to_vec).collect();
        self.evaluation = self.step(rows, None, &chunks, &model)?;
        Ok(self)
    }

    /// Computes the reference's log-probabilities of all answers now, or reads them from `file`,
    /// where they are kept under a digest of the data and of `base`, which names the weights.
    ///
    /// `progress` hears how many sequences are done.
    ///
    /// # Errors
    /// Those of batches, of the forward pass, and of the file.
    pub fn precompute(
        mut self,
        model: &CausalLm,
        size: usize,
        file: Option<(&Path, &str)>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<Self> {
        if !self.loss.needs_reference() {
            return Ok(self);
        }
        let names = self.options.reference.names().join("+");
        let digest = file.map(|(_, base)| format!("{}-{base}-{names}", self.rows.digest()));
        let sequences = match &self.rows.answers {
            Answers::Pairs(pairs) => 2 * pairs.len(),
            Answers::Judged(judged) => judged.len(),
            Answers::Steps(_) => 0,
        };
        if let (Some((path, _)), Some(digest)) = (file, &digest)
            && let Some(cache) = ReferenceCache::read(path, digest, sequences)?
        {
            self.cached = Some(cache.logps);
            return Ok(self);
        }
        let model = model.valid();
        let mut cache = ReferenceCache {
            logps: vec![0.0; sequences],
        };
        let indices: Vec<usize> = (0..self.rows.answers.len()).collect();
        let mut done = 0;
        for chunk in indices.chunks(size.max(1)) {
            let batch = self.batch(self.rows, chunk)?;
            let found = answer_logps(&model, &batch.sequences, &self.options.reference)?;
            for (slot, logp) in self.slots(chunk).into_iter().zip(&found) {
                cache.logps[slot] = *logp;
            }
            done += found.len();
            progress(done);
        }
        if let (Some((path, _)), Some(digest)) = (file, &digest) {
            cache.write(path, digest)?;
        }
        self.cached = Some(cache.logps);
        Ok(self)
    }

    /// Where the cache has the sequences of a batch, in the batch's order.
    fn slots(&self, chunk: &[usize]) -> Vec<usize> {
        match &self.rows.answers {
            Answers::Judged(_) | Answers::Steps(_) => chunk.to_vec(),
            Answers::Pairs(pairs) => {
                let rejected = chunk.iter().map(|&index| pairs.len() + index);
                chunk.iter().copied().chain(rejected).collect()
            }
        }
    }

    /// The batches of one step; of `cached` log-probabilities those that it needs.
    fn step(
        &self,
        rows: &AnswerRows,
        cached: Option<&[f32]>,
        chosen: &[Vec<usize>],
        model: &CausalLm,
    ) -> Result<Vec<AnswerBatch>> {
        let mut batches = Vec::with_capacity(chosen.len());
        for chunk in chosen {
            let mut batch = self.batch(rows, chunk)?;
            if self.loss.needs_reference() {
                match cached {
                    None => batch.refer_to(model, &self.options.reference)?,
                    Some(cached) => {
                        let slots = self.slots(chunk);
                        batch.reference = slots.iter().map(|&slot| cached[slot]).collect();
                    }
                }
            }
            batches.push(batch);
        }
        let part = self.loss.sft_part();
        let items: usize = batches.iter().map(AnswerBatch::items).sum();
        let tokens: usize = batches.iter().map(|batch| batch.sft_tokens(part)).sum();
        let kl = match self.loss.needs_baseline() {
            true => self.baseline(rows, chosen, model)?,
            false => 0.0,
        };
        for batch in &mut batches {
            batch.pairs_per_token = count(items) / count(tokens.max(1));
            batch.kl = kl;
        }
        Ok(batches)
    }

    fn batch(&self, rows: &AnswerRows, chunk: &[usize]) -> Result<AnswerBatch> {
        let (collator, packing) = (&self.options.collator, self.options.packing);
        match &rows.answers {
            Answers::Pairs(pairs) => {
                let pairs: Vec<&EncodedPair> = chunk.iter().map(|&index| &pairs[index]).collect();
                let with_prompt = self.loss.sft_part() == Part::Whole;
                AnswerBatch::pairs(&pairs, with_prompt, collator, packing)
            }
            Answers::Judged(judged) => {
                let judged: Vec<&EncodedJudged> =
                    chunk.iter().map(|&index| &judged[index]).collect();
                AnswerBatch::judged(&judged, collator, packing)
            }
            Answers::Steps(_) => Err(Error::Empty {
                what: "answer that is compared or judged",
            }),
        }
    }

    /// KTO's baseline of a step, from each prompt with the answer to another.
    fn baseline(&self, rows: &AnswerRows, chosen: &[Vec<usize>], model: &CausalLm) -> Result<f64> {
        let Answers::Judged(judged) = &rows.answers else {
            return Ok(0.0);
        };
        let mut indices: Vec<usize> = chosen.iter().flatten().copied().collect();
        if let [only] = indices[..] {
            // The last step of an epoch may have one answer, which needs another beside it.
            indices.push((only + 1) % judged.len());
        }
        let all: Vec<&EncodedJudged> = indices.iter().map(|&index| &judged[index]).collect();
        let examples = mismatched(&all);
        let (mut policy, mut reference) = (Vec::new(), Vec::new());
        let size = chosen.iter().map(Vec::len).max().unwrap_or(1);
        for chunk in examples.chunks(size.max(1)) {
            let sequences: Vec<Sequence<'_>> = chunk
                .iter()
                .map(|example| Sequence {
                    example,
                    with_prompt: false,
                })
                .collect();
            let batch = SequenceBatch::new(&sequences, &self.options.collator, None)?;
            policy.extend(answer_logps(model, &batch, &self.options.policy)?);
            reference.extend(answer_logps(model, &batch, &self.options.reference)?);
        }
        Ok(kl_baseline(&policy, &reference))
    }
}

impl Feed<Preference> for PreferenceFeed<'_> {
    type Cursor = SamplerCursor;

    fn steps_per_epoch(&self) -> usize {
        self.sampler.steps_per_epoch()
    }

    fn cursor(&self) -> SamplerCursor {
        self.sampler.cursor()
    }

    fn next_step(&mut self, model: &CausalLm) -> flametune_train::Result<Drawn<AnswerBatch>> {
        let rows = self.sampler.next_step();
        let plain = model.valid();
        let batches = self.step(self.rows, self.cached.as_deref(), &rows, &plain)?;
        Ok(Drawn { batches, rows })
    }

    fn name_records(&self, rows: &[Vec<usize>]) -> String {
        self.rows.name_records(rows, NAMED)
    }

    fn evaluation(&self) -> &[AnswerBatch] {
        &self.evaluation
    }
}

//! Which examples make which batch.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::order::{Purpose, mixed, permutation, shuffled};
use crate::error::{Error, Result};

/// How large a batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BatchSize {
    /// This number of examples; the last batch of an epoch may have fewer.
    Examples(usize),
    /// As many examples as fit when each takes the room of the longest: at most this number of tokens, padding
    /// included.
    Tokens(usize),
}

/// How examples become batches and optimizer steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplerOptions {
    /// How large a batch is.
    pub batch_size: BatchSize,
    /// Number of batches of an optimizer step; the last step of an epoch may have fewer.
    pub accumulation: usize,
    /// Number of consecutive examples that are sorted by length before they are cut into batches, so that a batch
    /// holds examples of similar length; 1 sorts nothing.
    pub bucket: usize,
    /// Seeds the order; `None` keeps the examples in theirs.
    pub seed: Option<u64>,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            batch_size: BatchSize::Examples(8),
            accumulation: 1,
            bucket: 1,
            seed: Some(0),
        }
    }
}

impl SamplerOptions {
    fn validate(&self) -> Result<()> {
        let (BatchSize::Examples(size) | BatchSize::Tokens(size)) = self.batch_size;
        let fields = [
            ("batch_size", size),
            ("accumulation", self.accumulation),
            ("bucket", self.bucket),
        ];
        match fields.into_iter().find(|(_, value)| *value == 0) {
            Some((field, value)) => Err(Error::InvalidOption {
                option: field.into(),
                expected: "at least 1",
                got: value.to_string(),
            }),
            None => Ok(()),
        }
    }
}

/// Where a sampler stands, to be saved with a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SamplerCursor {
    /// The options, which must be the same on resuming.
    pub options: SamplerOptions,
    /// Number of examples.
    pub examples: usize,
    /// A hash of the examples' lengths, in hexadecimal digits.
    pub lengths: String,
    /// The epoch, from 0.
    pub epoch: u64,
    /// Number of steps of the epoch that were handed out.
    pub step: usize,
}

/// Draws the batches of one optimizer step after another, without end.
///
/// The batches of an epoch are a function of the lengths, the options and the epoch's number:
/// 1. the examples are shuffled;
/// 2. each run of `bucket` examples is sorted from the longest to the shortest;
/// 3. the sequence is cut into batches of `batch_size`;
/// 4. with buckets, the batches are shuffled;
/// 5. each run of `accumulation` batches is a step.
///
/// # Examples
/// ```
/// use flametune_data::{BatchSampler, BatchSize, SamplerOptions};
///
/// # fn main() -> flametune_data::Result<()> {
/// let options = SamplerOptions { batch_size: BatchSize::Examples(2), seed: None, ..SamplerOptions::default() };
/// let mut sampler = BatchSampler::new(&[4, 4, 4], options)?;
/// assert_eq!(sampler.next_step(), [[0, 1]]);
/// let cursor = sampler.cursor();
/// assert_eq!(sampler.next_step(), [[2]]);
/// assert_eq!(sampler.next_step(), [[0, 1]]); // the next epoch
///
/// let mut resumed = BatchSampler::resume(&[4, 4, 4], options, &cursor)?;
/// assert_eq!(resumed.next_step(), [[2]]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct BatchSampler {
    lengths: Vec<usize>,
    /// A hash of the lengths, in hexadecimal digits.
    hash: String,
    options: SamplerOptions,
    epoch: u64,
    step: usize,
    batches: Vec<Vec<usize>>,
}

impl BatchSampler {
    /// A sampler at the start of the first epoch over examples of the given lengths.
    ///
    /// # Errors
    /// [`Error::NoExamples`] without examples, [`Error::InvalidOption`] for a size of zero,
    /// [`Error::ExampleTooLong`] for an example that is longer than a batch of [`BatchSize::Tokens`].
    pub fn new(lengths: &[usize], options: SamplerOptions) -> Result<Self> {
        options.validate()?;
        if lengths.is_empty() {
            return Err(Error::NoExamples);
        }
        if let BatchSize::Tokens(limit) = options.batch_size {
            let long = lengths.iter().position(|&tokens| tokens > limit);
            if let Some(index) = long {
                return Err(Error::ExampleTooLong {
                    index,
                    tokens: lengths[index],
                    field: "batch_size",
                    limit,
                });
            }
        }
        let mut sampler = Self {
            lengths: lengths.to_vec(),
            hash: hashed(lengths),
            options,
            epoch: 0,
            step: 0,
            batches: Vec::new(),
        };
        sampler.batches = sampler.epoch_batches(0);
        Ok(sampler)
    }

    /// A sampler that goes on where another stood.
    ///
    /// # Errors
    /// As [`Self::new`], and [`Error::CursorMismatch`] when the examples or the options are not those of the cursor.
    pub fn resume(
        lengths: &[usize],
        options: SamplerOptions,
        cursor: &SamplerCursor,
    ) -> Result<Self> {
        let mut sampler = Self::new(lengths, options)?;
        let now = sampler.cursor();
        let (saved, set) = (cursor.options, options);
        let size = |options: SamplerOptions| match options.batch_size {
            BatchSize::Examples(size) => format!("{size} examples"),
            BatchSize::Tokens(size) => format!("{size} tokens"),
        };
        let seed = |options: SamplerOptions| match options.seed {
            Some(seed) => seed.to_string(),
            None => "none".to_owned(),
        };
        let fields = [
            ("batch_size", size(saved), size(set)),
            (
                "accumulation",
                saved.accumulation.to_string(),
                set.accumulation.to_string(),
            ),
            ("bucket", saved.bucket.to_string(), set.bucket.to_string()),
            ("seed", seed(saved), seed(set)),
            (
                "the number of examples",
                cursor.examples.to_string(),
                now.examples.to_string(),
            ),
            (
                "the hash of the examples' lengths",
                cursor.lengths.clone(),
                now.lengths,
            ),
        ];
        for (field, saved, now) in fields {
            if saved != now {
                return Err(Error::CursorMismatch { field, saved, now });
            }
        }
        sampler.epoch = cursor.epoch;
        sampler.batches = sampler.epoch_batches(cursor.epoch);
        sampler.step = cursor.step;
        let steps = sampler.steps_per_epoch();
        if cursor.step > steps {
            return Err(Error::CursorMismatch {
                field: "the step of the epoch",
                saved: cursor.step.to_string(),
                now: format!("at most {steps}"),
            });
        }
        Ok(sampler)
    }

    /// The batches of the next step, as lists of example numbers.
    pub fn next_step(&mut self) -> Vec<Vec<usize>> {
        if self.step >= self.steps_per_epoch() {
            self.epoch = self.epoch.saturating_add(1);
            self.step = 0;
            self.batches = self.epoch_batches(self.epoch);
        }
        let start = self.step * self.options.accumulation;
        let end = (start + self.options.accumulation).min(self.batches.len());
        self.step += 1;
        self.batches[start..end].to_vec()
    }

    /// Number of steps of the current epoch. With [`BatchSize::Tokens`], epochs may differ.
    pub fn steps_per_epoch(&self) -> usize {
        self.batches.len().div_ceil(self.options.accumulation)
    }

    /// The epoch of the step that was handed out last, from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Where the sampler stands.
    pub fn cursor(&self) -> SamplerCursor {
        SamplerCursor {
            options: self.options,
            examples: self.lengths.len(),
            lengths: self.hash.clone(),
            epoch: self.epoch,
            step: self.step,
        }
    }

    fn epoch_batches(&self, epoch: u64) -> Vec<Vec<usize>> {
        let count = self.lengths.len();
        let mut order = match self.options.seed {
            Some(seed) => permutation(seed, epoch, count),
            None => (0..count).collect(),
        };
        for bucket in order.chunks_mut(self.options.bucket) {
            bucket.sort_by_key(|&index| Reverse(self.lengths[index]));
        }
        let batches = self.cut(&order);
        match self.options.seed {
            Some(seed) if self.options.bucket > 1 => {
                let order = shuffled(seed, Purpose::Batches, epoch, batches.len());
                order
                    .into_iter()
                    .map(|index| batches[index].clone())
                    .collect()
            }
            _ => batches,
        }
    }

    /// Cuts an order into batches.
    fn cut(&self, order: &[usize]) -> Vec<Vec<usize>> {
        let limit = match self.options.batch_size {
            BatchSize::Examples(size) => {
                return order.chunks(size).map(<[usize]>::to_vec).collect();
            }
            BatchSize::Tokens(limit) => limit,
        };
        let mut batches: Vec<Vec<usize>> = Vec::new();
        let mut longest = 0;
        for &index in order {
            let with = self.lengths[index].max(longest);
            match batches.last_mut() {
                Some(batch) if with.saturating_mul(batch.len() + 1) <= limit => {
                    batch.push(index);
                    longest = with;
                }
                _ => {
                    batches.push(vec![index]);
                    longest = self.lengths[index];
                }
            }
        }
        batches
    }
}

fn hashed(lengths: &[usize]) -> String {
    let words = lengths.iter().zip(0_u64..);
    let hash = words.fold(0, |hash, (&length, position)| {
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        mixed(mixed(hash, position), length)
    });
    format!("{hash:016x}")
}

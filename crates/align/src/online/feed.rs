//! Where the batches of online methods come from: the policy itself.

use burn::module::Module;
use flametune_data::{Collator, Tokenizer, permutation};
use flametune_lm::CausalLm;
use flametune_peft::AdapterPass;
use flametune_train::fit::{Drawn, Feed};

use super::buffer::{Buffer, OnlineCursor};
use super::estimate::estimate;
use super::measure::measure;
use super::objective::{Online, OnlineBatch};
use super::options::OnlineOptions;
use super::policy::Policy;
use super::rollout::{Completion, sample};
use crate::error::{Error, Result};
use crate::host::count;
use crate::losses::StepSize;
use crate::rewards::{RewardSum, Sample};

/// What is continued, and how completions end and are read.
#[derive(Debug, Clone, Copy)]
pub struct Prompts<'a> {
    /// The ids of each prompt.
    pub ids: &'a [Vec<u32>],
    /// Tokens that end a completion.
    pub stop_token_ids: &'a [u32],
    /// Gives rewards the text of completions; without it they see ids alone.
    pub tokenizer: Option<&'a Tokenizer>,
}

/// Samples with the policy, rewards, and hands out minibatches.
///
/// Everything that is drawn is a function of the seed, of the [cursor](OnlineCursor) and of the model,
/// so a resumed run goes on as the unbroken one did.
#[derive(Debug)]
pub struct OnlineFeed<'a> {
    prompts: Prompts<'a>,
    rewards: RewardSum<'a>,
    options: OnlineOptions,
    policy: AdapterPass,
    reference: AdapterPass,
    collator: Collator,
    seed: u64,
    cursor: OnlineCursor,
}

impl<'a> OnlineFeed<'a> {
    /// Continues `prompts` with the adapters of `policy`; the reference is the base alone.
    ///
    /// # Errors
    /// Those of [`OnlineOptions::validate`]; [`Error::Empty`] without prompts, and
    /// [`Error::PromptLength`] for one that leaves no room in a context of `max_context` tokens.
    pub fn new(
        prompts: Prompts<'a>,
        rewards: RewardSum<'a>,
        options: OnlineOptions,
        policy: AdapterPass,
        (collator, max_context, seed): (Collator, usize, u64),
    ) -> Result<Self> {
        options.validate()?;
        if prompts.ids.is_empty() {
            return Err(Error::Empty {
                what: "prompt to continue",
            });
        }
        let limit = max_context.saturating_sub(options.rollout.max_completion_length);
        let fits = |ids: &Vec<u32>| (1..=limit).contains(&ids.len());
        if let Some(prompt) = prompts.ids.iter().position(|ids| !fits(ids)) {
            return Err(Error::PromptLength {
                prompt,
                tokens: prompts.ids[prompt].len(),
                limit,
            });
        }
        let cursor = OnlineCursor {
            iteration: 0,
            kl_coef: options.kl_coef,
            buffer: None,
        };
        Ok(Self {
            prompts,
            rewards,
            options,
            policy,
            reference: AdapterPass::default(),
            collator,
            seed,
            cursor,
        })
    }

    /// Goes on where another run stood.
    #[must_use]
    pub fn resume(mut self, cursor: OnlineCursor) -> Self {
        self.cursor = cursor;
        self
    }

    /// Another reference than the base alone, such as an adapter of supervised fine-tuning.
    #[must_use]
    pub fn with_reference(mut self, reference: AdapterPass) -> Self {
        self.reference = reference;
        self
    }

    /// The prompts of an iteration, with their places.
    fn chosen(&self, iteration: usize) -> Vec<(usize, Vec<u32>)> {
        let (all, each) = (self.prompts.ids.len(), self.options.rollout.prompts);
        let places = iteration * each..(iteration + 1) * each;
        places
            .map(|place| {
                let order = permutation(self.seed, (place / all) as u64, all);
                let index = order[place % all];
                (index, self.prompts.ids[index].clone())
            })
            .collect()
    }

    /// Samples, measures and rewards a new iteration.
    fn begin(&mut self, model: &Policy) -> Result<()> {
        let plain = model.valid();
        let iteration = self.cursor.iteration;
        let mut completions = sample(
            &plain.lm,
            &self.policy,
            &self.chosen(iteration),
            self.prompts.stop_token_ids,
            seed_of(self.seed, iteration as u64),
            &self.options.rollout,
        )?;
        let batches = (&self.collator, self.options.micro_batch_size);
        let head = plain.value.as_ref();
        let (logps, values) = measure(&plain.lm, head, &completions, &self.policy, batches)?;
        fill(&mut completions, logps, |c| &mut c.old_logps);
        fill(&mut completions, values, |c| &mut c.old_values);
        if self.options.needs_reference() {
            let (logps, _) = measure(&plain.lm, None, &completions, &self.reference, batches)?;
            fill(&mut completions, logps, |c| &mut c.ref_logps);
        }
        let (scores, mut metrics) = self.scores(&plain.lm, &completions)?;
        let sampled = completions.len();
        let kl_coef = self.cursor.kl_coef;
        let (more, kl) = estimate(&mut completions, &scores, kl_coef, &self.options);
        metrics.merge(&more);
        metrics.add("objective/kl_coef", kl_coef, 1.0);
        let control = self.options.kl_control;
        self.cursor.kl_coef = control.next(kl_coef, kl, count(sampled));
        self.cursor.iteration += 1;
        self.cursor.buffer = Some(Buffer {
            completions,
            logged: metrics.means().into_iter().collect(),
            epoch: 0,
            mini_batch: 0,
        });
        Ok(())
    }

    fn scores(
        &self,
        lm: &CausalLm,
        completions: &[Completion],
    ) -> Result<(Vec<f32>, crate::Metrics)> {
        let texts = completions.iter().map(|completion| {
            let Some(tokenizer) = self.prompts.tokenizer else {
                return Ok(None);
            };
            let prompt = tokenizer.decode(&completion.prompt, true)?;
            Ok(Some((prompt, tokenizer.decode(&completion.tokens, true)?)))
        });
        let texts: Vec<Option<(String, String)>> = texts.collect::<Result<_>>()?;
        let samples: Vec<Sample<'_>> = completions
            .iter()
            .zip(&texts)
            .map(|(completion, text)| Sample {
                prompt: &completion.prompt,
                completion: &completion.tokens,
                finished: completion.finished,
                index: completion.index,
                prompt_text: text.as_ref().map(|(prompt, _)| prompt.as_str()),
                text: text.as_ref().map(|(_, text)| text.as_str()),
            })
            .collect();
        self.rewards.score(lm, &samples)
    }

    /// Whether the policy has moved too far from the one that sampled for another epoch.
    fn has_drifted(&self, model: &Policy, buffer: &Buffer) -> Result<bool> {
        if self.options.target_kl == 0.0 {
            return Ok(false);
        }
        let plain = model.valid();
        let batches = (&self.collator, self.options.micro_batch_size);
        let (now, _) = measure(&plain.lm, None, &buffer.completions, &self.policy, batches)?;
        let (mut sum, mut tokens) = (0.0, 0);
        for (now, completion) in now.iter().zip(&buffer.completions) {
            for (now, old) in now.iter().zip(&completion.old_logps) {
                sum += 0.5 * (f64::from(*now) - f64::from(*old)).powi(2);
                tokens += 1;
            }
        }
        Ok(sum / count(tokens.max(1)) > self.options.target_kl)
    }

    /// Whether there is something to learn from; goes on to the next epoch where one is through.
    fn has_more(&mut self, model: &Policy) -> Result<bool> {
        let Some(buffer) = &self.cursor.buffer else {
            return Ok(false);
        };
        if buffer.mini_batch < self.parts(buffer) {
            return Ok(true);
        }
        if buffer.epoch + 1 >= self.options.num_epochs || self.has_drifted(model, buffer)? {
            return Ok(false);
        }
        if let Some(buffer) = &mut self.cursor.buffer {
            buffer.epoch += 1;
            buffer.mini_batch = 0;
        }
        Ok(true)
    }

    /// Minibatches of an epoch.
    fn parts(&self, buffer: &Buffer) -> usize {
        self.options.num_mini_batches.min(buffer.completions.len())
    }

    /// The micro-batches of the next minibatch.
    fn mini_batch(&mut self) -> Result<Vec<OnlineBatch>> {
        let Some(buffer) = &self.cursor.buffer else {
            return Ok(Vec::new());
        };
        let parts = self.parts(buffer);
        let seed = seed_of(self.seed, self.cursor.iteration as u64);
        let all = buffer.completions.len();
        let order = permutation(seed, buffer.epoch as u64, all);
        let part = buffer.mini_batch;
        let chosen = &order[part * all / parts..(part + 1) * all / parts];
        let chosen: Vec<&Completion> = chosen.iter().map(|&at| &buffer.completions[at]).collect();
        let step = StepSize {
            completions: chosen.len(),
            tokens: chosen.iter().map(|c| c.tokens.len()).sum(),
            max_completion_length: self.options.rollout.max_completion_length,
        };
        let first = buffer.epoch == 0 && buffer.mini_batch == 0;
        let batches = chosen
            .chunks(self.options.micro_batch_size)
            .enumerate()
            .map(|(index, members)| {
                let logged = match first && index == 0 {
                    true => buffer.logged.clone(),
                    false => Vec::new(),
                };
                OnlineBatch::new(members, step, logged, &self.collator)
            });
        let batches = batches.collect::<Result<_>>()?;
        if let Some(buffer) = &mut self.cursor.buffer {
            buffer.mini_batch += 1;
        }
        Ok(batches)
    }
}

impl Feed<Online> for OnlineFeed<'_> {
    type Cursor = OnlineCursor;

    fn steps_per_epoch(&self) -> usize {
        let iterations = self
            .prompts
            .ids
            .len()
            .div_ceil(self.options.rollout.prompts);
        iterations * self.options.steps_per_iteration()
    }

    fn cursor(&self) -> OnlineCursor {
        self.cursor.clone()
    }

    fn next_step(&mut self, model: &Policy) -> flametune_train::Result<Drawn<OnlineBatch>> {
        if !self.has_more(model)? {
            self.begin(model)?;
        }
        Ok(Drawn {
            batches: self.mini_batch()?,
            rows: Vec::new(),
        })
    }

    fn name_records(&self, _rows: &[Vec<usize>]) -> String {
        format!("completions of iteration {}", self.cursor.iteration)
    }

    fn evaluation(&self) -> &[OnlineBatch] {
        &[]
    }
}

fn fill(
    completions: &mut [Completion],
    numbers: Vec<Vec<f32>>,
    field: fn(&mut Completion) -> &mut Vec<f32>,
) {
    for (completion, numbers) in completions.iter_mut().zip(numbers) {
        *field(completion) = numbers;
    }
}

/// A seed of its own for every iteration (the finaliser of `SplitMix64`).
///
/// # Source
/// - Steele, Lea and Flood 2014, Fast Splittable Pseudorandom Number Generators, OOPSLA
fn seed_of(seed: u64, iteration: u64) -> u64 {
    let step = iteration.wrapping_add(1);
    let mut z = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

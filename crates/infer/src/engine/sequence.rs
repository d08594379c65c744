//! One text on its way through the engine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::adapters::Lease;
use super::pages::Held;
use super::request::{EngineEvent, Score, Until, Usage};
use super::ticket::Sender;
use crate::error::{Error, Result};
use crate::generate::FinishReason;
use crate::guide::Constraint;
use crate::logprobs::TokenLogprobs;
use crate::processors::Scratch;
use crate::sampler::Sampler;
use crate::scorer::note;

/// Stands for a virtual token among the ids of a text; no vocabulary is that large.
pub(super) const VIRTUAL: u32 = u32::MAX;

/// What the continuations of one prompt have in common.
pub(super) struct Group {
    events: Arc<Sender<Result<EngineEvent>>>,
    until: Mutex<Option<Until>>,
    /// Whether one of the continuations has read the prompt, so that others find it.
    pub(super) ready: AtomicBool,
    /// Whether the request has failed as a whole.
    failed: AtomicBool,
}

impl Group {
    pub(super) fn new(events: Arc<Sender<Result<EngineEvent>>>, until: Option<Until>) -> Self {
        Self {
            events,
            until: Mutex::new(until),
            ready: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        }
    }
}

/// Whom the answers go to, and what is done with the states of the text.
pub(super) enum Task {
    /// Continue it.
    Generate(Box<Generation>),
    /// Judge its end.
    Score {
        /// The tokens to judge, in the order of the slots that they follow.
        targets: Vec<u32>,
        score: Score,
        answer: Sender<Result<Score>>,
    },
}

/// A continuation.
pub(super) struct Generation {
    pub(super) group: Arc<Group>,
    pub(super) choice: usize,
    pub(super) sampler: Sampler,
    pub(super) guide: Option<Box<dyn Constraint>>,
    pub(super) logprobs: Option<usize>,
    /// How many alternatives to report for each token of the prompt, and what is known so far.
    pub(super) prompt_logprobs: Option<(usize, Vec<Option<TokenLogprobs>>)>,
    chosen: Vec<Chosen>,
    scratch: Scratch,
}

/// A token that was just chosen.
struct Chosen {
    token: u32,
    logprobs: Option<TokenLogprobs>,
    /// Whether the guide needs no more.
    complete: bool,
}

/// One text.
pub(super) struct Sequence {
    /// Counts sequences in the order of their arrival.
    pub(super) arrival: u64,
    pub(super) task: Task,
    pub(super) lease: Option<Lease>,
    /// The ids of all slots that are known: virtual tokens, prompt, output.
    pub(super) slots: Vec<u32>,
    /// Of those, the slots in front of the output.
    pub(super) prompt_len: usize,
    /// The slots whose keys and values are in the cache.
    pub(super) filled: usize,
    /// The same in the cache of a draft.
    pub(super) drafted: usize,
    pub(super) held: Held,
    pub(super) priority: i32,
    pub(super) tenant: String,
    pub(super) deadline: Option<Instant>,
    pub(super) submitted: Instant,
    pub(super) usage: Usage,
    began: bool,
}

/// How a sequence came to its end.
pub(super) enum End {
    Finished(FinishReason),
    Scored,
    Failed(Error),
}

impl Sequence {
    pub(super) fn new(
        arrival: u64,
        task: Task,
        lease: Option<Lease>,
        tokens: &[u32],
        submitted: Instant,
    ) -> Self {
        let virtual_tokens = lease.as_ref().map_or(0, Lease::virtual_tokens);
        let mut slots = vec![VIRTUAL; virtual_tokens];
        slots.extend_from_slice(tokens);
        Self {
            arrival,
            task,
            lease,
            prompt_len: slots.len(),
            slots,
            filled: 0,
            drafted: 0,
            held: Held::default(),
            priority: 0,
            tenant: String::new(),
            deadline: None,
            submitted,
            usage: Usage {
                prompt_tokens: tokens.len(),
                ..Usage::default()
            },
            began: false,
        }
    }

    /// The adapter's number, 0 for the base.
    pub(super) fn owner(&self) -> u64 {
        self.lease.as_ref().map_or(0, Lease::number)
    }

    /// What the adapter is called inside models.
    pub(super) fn adapter(&self) -> Option<&str> {
        self.lease.as_ref().map(Lease::key)
    }

    pub(super) fn virtual_tokens(&self) -> usize {
        self.lease.as_ref().map_or(0, Lease::virtual_tokens)
    }

    /// Whether all that is known has been read but the newest token.
    pub(super) fn decodes(&self) -> bool {
        self.slots.len() == self.filled + 1 && self.slots.len() > self.prompt_len
    }

    /// The slots at the beginning whose states nobody asks for.
    pub(super) fn silent(&self) -> usize {
        match &self.task {
            Task::Score { targets, score, .. } => {
                self.slots.len() + score.logprobs.len() - targets.len()
            }
            Task::Generate(generation) => match &generation.prompt_logprobs {
                Some(_) => 0,
                None => self.slots.len().saturating_sub(1),
            },
        }
    }

    /// Whether the one who asked has gone, or has been told of a failure.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.task {
            Task::Score { answer, .. } => answer.is_abandoned(),
            Task::Generate(generation) => {
                generation.group.events.is_abandoned()
                    || generation.group.failed.load(Ordering::Relaxed)
            }
        }
    }

    /// Whether it should wait until another continuation has read the prompt.
    pub(super) fn follows(&self) -> bool {
        match &self.task {
            Task::Generate(generation) => {
                generation.choice > 0 && !generation.group.ready.load(Ordering::Relaxed)
            }
            Task::Score { .. } => false,
        }
    }

    /// Notes that it takes part in steps from now on.
    pub(super) fn begin(&mut self, cached: usize) {
        if !self.began {
            self.began = true;
            self.usage.queued = self.submitted.elapsed();
            self.usage.cached_tokens = cached.saturating_sub(self.virtual_tokens());
        }
    }

    /// The most tokens that may follow the next one in the same step.
    pub(super) fn draft_room(&self, max_context: usize) -> usize {
        let Task::Generate(generation) = &self.task else {
            return 0;
        };
        let output = self.slots.len() - self.prompt_len;
        let limit = generation
            .sampler
            .params()
            .max_tokens
            .saturating_sub(output);
        let room = max_context.saturating_sub(self.slots.len());
        limit.min(room).saturating_sub(1)
    }

    /// What is to be read off the states of a slot that holds a token that is known already.
    pub(super) fn is_judged(&self, slot: usize) -> bool {
        match &self.task {
            Task::Score { targets, .. } => slot >= self.prompt_len - targets.len(),
            Task::Generate(generation) => {
                generation
                    .prompt_logprobs
                    .as_ref()
                    .is_some_and(|(_, known)| {
                        slot + 1 < self.prompt_len
                        && slot >= self.virtual_tokens()
                        // Slots that are read anew have their entries already.
                        && known.len() <= slot + 1 - self.virtual_tokens()
                    })
            }
        }
    }

    /// Reads the known token behind `slot` off the logits of its states.
    pub(super) fn judge(
        &mut self,
        slot: usize,
        logits: &[f32],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let (prompt_len, virtual_tokens) = (self.prompt_len, self.virtual_tokens());
        match &mut self.task {
            Task::Score { targets, score, .. } => {
                let index = slot + targets.len() - prompt_len;
                // A text that had to begin anew comes by places that it has passed before.
                if index == score.logprobs.len() {
                    note(score, logits, targets[index], scratch)?;
                }
                Ok(())
            }
            Task::Generate(generation) => {
                if let Some((top, known)) = &mut generation.prompt_logprobs
                    && known.len() == slot + 1 - virtual_tokens
                {
                    let token = self.slots[slot + 1];
                    known.push(Some(TokenLogprobs::of(logits, token, *top, scratch)));
                }
                Ok(())
            }
        }
    }

    /// Chooses the next tokens from the logits of the newest slot and of the proposals behind it;
    /// the first choice that is not what was proposed is the last one.
    pub(super) fn choose(
        &mut self,
        logits: &mut [f32],
        vocab_size: usize,
        drafts: &[u32],
    ) -> Result<()> {
        let Task::Generate(generation) = &mut self.task else {
            return Ok(());
        };
        generation.chosen.clear();
        for (index, logits) in logits.chunks_exact_mut(vocab_size).enumerate() {
            let chosen = generation.choose(logits)?;
            let (token, complete) = (chosen.token, chosen.complete);
            generation.chosen.push(chosen);
            let ends = complete || generation.sampler.params().stop_token_ids.contains(&token);
            if ends || drafts.get(index) != Some(&token) {
                break;
            }
        }
        Ok(())
    }

    /// Takes the chosen tokens in and reports them; says how the sequence ends, if it does.
    pub(super) fn settle(&mut self, drafts: usize, max_context: usize) -> Option<End> {
        let Task::Generate(generation) = &mut self.task else {
            return None;
        };
        let chosen = std::mem::take(&mut generation.chosen);
        self.usage.drafted_tokens += drafts;
        self.usage.accepted_tokens += chosen.len().saturating_sub(1);
        for chosen in chosen {
            let Chosen {
                token,
                logprobs,
                complete,
            } = chosen;
            self.slots.push(token);
            self.usage.completion_tokens += 1;
            if self.usage.completion_tokens == 1 {
                self.usage.first_token = self.submitted.elapsed();
                if let Some((_, known)) = generation.prompt_logprobs.take() {
                    let event = EngineEvent::Prompt(known);
                    // Every continuation has read the same prompt.
                    if generation.choice == 0 {
                        generation.group.events.send(Ok(event));
                    }
                }
            }
            let params = generation.sampler.params();
            if params.stop_token_ids.contains(&token) {
                return Some(End::Finished(FinishReason::StopToken(token)));
            }
            let choice = generation.choice;
            generation.group.events.send(Ok(EngineEvent::Token {
                choice,
                token,
                logprobs,
            }));
            let stops = {
                let mut until = generation
                    .group
                    .until
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                until.as_mut().is_some_and(|until| until(choice, token))
            };
            if stops || complete {
                return Some(End::Finished(FinishReason::Stopped));
            }
            if self.usage.completion_tokens >= params.max_tokens {
                return Some(End::Finished(FinishReason::Length));
            }
            if self.slots.len() >= max_context {
                return Some(End::Finished(FinishReason::ContextFull));
            }
        }
        None
    }

    /// Whether all targets of a score are judged.
    pub(super) fn is_scored(&self) -> bool {
        match &self.task {
            Task::Score { targets, score, .. } => score.logprobs.len() == targets.len(),
            Task::Generate(_) => false,
        }
    }

    /// Tells the one who asked.
    pub(super) fn end(mut self, end: End) {
        // Whoever is told may count the users of the adapter at once.
        self.lease = None;
        self.usage.total = self.submitted.elapsed();
        match (self.task, end) {
            (Task::Generate(generation), End::Finished(reason)) => {
                let event = EngineEvent::Finished {
                    choice: generation.choice,
                    reason,
                    usage: self.usage,
                };
                generation.group.ready.store(true, Ordering::Relaxed);
                generation.group.events.send(Ok(event));
            }
            (Task::Generate(generation), End::Failed(error)) => {
                if !generation.group.failed.swap(true, Ordering::Relaxed) {
                    generation.group.events.send(Err(error));
                }
            }
            (Task::Score { answer, .. }, End::Failed(error)) => answer.send(Err(error)),
            (Task::Score { answer, score, .. }, _) => answer.send(Ok(score)),
            (Task::Generate(_), End::Scored) => {}
        }
    }
}

impl Generation {
    pub(super) fn new(
        group: Arc<Group>,
        choice: usize,
        sampler: Sampler,
        guide: Option<Box<dyn Constraint>>,
    ) -> Self {
        Self {
            group,
            choice,
            sampler,
            guide,
            logprobs: None,
            prompt_logprobs: None,
            chosen: Vec::new(),
            scratch: Scratch::default(),
        }
    }

    fn choose(&mut self, logits: &mut [f32]) -> Result<Chosen> {
        let raw = self.logprobs.map(|top| (top, logits.to_vec()));
        if let Some(guide) = &mut self.guide {
            guide.restrict(logits)?;
        }
        let token = self.sampler.choose(logits)?;
        let complete = match &mut self.guide {
            Some(guide) => guide.advance(token)?,
            None => false,
        };
        let scratch = &mut self.scratch;
        let logprobs = raw.map(|(top, raw)| TokenLogprobs::of(&raw, token, top, scratch));
        Ok(Chosen {
            token,
            logprobs,
            complete,
        })
    }
}

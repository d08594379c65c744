//! The engine's thread: takes requests in, makes steps, sends answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flametune_lm::{CausalLm, PagedRow, RowInput};
use rayon::prelude::*;

use super::adapters::{Lease, Registry};
use super::draft::{Candidate, Drafter};
use super::inbox::{Inbox, Submission};
use super::live::{Live, LiveRow, States};
use super::options::EngineOptions;
use super::pages::Pages;
use super::queue;
use super::request::{EngineEvent, GenerateRequest, Score};
use super::sequence::{End, Generation, Group, Sequence, Task};
use super::stats::EngineStats;
use super::ticket::Sender;
use crate::error::{Error, Result};
use crate::processors::Scratch;
use crate::sampler::Sampler;

/// How long an engine that cannot begin anything sleeps before it looks again by itself.
const PATIENCE: Duration = Duration::from_millis(50);

/// The state of the engine's thread.
pub(super) struct Worker {
    live: Live,
    drafter: Drafter,
    pages: Pages,
    max_context: usize,
    step_tokens: usize,
    max_running: usize,
    inbox: Arc<Inbox>,
    registry: Arc<Registry>,
    waiting: Vec<Sequence>,
    running: Vec<Sequence>,
    arrivals: u64,
    stats: EngineStats,
}

/// What a running sequence gives to a step.
struct Planned {
    /// Which of the running sequences.
    index: usize,
    /// How many known slots are read.
    count: usize,
    /// Whether they are vectors of an adapter.
    vectors: bool,
    /// Proposals behind them.
    drafts: Vec<u32>,
    /// Known slots and proposals.
    tokens: Vec<u32>,
    /// Whether the next token is chosen.
    chooses: bool,
}

/// Lets callers know when the thread ends, in whatever way.
struct Ending(Arc<Inbox>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Worker {
    pub(super) fn new(
        model: CausalLm,
        options: EngineOptions,
        max_context: usize,
        inbox: Arc<Inbox>,
        registry: Arc<Registry>,
    ) -> Self {
        let page_len = options.page_tokens;
        let count = options.kv_tokens / page_len;
        // Keys that depend on the length of a text are not those of another text.
        let sharing = options.prefix_sharing && !model.rotates_by_length();
        let alone = options.batch_invariant;
        Self {
            drafter: Drafter::new(options.speculation, &model, [count, page_len], alone),
            live: Live::new(model, count, page_len, alone),
            pages: Pages::new(count, page_len, sharing),
            max_context,
            step_tokens: options.step_tokens,
            max_running: options.max_running,
            inbox,
            registry,
            waiting: Vec::new(),
            running: Vec::new(),
            arrivals: 0,
            stats: EngineStats::default(),
        }
    }

    /// Works until the inbox is closed and everything is done.
    pub(super) fn run(mut self) {
        let _ending = Ending(Arc::clone(&self.inbox));
        loop {
            let idle = self.running.is_empty();
            let patience = (!self.waiting.is_empty()).then_some(PATIENCE);
            let mail = self.inbox.take(idle, patience);
            for submission in mail.submissions {
                self.accept(submission);
            }
            self.cull();
            self.drafter.release(&self.registry);
            self.admit();
            if self.running.is_empty() {
                self.let_go();
                self.publish();
                if mail.closed && self.waiting.is_empty() {
                    return;
                }
                continue;
            }
            if let Err(error) = self.step() {
                self.fail_running(&error);
            }
            self.let_go();
            self.publish();
        }
    }

    fn accept(&mut self, submission: Submission) {
        match submission {
            Submission::Generate {
                request,
                lease,
                events,
                at,
            } => self.accept_generate(*request, lease.as_ref(), &events, at),
            Submission::Score {
                request,
                lease,
                answer,
                at,
            } => {
                let mut tokens = request.context;
                tokens.extend_from_slice(&request.continuation[..request.continuation.len() - 1]);
                let task = Task::Score {
                    targets: request.continuation,
                    score: Score {
                        logprobs: Vec::new(),
                        is_greedy: true,
                    },
                    answer,
                };
                let mut sequence = Sequence::new(self.arrivals, task, lease, &tokens, at);
                sequence.deadline = request.deadline;
                sequence.tenant = request.tenant;
                self.arrivals += 1;
                self.waiting.push(sequence);
            }
        }
    }

    fn accept_generate(
        &mut self,
        request: GenerateRequest,
        lease: Option<&Lease>,
        events: &Arc<Sender<Result<EngineEvent>>>,
        at: Instant,
    ) {
        let group = Arc::new(Group::new(Arc::clone(events), request.until));
        for choice in 0..request.n {
            let sampler = Sampler::new(request.params.clone(), &request.prompt, choice as u64);
            let sampler = match sampler {
                Ok(sampler) => sampler,
                Err(error) => {
                    events.send(Err(error));
                    return;
                }
            };
            let guide = request.guide.as_ref().map(crate::guide::Guide::start);
            let mut generation = Generation::new(Arc::clone(&group), choice, sampler, guide);
            generation.logprobs = request.logprobs;
            if choice == 0 {
                let top = request.prompt_logprobs;
                generation.prompt_logprobs = top.map(|top| (top, vec![None]));
            }
            let task = Task::Generate(Box::new(generation));
            let tokens = &request.prompt;
            let mut sequence = Sequence::new(self.arrivals, task, lease.cloned(), tokens, at);
            sequence.deadline = request.deadline;
            sequence.tenant.clone_from(&request.tenant);
            sequence.priority = request.priority;
            self.arrivals += 1;
            self.waiting.push(sequence);
        }
    }

    /// Ends what nobody waits for any more, and what has no more time.
    fn cull(&mut self) {
        let now = Instant::now();
        let gone = |sequence: &Sequence| {
            let late = sequence.deadline.is_some_and(|deadline| deadline <= now);
            late || sequence.is_abandoned()
        };
        let mut ended: Vec<Sequence> = self.waiting.extract_if(.., |s| gone(s)).collect();
        ended.extend(self.running.extract_if(.., |s| gone(s)));
        for mut sequence in ended {
            self.pages.release(&mut sequence.held);
            if sequence.is_abandoned() {
                self.stats.cancelled += 1;
            } else {
                let generated = sequence.usage.completion_tokens;
                self.stats.failed += 1;
                sequence.end(End::Failed(Error::DeadlineExceeded { generated }));
            }
        }
    }

    /// Begins waiting sequences while there is room.
    fn admit(&mut self) {
        // Those whose adapter is on its way, or that wait for another choice of their request.
        let mut passed_over = BTreeSet::new();
        while self.running.len() < self.max_running {
            let sharing = self.pages.is_sharing();
            let may = |_: usize, sequence: &Sequence| {
                let must_wait = sharing && sequence.follows();
                !must_wait && !passed_over.contains(&sequence.arrival)
            };
            let Some(place) = queue::next(&self.waiting, &self.running, may) else {
                return;
            };
            match self.attach(place) {
                Ok(true) => {}
                Ok(false) => {
                    passed_over.insert(self.waiting[place].arrival);
                    continue;
                }
                Err(error) => {
                    let sequence = self.waiting.remove(place);
                    self.stats.failed += 1;
                    sequence.end(End::Failed(error));
                    continue;
                }
            }
            if !self.begin(place) {
                return;
            }
        }
    }

    /// Puts the adapter of a waiting sequence into the model; says whether it is there.
    fn attach(&mut self, place: usize) -> Result<bool> {
        let Some(lease) = &self.waiting[place].lease else {
            return Ok(true);
        };
        if self.live.has(lease.key()) {
            return Ok(true);
        }
        match self.registry.parts(lease)? {
            Some(parts) => {
                self.live.put(&parts, lease.number())?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Gives a waiting sequence its pages and lets it run; `false` when there are too few.
    fn begin(&mut self, place: usize) -> bool {
        let sequence = &mut self.waiting[place];
        let (owner, known) = (sequence.owner(), sequence.slots.len());
        let limit = sequence.silent().min(known - 1);
        let mut held = std::mem::take(&mut sequence.held);
        let found = self.pages.find(owner, &sequence.slots, limit, &mut held);
        // Room for the next token too, so that it does not have to leave again at once.
        let room = (known + 1).min(self.max_context.max(known));
        if !self.pages.reserve(&mut held, room) {
            self.pages.release(&mut held);
            return false;
        }
        let mut sequence = self.waiting.remove(place);
        sequence.held = held;
        sequence.filled = found;
        sequence.drafted = 0;
        if let Some(lease) = sequence.lease.clone()
            && found < lease.slots().len()
            && let Err(error) = self.write_prefix(&mut sequence, &lease)
        {
            self.pages.release(&mut sequence.held);
            self.stats.failed += 1;
            sequence.end(End::Failed(error));
            return true;
        }
        if sequence.usage.preemptions == 0 {
            self.stats.cached_tokens += sequence.filled as u64;
        }
        sequence.begin(found);
        self.running.push(sequence);
        true
    }

    /// Fills the slots of virtual tokens that are keys and values; what was found of them, or of
    /// the vectors behind them, is written anew.
    fn write_prefix(&mut self, sequence: &mut Sequence, lease: &Lease) -> Result<()> {
        sequence.filled = 0;
        if lease.slots().prefix > 0 {
            sequence.filled = self.live.write_prefix(lease.key(), &sequence.held.pages)?;
        }
        Ok(())
    }

    /// One pass of the model: the newest token of those that decode, then pieces of prompts.
    fn step(&mut self) -> Result<()> {
        self.reserve_next();
        let proposals = self.propose();
        let planned = self.plan(proposals);
        if planned.is_empty() {
            return Ok(());
        }
        let states = self.read(&planned)?;
        let failed = self.judge(&planned, &states)?;
        let logits = self.choices(&planned, &states)?;
        let failed = self.choose(&planned, logits, failed);
        self.stats.steps += 1;
        self.settle(&planned, failed);
        Ok(())
    }

    /// Makes sure that every sequence which decodes has a page for its newest token, if need be by
    /// sending others back to wait.
    fn reserve_next(&mut self) {
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            let slots = sequence.slots.len();
            if self.pages.reserve(&mut sequence.held, slots) {
                index += 1;
                continue;
            }
            let Some(victim) = queue::victim(&self.running) else {
                return;
            };
            let mut sequence = self.running.remove(victim);
            self.pages.release(&mut sequence.held);
            sequence.filled = 0;
            sequence.drafted = 0;
            sequence.usage.preemptions += 1;
            self.stats.preemptions += 1;
            self.waiting.push(sequence);
            if victim < index {
                index -= 1;
            }
        }
    }

    /// Proposals for the sequences that decode, by their places.
    fn propose(&mut self) -> Vec<(usize, Vec<u32>)> {
        if self.drafter.tokens() == 0 {
            return Vec::new();
        }
        if self.drafter.prepare(&self.registry) {
            self.running
                .iter_mut()
                .for_each(|sequence| sequence.drafted = 0);
        }
        let decoding = self.running.iter().filter(|sequence| sequence.decodes());
        let mut budget = self.step_tokens.saturating_sub(decoding.count());
        let mut candidates = Vec::new();
        for (index, sequence) in self.running.iter_mut().enumerate() {
            if !sequence.decodes() || !self.drafter.suits(sequence) {
                continue;
            }
            let room = self
                .drafter
                .tokens()
                .min(sequence.draft_room(self.max_context));
            let room = room.min(budget);
            let slots = sequence.slots.len() + room;
            // Nobody has to leave for the sake of a guess.
            if room > 0 && self.pages.reserve(&mut sequence.held, slots) {
                budget -= room;
                candidates.push(Candidate { index, room });
            }
        }
        if candidates.is_empty() {
            return Vec::new();
        }
        let running = &mut self.running;
        match self.drafter.propose(running, &candidates, self.step_tokens) {
            Ok(proposals) => {
                let places = candidates.iter().map(|candidate| candidate.index);
                places.zip(proposals).collect()
            }
            Err(error) => {
                log::warn!("no proposals in this step: {error}");
                running.iter_mut().for_each(|sequence| sequence.drafted = 0);
                Vec::new()
            }
        }
    }

    fn plan(&self, proposals: Vec<(usize, Vec<u32>)>) -> Vec<Planned> {
        let mut budget = self.step_tokens;
        let mut planned = Vec::new();
        let mut proposals = proposals.into_iter().peekable();
        for (index, sequence) in self.running.iter().enumerate() {
            if !sequence.decodes() {
                continue;
            }
            let drafts = proposals.next_if(|(place, _)| *place == index);
            let drafts = drafts.map_or_else(Vec::new, |(_, drafts)| drafts);
            budget = budget.saturating_sub(1 + drafts.len());
            let newest = &sequence.slots[sequence.filled..];
            planned.push(Planned {
                index,
                count: 1,
                vectors: false,
                tokens: [newest, &drafts].concat(),
                drafts,
                chooses: true,
            });
        }
        for (index, sequence) in self.running.iter().enumerate() {
            if sequence.decodes() {
                continue;
            }
            let virtual_tokens = sequence.virtual_tokens();
            let vectors = sequence.filled < virtual_tokens;
            let count = match vectors {
                true => virtual_tokens - sequence.filled,
                false => (sequence.slots.len() - sequence.filled).min(budget),
            };
            if count == 0 {
                continue;
            }
            budget = budget.saturating_sub(count);
            let end = sequence.filled + count;
            let generates = matches!(sequence.task, Task::Generate(_));
            planned.push(Planned {
                index,
                count,
                vectors,
                drafts: Vec::new(),
                tokens: sequence.slots[sequence.filled..end].to_vec(),
                chooses: generates && end == sequence.slots.len(),
            });
        }
        planned
    }

    fn read(&mut self, planned: &[Planned]) -> Result<States> {
        let rows: Vec<LiveRow<'_>> = planned
            .iter()
            .map(|planned| {
                let sequence = &self.running[planned.index];
                let input = match planned.vectors {
                    true => RowInput::Vectors { len: planned.count },
                    false => RowInput::Tokens(&planned.tokens),
                };
                LiveRow {
                    row: PagedRow {
                        pages: &sequence.held.pages,
                        start: sequence.filled,
                        input,
                        length: sequence.slots.len(),
                    },
                    adapter: sequence.adapter(),
                }
            })
            .collect();
        self.live.forward(&rows)
    }

    /// Reads known tokens off the states before them; returns what went wrong, by sequence.
    fn judge(&mut self, planned: &[Planned], states: &States) -> Result<Vec<Option<Error>>> {
        let mut failed: Vec<Option<Error>> = planned.iter().map(|_| None).collect();
        let mut wanted = Vec::new();
        let mut first = 0;
        for (place, row) in planned.iter().enumerate() {
            let sequence = &self.running[row.index];
            for offset in 0..row.count {
                let slot = sequence.filled + offset;
                if sequence.is_judged(slot) {
                    wanted.push((first + offset, place, slot));
                }
            }
            first += row.count + row.drafts.len();
        }
        if wanted.is_empty() {
            return Ok(failed);
        }
        let slots: Vec<usize> = wanted.iter().map(|wanted| wanted.0).collect();
        let vocab_size = self.live.model().vocab_size();
        let mut scratch = Scratch::default();
        let running = &mut self.running;
        self.live.logits(states, &slots, |first, logits| {
            let rows = logits.chunks_exact(vocab_size);
            for (&(_, place, slot), logits) in wanted[first..].iter().zip(rows) {
                if failed[place].is_none() {
                    let sequence = &mut running[planned[place].index];
                    failed[place] = sequence.judge(slot, logits, &mut scratch).err();
                }
            }
            Ok(())
        })?;
        Ok(failed)
    }

    /// The logits from which tokens are chosen, those of one sequence after the other.
    fn choices(&self, planned: &[Planned], states: &States) -> Result<Vec<f32>> {
        let mut slots = Vec::new();
        let mut first = 0;
        for row in planned {
            let end = first + row.count + row.drafts.len();
            if row.chooses {
                slots.extend(end - 1 - row.drafts.len()..end);
            }
            first = end;
        }
        let mut all = Vec::new();
        self.live.logits(states, &slots, |_, logits| {
            if all.is_empty() {
                all = logits;
            } else {
                all.extend(logits);
            }
            Ok(())
        })?;
        let expected = slots.len() * self.live.model().vocab_size();
        if all.len() != expected {
            return Err(Error::LogitCount {
                expected,
                got: all.len(),
            });
        }
        Ok(all)
    }

    /// Chooses the tokens of all sequences that get some, in parallel.
    fn choose(
        &mut self,
        planned: &[Planned],
        mut logits: Vec<f32>,
        mut failed: Vec<Option<Error>>,
    ) -> Vec<Option<Error>> {
        let vocab_size = self.live.model().vocab_size();
        let mut left = logits.as_mut_slice();
        let mut of_running: Vec<Option<(usize, &mut [f32])>> =
            self.running.iter().map(|_| None).collect();
        for (place, row) in planned.iter().enumerate().filter(|(_, row)| row.chooses) {
            let (own, rest) = left.split_at_mut((1 + row.drafts.len()) * vocab_size);
            left = rest;
            of_running[row.index] = Some((place, own));
        }
        let errors: Vec<(usize, Error)> = self
            .running
            .par_iter_mut()
            .zip(of_running)
            .filter_map(|(sequence, own)| {
                let (place, logits) = own?;
                let outcome = sequence.choose(logits, vocab_size, &planned[place].drafts);
                Some((place, outcome.err()?))
            })
            .collect();
        for (place, error) in errors {
            failed[place] = Some(error);
        }
        failed
    }

    /// Takes in what the step brought, tells callers, and ends what is done.
    fn settle(&mut self, planned: &[Planned], failed: Vec<Option<Error>>) {
        let mut ends: Vec<Option<End>> = self.running.iter().map(|_| None).collect();
        for (row, failed) in planned.iter().zip(failed) {
            let sequence = &mut self.running[row.index];
            let before = sequence.usage;
            sequence.filled += row.count;
            if !row.vectors && sequence.filled <= sequence.prompt_len {
                self.stats.prompt_tokens += row.count as u64;
            }
            ends[row.index] = if let Some(error) = failed {
                Some(End::Failed(error))
            } else if sequence.is_scored() {
                Some(End::Scored)
            } else if row.chooses {
                let end = sequence.settle(row.drafts.len(), self.max_context);
                // Proposals that were right have been read already.
                sequence.filled = sequence.slots.len() - 1;
                sequence.drafted = sequence.drafted.min(sequence.filled);
                end
            } else {
                None
            };
            let (now, slots) = (sequence.usage, &sequence.slots);
            self.stats.generated_tokens +=
                (now.completion_tokens - before.completion_tokens) as u64;
            self.stats.drafted_tokens += (now.drafted_tokens - before.drafted_tokens) as u64;
            self.stats.accepted_tokens += (now.accepted_tokens - before.accepted_tokens) as u64;
            let (owner, filled) = (sequence.owner(), sequence.filled);
            self.pages.publish(owner, slots, filled, &mut sequence.held);
            if let Task::Generate(generation) = &sequence.task
                && filled >= sequence.prompt_len
            {
                generation.group.ready.store(true, Ordering::Relaxed);
            }
        }
        let mut running = Vec::with_capacity(self.running.len());
        for (mut sequence, end) in self.running.drain(..).zip(ends) {
            let Some(end) = end else {
                running.push(sequence);
                continue;
            };
            self.pages.release(&mut sequence.held);
            match &end {
                End::Failed(_) => self.stats.failed += 1,
                End::Finished(_) | End::Scored => self.stats.finished += 1,
            }
            sequence.end(end);
        }
        self.running = running;
    }

    /// Ends everything that runs, after a step that could not be made.
    fn fail_running(&mut self, error: &Error) {
        log::error!("a step failed: {error}");
        for mut sequence in std::mem::take(&mut self.running) {
            self.pages.release(&mut sequence.held);
            self.stats.failed += 1;
            let reason = error.to_string();
            sequence.end(End::Failed(Error::StepFailed { reason }));
        }
    }

    /// Takes adapters out of the model that nobody runs with now.
    fn let_go(&mut self) {
        let running = &self.running;
        let gone = self.live.retain(|key| {
            running
                .iter()
                .any(|sequence| sequence.adapter() == Some(key))
        });
        for generation in gone {
            if !self.registry.knows(generation) {
                self.pages.forget_owner(generation);
            }
        }
    }

    fn publish(&mut self) {
        self.stats.running = self.running.len();
        self.stats.waiting = self.waiting.len();
        self.stats.kv_pages = self.pages.count();
        self.stats.kv_pages_used = self.pages.used();
        self.stats.kv_pages_cached = self.pages.cached();
        self.inbox.set_stats(self.stats);
    }
}

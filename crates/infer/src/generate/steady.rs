//! Many prompts, a few of them at a time.

use std::ops::Range;

use flametune_lm::{AdapterPass, CausalLm};
use rayon::prelude::*;

use super::request::{Control, Event, Output, Request};
use super::row::Row;
use crate::company::{Company, STEP, Text};
use crate::error::Result;

/// Continues any number of prompts, each with the same tokens in any company.
///
/// A prompt begins as soon as another one is done, and what prompts have in common at their
/// beginnings is read once. On the CPU the logits of a request do not depend, to the bit, on the
/// other requests of the call or on how many run at the same time; [`Generator`](super::Generator)
/// is faster for a few requests and promises this for their draws only.
///
/// # Examples
/// ```no_run
/// # fn example(model: &flametune_lm::CausalLm) -> flametune_infer::Result<()> {
/// use flametune_infer::{Control, Request, SamplingParams, SteadyGenerator};
///
/// let params = SamplingParams { max_tokens: 20, ..SamplingParams::default() };
/// let requests: Vec<Request> =
///     (0..100).map(|i| Request::new(vec![1, 2, 3 + i], params.clone())).collect();
/// SteadyGenerator::new(model).generate_with(
///     &requests,
///     |_| Control::Continue,
///     |request, output| {
///         assert!(request < 100 && output.tokens.len() <= 20);
///         Control::Continue
///     },
/// )
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SteadyGenerator<'m> {
    model: &'m CausalLm,
    pass: AdapterPass,
    texts: usize,
}

/// A prompt with its continuation so far.
struct Running {
    row: Row,
    text: Text,
}

impl<'m> SteadyGenerator<'m> {
    /// Generates with `model`, 32 prompts at a time.
    #[must_use]
    pub fn new(model: &'m CausalLm) -> Self {
        Self {
            model,
            pass: AdapterPass::default(),
            texts: 32,
        }
    }

    /// Generates with the adapters of `pass`, which must be the same for all rows.
    #[must_use]
    pub fn with_pass(mut self, pass: AdapterPass) -> Self {
        self.pass = pass;
        self
    }

    /// Continues so many prompts at a time, at least one: their keys and values are in memory.
    #[must_use]
    pub fn with_texts(mut self, texts: usize) -> Self {
        self.texts = texts.max(1);
        self
    }

    /// Continues all requests: reports each token, which may end its request, and hands over each
    /// output as soon as it is there, with the number of its request, which may end the call.
    ///
    /// Outputs come in no particular order.
    ///
    /// # Errors
    /// As [`Generator::generate`](super::Generator::generate).
    pub fn generate_with(
        &self,
        requests: &[Request],
        mut on_event: impl FnMut(Event<'_>) -> Control,
        mut on_output: impl FnMut(usize, Output) -> Control,
    ) -> Result<()> {
        self.model.check_predicts_tokens()?;
        let mut waiting = self.admit(requests)?;
        let mut company = self.company(&waiting);
        // Prompts that begin alike run beside each other; the last one is the next to begin.
        waiting.sort_by(|a, b| b.tokens().cmp(a.tokens()));
        let mut running: Vec<Running> = Vec::new();
        loop {
            let parts = self.plan(&mut company, &mut running, &mut waiting)?;
            if parts.is_empty() {
                return Ok(());
            }
            let texts: Vec<(&Text, Range<usize>)> = parts
                .iter()
                .map(|(at, part)| (&running[*at].text, part.clone()))
                .collect();
            let states = company.read(&texts)?;
            let last = parts.iter().zip(&states.first);
            let choosing: Vec<(usize, usize)> = last
                .filter(|((at, _), _)| running[*at].text.left() == 0)
                .map(|((at, part), first)| (*at, first + part.len() - 1))
                .collect();
            let rows: Vec<usize> = choosing.iter().map(|&(_, row)| row).collect();
            company.logits(&states, &rows, |first, mut logits| {
                let mut all: Vec<Option<&mut Row>> =
                    running.iter_mut().map(|one| Some(&mut one.row)).collect();
                let own = choosing[first..].iter().map(|&(at, _)| all[at].take());
                let mut own: Vec<&mut Row> = own.flatten().collect();
                own.par_iter_mut()
                    .zip(logits.par_chunks_exact_mut(self.model.vocab_size()))
                    .try_for_each(|(row, logits)| row.choose(logits))
            })?;
            let mut chosen = vec![false; running.len()];
            choosing.iter().for_each(|&(at, _)| chosen[at] = true);
            let mut kept = Vec::with_capacity(running.len());
            for (mut one, chosen) in running.into_iter().zip(chosen) {
                let ended = chosen.then(|| one.row.settle(&mut on_event)).flatten();
                let Some(reason) = ended else {
                    if let (true, Some(&token)) = (chosen, one.row.tokens().last()) {
                        one.text.push(token);
                    }
                    kept.push(one);
                    continue;
                };
                company.close(one.text);
                let request = one.row.request;
                on_event(Event::Finished { request, reason });
                if on_output(request, one.row.finish(reason)) == Control::Stop {
                    return Ok(());
                }
            }
            running = kept;
        }
    }

    fn admit(&self, requests: &[Request]) -> Result<Vec<Row>> {
        let (vocab_size, context) = (
            self.model.vocab_size(),
            self.model.max_position_embeddings(),
        );
        let context = context.saturating_sub(self.model.virtual_tokens(&self.pass));
        let admit = |request| Row::admit(request, vocab_size, context);
        requests.iter().enumerate().map(admit).collect()
    }

    /// Room for those that will need most.
    fn company(&self, rows: &[Row]) -> Company<'m> {
        let mut needed: Vec<usize> = rows.iter().map(needed).collect();
        needed.sort_unstable_by(|a, b| b.cmp(a));
        needed.truncate(self.texts);
        Company::new(self.model, &self.pass, &needed)
    }

    /// What the next pass reads: the newest token of those that go on, then prompts.
    fn plan(
        &self,
        company: &mut Company<'_>,
        running: &mut Vec<Running>,
        waiting: &mut Vec<Row>,
    ) -> Result<Vec<(usize, Range<usize>)>> {
        let mut parts = Vec::new();
        let mut room = STEP.max(running.len());
        let mut decoding = 0;
        for (at, one) in running.iter_mut().enumerate() {
            if one.text.left() == 1 {
                parts.push((at, company.take(&mut one.text, 1)));
                decoding += 1;
            }
        }
        room -= decoding;
        for (at, one) in running.iter_mut().enumerate() {
            if room > 0 && one.text.left() > 0 {
                let part = company.take(&mut one.text, room);
                room -= part.len();
                parts.push((at, part));
            }
        }
        while room > 0 && running.len() < self.texts {
            let Some(row) = waiting.last() else {
                break;
            };
            let prompt = row.tokens();
            let opened = company.open(prompt, prompt.len() - 1, needed(row))?;
            let Some(mut text) = opened else {
                break;
            };
            let part = company.take(&mut text, room);
            room -= part.len();
            parts.push((running.len(), part));
            running.extend(waiting.pop().map(|row| Running { row, text }));
        }
        Ok(parts)
    }
}

/// The slots of a prompt and its continuation.
fn needed(row: &Row) -> usize {
    row.tokens().len() + row.limit()
}

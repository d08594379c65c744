//! How likely a model finds continuations, without an engine.

use std::ops::Range;

use flametune_lm::{AdapterPass, CausalLm};
use rayon::prelude::*;

use crate::company::{Company, STEP, States, Text};
use crate::draw::argmax;
use crate::engine::Score;
use crate::error::{Error, Result};
use crate::generate::Control;
use crate::logprobs::TokenLogprobs;
use crate::processors::Scratch;

/// Judges continuations.
///
/// Many are read in one pass, and what texts have in common at their beginnings is read once: the
/// context of several continuations, the examples in front of many questions. Logits are computed
/// for the tokens that are judged alone. On the CPU a score depends on context and continuation
/// alone, to the bit: not on what else is in the call, nor on its order.
///
/// # Examples
/// ```no_run
/// # fn example(model: &flametune_lm::CausalLm) -> flametune_infer::Result<()> {
/// use flametune_infer::Scorer;
///
/// let pairs = [(vec![1, 2, 3], vec![4, 5]), (vec![1, 2, 3], vec![6])];
/// let scores = Scorer::new(model).score(&pairs)?;
/// let better = scores[0].total() > scores[1].total();
/// # let _ = better;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Scorer<'m> {
    model: &'m CausalLm,
    pass: AdapterPass,
    texts: usize,
}

impl<'m> Scorer<'m> {
    /// Judges with `model`.
    #[must_use]
    pub fn new(model: &'m CausalLm) -> Self {
        Self {
            model,
            pass: AdapterPass::default(),
            texts: STEP,
        }
    }

    /// Judges with the adapters of `pass`, which must be the same for all rows.
    #[must_use]
    pub fn with_pass(mut self, pass: AdapterPass) -> Self {
        self.pass = pass;
        self
    }

    /// Reads at most this many texts in one pass of the model, at least one.
    #[must_use]
    pub fn with_texts(mut self, texts: usize) -> Self {
        self.texts = texts.max(1);
        self
    }

    /// Judges pairs of context and continuation; the scores are in their order.
    ///
    /// # Errors
    /// - [`Error::EmptyPrompt`] for an empty context, [`Error::InvalidParam`] for an empty
    ///   continuation, [`Error::PromptTooLong`] and [`Error::PromptTokenOutOfRange`], each with the
    ///   number of the pair: found before anything runs
    /// - [`Error::NonFiniteLogit`] with the place in the continuation as its step
    /// - [`Error::Lm`] for what the model reports
    pub fn score<C: AsRef<[u32]>, D: AsRef<[u32]>>(&self, pairs: &[(C, D)]) -> Result<Vec<Score>> {
        let mut scores: Vec<Option<Score>> = pairs.iter().map(|_| None).collect();
        self.score_with(pairs, |pair, score| {
            scores[pair] = Some(score);
            Control::Continue
        })?;
        Ok(scores.into_iter().flatten().collect())
    }

    /// Like [`score`](Self::score), and hands each score over as soon as it is there, with the
    /// number of its pair; they come in no particular order. The callback may end the call.
    ///
    /// # Errors
    /// As [`score`](Self::score).
    pub fn score_with<C: AsRef<[u32]>, D: AsRef<[u32]>>(
        &self,
        pairs: &[(C, D)],
        mut on_score: impl FnMut(usize, Score) -> Control,
    ) -> Result<()> {
        self.model.check_predicts_tokens()?;
        let asks: Vec<Ask<'_>> = pairs
            .iter()
            .map(|(context, continuation)| Ask {
                context: context.as_ref(),
                continuation: continuation.as_ref(),
            })
            .collect();
        for (request, ask) in asks.iter().enumerate() {
            self.check(request, ask.context, ask.continuation)?;
        }
        self.run(&asks, &mut on_score)
    }

    fn check(&self, request: usize, context: &[u32], continuation: &[u32]) -> Result<()> {
        if context.is_empty() {
            return Err(Error::EmptyPrompt { request });
        }
        if continuation.is_empty() {
            return Err(Error::InvalidParam {
                field: "continuation",
                expected: "at least one token",
                got: "none".to_owned(),
            });
        }
        // The last token is judged and not read.
        let len = context.len() + continuation.len() - 1;
        let max_context = self.model.max_position_embeddings();
        if len + self.model.virtual_tokens(&self.pass) > max_context {
            return Err(Error::PromptTooLong {
                request,
                len,
                max_context,
            });
        }
        let vocab_size = self.model.vocab_size();
        let mut tokens = context.iter().chain(continuation).enumerate();
        match tokens.find(|&(_, &id)| id as usize >= vocab_size) {
            None => Ok(()),
            Some((position, &id)) => Err(Error::PromptTokenOutOfRange {
                request,
                position,
                id,
                vocab_size,
            }),
        }
    }

    fn run(
        &self,
        asks: &[Ask<'_>],
        on_score: &mut dyn FnMut(usize, Score) -> Control,
    ) -> Result<()> {
        let longest = asks.iter().map(Ask::len).max().unwrap_or(0);
        // Texts that begin alike stand beside each other, and those that are read alike are one.
        let mut order: Vec<usize> = (0..asks.len()).collect();
        order.sort_by(|&a, &b| asks[a].read().cmp(asks[b].read()));
        let mut groups = order.chunk_by(|&a, &b| asks[a].read().eq(asks[b].read()));
        let mut next = groups.next();
        // One text that comes to its end, one that begins, and what is read in between.
        let room = [longest, longest, 2 * STEP];
        let mut company = Company::new(self.model, &self.pass, &room);
        let mut open: Vec<Reading<'_>> = Vec::new();
        loop {
            let mut parts: Vec<(usize, Range<usize>)> = Vec::new();
            let mut room = STEP;
            while room > 0 {
                if open.last().is_none_or(|reading| reading.text.left() == 0) {
                    let Some(group) = next.filter(|_| open.len() < self.texts) else {
                        break;
                    };
                    let Some(reading) = Reading::open(&mut company, asks, group)? else {
                        break;
                    };
                    open.push(reading);
                    next = groups.next();
                }
                let at = open.len() - 1;
                let part = company.take(&mut open[at].text, room);
                room -= part.len();
                parts.push((at, part));
            }
            if parts.is_empty() {
                return Ok(());
            }
            let texts: Vec<(&Text, Range<usize>)> = parts
                .iter()
                .map(|(at, part)| (&open[*at].text, part.clone()))
                .collect();
            let states = company.read(&texts)?;
            judge(&company, &states, asks, &mut open, &parts)?;
            let ended = open.extract_if(.., |reading| reading.text.left() == 0);
            for reading in ended.collect::<Vec<_>>() {
                company.close(reading.text);
                for (&pair, score) in reading.group.iter().zip(reading.scores) {
                    if on_score(pair, score) == Control::Stop {
                        return Ok(());
                    }
                }
            }
        }
    }
}

/// A continuation to be judged.
#[derive(Debug, Clone, Copy)]
struct Ask<'a> {
    context: &'a [u32],
    continuation: &'a [u32],
}

impl<'a> Ask<'a> {
    /// What is read: the last token is judged only.
    fn read(&self) -> impl Iterator<Item = &'a u32> {
        let (_, continuation) = self.continuation.split_last().unwrap_or((&0, &[]));
        self.context.iter().chain(continuation)
    }

    fn len(&self) -> usize {
        self.context.len() + self.continuation.len() - 1
    }

    /// What is judged behind the token at `position`.
    fn judged_at(&self, position: usize) -> Option<u32> {
        let at = position.checked_sub(self.context.len() - 1)?;
        self.continuation.get(at).copied()
    }
}

/// A text on its way through the model, with those who ask about it.
#[derive(Debug)]
struct Reading<'a> {
    text: Text,
    group: &'a [usize],
    scores: Vec<Score>,
}

impl<'a> Reading<'a> {
    /// Begins to read, unless there is no room now.
    fn open(
        company: &mut Company<'_>,
        asks: &[Ask<'_>],
        group: &'a [usize],
    ) -> Result<Option<Self>> {
        let tokens: Vec<u32> = asks[group[0]].read().copied().collect();
        // The states of tokens that something is judged behind are needed: they are read here.
        let known = group.iter().map(|&ask| asks[ask].context.len() - 1);
        let limit = known.min().unwrap_or(0);
        let text = company.open(&tokens, limit, tokens.len())?;
        let empty = |&ask: &usize| Score {
            logprobs: Vec::with_capacity(asks[ask].continuation.len()),
            is_greedy: true,
        };
        Ok(text.map(|text| Self {
            text,
            group,
            scores: group.iter().map(empty).collect(),
        }))
    }
}

/// A row of logits that somebody needs.
#[derive(Debug)]
struct Wanted {
    row: usize,
    reading: usize,
    /// The place of the tokens in the continuation of the first who asks.
    step: usize,
    /// Which of the reading's scores, and the token that is judged.
    tokens: Vec<(usize, u32)>,
}

/// Adds what a pass says about the tokens behind its own to the scores.
fn judge(
    company: &Company<'_>,
    states: &States,
    asks: &[Ask<'_>],
    open: &mut [Reading<'_>],
    parts: &[(usize, Range<usize>)],
) -> Result<()> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for ((reading, part), first) in parts.iter().zip(&states.first) {
        for (offset, position) in part.clone().enumerate() {
            let group = open[*reading].group.iter().enumerate();
            let tokens: Vec<(usize, u32)> = group
                .filter_map(|(at, &ask)| Some((at, asks[ask].judged_at(position)?)))
                .collect();
            if let Some((at, _)) = tokens.first() {
                let ask = open[*reading].group[*at];
                wanted.push(Wanted {
                    row: first + offset,
                    reading: *reading,
                    step: position + 1 - asks[ask].context.len(),
                    tokens,
                });
            }
        }
    }
    let rows: Vec<usize> = wanted.iter().map(|wanted| wanted.row).collect();
    company.logits(states, &rows, |first, logits| {
        let wanted = &wanted[first..];
        let vocab_size = company.vocab_size();
        let judged: Vec<Result<Vec<(f32, bool)>>> = logits
            .par_chunks_exact(vocab_size)
            .zip(wanted)
            .map_init(Scratch::default, |scratch, (logits, wanted)| {
                check_logits(logits, wanted.step)?;
                let best = argmax(logits);
                let tokens = wanted.tokens.iter().map(|&(_, token)| {
                    let logprob = TokenLogprobs::of(logits, token, 0, scratch).logprob;
                    (logprob, best == Some(token))
                });
                Ok(tokens.collect())
            })
            .collect();
        for (wanted, judged) in wanted.iter().zip(judged) {
            for (&(at, _), (logprob, is_greedy)) in wanted.tokens.iter().zip(judged?) {
                let score = &mut open[wanted.reading].scores[at];
                score.logprobs.push(logprob);
                score.is_greedy &= is_greedy;
            }
        }
        Ok(())
    })
}

/// Refuses logits that are no numbers.
fn check_logits(logits: &[f32], step: usize) -> Result<()> {
    let unusable = |x: &f32| x.is_nan() || *x == f32::INFINITY;
    match logits.iter().position(unusable) {
        None => Ok(()),
        Some(id) => Err(Error::NonFiniteLogit {
            step,
            id,
            value: logits[id],
        }),
    }
}

/// Adds one token to a score.
pub(crate) fn note(
    score: &mut Score,
    logits: &[f32],
    target: u32,
    scratch: &mut Scratch,
) -> Result<()> {
    check_logits(logits, score.logprobs.len())?;
    let logprob = TokenLogprobs::of(logits, target, 0, scratch).logprob;
    score.logprobs.push(logprob);
    score.is_greedy &= argmax(logits) == Some(target);
    Ok(())
}

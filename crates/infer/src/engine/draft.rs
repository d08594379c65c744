//! Tokens proposed ahead of the model.

use std::sync::Arc;

use flametune_lm::{PagedRow, RowInput};

use super::adapters::{Lease, Registry};
use super::live::{Live, LiveRow, States};
use super::options::Speculation;
use super::sequence::Sequence;
use crate::draw::argmax;
use crate::error::Result;

/// Who proposes, with what it needs for it.
///
/// A draft that is a model keeps keys and values of its own, in pages of the same numbers as those
/// of the model it drafts for. Where pages are shared it reads them anew: it writes what is there.
#[derive(Debug)]
pub(super) enum Drafter {
    None,
    Lookup {
        ngram: usize,
        tokens: usize,
    },
    Model {
        live: Box<Live>,
        tokens: usize,
    },
    Adapter {
        live: Box<Live>,
        name: String,
        mask_token: u32,
        tokens: usize,
        lease: Option<Lease>,
    },
}

/// The sequences of a step that may have proposals.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Which of the running sequences.
    pub(super) index: usize,
    /// The most tokens to propose; pages are reserved for them.
    pub(super) room: usize,
}

impl Drafter {
    pub(super) fn new(
        speculation: Option<Speculation>,
        base: &flametune_lm::CausalLm,
        [pages, page_len]: [usize; 2],
        alone: bool,
    ) -> Self {
        match speculation {
            None => Self::None,
            Some(Speculation::PromptLookup { ngram, tokens }) => Self::Lookup { ngram, tokens },
            Some(Speculation::DraftModel { model, tokens }) => Self::Model {
                live: Box::new(Live::new(*model, pages, page_len, alone)),
                tokens,
            },
            Some(Speculation::DraftAdapter {
                name,
                mask_token,
                tokens,
            }) => Self::Adapter {
                live: Box::new(Live::new(base.clone(), pages, page_len, alone)),
                name,
                mask_token,
                tokens,
                lease: None,
            },
        }
    }

    /// Most tokens proposed for a sequence in a step.
    pub(super) fn tokens(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Lookup { tokens, .. }
            | Self::Model { tokens, .. }
            | Self::Adapter { tokens, .. } => *tokens,
        }
    }

    /// Whether it can propose something for a sequence.
    pub(super) fn suits(&self, sequence: &Sequence) -> bool {
        match self {
            Self::None => false,
            Self::Lookup { .. } => true,
            // A draft knows nothing of the virtual tokens in front, and may know shorter texts.
            Self::Model { live, tokens } | Self::Adapter { live, tokens, .. } => {
                let longest = live.model().max_position_embeddings();
                sequence.virtual_tokens() == 0 && sequence.slots.len() + tokens <= longest
            }
        }
    }

    /// Makes ready for a step; says whether a draft of before is gone, and with it what it had
    /// read.
    pub(super) fn prepare(&mut self, registry: &Arc<Registry>) -> bool {
        let Self::Adapter {
            live, name, lease, ..
        } = self
        else {
            return false;
        };
        let current = registry.peek(name);
        let known = |lease: &Option<Lease>| lease.as_ref().map(Lease::number);
        let mut gone = false;
        if known(&current) != known(lease) {
            *lease = current;
            let key = lease.as_ref().map(Lease::key);
            gone = true;
            live.retain(|adapter| Some(adapter) == key);
        }
        if let Some(lease) = lease
            && !live.has(lease.key())
        {
            match registry.parts(lease) {
                Ok(Some(parts)) => {
                    if let Err(error) = live.put(&parts, lease.number()) {
                        log::warn!("draft adapter {name:?}: {error}");
                    }
                }
                Ok(None) => {}
                Err(error) => log::warn!("draft adapter {name:?}: {error}"),
            }
        }
        gone
    }

    /// Lets go of an adapter that someone waits to unload.
    pub(super) fn release(&mut self, registry: &Registry) {
        if let Self::Adapter {
            live, name, lease, ..
        } = self
            && registry.peek(name).map(|now| now.number()) != lease.as_ref().map(Lease::number)
        {
            *lease = None;
            live.retain(|_| false);
        }
    }

    /// Proposals for some sequences, in their order.
    pub(super) fn propose(
        &mut self,
        sequences: &mut [Sequence],
        candidates: &[Candidate],
        step_tokens: usize,
    ) -> Result<Vec<Vec<u32>>> {
        match self {
            Self::None => Ok(vec![Vec::new(); candidates.len()]),
            Self::Lookup { ngram, .. } => {
                let look_up = |candidate: &Candidate| {
                    look_up(&sequences[candidate.index].slots, *ngram, candidate.room)
                };
                Ok(candidates.iter().map(look_up).collect())
            }
            Self::Model { live, .. } => by_model(live, sequences, candidates, step_tokens),
            Self::Adapter {
                live,
                mask_token,
                lease,
                ..
            } => match lease {
                Some(lease) if live.has(lease.key()) => {
                    let draft = (lease.key(), *mask_token);
                    by_adapter(live, draft, sequences, candidates, step_tokens)
                }
                _ => Ok(vec![Vec::new(); candidates.len()]),
            },
        }
    }
}

/// What followed the last tokens where they stood before, the latest such place first.
///
/// # Source
/// - reference: transformers `generation/candidate_generator.py::PromptLookupCandidateGenerator`
/// - differs: the latest match counts, not the first
fn look_up(slots: &[u32], ngram: usize, room: usize) -> Vec<u32> {
    for size in (1..=ngram.min(slots.len().saturating_sub(1))).rev() {
        let (before, last) = slots.split_at(slots.len() - size);
        // A match may reach into the last tokens themselves, but not be them.
        let found = (0..before.len())
            .rev()
            .find(|&at| slots[at..at + size] == *last);
        if let Some(at) = found {
            let follow = &slots[at + size..];
            let follow = &follow[..room.min(follow.len())];
            let real = follow
                .iter()
                .take_while(|&&id| id != super::sequence::VIRTUAL);
            return real.copied().collect();
        }
    }
    Vec::new()
}

/// Greedy continuation by a smaller model, one pass a token for all sequences.
fn by_model(
    live: &mut Live,
    sequences: &mut [Sequence],
    candidates: &[Candidate],
    step_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
    let states = catch_up(live, None, sequences, candidates, (step_tokens, &[]))?;
    let mut proposals = last_tokens(live, &states)?;
    let mut round = 1;
    loop {
        let going: Vec<usize> = (0..candidates.len())
            .filter(|&at| candidates[at].room > round && !proposals[at].is_empty())
            .collect();
        if going.is_empty() {
            return Ok(proposals);
        }
        let rows: Vec<LiveRow<'_>> = going
            .iter()
            .map(|&at| {
                let sequence = &sequences[candidates[at].index];
                let start = sequence.slots.len() + round - 1;
                LiveRow {
                    row: PagedRow {
                        pages: &sequence.held.pages,
                        start,
                        input: RowInput::Tokens(&proposals[at][round - 1..]),
                        length: start + 1,
                    },
                    adapter: None,
                }
            })
            .collect();
        let states = live.forward(&rows)?;
        let slots: Vec<usize> = (0..going.len()).collect();
        let next = most_likely(live, &states, &slots)?;
        for (&at, token) in going.iter().zip(next) {
            proposals[at].push(token);
        }
        // The last proposals are not read, so their keys are not there.
        for &at in &going {
            let sequence = &mut sequences[candidates[at].index];
            sequence.drafted = sequence.slots.len() + round;
        }
        round += 1;
    }
}

/// The tokens that an adapter sees in the places of some placeholders, all in one pass.
fn by_adapter(
    live: &mut Live,
    (key, mask_token): (&str, u32),
    sequences: &mut [Sequence],
    candidates: &[Candidate],
    step_tokens: usize,
) -> Result<Vec<Vec<u32>>> {
    let longest = candidates.iter().map(|candidate| candidate.room).max();
    let masks = vec![mask_token; longest.unwrap_or(1).saturating_sub(1)];
    let last = catch_up(
        live,
        Some(key),
        sequences,
        candidates,
        (step_tokens, &masks),
    )?;
    let (states, counts) = last;
    let mut end = 0;
    let mut wanted = Vec::new();
    for (candidate, count) in candidates.iter().zip(&counts) {
        end += count;
        let room = candidate.room.min(*count);
        wanted.extend(end - room..end);
    }
    let tokens = most_likely(live, &states, &wanted)?;
    let mut tokens = tokens.into_iter();
    Ok(candidates
        .iter()
        .zip(counts)
        .map(|(candidate, count)| tokens.by_ref().take(candidate.room.min(count)).collect())
        .collect())
}

/// The states of a pass, and how many slots of each sequence are in it.
type Last = (States, Vec<usize>);

/// Reads what is known and not read yet, in passes of limited size but for the last one, which has
/// all the sequences in it, and as many of `behind` as a sequence has room for but one.
fn catch_up(
    live: &mut Live,
    adapter: Option<&str>,
    sequences: &mut [Sequence],
    candidates: &[Candidate],
    (step_tokens, behind): (usize, &[u32]),
) -> Result<Last> {
    for candidate in candidates {
        let sequence = &mut sequences[candidate.index];
        while sequence.slots.len() - sequence.drafted > step_tokens {
            let (start, end) = (sequence.drafted, sequence.drafted + step_tokens);
            let row = PagedRow {
                pages: &sequence.held.pages,
                start,
                input: RowInput::Tokens(&sequence.slots[start..end]),
                length: sequence.slots.len(),
            };
            live.forward(&[LiveRow { row, adapter }])?;
            sequence.drafted = end;
        }
    }
    let inputs: Vec<Vec<u32>> = candidates
        .iter()
        .map(|candidate| {
            let sequence = &sequences[candidate.index];
            let mut input = sequence.slots[sequence.drafted..].to_vec();
            input.extend(&behind[..candidate.room.saturating_sub(1).min(behind.len())]);
            input
        })
        .collect();
    let rows: Vec<LiveRow<'_>> = candidates
        .iter()
        .zip(&inputs)
        .map(|(candidate, input)| {
            let sequence = &sequences[candidate.index];
            LiveRow {
                row: PagedRow {
                    pages: &sequence.held.pages,
                    start: sequence.drafted,
                    input: RowInput::Tokens(input),
                    length: sequence.slots.len(),
                },
                adapter,
            }
        })
        .collect();
    let states = live.forward(&rows)?;
    for candidate in candidates {
        let sequence = &mut sequences[candidate.index];
        sequence.drafted = sequence.slots.len();
    }
    Ok((states, inputs.iter().map(Vec::len).collect()))
}

/// The most likely token behind the last slot of each sequence.
fn last_tokens(live: &Live, (states, counts): &Last) -> Result<Vec<Vec<u32>>> {
    let ends = counts.iter().scan(0, |end, count| {
        *end += count;
        Some(*end - 1)
    });
    let tokens = most_likely(live, states, &ends.collect::<Vec<usize>>())?;
    Ok(tokens.into_iter().map(|token| vec![token]).collect())
}

fn most_likely(live: &Live, states: &States, slots: &[usize]) -> Result<Vec<u32>> {
    let vocab_size = live.model().vocab_size();
    let mut tokens = Vec::with_capacity(slots.len());
    live.logits(states, slots, |_, logits| {
        // A draft of which nothing can be chosen is a bad proposal and no error.
        let rows = logits.chunks_exact(vocab_size.max(1));
        tokens.extend(rows.map(|logits| argmax(logits).unwrap_or(0)));
        Ok(())
    })?;
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_latest_match_is_followed() {
        let found = |slots: &[u32], ngram, room| look_up(slots, ngram, room);
        assert_eq!(found(&[1, 2, 3, 9, 1, 2], 2, 3), [3, 9, 1]);
        assert_eq!(found(&[1, 2, 3, 1, 2, 4, 1, 2], 2, 1), [4]);
        // "1 2" is not there, "2" is.
        assert_eq!(found(&[2, 5, 6, 1, 2], 2, 2), [5, 6]);
        assert_eq!(found(&[7, 7, 7], 2, 4), [7]);
        assert!(found(&[1, 2, 3], 3, 4).is_empty());
        assert!(found(&[1], 3, 4).is_empty());
        assert!(found(&[], 3, 4).is_empty());
    }
}

//! Texts that are read together and do not notice each other.
//!
//! Products with more than a few rows make each row's sums in one order, however many rows there
//! are, and attention meets each query by itself. So a pass that always has enough rows, filled up
//! with tokens of no text where need be, gives a token the same numbers, to the bit, in any
//! company and however its text is cut into passes. What texts have in common at their beginnings
//! is read once.

use std::ops::Range;

use burn::tensor::{Int, Tensor, TensorData};
use flametune_kernels::{in_pool, rows_alone};
use flametune_lm::{AdapterPass, CausalLm, PagedKv, PagedRow, RowInput, VirtualSlots};

use crate::engine::{Held, Pages};
use crate::error::Result;

/// The fewest rows of a pass: more than any product takes for few.
const FEWEST: usize = 32;

/// The tokens of a pass, about.
pub(crate) const STEP: usize = 256;

/// Tokens of a page, which texts share as a whole or not at all.
const PAGE: usize = 8;

/// Rows of logits that are in memory at once.
const LOGITS: usize = 64;

/// The token in rows of no text.
const FILLER: [u32; FEWEST] = [0; FEWEST];

/// Everyone computes with the same adapters.
const OWNER: u64 = 0;

/// A model with the keys and values of the texts that it reads.
#[derive(Debug)]
pub(crate) struct Company<'m> {
    model: &'m CausalLm,
    pass: AdapterPass,
    kv: PagedKv,
    pages: Pages,
    /// Where rows of no text write.
    filler: Held,
    virtual_slots: VirtualSlots,
}

/// A text that is being read.
#[derive(Debug)]
pub(crate) struct Text {
    tokens: Vec<u32>,
    held: Held,
    taken: usize,
    /// The length for rotations.
    length: usize,
}

impl Text {
    /// Tokens that are not read yet.
    pub(crate) fn left(&self) -> usize {
        self.tokens.len() - self.taken
    }

    /// Adds a token at the end; there must be room for it.
    pub(crate) fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.length = self.tokens.len();
    }
}

/// What came out of a pass.
#[derive(Debug)]
pub(crate) struct States {
    hidden: Tensor<3>,
    /// The row of each part's first token.
    pub(crate) first: Vec<usize>,
}

impl<'m> Company<'m> {
    /// Room for texts with so many tokens, each list entry a text that is open at the same time.
    pub(crate) fn new(model: &'m CausalLm, pass: &AdapterPass, texts: &[usize]) -> Self {
        let virtual_slots = model.virtual_slots(&pass.select_rows(&[0]));
        let pages = |tokens: usize| tokens.saturating_add(virtual_slots.len()).div_ceil(PAGE);
        let count = texts.iter().fold(FEWEST.div_ceil(PAGE), |sum, &text| {
            sum.saturating_add(pages(text))
        });
        // Keys that depend on the length of a text, or stand behind virtual tokens, are its own.
        let sharing = virtual_slots.is_empty() && !model.rotates_by_length();
        let mut pages = Pages::new(count, PAGE, sharing);
        let mut filler = Held::default();
        pages.reserve(&mut filler, FEWEST);
        Self {
            model,
            pass: pass.clone(),
            kv: model.new_paged_kv(count, PAGE),
            pages,
            filler,
            virtual_slots,
        }
    }

    /// Number of logits behind a token.
    pub(crate) fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    /// Lets a text in that will have at most `room` tokens, with what is known of its first `limit`
    /// tokens; nothing where there are too few pages now.
    pub(crate) fn open(
        &mut self,
        tokens: &[u32],
        limit: usize,
        room: usize,
    ) -> Result<Option<Text>> {
        let mut held = Held::default();
        let taken = self.pages.find(OWNER, tokens, limit, &mut held);
        if !self
            .pages
            .reserve(&mut held, self.virtual_slots.len() + room)
        {
            self.pages.release(&mut held);
            return Ok(None);
        }
        if self.virtual_slots.prefix > 0 {
            let pass = self.pass.select_rows(&[0]);
            self.model.write_prefix(&mut self.kv, &pass, &held.pages)?;
        }
        Ok(Some(Text {
            length: tokens.len(),
            tokens: tokens.to_vec(),
            held,
            taken,
        }))
    }

    /// Takes at most `count` of the tokens that are left into the pass that comes next.
    ///
    /// Others may share them at once: in a pass every layer writes all keys before any query looks.
    pub(crate) fn take(&mut self, text: &mut Text, count: usize) -> Range<usize> {
        let part = text.taken..text.taken + count.min(text.left());
        text.taken = part.end;
        self.pages
            .publish(OWNER, &text.tokens, part.end, &mut text.held);
        part
    }

    /// Lets a text go; its keys stay while there is room.
    pub(crate) fn close(&mut self, mut text: Text) {
        self.pages.release(&mut text.held);
    }

    /// Reads what was [taken](Self::take).
    pub(crate) fn read(&mut self, parts: &[(&Text, Range<usize>)]) -> Result<States> {
        let front = self.virtual_slots;
        let mut rows = Vec::with_capacity(parts.len() + 1);
        let (mut first, mut total) = (Vec::with_capacity(parts.len()), 0);
        for (text, part) in parts {
            let row = |start: usize, input| PagedRow {
                pages: &text.held.pages,
                start,
                input,
                length: text.length + front.len(),
            };
            if part.start == 0 && front.input > 0 {
                let vectors = RowInput::Vectors { len: front.input };
                rows.push(row(front.prefix, vectors));
                total += front.input;
            }
            let tokens = RowInput::Tokens(&text.tokens[part.clone()]);
            rows.push(row(front.len() + part.start, tokens));
            first.push(total);
            total += part.len();
        }
        let missing = FEWEST.saturating_sub(total);
        if missing > 0 {
            rows.push(PagedRow {
                pages: &self.filler.pages,
                start: 0,
                input: RowInput::Tokens(&FILLER[..missing]),
                length: missing,
            });
        }
        let pass = self.pass.select_rows(&vec![0; rows.len()]);
        let (model, kv) = (self.model, &mut self.kv);
        let hidden =
            in_pool(|| self_contained(model, || model.forward_paged(&rows, kv, &pass, true)))?;
        Ok(States { hidden, first })
    }

    /// The logits behind some rows of a pass, a few rows at a time: `visit(the first of them, their
    /// logits one row after the other)`.
    pub(crate) fn logits(
        &self,
        states: &States,
        rows: &[usize],
        mut visit: impl FnMut(usize, Vec<f32>) -> Result<()>,
    ) -> Result<()> {
        for (index, rows) in rows.chunks(LOGITS).enumerate() {
            let mut picks: Vec<i64> = rows
                .iter()
                .map(|&row| i64::try_from(row).unwrap_or(i64::MAX))
                .collect();
            picks.resize(picks.len().max(FEWEST), 0);
            let pass = self.pass.select_rows(&vec![0; picks.len()]);
            let logits = in_pool(|| {
                let picks = TensorData::new(picks.clone(), [picks.len()]);
                let picks: Tensor<1, Int> = Tensor::from_data(picks, &states.hidden.device());
                let hidden = states.hidden.clone().select(0, picks);
                let logits = self_contained(self.model, || self.model.logits(hidden, &pass));
                logits.into_data().convert::<f32>()
            });
            // After the conversion the data are f32; an empty list would be refused by its length.
            let mut logits = logits.try_into_vec::<f32>().unwrap_or_default();
            logits.truncate(rows.len() * self.model.vocab_size());
            visit(index * LOGITS, logits)?;
        }
        Ok(())
    }
}

/// Runs `f` so that many rows do not depend on each other.
///
/// Experts meet as many rows as the router sends them, so there each row must stand alone.
fn self_contained<R>(model: &CausalLm, f: impl FnOnce() -> R) -> R {
    if model.routes_tokens() {
        rows_alone(f)
    } else {
        f()
    }
}

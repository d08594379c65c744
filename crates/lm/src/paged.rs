//! Steps over a paged cache: new tokens of many sequences, of any number each.
//!
//! Every token is a row of its own, so that each may have an adapter of its own and nothing is
//! padded:
//!
//! ```text
//! sequence a: 1 new token   ┐
//! sequence b: 3 new tokens  ├→ hidden [4, 1, d_model] → layers → [4, 1, d_model]
//!                           ┘        keys, values → the pages of a and b
//! ```

use burn::tensor::{DType, Device, Tensor};
use flametune_kernels::{PagedKeysValues, PagedScores, PagedSequence};
use flametune_peft::{AdapterPass, AdapterPrompt};

use crate::batch::TokenBatch;
use crate::error::{Error, Result};

/// Keys and values of every layer in pages, for sequences that come and go.
///
/// Which page belongs to whom is for the caller to say, step by step.
/// The memory is `2 · layers · kv_heads · pages · page_len · head_dim` numbers; on the CPU the
/// system gives it page by page as they are first written.
#[derive(Debug)]
pub struct PagedKv {
    layers: Vec<PagedKeysValues>,
    pages: usize,
    page_len: usize,
}

/// The new tokens of one sequence.
#[derive(Debug, Clone, Copy)]
pub struct PagedRow<'a> {
    /// Its pages, in the order of its slots; a token's slot is its position.
    pub pages: &'a [u32],
    /// Slots filled before, those of virtual tokens included.
    pub start: usize,
    /// What is new.
    pub input: RowInput<'a>,
    /// The length that rotary embeddings look at where their frequencies depend on it: usually that
    /// of the prompt while it is read, and of all tokens so far afterwards.
    pub length: usize,
}

/// What enters a sequence in a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowInput<'a> {
    /// Tokens.
    Tokens(&'a [u32]),
    /// The vectors that the row's adapter puts in front of the embeddings, all of them.
    Vectors {
        /// How many there are.
        len: usize,
    },
}

impl RowInput<'_> {
    /// The slots that it fills.
    pub fn len(&self) -> usize {
        match self {
            Self::Tokens(tokens) => tokens.len(),
            Self::Vectors { len } => *len,
        }
    }

    /// Whether it fills none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The slots of an adapter's virtual tokens, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VirtualSlots {
    /// Keys and values that are there from the beginning.
    pub prefix: usize,
    /// Vectors in front of the embeddings, which pass through the layers.
    pub input: usize,
}

impl VirtualSlots {
    /// All of them.
    pub fn len(&self) -> usize {
        self.prefix + self.input
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PagedKv {
    pub(crate) fn new(
        layers: usize,
        [pages, page_len]: [usize; 2],
        heads: [usize; 2],
        device: &Device,
        dtype: DType,
    ) -> Self {
        let layer = || PagedKeysValues::new([pages, page_len], heads, device, dtype);
        Self {
            layers: (0..layers).map(|_| layer()).collect(),
            pages,
            page_len,
        }
    }

    /// The number of pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The tokens that a page has room for.
    pub fn page_len(&self) -> usize {
        self.page_len
    }

    /// Writes the keys and values of the new tokens, and lets these attend to their sequences.
    ///
    /// # Shapes
    /// - `q`: `[tokens, heads, 1, head_dim]`, returned alike; `k`, `v` with `kv_heads`
    pub(crate) fn attend(
        &mut self,
        layer: usize,
        [q, k, v]: [Tensor<4>; 3],
        plan: &PagedPlan<'_>,
        scores: PagedScores,
    ) -> Tensor<4> {
        let layer = &mut self.layers[layer];
        layer.write(k, v, &plan.sequences);
        layer.attend(
            q,
            &plan.sequences,
            PagedScores {
                alone: plan.alone,
                ..scores
            },
        )
    }

    /// Writes the keys and values of virtual tokens into the first slots of a sequence.
    pub(crate) fn write_prefix(
        &mut self,
        prompt: &AdapterPrompt,
        pass: &AdapterPass,
        pages: &[u32],
        dtype: DType,
    ) -> Result<usize> {
        let Some(prefix) = prompt.keys_values(pass, 1, dtype) else {
            return Ok(0);
        };
        let mut len = 0;
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let (keys, values) = prefix.layer(index);
            len = keys.dims()[2];
            let sequence = PagedSequence {
                pages,
                start: 0,
                len,
            };
            check_pages(pages, len, self.page_len)?;
            layer.write(keys.swap_dims(0, 2), values.swap_dims(0, 2), &[sequence]);
        }
        Ok(len)
    }
}

/// What all layers of a step over a paged cache share.
#[derive(Debug)]
pub(crate) struct PagedPlan<'a> {
    pub(crate) sequences: Vec<PagedSequence<'a>>,
    /// Whether rows must not depend on each other to the bit.
    pub(crate) alone: bool,
}

/// A step's rows, checked, with what belongs to each of their tokens.
#[derive(Debug)]
pub(crate) struct PagedInput<'a> {
    pub(crate) plan: PagedPlan<'a>,
    /// The position of every new slot.
    pub(crate) positions: Vec<u32>,
    /// For each row, how many of the positions are its own and the length for its rotation.
    pub(crate) lengths: Vec<(usize, usize)>,
    /// The tokens of all rows that have some.
    tokens: Option<TokenBatch>,
    /// The row of each of these tokens.
    token_rows: Vec<usize>,
    /// The adapters of every slot.
    pub(crate) pass: AdapterPass,
    rows: &'a [PagedRow<'a>],
    row_pass: &'a AdapterPass,
}

impl<'a> PagedInput<'a> {
    pub(crate) fn new(
        rows: &'a [PagedRow<'a>],
        kv: &PagedKv,
        row_pass: &'a AdapterPass,
        alone: bool,
    ) -> Result<Self> {
        let total = rows.iter().map(|row| row.input.len()).sum();
        if total == 0 || rows.iter().any(|row| row.input.is_empty()) {
            return Err(Error::EmptyInput);
        }
        let mut positions = Vec::with_capacity(total);
        let (mut slot_rows, mut token_rows) = (Vec::with_capacity(total), Vec::new());
        let mut ids = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let end = row.start.saturating_add(row.input.len());
            check_pages(row.pages, end, kv.page_len)?;
            for slot in row.start..end {
                positions.push(u32::try_from(slot).unwrap_or(u32::MAX));
                slot_rows.push(index);
            }
            if let RowInput::Tokens(tokens) = row.input {
                ids.extend(tokens.iter().map(|&id| vec![id]));
                token_rows.extend(std::iter::repeat_n(index, tokens.len()));
            }
        }
        let sequence = |row: &PagedRow<'a>| PagedSequence {
            pages: row.pages,
            start: row.start,
            len: row.input.len(),
        };
        Ok(Self {
            plan: PagedPlan {
                sequences: rows.iter().map(sequence).collect(),
                alone,
            },
            positions,
            lengths: rows
                .iter()
                .map(|row| (row.input.len(), row.length))
                .collect(),
            tokens: match ids.is_empty() {
                true => None,
                false => Some(TokenBatch::from_rows(&ids)?),
            },
            token_rows,
            pass: row_pass.select_rows(&slot_rows),
            rows,
            row_pass,
        })
    }

    /// The number of new slots.
    pub(crate) fn len(&self) -> usize {
        self.positions.len()
    }

    /// The ids of the tokens.
    pub(crate) fn check_vocab(&self, vocab_size: usize) -> Result<()> {
        match &self.tokens {
            Some(tokens) => tokens.check_vocab(vocab_size),
            None => Ok(()),
        }
    }

    /// What enters the first layer: `embed(ids, pass)` for the tokens, and vectors of adapters.
    ///
    /// # Shapes
    /// - returns `[slots, 1, d_model]`
    pub(crate) fn embed(
        &self,
        prompt: &AdapterPrompt,
        dtype: DType,
        vectors_factor: f64,
        embed: impl Fn(&[u32], &AdapterPass) -> Tensor<3>,
    ) -> Tensor<3> {
        let embedded = self.tokens.as_ref().map(|tokens| {
            embed(
                tokens.input_ids(),
                &self.row_pass.select_rows(&self.token_rows),
            )
        });
        let has_vectors = |row: &PagedRow<'_>| matches!(row.input, RowInput::Vectors { .. });
        if let (Some(embedded), false) = (&embedded, self.rows.iter().any(has_vectors)) {
            return embedded.clone();
        }
        let (mut parts, mut taken) = (Vec::new(), 0);
        for (index, row) in self.rows.iter().enumerate() {
            match row.input {
                RowInput::Tokens(tokens) => {
                    let part = embedded.as_ref();
                    parts.extend(part.map(|all| all.clone().narrow(0, taken, tokens.len())));
                    taken += tokens.len();
                }
                RowInput::Vectors { .. } => {
                    let pass = self.row_pass.select_rows(&[index]);
                    let part = prompt.input(&pass, 1, dtype);
                    parts.extend(
                        part.map(|part| {
                            crate::decoder::scale(part.swap_dims(0, 1), vectors_factor)
                        }),
                    );
                }
            }
        }
        Tensor::cat(parts, 0)
    }

    /// Checks that rows with vectors have exactly those of their adapters.
    pub(crate) fn check_vectors(&self, prompt: &AdapterPrompt) -> Result<()> {
        for (index, row) in self.rows.iter().enumerate() {
            if let RowInput::Vectors { len } = row.input {
                let pass = self.row_pass.select_rows(&[index]);
                let expected = prompt.rows(&pass, 1).input_len();
                if expected != len {
                    return Err(Error::BatchLength {
                        what: "virtual tokens",
                        expected,
                        got: len,
                    });
                }
            }
        }
        Ok(())
    }
}

fn check_pages(pages: &[u32], slots: usize, page_len: usize) -> Result<()> {
    let limit = pages.len().saturating_mul(page_len);
    if slots > limit {
        return Err(Error::ContextOverflow {
            requested: slots,
            limit,
        });
    }
    Ok(())
}

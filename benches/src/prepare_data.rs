//! Our side of the races of tokenizing and packing.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use flametune_data::{EncodedExample, Tokenizer, pack};
use flametune_lm::Checkpoint;

use crate::cases::tokenizer;
use crate::protocol::{Packed, Tokenized};

/// A vocabulary.
pub(crate) struct Texts {
    model: PathBuf,
    tokenizer: Tokenizer,
}

impl Texts {
    /// Reads the vocabulary of a GGUF file, unless `last` has it.
    pub(crate) fn new(model: &Path, last: Option<Self>) -> Result<Self> {
        match last {
            Some(last) if last.model == model => Ok(last),
            _ => Ok(Self {
                model: model.to_owned(),
                tokenizer: tokenizer(&Checkpoint::open(model)?)?,
            }),
        }
    }

    /// The ids of texts, one after the other.
    pub(crate) fn tokenize(&self, texts: &[String]) -> Result<Tokenized> {
        let begin = Instant::now();
        let rows: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| self.tokenizer.encode(text, false))
            .collect::<Result<_, _>>()?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Tokenized {
            seconds,
            ids: rows.concat(),
        })
    }
}

/// Examples of given lengths.
pub(crate) struct Examples {
    lengths: Vec<usize>,
    examples: Vec<EncodedExample>,
}

impl Examples {
    /// Makes them, unless `last` has them.
    pub(crate) fn new(lengths: Vec<usize>, last: Option<Self>) -> Self {
        match last {
            Some(last) if last.lengths == lengths => last,
            _ => Self {
                examples: lengths.iter().map(|&length| example(length)).collect(),
                lengths,
            },
        }
    }

    /// Puts them into rows of at most `row` tokens.
    pub(crate) fn pack(&self, row: usize) -> Result<Packed> {
        let begin = Instant::now();
        let rows = pack(&self.examples, row)?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(Packed {
            seconds,
            rows: rows.len(),
            tokens: rows.iter().map(|row| row.len()).sum(),
        })
    }
}

fn example(length: usize) -> EncodedExample {
    let input_ids: Vec<u32> = (0..).take(length).collect();
    EncodedExample {
        labels: input_ids.iter().map(|&id| i64::from(id)).collect(),
        input_ids,
    }
}

//! What is measured: names, sizes, and the text that goes in.

use anyhow::{Context, Result, ensure};
use flametune_data::{GgufVocab, Tokenizer};
use flametune_lm::Checkpoint;

use crate::protocol::{Finished, Job};

/// The text of every prompt: known to any model, so that greedy tokens are far from ties.
const TEXT: &str = include_str!("../../LICENSE");

/// A speed to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The name it is stored under.
    pub name: &'static str,
    /// Rows of the batch.
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Decoding steps; without any it is the prefill that is measured.
    pub decode_steps: usize,
}

/// The speeds of plain generation.
pub const SPEED_CASES: &[Case] = &[
    Case {
        name: "prefill_512",
        batch: 1,
        prompt: 512,
        decode_steps: 0,
    },
    Case {
        name: "decode_b1",
        batch: 1,
        prompt: 64,
        decode_steps: 64,
    },
    Case {
        name: "decode_b8",
        batch: 8,
        prompt: 64,
        decode_steps: 64,
    },
];

impl Case {
    /// The work, with rows that are consecutive pieces of the text.
    ///
    /// # Errors
    /// When the text is too short.
    pub fn job(&self, text: &[u32]) -> Result<Job> {
        let prompts: Vec<Vec<u32>> = text
            .chunks_exact(self.prompt)
            .take(self.batch)
            .map(<[u32]>::to_vec)
            .collect();
        let wanted = self.batch * self.prompt;
        ensure!(
            prompts.len() == self.batch,
            "{}: the text has {} tokens, {wanted} are needed",
            self.name,
            text.len()
        );
        Ok(Job {
            prompts,
            decode_steps: self.decode_steps,
        })
    }

    /// The sizes, as a reader may like them.
    pub fn shape(&self) -> String {
        let Self {
            batch,
            prompt,
            decode_steps,
            ..
        } = self;
        match decode_steps {
            0 => format!("{batch}x{prompt}"),
            _ => format!("{batch}x({prompt}+{decode_steps})"),
        }
    }

    /// Tokens per second of the part that this case is about.
    pub fn tokens_per_second(&self, finished: &Finished) -> f64 {
        let (tokens, seconds) = match self.decode_steps {
            0 => (self.batch * self.prompt, finished.prefill_s),
            steps => (self.batch * steps, finished.decode_s),
        };
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52 tokens")]
        let tokens = tokens as f64;
        tokens / seconds
    }
}

/// What runs while memory is measured: a prefill and a decode of the sizes above.
///
/// # Errors
/// When the text is too short.
pub fn memory_job(text: &[u32]) -> Result<(String, Job)> {
    let case = Case {
        name: "memory",
        batch: 1,
        prompt: 512,
        decode_steps: 64,
    };
    Ok((case.shape(), case.job(text)?))
}

/// The ids of the text in a GGUF model's vocabulary.
///
/// # Errors
/// When the model carries no tokenizer.
pub fn text_ids(model: &Checkpoint) -> Result<Vec<u32>> {
    encode(model, TEXT)
}

/// The ids of a text in a GGUF model's vocabulary, without special tokens around it.
///
/// # Errors
/// When the model carries no tokenizer.
pub fn encode(model: &Checkpoint, text: &str) -> Result<Vec<u32>> {
    Ok(tokenizer(model)?.encode(text, false)?)
}

/// The tokenizer of a GGUF model.
///
/// # Errors
/// When it carries none.
pub(crate) fn tokenizer(model: &Checkpoint) -> Result<Tokenizer> {
    let gguf = model.gguf().context("the model is no GGUF file")?;
    let vocab = gguf.vocabulary()?.context("the model has no tokenizer")?;
    Ok(Tokenizer::from_gguf(&GgufVocab {
        architecture: vocab.architecture,
        model: vocab.model,
        pre: vocab.pre,
        tokens: vocab.tokens,
        scores: vocab.scores,
        token_types: vocab.token_types,
        merges: vocab.merges,
        bos_token_id: vocab.bos_token_id,
        eos_token_id: vocab.eos_token_id,
        eot_token_id: vocab.eot_token_id,
        unknown_token_id: vocab.unknown_token_id,
        padding_token_id: vocab.padding_token_id,
        add_bos_token: vocab.add_bos_token,
        add_eos_token: vocab.add_eos_token,
        add_space_prefix: vocab.add_space_prefix,
        chat_template: vocab.chat_template,
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_consecutive_pieces_of_the_text() {
        let text: Vec<u32> = (0..10).collect();
        let case = Case {
            name: "two_rows",
            batch: 2,
            prompt: 3,
            decode_steps: 4,
        };
        assert_eq!(
            case.job(&text).unwrap().prompts,
            [vec![0, 1, 2], vec![3, 4, 5]]
        );
        assert_eq!(case.shape(), "2x(3+4)");
        let error = case.job(&text[..5]).unwrap_err().to_string();
        assert_eq!(error, "two_rows: the text has 5 tokens, 6 are needed");
    }

    #[test]
    fn speed_counts_the_part_that_the_case_is_about() {
        let finished = Finished {
            prefill_s: 0.5,
            decode_s: 2.0,
            tokens: vec![],
            first_logits: vec![],
        };
        let speeds: Vec<f64> = SPEED_CASES
            .iter()
            .map(|case| case.tokens_per_second(&finished))
            .collect();
        assert_eq!(speeds, [1024.0, 32.0, 256.0]);
    }
}

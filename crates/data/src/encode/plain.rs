//! Texts, completions and classes: no chat template.

use super::truncation::Fit;
use super::{EncodedExample, EncodedRecord, EncodedText, Encoder, Note, Outcome};
use crate::error::{Error, Result};

impl Encoder {
    /// Prompt and completion as one text, so that the ids are those of the text as it will be read.
    ///
    /// The boundary is found by offsets: the first token with a byte of the completion begins it, so a token that
    /// straddles the boundary is trained.
    pub(super) fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Outcome> {
        if completion.is_empty() {
            return Err(Error::EmptyField {
                field: "completion",
            });
        }
        let text = format!("{prompt}{completion}");
        let encoded = self.tokenizer.encode_with_offsets(&text, true)?;
        let boundary = encoded
            .offsets
            .iter()
            .position(|token| token.end > prompt.len());
        let boundary = boundary.ok_or(Error::NothingTrained {
            tokens: encoded.ids.len(),
            reason: "no token stands for the completion".to_owned(),
        })?;
        let ids = self.ended(encoded.ids);
        let trained = (0..ids.len()).map(|index| index >= boundary).collect();
        self.finish(ids, trained, self.options.append_eos)
    }

    /// A text, every token of which is trained.
    pub(super) fn encode_text(&self, text: &str) -> Result<Outcome> {
        if text.is_empty() {
            return Err(Error::EmptyField { field: "text" });
        }
        let ids = self.ended(self.tokenizer.encode(text, true)?);
        let trained = vec![true; ids.len()];
        self.finish(ids, trained, self.options.append_eos)
    }

    /// A text with its class.
    pub(super) fn encode_classified(&self, text: &str, label: usize) -> Result<Outcome> {
        if text.is_empty() {
            return Err(Error::EmptyField { field: "text" });
        }
        let mut input_ids = self.tokenizer.encode(text, true)?;
        let mut notes = Vec::new();
        self.audit_bos(&input_ids, &mut notes)?;
        match self.fit(input_ids.len())? {
            Fit::Whole => {}
            Fit::Dropped { tokens, limit } => return Ok(Outcome::Dropped { tokens, limit }),
            Fit::Cut { tokens, limit } => {
                self.kept(&input_ids, limit).apply(&mut input_ids);
                notes.push(Note::Truncated {
                    tokens,
                    kept: limit,
                });
            }
        }
        let record = EncodedRecord::Classified(EncodedText { input_ids, label });
        Ok(Outcome::Encoded { record, notes })
    }

    /// Appends EOS, unless the tokenizer did.
    fn ended(&self, mut ids: Vec<u32>) -> Vec<u32> {
        let eos = self.tokenizer.special().eos.as_ref().map(|eos| eos.id);
        if self.options.append_eos && ids.last().copied() != eos {
            ids.extend(eos);
        }
        ids
    }

    /// Audits, cuts and labels a sequence.
    pub(super) fn finish(
        &self,
        mut ids: Vec<u32>,
        mut trained: Vec<bool>,
        expects_eos: bool,
    ) -> Result<Outcome> {
        let mut notes = Vec::new();
        self.audit_bos(&ids, &mut notes)?;
        if expects_eos {
            let of_trained = ids.iter().zip(&trained).filter(|(_, trained)| **trained);
            self.audit_eos(of_trained.map(|(id, _)| *id), &mut notes)?;
        }
        let mut reason = "a first token is no one's target".to_owned();
        match self.fit(ids.len())? {
            Fit::Whole => {}
            Fit::Dropped { tokens, limit } => return Ok(Outcome::Dropped { tokens, limit }),
            Fit::Cut { tokens, limit } => {
                let kept = self.kept(&ids, limit);
                kept.apply(&mut ids);
                kept.apply(&mut trained);
                reason = format!("the cut to {limit} of {tokens} tokens took the trained ones");
                notes.push(Note::Truncated {
                    tokens,
                    kept: limit,
                });
            }
        }
        let example = EncodedExample::new(ids, &trained);
        if example.num_supervised_tokens() == 0 {
            let tokens = example.len();
            return Err(Error::NothingTrained { tokens, reason });
        }
        let record = EncodedRecord::Sequence(example);
        Ok(Outcome::Encoded { record, notes })
    }
}

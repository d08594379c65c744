//! Answers in steps.

use super::truncation::Fit;
use super::{EncodedRecord, EncodedSteps, Encoder, Note, Outcome};
use crate::error::{Error, Result};
use crate::message::Message;

/// What stands between two steps.
const SEPARATOR: &str = "\n";

impl Encoder {
    /// A prompt and its answer in steps as one text, and the last token of each step.
    ///
    /// # Source
    /// - reference: trl `PRMTrainer.tokenize_row`: the label of a step is at its last token
    /// - differs: there steps are tokenized one by one without a chat template, and the separator has the label; here
    ///   the answer is tokenized as it will be generated, so a token may hold both the step's end and the separator
    pub(super) fn encode_stepwise(
        &self,
        prompt: &[Message],
        steps: &[String],
        labels: &[bool],
    ) -> Result<Outcome> {
        let template = self.template_for("stepwise")?;
        if prompt.is_empty() {
            return Err(Error::EmptyField { field: "prompt" });
        }
        if steps.is_empty() || steps.iter().any(String::is_empty) {
            return Err(Error::EmptyField {
                field: "completions",
            });
        }
        let head = template.render(&self.chat_input(prompt, None).generation_prompt(true))?;
        let answer = Message::assistant(steps.join(SEPARATOR));
        let conversation = [prompt, &[answer]].concat();
        let text = template.render(&self.chat_input(&conversation, None))?;
        if !text.starts_with(&head) {
            return Err(Error::PromptNotPrefix {
                template: template.name().to_owned(),
                field: "completions",
            });
        }
        let encoded = self.tokenizer.encode_with_offsets(&text, false)?;
        let mut ids = encoded.ids;
        let mut notes = Vec::new();
        self.audit_bos(&ids, &mut notes)?;
        let mut end = head.len();
        let mut ends = Vec::with_capacity(steps.len());
        for (index, step) in steps.iter().enumerate() {
            // A template may trim or escape what is said: the step must be where it is looked for.
            let begin = text[end..].find(step.as_str()).map(|begin| end + begin);
            let Some(begin) = begin else {
                return Err(Error::PromptNotPrefix {
                    template: template.name().to_owned(),
                    field: "completions",
                });
            };
            end = begin + step.len();
            let holds = |token: &std::ops::Range<usize>| token.start < end && token.end >= end;
            let place = encoded.offsets.iter().position(holds);
            ends.push(place.ok_or(Error::NothingTrained {
                tokens: ids.len(),
                reason: format!("no token ends step {index}"),
            })?);
        }
        let mut labels = labels.to_vec();
        match self.fit(ids.len())? {
            Fit::Whole => {}
            Fit::Dropped { tokens, limit } => return Ok(Outcome::Dropped { tokens, limit }),
            Fit::Cut { tokens, limit } => {
                ids.truncate(limit);
                let left = ends.iter().take_while(|end| **end < limit).count();
                ends.truncate(left);
                labels.truncate(left);
                if left == 0 {
                    let reason = format!("the cut to {limit} of {tokens} tokens took all steps");
                    return Err(Error::NothingTrained { tokens, reason });
                }
                notes.push(Note::Truncated {
                    tokens,
                    kept: limit,
                });
            }
        }
        let record = EncodedRecord::Stepwise(EncodedSteps {
            input_ids: ids,
            ends,
            labels,
        });
        Ok(Outcome::Encoded { record, notes })
    }
}

//! Answers to a prompt, compared or judged.

use super::truncation::Fit;
use super::{EncodedExample, EncodedJudged, EncodedPair, EncodedRecord, Encoder, Note, Outcome};
use crate::chat::ChatTemplate;
use crate::error::{Error, Result};
use crate::message::Message;

impl Encoder {
    /// Two answers to the same prompt tokens.
    pub(super) fn encode_preference(
        &self,
        prompt: &[Message],
        chosen: &[Message],
        rejected: &[Message],
        margin: Option<f32>,
    ) -> Result<Outcome> {
        let template = self.template_for("preference")?;
        let mut chosen = self.answered(template, prompt, chosen, "chosen")?;
        let mut rejected = self.answered(template, prompt, rejected, "rejected")?;
        if chosen.prompt != rejected.prompt {
            let same = chosen
                .prompt
                .iter()
                .zip(&rejected.prompt)
                .take_while(|(a, b)| a == b);
            let position = same.count();
            return Err(Error::PromptTokensDiffer { position });
        }
        let mut notes = Vec::new();
        self.audit_answer(&chosen, &mut notes)?;
        self.audit_answer(&rejected, &mut notes)?;
        let longest = chosen.answer.len().max(rejected.answer.len());
        let mut prompt = chosen.prompt;
        match self.fit(prompt.len() + longest)? {
            Fit::Whole => {}
            Fit::Dropped { tokens, limit } => return Ok(Outcome::Dropped { tokens, limit }),
            Fit::Cut { tokens, limit } => {
                let answers = &mut [&mut chosen.answer, &mut rejected.answer];
                self.cut_answers(&mut prompt, answers, limit);
                notes.push(Note::Truncated {
                    tokens,
                    kept: limit,
                });
            }
        }
        if chosen.answer == rejected.answer {
            let tokens = chosen.answer.len();
            return Err(Error::EqualAnswers { tokens });
        }
        let record = EncodedRecord::Pair(EncodedPair {
            chosen: joined(&prompt, &chosen.answer),
            rejected: joined(&prompt, &rejected.answer),
            prompt_tokens: prompt.len(),
            margin,
        });
        Ok(Outcome::Encoded { record, notes })
    }

    /// One answer and whether it is wanted.
    pub(super) fn encode_judged(
        &self,
        prompt: &[Message],
        completion: &[Message],
        label: bool,
    ) -> Result<Outcome> {
        let template = self.template_for("judged")?;
        let mut answered = self.answered(template, prompt, completion, "completion")?;
        let mut notes = Vec::new();
        self.audit_answer(&answered, &mut notes)?;
        let mut prompt = answered.prompt;
        match self.fit(prompt.len() + answered.answer.len())? {
            Fit::Whole => {}
            Fit::Dropped { tokens, limit } => return Ok(Outcome::Dropped { tokens, limit }),
            Fit::Cut { tokens, limit } => {
                self.cut_answers(&mut prompt, &mut [&mut answered.answer], limit);
                notes.push(Note::Truncated {
                    tokens,
                    kept: limit,
                });
            }
        }
        let record = EncodedRecord::Judged(EncodedJudged {
            example: joined(&prompt, &answered.answer),
            prompt_tokens: prompt.len(),
            label,
        });
        Ok(Outcome::Encoded { record, notes })
    }

    /// Encodes the conversation with an answer as one text and splits the ids where the prompt's text ends.
    ///
    /// # Source
    /// - reference: trl `data_utils.py::apply_chat_template`: the prompt is what the template renders with a generation
    ///   prompt, and the answer what the whole adds to it
    fn answered(
        &self,
        template: &ChatTemplate,
        prompt: &[Message],
        answer: &[Message],
        field: &'static str,
    ) -> Result<Answered> {
        if prompt.is_empty() {
            return Err(Error::EmptyField { field: "prompt" });
        }
        if answer.is_empty() {
            return Err(Error::EmptyField { field });
        }
        let head = template.render(&self.chat_input(prompt, None).generation_prompt(true))?;
        let conversation = [prompt, answer].concat();
        let text = template.render(&self.chat_input(&conversation, None))?;
        if !text.starts_with(&head) {
            return Err(Error::PromptNotPrefix {
                template: template.name().to_owned(),
                field,
            });
        }
        let mut encoded = self.tokenizer.encode_with_offsets(&text, false)?;
        let boundary = encoded
            .offsets
            .iter()
            .position(|token| token.end > head.len());
        let answer = encoded.ids.split_off(boundary.unwrap_or(encoded.ids.len()));
        match (encoded.ids.is_empty(), answer.is_empty()) {
            (true, _) => Err(Error::EmptyField { field: "prompt" }),
            (_, true) => Err(Error::EmptyField { field }),
            _ => Ok(Answered {
                prompt: encoded.ids,
                answer,
            }),
        }
    }

    fn audit_answer(&self, answered: &Answered, notes: &mut Vec<Note>) -> Result<()> {
        self.audit_bos(&answered.prompt, notes)?;
        self.audit_eos(answered.answer.iter().copied(), notes)
    }
}

/// The ids of a prompt and of one answer.
struct Answered {
    prompt: Vec<u32>,
    answer: Vec<u32>,
}

/// A prompt, which is not trained, and an answer, which is.
fn joined(prompt: &[u32], answer: &[u32]) -> EncodedExample {
    let ids = [prompt, answer].concat();
    let trained: Vec<bool> = (0..ids.len()).map(|index| index >= prompt.len()).collect();
    EncodedExample::new(ids, &trained)
}

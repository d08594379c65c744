//! Asking a model in training the prompts of its recipe.

use anyhow::Result;
use flametune_data::{ChatTemplate, Message, Tokenizer};
use flametune_infer::{Generator, Request, SamplingParams};
use flametune_lm::{AdapterPass, CausalLm};
use flametune_train::fit::Answer;

use crate::recipe::Recipe;
use crate::text;

/// The text side of a model.
#[derive(Debug)]
pub(crate) struct TextSide {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

/// What the model is asked, always with the most likely answer.
#[derive(Debug)]
pub(crate) struct Sampling<'a> {
    prompts: &'a [String],
    max_tokens: usize,
    text: &'a TextSide,
}

impl<'a> Sampling<'a> {
    pub(crate) fn new(recipe: &'a Recipe, text: &'a TextSide) -> Self {
        Self {
            prompts: &recipe.run.sample_prompts,
            max_tokens: recipe.run.sample_tokens,
            text,
        }
    }

    /// Asks everything at once.
    pub(crate) fn ask(
        &self,
        model: &CausalLm,
        pass: &AdapterPass,
    ) -> flametune_train::Result<Vec<Answer>> {
        self.answers(model, pass)
            .map_err(|error| flametune_train::Error::Hook {
                what: "sampling",
                source: error.into(),
            })
    }

    fn answers(&self, model: &CausalLm, pass: &AdapterPass) -> Result<Vec<Answer>> {
        let tokenizer = &self.text.tokenizer;
        let params = SamplingParams {
            max_tokens: self.max_tokens,
            temperature: 0.0,
            stop_token_ids: tokenizer.special().eos_ids.clone(),
            ..SamplingParams::default()
        };
        let requests = self
            .prompts
            .iter()
            .map(|prompt| {
                let ids = match &self.text.template {
                    Some(template) => {
                        text::encode_chat(template, tokenizer, &[Message::user(prompt.as_str())])?
                    }
                    None => tokenizer.encode(prompt, true)?,
                };
                Ok(Request::new(ids, params.clone()))
            })
            .collect::<Result<Vec<_>>>()?;
        let generator = Generator::new(model).with_pass(pass.clone());
        let outputs = generator.generate(&requests)?;
        let answer = |(prompt, output): (&String, &flametune_infer::Output)| {
            Ok(Answer {
                prompt: prompt.clone(),
                text: tokenizer.decode(&output.tokens, true)?,
            })
        };
        self.prompts.iter().zip(&outputs).map(answer).collect()
    }
}

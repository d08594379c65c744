//! A language model of this workspace with its tokenizer, asked the way the reference asks one of transformers.

use flametune_data::{ChatInput, ChatTemplate, CivilTime, Message, Tokenizer};
use flametune_infer::{Control, Event, Generator, Request, SamplingParams, Scorer};
use flametune_lm::{AdapterPass, CausalLm};

use crate::error::{Error, Result};
use crate::harness::GenerationOptions;
use crate::model::{ChatTurn, LanguageModel, ModelRequest, ModelResponse};
use crate::python::is_space;

/// Scores and generates with a [`CausalLm`].
///
/// Every request is computed by itself, with a context read once for the continuations that follow it, so an answer
/// never depends on the batch size, which only says after how many answers the next ones are begun.
///
/// # Source
/// `models/huggingface.py` and `api/model.py` of lm-eval 0.4.13: which tokens are read and which are judged
#[derive(Debug)]
pub struct CausalModel<'m> {
    model: &'m CausalLm,
    tokenizer: &'m Tokenizer,
    pass: AdapterPass,
    template: Option<ChatTemplate>,
    now: Option<CivilTime>,
    fingerprint: String,
    batch_size: usize,
    max_length: usize,
    seed: u64,
}

impl<'m> CausalModel<'m> {
    /// A model under a name that tells it from all others, such as a digest of its weights.
    #[must_use]
    pub fn new(
        model: &'m CausalLm,
        tokenizer: &'m Tokenizer,
        fingerprint: impl Into<String>,
    ) -> Self {
        Self {
            model,
            tokenizer,
            pass: AdapterPass::default(),
            template: None,
            now: None,
            fingerprint: fingerprint.into(),
            batch_size: 1,
            max_length: model.max_position_embeddings(),
            seed: 0,
        }
    }

    /// Answers with the adapters of `pass`.
    #[must_use]
    pub fn with_pass(mut self, pass: AdapterPass) -> Self {
        let virtual_tokens = self.model.virtual_tokens(&pass);
        self.max_length = self.max_length.min(
            self.model
                .max_position_embeddings()
                .saturating_sub(virtual_tokens),
        );
        self.pass = pass;
        self
    }

    /// Renders conversations with a template, which is told the time `now`.
    #[must_use]
    pub fn with_template(mut self, template: ChatTemplate, now: Option<CivilTime>) -> Self {
        self.template = Some(template);
        self.now = now;
        self
    }

    /// Hands requests to the model in portions of this many.
    #[must_use]
    pub fn with_batch_size(mut self, requests: usize) -> Self {
        self.batch_size = requests.max(1);
        self
    }

    /// Reads at most this many tokens, where the model could read more.
    #[must_use]
    pub fn with_max_length(mut self, tokens: usize) -> Self {
        self.max_length = self.max_length.min(tokens.max(1));
        self
    }

    /// Seeds answers that are sampled.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The token that stands before a text without a context.
    fn prefix_token(&self) -> Result<u32> {
        let special = self.tokenizer.special();
        let token = special.bos.as_ref().or(special.eos.as_ref());
        token.map(|token| token.id).ok_or_else(|| Error::Model {
            what: "empty context".to_owned(),
            reason: "the tokenizer has neither a BOS nor an EOS token to put there".to_owned(),
        })
    }

    /// Encodes with the tokenizer's own special tokens, unless the text begins with BOS already.
    fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let special = self.tokenizer.special();
        let begun = special
            .bos
            .as_ref()
            .or(special.eos.as_ref())
            .is_some_and(|token| text.starts_with(&token.text));
        Ok(self.tokenizer.encode(text, !begun)?)
    }

    /// The tokens of a context and of what follows it.
    ///
    /// White space at the end of the context goes to the continuation, and both are encoded as one text, since
    /// tokens do not end where words do.
    fn encode_pair(&self, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let (context_ids, ids) = if context.is_empty() {
            let ids = self.tokenizer.encode(continuation, false)?;
            let prefix = self.prefix_token()?;
            match ids.split_first() {
                Some((first, rest)) if *first == prefix => (vec![prefix], rest.to_vec()),
                _ => (vec![prefix], ids),
            }
        } else {
            let kept = context.trim_end_matches(is_space);
            let moved = &context[kept.len()..];
            let context_ids = self.encode(kept)?;
            let whole = self.encode(&format!("{kept}{moved}{continuation}"))?;
            let ids = whole.get(context_ids.len()..).unwrap_or_default().to_vec();
            (context_ids, ids)
        };
        let refuse = |reason: String| Error::Model {
            what: format!("continuation {continuation:?}"),
            reason,
        };
        if ids.is_empty() {
            return Err(refuse("it has no tokens of its own".to_owned()));
        }
        if ids.len() > self.max_length {
            return Err(refuse(format!(
                "it has {} tokens, the model reads {}",
                ids.len(),
                self.max_length
            )));
        }
        if context_ids.is_empty() {
            return Err(refuse("its context has no tokens".to_owned()));
        }
        // What does not fit is left out at the beginning; the last token is judged and not read.
        let room = (self.max_length + 1 - ids.len()).max(1);
        let cut = context_ids.len().saturating_sub(room);
        Ok((context_ids[cut..].to_vec(), ids))
    }

    /// Windows over a text that do not overlap: what is read before, and what is judged.
    fn windows(&self, text: &str) -> Result<Vec<(Vec<u32>, Vec<u32>)>> {
        let tokens = self.encode(text)?;
        let prefix = self.prefix_token()?;
        let mut windows = Vec::new();
        let mut begin = 0;
        while begin < tokens.len() {
            let end = (begin + self.max_length).min(tokens.len());
            let context = if begin == 0 {
                vec![prefix]
            } else {
                // The last window is filled up with what the window before it has judged.
                let start = end.saturating_sub(self.max_length + 1);
                tokens[start..begin].to_vec()
            };
            windows.push((context, tokens[begin..end].to_vec()));
            begin = end;
        }
        Ok(windows)
    }

    fn score(&self, pairs: &[(Vec<u32>, Vec<u32>)]) -> Result<Vec<(f64, bool)>> {
        let scorer = Scorer::new(self.model).with_pass(self.pass.clone());
        let scores = scorer.score(pairs)?;
        Ok(scores
            .iter()
            .map(|score| (score.total(), score.is_greedy))
            .collect())
    }

    fn generate(
        &self,
        context: &str,
        options: &GenerationOptions,
        repeat: usize,
    ) -> Result<String> {
        let room = self
            .max_length
            .checked_sub(options.max_gen_toks)
            .filter(|&room| room > 0);
        let room = room.ok_or_else(|| Error::Model {
            what: "generate_until".to_owned(),
            reason: format!(
                "max_gen_toks {} leaves no room for a prompt in {} tokens",
                options.max_gen_toks, self.max_length
            ),
        })?;
        let mut prompt = self.encode(context)?;
        if prompt.is_empty() {
            prompt.push(self.prefix_token()?);
        }
        prompt.drain(..prompt.len().saturating_sub(room));
        let special = self.tokenizer.special();
        let mut stops = options.until.clone();
        stops.extend(special.eos.as_ref().map(|token| token.text.clone()));
        stops.retain(|stop| !stop.is_empty());
        let request = Request::new(prompt, self.sampling(options)).with_index(repeat as u64);
        let mut stream = self.tokenizer.text_stream(true);
        let mut text = String::new();
        let mut failure = None;
        let generator = Generator::new(self.model).with_pass(self.pass.clone());
        let outputs = generator.generate_with(&[request], |event| {
            let Event::Token { token, .. } = event else {
                return Control::Continue;
            };
            match stream.push(token) {
                Ok(piece) => text.push_str(&piece),
                Err(error) => failure = Some(error),
            }
            if failure.is_some() || stops.iter().any(|stop| text.contains(stop.as_str())) {
                Control::Stop
            } else {
                Control::Continue
            }
        })?;
        if let Some(error) = failure {
            return Err(error.into());
        }
        let tokens = outputs.first().map(|output| output.tokens.as_slice());
        let text = self.tokenizer.decode(tokens.unwrap_or_default(), true)?;
        let end = stops
            .iter()
            .filter_map(|stop| text.find(stop.as_str()))
            .min();
        Ok(text[..end.unwrap_or(text.len())].to_owned())
    }

    fn sampling(&self, options: &GenerationOptions) -> SamplingParams {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "options of sampling are single precision"
        )]
        let single = |number: f64| number as f32;
        SamplingParams {
            temperature: single(options.temperature),
            top_p: single(options.top_p),
            top_k: options.top_k,
            min_p: single(options.min_p),
            repetition_penalty: single(options.repetition_penalty),
            seed: self.seed,
            max_tokens: options.max_gen_toks,
            stop_token_ids: self.tokenizer.special().eos_ids.clone(),
            ..SamplingParams::default()
        }
    }

    /// Answers likelihoods in portions, never parting the continuations of one context.
    fn likelihoods(
        &self,
        requests: &[(usize, &str, &str)],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()> {
        let mut left = requests;
        while !left.is_empty() {
            let mut end = self.batch_size.min(left.len());
            while end < left.len() && left[end].1 == left[end - 1].1 {
                end += 1;
            }
            let (portion, rest) = left.split_at(end);
            let pairs = portion
                .iter()
                .map(|(_, context, continuation)| self.encode_pair(context, continuation))
                .collect::<Result<Vec<_>>>()?;
            for ((at, ..), (value, is_greedy)) in portion.iter().zip(self.score(&pairs)?) {
                answered(*at, ModelResponse::Loglikelihood { value, is_greedy })?;
            }
            left = rest;
        }
        Ok(())
    }
}

impl LanguageModel for CausalModel<'_> {
    fn fingerprint(&self) -> String {
        format!(
            "{};max_length={};seed={}",
            self.fingerprint, self.max_length, self.seed
        )
    }

    fn answer(
        &self,
        requests: &[ModelRequest],
        answered: &mut dyn FnMut(usize, ModelResponse) -> Result<()>,
    ) -> Result<()> {
        let mut pairs = Vec::new();
        for (at, request) in requests.iter().enumerate() {
            match request {
                ModelRequest::Loglikelihood {
                    context,
                    continuation,
                } => pairs.push((at, context.as_str(), continuation.as_str())),
                ModelRequest::LoglikelihoodRolling { text } => {
                    let windows = self.windows(text)?;
                    let value = self.score(&windows)?.iter().map(|score| score.0).sum();
                    answered(at, ModelResponse::LoglikelihoodRolling(value))?;
                }
                ModelRequest::GenerateUntil {
                    context,
                    options,
                    repeat,
                } => {
                    let text = self.generate(context, options, *repeat)?;
                    answered(at, ModelResponse::Text(text))?;
                }
            }
        }
        self.likelihoods(&pairs, answered)
    }

    fn render_chat(&self, turns: &[ChatTurn], open: bool) -> Result<String> {
        let template = self.template.as_ref().ok_or_else(|| Error::Model {
            what: "chat template".to_owned(),
            reason: "the model has none".to_owned(),
        })?;
        let messages: Vec<Message> = turns
            .iter()
            .map(|turn| match turn.role.as_str() {
                "system" => Message::system(turn.content.as_str()),
                "assistant" => Message::assistant(turn.content.as_str()),
                _ => Message::user(turn.content.as_str()),
            })
            .collect();
        let mut input = ChatInput::new(&messages)
            .generation_prompt(open)
            .special_tokens(self.tokenizer.special());
        input.continue_final_message = !open;
        input.now = self.now;
        Ok(template.render(&input)?)
    }
}

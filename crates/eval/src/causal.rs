//! A language model of this workspace with its tokenizer, asked the way the reference asks one of transformers.

use flametune_data::{ChatInput, ChatTemplate, CivilTime, Message, Tokenizer};
use flametune_infer::{Control, Event, Output, Request, SamplingParams, Scorer, SteadyGenerator};
use flametune_lm::{AdapterPass, CausalLm};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::harness::GenerationOptions;
use crate::model::{ChatTurn, LanguageModel, ModelRequest, ModelResponse};
use crate::python::is_space;

/// Requests that are made ready at a time.
const PORTION: usize = 1024;

/// Pairs of what is read before and what is judged, in tokens.
type Pairs = Vec<(Vec<u32>, Vec<u32>)>;

/// Hands over an answer, with the position of its request.
type Answered<'a> = &'a mut dyn FnMut(usize, ModelResponse) -> Result<()>;

/// Scores and generates with a [`CausalLm`].
///
/// Many requests are read together, and what they have in common at their beginnings is read once: the context of
/// several choices, the examples in front of every question. Still no answer depends on the batch size, which says how
/// many texts a pass of the model may hold, nor on what else is asked.
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
            batch_size: 32,
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

    /// Reads at most this many texts in a pass of the model.
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
    fn windows(&self, text: &str) -> Result<Pairs> {
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

    /// Scores pairs in no particular order.
    fn score(
        &self,
        pairs: &[(Vec<u32>, Vec<u32>)],
        mut scored: impl FnMut(usize, f64, bool) -> Result<()>,
    ) -> Result<()> {
        let scorer = Scorer::new(self.model)
            .with_pass(self.pass.clone())
            .with_texts(self.batch_size);
        let mut outcome = Ok(());
        scorer.score_with(pairs, |pair, score| {
            outcome = scored(pair, score.total(), score.is_greedy);
            control(&outcome)
        })?;
        outcome
    }

    /// The tokens of a prompt that leave room for the answer, and how the answer is written.
    fn request(
        &self,
        context: &str,
        options: &GenerationOptions,
        repeat: usize,
    ) -> Result<Request> {
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
        Ok(Request::new(prompt, self.sampling(options)).with_index(repeat as u64))
    }

    /// Writes answers, each until one of its stops comes up.
    fn generate(
        &self,
        requests: &[(usize, &str, &GenerationOptions, usize)],
        answered: Answered<'_>,
    ) -> Result<()> {
        let eos = self.tokenizer.special().eos.as_ref();
        let mut prompts = Vec::with_capacity(requests.len());
        let mut stops = Vec::with_capacity(requests.len());
        let mut written = Vec::with_capacity(requests.len());
        for &(_, context, options, repeat) in requests {
            prompts.push(self.request(context, options, repeat)?);
            let mut own = options.until.clone();
            own.extend(eos.map(|token| token.text.clone()));
            own.retain(|stop| !stop.is_empty());
            stops.push(own);
            written.push((self.tokenizer.text_stream(true), String::new()));
        }
        let (mut unreadable, mut outcome) = (None, Ok(()));
        let on_event = |event: Event<'_>| {
            let Event::Token { request, token, .. } = event else {
                return Control::Continue;
            };
            let (stream, text) = &mut written[request];
            match stream.push(token) {
                Ok(piece) => text.push_str(&piece),
                Err(error) => unreadable = Some(error),
            }
            let stopped = |stop: &String| text.contains(stop.as_str());
            if unreadable.is_some() || stops[request].iter().any(stopped) {
                Control::Stop
            } else {
                Control::Continue
            }
        };
        let on_output = |request: usize, output: Output| {
            let text = self.tokenizer.decode(&output.tokens, true);
            outcome = text.map_err(Error::from).and_then(|text| {
                let ends = stops[request]
                    .iter()
                    .filter_map(|stop| text.find(stop.as_str()));
                let end = ends.min().unwrap_or(text.len());
                let (at, ..) = requests[request];
                answered(at, ModelResponse::Text(text[..end].to_owned()))
            });
            control(&outcome)
        };
        SteadyGenerator::new(self.model)
            .with_pass(self.pass.clone())
            .with_texts(self.batch_size)
            .generate_with(&prompts, on_event, on_output)?;
        match unreadable {
            Some(error) => Err(error.into()),
            None => outcome,
        }
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

    /// Judges continuations.
    fn likelihoods(&self, requests: &[(usize, &str, &str)], answered: Answered<'_>) -> Result<()> {
        let pairs = requests
            .par_iter()
            .map(|(_, context, continuation)| self.encode_pair(context, continuation))
            .collect::<Result<Vec<_>>>()?;
        self.score(&pairs, |pair, value, is_greedy| {
            let (at, ..) = requests[pair];
            answered(at, ModelResponse::Loglikelihood { value, is_greedy })
        })
    }

    /// Judges whole texts, window by window.
    fn rolling(&self, requests: &[(usize, &str)], answered: Answered<'_>) -> Result<()> {
        let (mut pairs, mut owners) = (Vec::new(), Vec::new());
        let mut sums: Vec<Vec<Option<f64>>> = Vec::with_capacity(requests.len());
        for (text, &(at, content)) in requests.iter().enumerate() {
            let windows = self.windows(content)?;
            if windows.is_empty() {
                answered(at, ModelResponse::LoglikelihoodRolling(0.0))?;
            }
            owners.extend((0..windows.len()).map(|window| (text, window)));
            sums.push(vec![None; windows.len()]);
            pairs.extend(windows);
        }
        self.score(&pairs, |pair, value, _| {
            let (text, window) = owners[pair];
            sums[text][window] = Some(value);
            // In the order of the windows, whichever came last.
            match sums[text].iter().copied().sum::<Option<f64>>() {
                Some(sum) => answered(requests[text].0, ModelResponse::LoglikelihoodRolling(sum)),
                None => Ok(()),
            }
        })
    }
}

/// Goes on unless something failed.
fn control(outcome: &Result<()>) -> Control {
    if outcome.is_ok() {
        Control::Continue
    } else {
        Control::Stop
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
        for (portion, first) in requests.chunks(PORTION).zip((0..).step_by(PORTION)) {
            let (mut pairs, mut texts, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
            for (at, request) in (first..).zip(portion) {
                match request {
                    ModelRequest::Loglikelihood {
                        context,
                        continuation,
                    } => pairs.push((at, context.as_str(), continuation.as_str())),
                    ModelRequest::LoglikelihoodRolling { text } => texts.push((at, text.as_str())),
                    ModelRequest::GenerateUntil {
                        context,
                        options,
                        repeat,
                    } => prompts.push((at, context.as_str(), options, *repeat)),
                }
            }
            self.likelihoods(&pairs, answered)?;
            self.rolling(&texts, answered)?;
            self.generate(&prompts, answered)?;
        }
        Ok(())
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

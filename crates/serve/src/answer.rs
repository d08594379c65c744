//! From the engine's tokens to text: decoding, stop strings, counting.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use flametune_data::{TextStream, Tokenizer};
use flametune_infer::{EngineEvent, FinishReason, StopStrings, TokenLogprobs, Until, Usage};
use futures::stream::{SelectAll, select_all};
use futures::{Stream, StreamExt};

use crate::api::{ApiError, PromptTokensDetails, UsageBody};
use crate::auth::Tenant;
use crate::backend::EventStream;
use crate::limits::Permit;
use crate::metrics::ModelLabel;
use crate::sampling::Plan;
use crate::state::AppState;
use crate::trace::{Asked, Trace};

/// A token of an answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Chosen {
    pub(crate) token: u32,
    pub(crate) logprobs: Option<TokenLogprobs>,
}

/// What comes of a request, in order for each choice.
#[derive(Debug)]
pub(crate) enum Piece {
    /// The log-probabilities of a prompt.
    Prompt {
        prompt: usize,
        logprobs: Vec<Option<TokenLogprobs>>,
    },
    /// More text, and the tokens that it comes from.
    Text {
        choice: usize,
        text: String,
        tokens: Vec<Chosen>,
    },
    /// The end of a choice.
    Finished { choice: usize, reason: &'static str },
}

type Pieces = Pin<Box<dyn Stream<Item = Result<(Piece, Option<Usage>), ApiError>> + Send>>;

/// The answers to all prompts of a request.
///
/// Dropping them cancels what is not finished.
pub(crate) struct Answers {
    pieces: SelectAll<Pieces>,
    usage: UsageBody,
}

impl Answers {
    /// Counts a request in and hands its prompts to the engine.
    pub(crate) fn start(
        state: &AppState,
        (tenant, trace): (&Tenant, &Trace),
        plan: &Plan,
        prompts: Vec<Vec<u32>>,
        prompt_logprobs: bool,
    ) -> Result<Self, ApiError> {
        let choices = prompts.len().saturating_mul(plan.n);
        if choices > state.limits.max_choices {
            let message = format!(
                "at most {} answers may be asked for at once, got {choices}",
                state.limits.max_choices
            );
            return Err(ApiError::invalid_param("n", message));
        }
        let prompt_tokens = prompts.iter().map(Vec::len).sum();
        let context = state.model.context;
        let requests = prompts
            .into_iter()
            .enumerate()
            .map(|(index, prompt)| plan.request(context, prompt, index, &tenant.name))
            .collect::<Result<Vec<_>, _>>()?;
        let adapter = plan.adapter.as_deref();
        let permit = state
            .limiter
            .admit(Instant::now(), &tenant.name, adapter, prompt_tokens)?;
        let permit = Arc::new(permit);
        let label = state.metrics.label(adapter.unwrap_or(&state.model.name));
        let mut streams: Vec<Pieces> = Vec::with_capacity(requests.len());
        for (index, mut request) in requests.into_iter().enumerate() {
            let tokenizer = &state.model.tokenizer;
            if !plan.stop.is_empty() {
                request.until = Some(until(tokenizer, &plan.stop, plan.n)?);
            }
            request.prompt_logprobs = prompt_logprobs.then_some(plan.logprobs.unwrap_or(0));
            let rows = (0..plan.n)
                .map(|_| Row::new(tokenizer, &plan.stop))
                .collect::<Result<Vec<_>, _>>()?;
            let answer = Answer {
                asked: trace.ask(&state.model.name, adapter, &tenant.name),
                events: state.model.backend.submit(request)?,
                rows,
                prompt: index,
                choices_left: plan.n,
                generated: 0,
                permit: Arc::clone(&permit),
                label: label.clone(),
                state: state.clone(),
            };
            streams.push(Box::pin(futures::stream::unfold(
                answer,
                |mut answer| async {
                    let piece = answer.next().await?;
                    Some((piece, answer))
                },
            )));
        }
        Ok(Self {
            pieces: select_all(streams),
            usage: UsageBody {
                prompt_tokens,
                completion_tokens: Some(0),
                total_tokens: prompt_tokens,
                prompt_tokens_details: Some(PromptTokensDetails::default()),
            },
        })
    }

    /// The next piece of whichever answer has one.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece, ApiError>> {
        let (piece, usage) = match self.pieces.next().await? {
            Ok(piece) => piece,
            Err(error) => return Some(Err(error)),
        };
        if let Some(usage) = usage {
            let completion = self.usage.completion_tokens.get_or_insert(0);
            *completion += usage.completion_tokens;
            self.usage.total_tokens += usage.completion_tokens;
            if let Some(details) = &mut self.usage.prompt_tokens_details {
                // Every choice of a prompt tells the same prompt's; the largest is the prompt's.
                details.cached_tokens = details.cached_tokens.max(usage.cached_tokens);
            }
        }
        Some(Ok(piece))
    }

    /// The tokens so far.
    pub(crate) fn usage(&self) -> UsageBody {
        self.usage
    }
}

/// The answers to one prompt.
struct Answer {
    asked: Asked,
    events: EventStream,
    rows: Vec<Row>,
    prompt: usize,
    choices_left: usize,
    generated: usize,
    permit: Arc<Permit>,
    label: ModelLabel,
    state: AppState,
}

impl Answer {
    async fn next(&mut self) -> Option<Result<(Piece, Option<Usage>), ApiError>> {
        while let Some(event) = self.events.next().await {
            match event {
                Err(error) => {
                    self.choices_left = 0;
                    self.state.metrics.failed(&self.label);
                    self.asked.failed(&error.to_string());
                    return Some(Err(error.into()));
                }
                Ok(EngineEvent::Prompt(logprobs)) => {
                    let prompt = self.prompt;
                    return Some(Ok((Piece::Prompt { prompt, logprobs }, None)));
                }
                Ok(EngineEvent::Token {
                    choice,
                    token,
                    logprobs,
                }) => {
                    self.generated += 1;
                    let n = self.rows.len();
                    let Some(row) = self.rows.get_mut(choice) else {
                        continue;
                    };
                    match row.push(Chosen { token, logprobs }) {
                        Err(error) => return Some(Err(error)),
                        Ok(None) => {}
                        Ok(Some((text, tokens))) => {
                            let choice = self.prompt * n + choice;
                            let piece = Piece::Text {
                                choice,
                                text,
                                tokens,
                            };
                            return Some(Ok((piece, None)));
                        }
                    }
                }
                Ok(EngineEvent::Finished {
                    choice,
                    reason,
                    usage,
                }) => return Some(self.finished(choice, reason, usage)),
            }
        }
        None
    }

    /// The end of a choice: first what was held back, then the end itself.
    fn finished(
        &mut self,
        choice: usize,
        reason: FinishReason,
        usage: Usage,
    ) -> Result<(Piece, Option<Usage>), ApiError> {
        let n = self.rows.len();
        let index = self.prompt * n + choice;
        let Some(row) = self.rows.get_mut(choice) else {
            return Err(ApiError::internal("a choice beyond those asked for"));
        };
        if let Some((text, tokens)) = row.finish()? {
            // The end comes again once the text is out.
            let again = futures::stream::once(futures::future::ready(Ok(EngineEvent::Finished {
                choice,
                reason,
                usage,
            })));
            let rest = std::mem::replace(&mut self.events, Box::pin(futures::stream::empty()));
            self.events = Box::pin(again.chain(rest));
            let piece = Piece::Text {
                choice: index,
                text,
                tokens,
            };
            return Ok((piece, None));
        }
        let reason = match reason {
            _ if row.stopped => "stop",
            FinishReason::Length | FinishReason::ContextFull => "length",
            FinishReason::StopToken(_) | FinishReason::Stopped => "stop",
        };
        self.choices_left = self.choices_left.saturating_sub(1);
        self.state.metrics.finished(&self.label, &usage, reason);
        self.asked.finished(index, &usage, reason);
        let piece = Piece::Finished {
            choice: index,
            reason,
        };
        Ok((piece, Some(usage)))
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.permit.take(self.generated);
        if self.choices_left > 0 {
            self.state.metrics.aborted(&self.label, self.choices_left);
            self.asked.aborted(self.generated);
            tracing::info!(
                generated = self.generated,
                "cancelled: whoever asked is gone"
            );
        }
    }
}

/// The text of one choice as it grows.
struct Row {
    stream: Option<TextStream<'static>>,
    stops: StopStrings,
    /// Tokens whose text has not come out yet.
    held: Vec<Chosen>,
    stopped: bool,
}

/// More text and its tokens, if there is more.
type More = Option<(String, Vec<Chosen>)>;

impl Row {
    fn new(tokenizer: &Arc<Tokenizer>, stop: &[String]) -> Result<Self, ApiError> {
        Ok(Self {
            stream: Some(TextStream::shared(Arc::clone(tokenizer), true)),
            stops: StopStrings::new(stop.iter().map(String::as_str))?,
            held: Vec::new(),
            stopped: false,
        })
    }

    fn push(&mut self, chosen: Chosen) -> Result<More, ApiError> {
        let Some(stream) = &mut self.stream else {
            return Ok(None);
        };
        if self.stopped {
            return Ok(None);
        }
        let piece = stream
            .push(chosen.token)
            .map_err(|error| undecodable(&error))?;
        self.held.push(chosen);
        Ok(self.scan(&piece))
    }

    /// What was held back, once there are no more tokens.
    fn finish(&mut self) -> Result<More, ApiError> {
        let Some(stream) = self.stream.take() else {
            return Ok(None);
        };
        if self.stopped {
            return Ok(None);
        }
        let tail = stream.finish().map_err(|error| undecodable(&error))?;
        let mut text = self.scan(&tail).map_or_else(String::new, |(text, tokens)| {
            // Give them back: there may be more text for them.
            self.held = tokens;
            text
        });
        if !self.stopped {
            text.push_str(&self.stops.finish());
        }
        let tokens = std::mem::take(&mut self.held);
        // Tokens without a text, such as special ones, still have probabilities.
        let nothing = text.is_empty() && (self.stopped || tokens.is_empty());
        Ok((!nothing).then_some((text, tokens)))
    }

    fn scan(&mut self, piece: &str) -> More {
        let scan = self.stops.push(piece);
        self.stopped = scan.matched.is_some();
        if scan.text.is_empty() {
            return None;
        }
        Some((scan.text, std::mem::take(&mut self.held)))
    }
}

fn undecodable(error: &flametune_data::Error) -> ApiError {
    ApiError::internal(&error.to_string())
}

/// Stops each choice at the first stop string, on the engine's side.
fn until(tokenizer: &Arc<Tokenizer>, stop: &[String], n: usize) -> Result<Until, ApiError> {
    let mut rows = (0..n)
        .map(|_| Row::new(tokenizer, stop))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Box::new(move |choice, token| {
        let Some(row) = rows.get_mut(choice) else {
            return true;
        };
        let pushed = row.push(Chosen {
            token,
            logprobs: None,
        });
        // A token that cannot be decoded ends the answer, which then fails with a message.
        pushed.is_err() || row.stopped
    }))
}

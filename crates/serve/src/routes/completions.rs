//! `POST /v1/completions`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use flametune_infer::TokenLogprobs;

use crate::answer::{Answers, Piece};
use crate::api::{
    ApiError, CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse,
    ErrorBody, Prompt, UsageBody,
};
use crate::auth::Tenant;
use crate::extract::ApiJson;
use crate::observe::RequestId;
use crate::prompt::{blocking, encode_text};
use crate::sampling::Plan;
use crate::sse::{self, Step};
use crate::state::{AppState, unix_seconds};
use crate::trace::Trace;

/// Continue texts
///
/// With `stream` the continuations come as server-sent events, and end with `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/completions",
    tag = "generation",
    request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuations", content(
            (CompletionResponse = "application/json"),
            (CompletionResponse = "text/event-stream"),
        )),
        (status = 400, description = "What is asked cannot be done", body = ErrorBody),
        (status = 401, description = "There is no such key", body = ErrorBody),
        (status = 404, description = "There is no such model", body = ErrorBody),
        (status = 408, description = "It took too long", body = ErrorBody),
        (status = 413, description = "The body is too large", body = ErrorBody),
        (status = 415, description = "The body is not announced as JSON", body = ErrorBody),
        (status = 429, description = "A limit is reached", body = ErrorBody),
        (status = 503, description = "The server is ending", body = ErrorBody),
    ),
    security((), ("key" = [])),
)]
pub(crate) async fn completions(
    State(state): State<AppState>,
    tenant: Tenant,
    Extension(id): Extension<RequestId>,
    Extension(trace): Extension<Trace>,
    ApiJson(request): ApiJson<CompletionRequest>,
) -> Result<Response, ApiError> {
    const USUAL_TOKENS: u32 = 16;
    let stream = request.options.stream.unwrap_or(false);
    let stream_options = request.options.stream_options.unwrap_or_default();
    let with_usage = stream_options.include_usage.unwrap_or(false);
    let echo = request.echo.unwrap_or(false);
    refuse_unsupported(&request, echo, stream)?;
    // Nothing but the prompt: a token is made all the same, and left out.
    let nothing_new = echo && request.max_tokens == Some(0);
    let max_tokens = if nothing_new {
        Some(1)
    } else {
        Some(request.max_tokens.unwrap_or(USUAL_TOKENS))
    };
    let plan = Plan::new(
        &state,
        &request.model,
        request.options,
        max_tokens,
        request.logprobs,
    )?;
    let prompts = encode(&state, request.prompt).await?;
    let head = Head {
        id: format!("cmpl-{}", id.0),
        created: unix_seconds(),
        model: request.model,
        logprobs: plan.logprobs.is_some(),
        nothing_new,
        state,
    };
    let echoed = if echo {
        Some(head.decode(&prompts).await?)
    } else {
        None
    };
    let prompt_logprobs = echo && head.logprobs;
    let answers = Answers::start(
        &head.state,
        (&tenant, &trace),
        &plan,
        prompts.clone(),
        prompt_logprobs,
    )?;
    if stream {
        return Ok(head.stream(answers, prompts.len() * plan.n, with_usage));
    }
    let mut choices: Vec<Choice> = (0..prompts.len() * plan.n)
        .map(|index| Choice {
            prompt: prompts[index / plan.n].clone(),
            text: match &echoed {
                Some(texts) => texts[index / plan.n].clone(),
                None => String::new(),
            },
            ..Choice::default()
        })
        .collect();
    let usage = head.collect(answers, &mut choices, plan.n).await?;
    let choices = choices
        .into_iter()
        .enumerate()
        .map(|(index, choice)| CompletionChoice {
            index,
            text: choice.text,
            logprobs: choice.logprobs,
            finish_reason: choice.reason,
        });
    Ok(Json(head.body(choices.collect(), Some(usage))).into_response())
}

fn refuse_unsupported(
    request: &CompletionRequest,
    echo: bool,
    stream: bool,
) -> Result<(), ApiError> {
    if echo && stream {
        return Err(ApiError::invalid_param(
            "echo",
            "echo and stream exclude each other",
        ));
    }
    let n = request.options.n.unwrap_or(1);
    if request.best_of.is_some_and(|best_of| best_of != n) {
        return Err(ApiError::invalid_param(
            "best_of",
            "best_of must be as large as n",
        ));
    }
    if request
        .suffix
        .as_ref()
        .is_some_and(|suffix| !suffix.is_empty())
    {
        return Err(ApiError::invalid_param(
            "suffix",
            "suffix is not supported: the model does not fill gaps",
        ));
    }
    Ok(())
}

/// The ids of each prompt.
async fn encode(state: &AppState, prompt: Prompt) -> Result<Vec<Vec<u32>>, ApiError> {
    let texts = match prompt {
        Prompt::Ids(ids) => return Ok(vec![ids]),
        Prompt::IdLists(lists) => lists.into_iter().map(Err).collect(),
        Prompt::Text(text) => vec![Ok(text)],
        Prompt::Texts(texts) => texts.into_iter().map(Ok).collect::<Vec<_>>(),
    };
    let most = state.limits.max_choices;
    if texts.is_empty() || texts.len() > most {
        let message = format!("there must be 1 to {most} prompts, got {}", texts.len());
        return Err(ApiError::invalid_param("prompt", message));
    }
    let mut prompts = Vec::with_capacity(texts.len());
    for text in texts {
        prompts.push(match text {
            Err(ids) => ids,
            Ok(text) => encode_text(&state.model.tokenizer, text, true).await?,
        });
    }
    Ok(prompts)
}

/// One continuation as it grows.
#[derive(Default)]
struct Choice {
    prompt: Vec<u32>,
    text: String,
    logprobs: Option<CompletionLogprobs>,
    /// Characters so far.
    offset: usize,
    reason: Option<&'static str>,
}

/// What all parts of an answer begin with.
struct Head {
    id: String,
    created: u64,
    model: String,
    logprobs: bool,
    nothing_new: bool,
    state: AppState,
}

impl Head {
    fn body(&self, choices: Vec<CompletionChoice>, usage: Option<UsageBody>) -> CompletionResponse {
        CompletionResponse {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
        }
    }

    /// The texts of the prompts, as they are echoed.
    async fn decode(&self, prompts: &[Vec<u32>]) -> Result<Vec<String>, ApiError> {
        let (state, prompts) = (self.state.clone(), prompts.to_vec());
        blocking(move || {
            let decode = |ids: &Vec<u32>| {
                let text = state.model.tokenizer.decode(ids, true);
                text.map_err(|error| ApiError::invalid_param("prompt", error.to_string()))
            };
            prompts.iter().map(decode).collect()
        })
        .await
    }

    /// Waits for all of it.
    async fn collect(
        &self,
        mut answers: Answers,
        choices: &mut [Choice],
        n: usize,
    ) -> Result<UsageBody, ApiError> {
        while let Some(piece) = answers.next().await {
            match piece? {
                Piece::Prompt { prompt, logprobs } => {
                    for choice in choices.iter_mut().skip(prompt * n).take(n) {
                        let prompt = std::mem::take(&mut choice.prompt);
                        for (index, &token) in prompt.iter().enumerate() {
                            let logprobs = logprobs.get(index).and_then(Option::as_ref);
                            self.add(choice, token, logprobs);
                        }
                    }
                }
                Piece::Text { .. } if self.nothing_new => {}
                Piece::Text {
                    choice,
                    text,
                    tokens,
                } => {
                    let Some(choice) = choices.get_mut(choice) else {
                        continue;
                    };
                    choice.text.push_str(&text);
                    for chosen in tokens {
                        self.add(choice, chosen.token, chosen.logprobs.as_ref());
                    }
                }
                Piece::Finished { choice, reason } => {
                    if let Some(choice) = choices.get_mut(choice) {
                        choice.reason = Some(reason);
                    }
                }
            }
        }
        Ok(answers.usage())
    }

    fn add(&self, choice: &mut Choice, token: u32, logprobs: Option<&TokenLogprobs>) {
        if self.logprobs {
            let tokenizer = &self.state.model.tokenizer;
            let all = choice.logprobs.get_or_insert_default();
            all.push(tokenizer, token, logprobs, &mut choice.offset);
        }
    }

    fn stream(self, answers: Answers, choices: usize, with_usage: bool) -> Response {
        let mut offsets = vec![0; choices];
        sse::respond(
            answers,
            Vec::new(),
            Box::new(move |step| {
                let (index, text, tokens, reason) = match step {
                    Step::Piece(Piece::Prompt { .. }) => return Vec::new(),
                    Step::Piece(Piece::Text {
                        choice,
                        text,
                        tokens,
                    }) => (choice, text, tokens, None),
                    Step::Piece(Piece::Finished { choice, reason }) => {
                        (choice, String::new(), Vec::new(), Some(reason))
                    }
                    Step::End(usage) if with_usage => {
                        return vec![sse::event(&self.body(Vec::new(), Some(usage)))];
                    }
                    Step::End(_) => return Vec::new(),
                };
                let mut logprobs = self.logprobs.then(CompletionLogprobs::default);
                if let (Some(all), Some(offset)) = (&mut logprobs, offsets.get_mut(index)) {
                    for chosen in &tokens {
                        let tokenizer = &self.state.model.tokenizer;
                        all.push(tokenizer, chosen.token, chosen.logprobs.as_ref(), offset);
                    }
                }
                let choice = CompletionChoice {
                    index,
                    text,
                    logprobs,
                    finish_reason: reason,
                };
                vec![sse::event(&self.body(vec![choice], None))]
            }),
        )
    }
}

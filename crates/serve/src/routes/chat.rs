//! `POST /v1/chat/completions`.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::Value;

use crate::answer::{Answers, Chosen, Piece};
use crate::api::{
    ApiError, ChatChoice, ChatChunk, ChatDelta, ChatMessage, ChatRequest, ChatResponse,
    ChunkChoice, ErrorBody, UsageBody,
};
use crate::auth::Tenant;
use crate::extract::ApiJson;
use crate::logprobs;
use crate::observe::RequestId;
use crate::prompt::{Conversation, encode_chat};
use crate::sampling::Plan;
use crate::sse::{self, Step};
use crate::state::{AppState, unix_seconds};
use crate::trace::Trace;

/// Answer a conversation
///
/// With `stream` the answer comes as server-sent events of chunks, and ends with `[DONE]`.
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "generation",
    request_body = ChatRequest,
    responses(
        (status = 200, description = "The answers", content(
            (ChatResponse = "application/json"),
            (ChatChunk = "text/event-stream"),
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
pub(crate) async fn chat(
    State(state): State<AppState>,
    tenant: Tenant,
    Extension(id): Extension<RequestId>,
    Extension(trace): Extension<Trace>,
    ApiJson(request): ApiJson<ChatRequest>,
) -> Result<Response, ApiError> {
    let options = &request.options;
    let stream = options.stream.unwrap_or(false);
    let stream_options = options.stream_options.unwrap_or_default();
    let with_usage = stream_options.include_usage.unwrap_or(false);
    let logprobs = wanted_logprobs(&request)?;
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    let plan = Plan::new(
        &state,
        &request.model,
        request.options,
        max_tokens,
        logprobs,
    )?;
    let tools = offered_tools(request.tool_choice.as_ref(), request.tools)?;
    let continued = request.continue_final_message.unwrap_or(false);
    let conversation = Conversation {
        messages: request.messages,
        tools,
        add_generation_prompt: request.add_generation_prompt.unwrap_or(!continued),
        continue_final_message: continued,
        variables: request.chat_template_kwargs.unwrap_or_default(),
    };
    let prompt = encode_chat(&state, conversation).await?;
    let answers = Answers::start(&state, (&tenant, &trace), &plan, vec![prompt], false)?;
    let head = Head {
        id: format!("chatcmpl-{}", id.0),
        created: unix_seconds(),
        model: request.model,
        state,
        logprobs: plan.logprobs.is_some(),
    };
    if stream {
        Ok(head.stream(answers, plan.n, with_usage))
    } else {
        head.whole(answers, plan.n).await
    }
}

/// How many alternatives are asked for; `None` for no log-probabilities.
fn wanted_logprobs(request: &ChatRequest) -> Result<Option<u32>, ApiError> {
    match (request.logprobs.unwrap_or(false), request.top_logprobs) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid_param(
            "top_logprobs",
            "top_logprobs needs logprobs to be true",
        )),
    }
}

/// The tools that the template is told of.
fn offered_tools(
    choice: Option<&Value>,
    tools: Option<Vec<Value>>,
) -> Result<Option<Vec<Value>>, ApiError> {
    match choice.map(|choice| choice.as_str()) {
        None | Some(Some("auto")) => Ok(tools.filter(|tools| !tools.is_empty())),
        Some(Some("none")) => Ok(None),
        Some(_) => Err(ApiError::invalid_param(
            "tool_choice",
            "tool_choice must be auto or none; use response_format to force a form",
        )),
    }
}

/// What all parts of an answer begin with.
struct Head {
    id: String,
    created: u64,
    model: String,
    state: AppState,
    logprobs: bool,
}

impl Head {
    async fn whole(self, mut answers: Answers, n: usize) -> Result<Response, ApiError> {
        let mut choices: Vec<ChatChoice> = (0..n).map(empty_choice).collect();
        while let Some(piece) = answers.next().await {
            match piece? {
                Piece::Prompt { .. } => {}
                Piece::Text {
                    choice,
                    text,
                    tokens,
                } => {
                    let Some(choice) = choices.get_mut(choice) else {
                        continue;
                    };
                    choice.message.content.push_str(&text);
                    if let Some(more) = self.logprobs_of(&tokens) {
                        let all = choice.logprobs.get_or_insert_default();
                        all.content.extend(more.content);
                    }
                }
                Piece::Finished { choice, reason } => {
                    if let Some(choice) = choices.get_mut(choice) {
                        choice.finish_reason = reason;
                    }
                }
            }
        }
        Ok(Json(ChatResponse {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            choices,
            usage: answers.usage(),
        })
        .into_response())
    }

    fn stream(self, answers: Answers, n: usize, with_usage: bool) -> Response {
        let opening = (0..n).map(|index| {
            let delta = ChatDelta {
                role: Some("assistant"),
                content: Some(String::new()),
            };
            sse::event(&self.chunk(index, delta, None))
        });
        let opening = opening.collect();
        sse::respond(
            answers,
            opening,
            Box::new(move |step| match step {
                Step::Piece(Piece::Prompt { .. }) => Vec::new(),
                Step::Piece(Piece::Text {
                    choice,
                    text,
                    tokens,
                }) => {
                    let delta = ChatDelta {
                        role: None,
                        content: Some(text),
                    };
                    let mut chunk = self.chunk(choice, delta, None);
                    if let Some(choice) = chunk.choices.first_mut() {
                        choice.logprobs = self.logprobs_of(&tokens);
                    }
                    vec![sse::event(&chunk)]
                }
                Step::Piece(Piece::Finished { choice, reason }) => {
                    vec![sse::event(&self.chunk(
                        choice,
                        ChatDelta::default(),
                        Some(reason),
                    ))]
                }
                Step::End(usage) if with_usage => vec![sse::event(&self.totals(usage))],
                Step::End(_) => Vec::new(),
            }),
        )
    }

    fn logprobs_of(&self, tokens: &[Chosen]) -> Option<crate::api::ChatLogprobs> {
        let tokenizer = &self.state.model.tokenizer;
        self.logprobs.then(|| logprobs::chat(tokenizer, tokens))
    }

    fn chunk(&self, index: usize, delta: ChatDelta, reason: Option<&'static str>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices: vec![ChunkChoice {
                index,
                delta,
                logprobs: None,
                finish_reason: reason,
            }],
            usage: None,
        }
    }

    fn totals(&self, usage: UsageBody) -> ChatChunk {
        ChatChunk {
            choices: Vec::new(),
            usage: Some(usage),
            ..self.chunk(0, ChatDelta::default(), None)
        }
    }
}

fn empty_choice(index: usize) -> ChatChoice {
    ChatChoice {
        index,
        message: ChatMessage {
            role: "assistant",
            content: String::new(),
            refusal: None,
        },
        logprobs: None,
        finish_reason: "stop",
    }
}

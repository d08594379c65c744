//! A backend that answers from a script, and how tests speak to the routes.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use flametune_data::{ChatTemplate, Tokenizer};
use flametune_infer::{
    AdapterInfo, EngineEvent, EngineStats, Error, FinishReason, GenerateRequest, Result,
    TokenLogprobs, Usage,
};
use flametune_serve::{AppState, Backend, BoxFuture, EventStream, Served, ServedModel, app};
use flametune_testkit::fixture_text;
use futures::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const CONTEXT: usize = 400;

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let json = fixture_text("tokenizers/bytelevel_bpe.json");
    Arc::new(Tokenizer::from_json("tokenizer.json", json.as_bytes()).unwrap())
}

/// How the script goes on after its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ends.
    Finishes,
    /// It never does.
    Hangs,
    /// It fails.
    Fails,
}

/// Says `NAME> PROMPT#CHOICE`, where the name is that of the adapter or `base`.
pub(crate) struct Script {
    tokenizer: Arc<Tokenizer>,
    pub(crate) ending: Ending,
    pub(crate) adapters: Mutex<Vec<AdapterInfo>>,
    /// Streams that are alive.
    pub(crate) alive: Arc<AtomicUsize>,
    /// The requests that came, as they print.
    pub(crate) seen: Mutex<Vec<String>>,
    pub(crate) full: bool,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            tokenizer: tokenizer(),
            ending: Ending::Finishes,
            adapters: Mutex::new(vec![adapter("sql"), adapter("poet")]),
            alive: Arc::default(),
            seen: Mutex::default(),
            full: false,
        }
    }

    pub(crate) fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }

    fn events(&self, mut request: GenerateRequest) -> Vec<Result<EngineEvent>> {
        let mut events = Vec::new();
        let logprobs = |id: u32, top: usize| TokenLogprobs {
            logprob: -0.25,
            top: [(id, -0.25), (65, -1.5), (66, f32::NEG_INFINITY)][..top.min(3)].to_vec(),
        };
        if let Some(top) = request.prompt_logprobs {
            let each = request.prompt.iter().enumerate();
            let each = each.map(|(index, &id)| (index > 0).then(|| logprobs(id, top)));
            events.push(Ok(EngineEvent::Prompt(each.collect())));
        }
        let prompt = self.tokenizer.decode(&request.prompt, true).unwrap();
        let name = request.adapter.as_deref().unwrap_or("base");
        for choice in 0..request.n {
            let text = format!("{name}> {prompt}#{choice}");
            let tokens = self.tokenizer.encode(&text, false).unwrap();
            let mut reason = FinishReason::StopToken(0);
            let mut made = 0;
            for token in tokens {
                if made == request.params.max_tokens {
                    reason = FinishReason::Length;
                    break;
                }
                made += 1;
                events.push(Ok(EngineEvent::Token {
                    choice,
                    token,
                    logprobs: request.logprobs.map(|top| logprobs(token, top)),
                }));
                if request
                    .until
                    .as_mut()
                    .is_some_and(|until| until(choice, token))
                {
                    reason = FinishReason::Stopped;
                    break;
                }
            }
            if self.ending == Ending::Finishes {
                events.push(Ok(EngineEvent::Finished {
                    choice,
                    reason,
                    usage: Usage {
                        prompt_tokens: request.prompt.len(),
                        completion_tokens: made,
                        first_token: Duration::from_millis(3),
                        total: Duration::from_millis(9),
                        ..Usage::default()
                    },
                }));
            }
        }
        if self.ending == Ending::Fails {
            events.push(Err(Error::StepFailed {
                reason: "a secret of the inside".to_owned(),
            }));
        }
        events
    }
}

pub(crate) fn adapter(name: &str) -> AdapterInfo {
    AdapterInfo {
        name: name.to_owned(),
        folder: PathBuf::from(name),
        generation: 1,
        bytes: 4096,
        resident: true,
        pinned: false,
        users: 1,
        requests: 3,
        warnings: Vec::new(),
    }
}

/// A stream that is counted while it lives.
struct Counted {
    inner: EventStream,
    alive: Arc<AtomicUsize>,
}

impl Stream for Counted {
    type Item = Result<EngineEvent>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.inner.poll_next_unpin(context)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Backend for Script {
    fn submit(&self, request: GenerateRequest) -> Result<EventStream> {
        if self.full {
            return Err(Error::QueueFull {
                waiting: 9,
                limit: 9,
            });
        }
        self.seen.lock().unwrap().push(format!("{request:?}"));
        let hangs = self.ending == Ending::Hangs;
        let events = stream::iter(self.events(request));
        let inner: EventStream = if hangs {
            Box::pin(events.chain(stream::pending()))
        } else {
            Box::pin(events)
        };
        self.alive.fetch_add(1, Ordering::SeqCst);
        Ok(Box::pin(Counted {
            inner,
            alive: Arc::clone(&self.alive),
        }))
    }

    fn load_adapter(&self, name: String, folder: PathBuf) -> BoxFuture<Result<AdapterInfo>> {
        let mut info = adapter(&name);
        info.folder = folder;
        let mut adapters = self.adapters.lock().unwrap();
        adapters.retain(|adapter| adapter.name != name);
        adapters.push(info.clone());
        Box::pin(async { Ok(info) })
    }

    fn unload_adapter(&self, name: String) -> BoxFuture<Result<()>> {
        let mut adapters = self.adapters.lock().unwrap();
        adapters.retain(|adapter| adapter.name != name);
        Box::pin(async { Ok(()) })
    }

    fn adapters(&self) -> Vec<AdapterInfo> {
        self.adapters.lock().unwrap().clone()
    }

    fn stats(&self) -> EngineStats {
        EngineStats {
            running: 2,
            waiting: 1,
            kv_pages: 8,
            kv_pages_used: 2,
            ..EngineStats::default()
        }
    }
}

/// What is served, with the name `tiny` for the base.
pub(crate) fn served(script: Script) -> Served {
    let template = ChatTemplate::builtin("chatml").unwrap();
    let model = ServedModel::new("tiny", Arc::new(script), tokenizer(), CONTEXT);
    Served::new(model.with_template(template))
}

/// The routes over a script with the usual options.
pub(crate) fn routes() -> Router {
    app(AppState::new(served(Script::new())).unwrap())
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("{}", self.text))
    }

    /// The events of a stream, without the last.
    pub(crate) fn events(&self) -> Vec<Value> {
        let events: Vec<&str> = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .collect();
        let (last, events) = events.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        events
            .iter()
            .map(|event| serde_json::from_str(event).unwrap())
            .collect()
    }

    /// Checks the shape of an error and returns its message.
    pub(crate) fn error(&self, status: u16) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        let body = self.json();
        let error = body["error"].as_object().unwrap();
        assert!(error["type"].is_string(), "{body}");
        assert!(
            error["param"].is_string() || error["param"].is_null(),
            "{body}"
        );
        assert!(
            error["code"].is_string() || error["code"].is_null(),
            "{body}"
        );
        error["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = to_bytes(body, 64 << 20).await.unwrap();
    Answer {
        status: head.status,
        headers: head.headers,
        text: String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

pub(crate) fn request(method: Method, path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body.into())
        .unwrap()
}

pub(crate) async fn get(router: &Router, path: &str) -> Answer {
    send(router, request(Method::GET, path, Body::empty())).await
}

pub(crate) async fn post(router: &Router, path: &str, body: Value) -> Answer {
    send(router, request(Method::POST, path, body.to_string())).await
}

/// A conversation of one message, with more fields.
pub(crate) fn chat(text: &str, more: Value) -> Value {
    let mut body = json!({"model": "tiny", "messages": [{"role": "user", "content": text}]});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

/// What the script answers a conversation of one message with.
pub(crate) fn said(name: &str, text: &str, choice: usize) -> String {
    // The template's marks are special tokens, which are left out of texts.
    format!("{name}> user\n{text}\nassistant\n#{choice}")
}

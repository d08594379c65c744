//! The routes.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Form, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::pages::{DonePage, ResultsPage, StartPage, VotePage};
use super::store::{AbStore, Side};
use crate::error::{Error, Result};
use crate::stats::Outcome;

/// Longest name of a rater.
const MAX_NAME: usize = 40;
/// Longest remark, in bytes; more is cut.
const MAX_COMMENT: usize = 4000;

/// What the application is called, and who sees results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbOptions {
    /// Heading of all pages.
    pub title: String,
    /// What results and export ask for, since they name the models.
    pub results_key: String,
}

#[derive(Debug, Clone)]
struct Shared {
    store: Arc<AbStore>,
    options: Arc<AbOptions>,
}

/// The application.
///
/// | route | what |
/// |---|---|
/// | `GET /` | asks a rater for a name |
/// | `GET /rate/{rater}` | the next pair |
/// | `POST /rate/{rater}` | a vote: `item`, `side` (`left`, `right` or `tie`), `comment` |
/// | `POST /undo/{rater}` | takes the last vote back |
/// | `GET /results?key=…`, `/results.json?key=…` | rates, ratings, agreement |
/// | `GET /export.jsonl?key=…` | one vote a line, with the models |
pub fn app(store: Arc<AbStore>, options: AbOptions) -> Router {
    let shared = Shared {
        store,
        options: Arc::new(options),
    };
    Router::new()
        .route("/", get(start))
        .route("/rate", post(named))
        .route("/rate/{rater}", get(rate).post(vote))
        .route("/undo/{rater}", post(undo))
        .route("/results", get(results))
        .route("/results.json", get(results_json))
        .route("/export.jsonl", get(export))
        .with_state(shared)
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Input { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

fn page(template: &impl Template) -> Result<Response> {
    let html = template.render().map_err(|error| Error::Report {
        what: "page",
        reason: error.to_string(),
    })?;
    // A pair must not come out of a cache after its vote, and nothing may be loaded from elsewhere.
    let headers = [
        (header::CACHE_CONTROL, "no-store"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
        ),
    ];
    Ok((headers, Html(html)).into_response())
}

/// A rater's name, if it is one: letters, digits, `-`, `_` and `.`.
fn checked(name: &str) -> Option<&str> {
    let name = name.trim();
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let length = name.chars().count();
    (length > 0 && length <= MAX_NAME && name.chars().all(fits)).then_some(name)
}

fn no_such_rater() -> Response {
    (
        StatusCode::BAD_REQUEST,
        "a name has 1 to 40 letters, digits, dots, dashes or underscores",
    )
        .into_response()
}

async fn start(State(shared): State<Shared>) -> Result<Response> {
    page(&StartPage {
        title: &shared.options.title,
        problem: "",
        name: "",
    })
}

#[derive(Deserialize)]
struct Named {
    rater: String,
}

async fn named(State(shared): State<Shared>, Form(named): Form<Named>) -> Result<Response> {
    match checked(&named.rater) {
        Some(rater) => Ok(Redirect::to(&address("/rate/", rater)).into_response()),
        None => page(&StartPage {
            title: &shared.options.title,
            problem: "A name has 1 to 40 letters, digits, dots, dashes or underscores.",
            name: &named.rater,
        }),
    }
}

/// The address `before` with `name` after it, letters beyond ASCII as bytes in hexadecimal.
fn address(before: &str, name: &str) -> String {
    let mut path = String::from(before);
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    path
}

async fn rate(State(shared): State<Shared>, Path(rater): Path<String>) -> Result<Response> {
    let Some(rater) = checked(&rater) else {
        return Ok(no_such_rater());
    };
    let store = &shared.store;
    let (done, total) = store.progress(rater)?;
    let title = &shared.options.title;
    let undo = address("/undo/", rater);
    let Some(item) = store.next_item(rater)? else {
        return page(&DonePage {
            title,
            rater,
            done,
            undo: &undo,
        });
    };
    let (left, right) = match store.left_for(&item.id, rater) {
        Outcome::Second => (&item.second, &item.first),
        _ => (&item.first, &item.second),
    };
    page(&VotePage {
        title,
        rater,
        item: &item.id,
        prompt: &item.prompt,
        left: &left.text,
        right: &right.text,
        done,
        total,
        undo: &undo,
    })
}

#[derive(Deserialize)]
struct Cast {
    item: String,
    side: Side,
    #[serde(default)]
    comment: String,
}

async fn vote(
    State(shared): State<Shared>,
    Path(rater): Path<String>,
    Form(cast): Form<Cast>,
) -> Result<Response> {
    let Some(rater) = checked(&rater) else {
        return Ok(no_such_rater());
    };
    let mut end = cast.comment.len().min(MAX_COMMENT);
    while !cast.comment.is_char_boundary(end) {
        end -= 1;
    }
    shared
        .store
        .vote(&cast.item, rater, cast.side, cast.comment[..end].trim())?;
    Ok(Redirect::to(&address("/rate/", rater)).into_response())
}

async fn undo(State(shared): State<Shared>, Path(rater): Path<String>) -> Result<Response> {
    let Some(rater) = checked(&rater) else {
        return Ok(no_such_rater());
    };
    shared.store.undo(rater)?;
    Ok(Redirect::to(&address("/rate/", rater)).into_response())
}

#[derive(Deserialize)]
struct Key {
    #[serde(default)]
    key: String,
}

impl Shared {
    /// Whether the key is right, in a time that does not depend on where it is wrong.
    fn admits(&self, key: &Key) -> bool {
        let (own, given) = (self.options.results_key.as_bytes(), key.key.as_bytes());
        let differing = own
            .iter()
            .zip(given)
            .fold(0_u8, |sum, (a, b)| sum | (a ^ b));
        own.len() == given.len() && differing == 0
    }
}

fn forbidden() -> Response {
    (
        StatusCode::FORBIDDEN,
        "results name the models, so they ask for ?key=…",
    )
        .into_response()
}

async fn results(State(shared): State<Shared>, Query(key): Query<Key>) -> Result<Response> {
    if !shared.admits(&key) {
        return Ok(forbidden());
    }
    page(&ResultsPage {
        title: &shared.options.title,
        export: &address("/export.jsonl?key=", &key.key),
        results: &shared.store.results()?,
    })
}

async fn results_json(State(shared): State<Shared>, Query(key): Query<Key>) -> Result<Response> {
    if !shared.admits(&key) {
        return Ok(forbidden());
    }
    Ok(Json(shared.store.results()?).into_response())
}

async fn export(State(shared): State<Shared>, Query(key): Query<Key>) -> Result<Response> {
    if !shared.admits(&key) {
        return Ok(forbidden());
    }
    let text = shared.store.export()?;
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson; charset=utf-8"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"votes.jsonl\"",
        ),
    ];
    Ok((headers, text).into_response())
}

impl AbStore {
    /// All votes as JSON lines, each with the models and the winner's name.
    ///
    /// # Errors
    /// [`Error::Database`].
    pub fn export(&self) -> Result<String> {
        let mut out = String::new();
        let items = self.items()?;
        for vote in self.votes()? {
            let Some(item) = items.iter().find(|item| item.id == vote.item) else {
                continue;
            };
            let winner = match vote.outcome {
                Outcome::First => Some(&item.first.model),
                Outcome::Second => Some(&item.second.model),
                Outcome::Tie => None,
            };
            let line = serde_json::json!({
                "item": vote.item,
                "rater": vote.rater,
                "first": item.first.model,
                "second": item.second.model,
                "outcome": vote.outcome,
                "winner": winner,
                "left": vote.left,
                "comment": vote.comment,
            });
            out.push_str(&line.to_string());
            out.push('\n');
        }
        Ok(out)
    }
}

/// Serves the application on a listener that the caller opened, until the future `stop` is done.
///
/// # Errors
/// [`Error::Io`] when the listener fails.
pub async fn serve<L>(
    listener: L,
    router: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()>
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    axum::serve(listener, router)
        .with_graceful_shutdown(stop)
        .await
        .map_err(Error::io("listener"))
}

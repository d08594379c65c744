//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::answer::{Answers, Piece};
use crate::api::{ApiError, UsageBody};

/// What a stream is rendered from.
pub(crate) enum Step {
    /// A piece of an answer.
    Piece(Piece),
    /// The end of all answers.
    End(UsageBody),
}

/// How pieces become events.
pub(crate) type Render = Box<dyn FnMut(Step) -> Vec<Event> + Send>;

struct State {
    queue: VecDeque<Event>,
    answers: Option<Answers>,
    render: Render,
}

/// One event.
pub(crate) fn event(body: &impl Serialize) -> Event {
    let event = Event::default().json_data(body);
    event.unwrap_or_else(|error| {
        let error = ApiError::internal(&error.to_string());
        let body = serde_json::to_string(&error.body()).unwrap_or_default();
        Event::default().data(body)
    })
}

/// Streams answers: first `opening`, then what `render` makes of each step, at last `[DONE]`.
///
/// An error ends the stream with an event that holds it. Where the reader is slow nothing is
/// rendered ahead of it; where it is gone the answers are dropped, which cancels them.
pub(crate) fn respond(answers: Answers, opening: Vec<Event>, render: Render) -> Response {
    /// Comments keep idle connections open, and find out those that are gone.
    const KEEP_ALIVE: Duration = Duration::from_secs(15);
    let state = State {
        queue: opening.into(),
        answers: Some(answers),
        render,
    };
    let events = futures::stream::unfold(state, |mut state| async {
        loop {
            if let Some(event) = state.queue.pop_front() {
                return Some((Ok::<_, Infallible>(event), state));
            }
            let answers = state.answers.as_mut()?;
            match answers.next().await {
                Some(Ok(piece)) => state.queue.extend((state.render)(Step::Piece(piece))),
                Some(Err(error)) => {
                    state.queue.push_back(event(&error.body()));
                    state.queue.push_back(done());
                    state.answers = None;
                }
                None => {
                    let usage = answers.usage();
                    state.queue.extend((state.render)(Step::End(usage)));
                    state.queue.push_back(done());
                    state.answers = None;
                }
            }
        }
    });
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    let mut response = Sse::new(events).keep_alive(keep_alive).into_response();
    // Proxies would collect the events otherwise.
    response.headers_mut().insert(
        "x-accel-buffering",
        axum::http::HeaderValue::from_static("no"),
    );
    response
}

fn done() -> Event {
    Event::default().data("[DONE]")
}

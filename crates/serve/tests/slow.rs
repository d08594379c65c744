//! Slow requests are told to the log.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use flametune_serve::{AppState, HttpOptions, app};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::script::{Script, chat, post, served};

/// Keeps the messages of warnings.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        struct Message(String);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        if *event.metadata().level() == Level::WARN {
            let mut message = Message(String::new());
            event.record(&mut message);
            self.0.lock().unwrap().push(message.0);
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test]
async fn requests_slower_than_the_threshold_are_warnings() {
    let warnings = Warnings::default();
    let _guard = tracing::subscriber::set_default(warnings.clone());
    for (slow_request_ms, expected) in [(0, 1), (600_000, 0)] {
        for stream in [false, true] {
            let http = HttpOptions {
                slow_request_ms,
                ..HttpOptions::default()
            };
            let routes = app(AppState::new(served(Script::new()).with_http(http)).unwrap());
            let body = chat("Hi", json!({"stream": stream}));
            post(&routes, "/v1/chat/completions", body).await;
            let messages = std::mem::take(&mut *warnings.0.lock().unwrap());
            assert_eq!(
                messages,
                vec!["slow request"; expected],
                "{slow_request_ms} {stream}"
            );
        }
    }
}

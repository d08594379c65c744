//! The spans of requests, kept in memory.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use flametune_serve::{AppState, app};
use opentelemetry::Value as Attribute;
use opentelemetry::trace::{SpanId, SpanKind, Status, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde_json::{Value, json};

use crate::script::{Ending, Script, chat, post, send, served};

/// Spans by the request that they belong to.
struct Kept {
    exporter: InMemorySpanExporter,
    provider: SdkTracerProvider,
    routes: axum::Router,
}

impl Kept {
    fn new(script: Script) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        let tracer = provider.tracer("flametune");
        let state = AppState::new(served(script).with_tracer(tracer)).unwrap();
        Self {
            exporter,
            provider,
            routes: app(state),
        }
    }

    fn spans(&self) -> Vec<SpanData> {
        self.provider.force_flush().unwrap();
        self.exporter.get_finished_spans().unwrap()
    }
}

/// Each span as `parent > name`, sorted.
fn tree(spans: &[SpanData]) -> Vec<String> {
    let names: HashMap<SpanId, &str> = spans
        .iter()
        .map(|span| (span.span_context.span_id(), &*span.name))
        .collect();
    let mut lines: Vec<String> = spans
        .iter()
        .map(|span| {
            let parent = names.get(&span.parent_span_id).unwrap_or(&"");
            format!("{parent} > {}", span.name)
        })
        .collect();
    lines.sort();
    lines
}

fn named<'a>(spans: &'a [SpanData], name: &str) -> &'a SpanData {
    spans.iter().find(|span| span.name == name).unwrap()
}

fn attribute(span: &SpanData, key: &str) -> Attribute {
    let found = span
        .attributes
        .iter()
        .find(|found| found.key.as_str() == key);
    found
        .unwrap_or_else(|| panic!("{key} is not in {span:?}"))
        .value
        .clone()
}

const CHAT: &str = "POST /v1/chat/completions";

async fn ask(kept: &Kept, more: Value) {
    let answer = post(&kept.routes, "/v1/chat/completions", chat("Hi", more)).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
}

#[tokio::test]
async fn a_request_is_a_tree_of_spans() {
    for stream in [false, true] {
        let kept = Kept::new(Script::new());
        ask(&kept, json!({"model": "sql", "stream": stream})).await;
        let spans = kept.spans();
        assert_eq!(
            tree(&spans),
            [
                format!(" > {CHAT}"),
                format!("{CHAT} > generate"),
                "generate > decode".to_owned(),
                "generate > prefill".to_owned(),
                "generate > queue".to_owned(),
            ]
        );
        let root = named(&spans, CHAT);
        assert_eq!(root.span_kind, SpanKind::Server);
        assert_eq!(attribute(root, "http.route"), "/v1/chat/completions".into());
        assert_eq!(attribute(root, "http.response.status_code"), 200.into());

        let generate = named(&spans, "generate");
        assert_eq!(attribute(generate, "adapter"), "sql".into());
        assert_eq!(attribute(generate, "gen_ai.request.model"), "tiny".into());
        assert_eq!(attribute(generate, "enduser.id"), "anonymous".into());
        let finish = attribute(generate, "gen_ai.response.finish_reasons");
        assert_eq!(finish, "stop".into());
        for key in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"] {
            assert!(matches!(attribute(generate, key), Attribute::I64(count) if count > 0));
        }

        // The script says that the first token came after 3 ms and the last after 9.
        let lasts = |name: &str| {
            let span = named(&spans, name);
            span.end_time.duration_since(span.start_time).unwrap()
        };
        let ms = Duration::from_millis;
        assert_eq!(
            ["queue", "prefill", "decode", "generate"].map(lasts),
            [ms(0), ms(3), ms(6), ms(9)]
        );
        assert_eq!(
            named(&spans, "prefill").end_time,
            named(&spans, "decode").start_time
        );
    }
}

#[tokio::test]
async fn every_choice_has_spans_and_the_base_no_adapter() {
    let kept = Kept::new(Script::new());
    ask(&kept, json!({"n": 3})).await;
    let spans = kept.spans();
    let mut choices: Vec<i64> = spans
        .iter()
        .filter(|span| span.name == "generate")
        .map(|span| match attribute(span, "choice") {
            Attribute::I64(choice) => choice,
            other => panic!("{other}"),
        })
        .collect();
    choices.sort_unstable();
    assert_eq!(choices, [0, 1, 2]);
    let adapters = spans.iter().flat_map(|span| &span.attributes);
    assert_eq!(
        adapters
            .filter(|found| found.key.as_str() == "adapter")
            .count(),
        0
    );
}

#[tokio::test]
async fn failures_are_marked() {
    let kept = Kept::new(Script::new().ending(Ending::Fails));
    let answer = post(&kept.routes, "/v1/chat/completions", chat("Hi", json!({}))).await;
    assert!(answer.status.is_server_error(), "{}", answer.status);
    let spans = kept.spans();
    for name in [CHAT, "generate"] {
        assert!(
            matches!(named(&spans, name).status, Status::Error { .. }),
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_request_joins_the_trace_that_it_names() {
    let kept = Kept::new(Script::new());
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (parent, joins) in [
        (format!("00-{trace}-00f067aa0ba902b7-01"), true),
        (format!("00-{trace}-nonsense-01"), false),
    ] {
        let request = Request::get("/health").header("traceparent", parent);
        send(&kept.routes, request.body(Body::empty()).unwrap()).await;
        let spans = kept.spans();
        let span = named(&spans, "GET /health");
        assert_eq!(span.span_context.trace_id().to_string() == trace, joins);
        kept.exporter.reset();
    }
}

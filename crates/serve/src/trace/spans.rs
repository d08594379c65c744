//! Spans under the names of OpenTelemetry's conventions for HTTP servers and for generation.

use std::time::SystemTime;

use axum::http::HeaderMap;
use flametune_infer::Usage;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{Span, SpanBuilder, SpanKind, Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

/// Where spans go, if anywhere.
#[derive(Clone, Default)]
pub(crate) struct Tracing(pub(crate) Option<SdkTracer>);

/// The span of a request, and who keeps spans.
#[derive(Clone)]
pub(crate) struct Trace(Option<(SdkTracer, Context)>);

/// A prompt that is with the engine; its spans are made when it is answered.
pub(crate) struct Asked {
    trace: Trace,
    at: SystemTime,
    attributes: Vec<KeyValue>,
}

impl Tracing {
    /// Begins the span of a request, below that of whoever asks if its headers name one.
    pub(crate) fn begin(
        &self,
        method: &'static str,
        route: &'static str,
        id: &str,
        headers: &HeaderMap,
    ) -> Trace {
        let Some(tracer) = &self.0 else {
            return Trace(None);
        };
        let asker =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(headers));
        let span = SpanBuilder::from_name(format!("{method} {route}"))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", method),
                KeyValue::new("http.route", route),
                KeyValue::new("request.id", id.to_owned()),
            ])
            .start_with_context(tracer, &asker);
        Trace(Some((tracer.clone(), asker.with_span(span))))
    }
}

impl Trace {
    /// Notes that a prompt is handed to the engine.
    pub(crate) fn ask(&self, model: &str, adapter: Option<&str>, tenant: &str) -> Asked {
        let mut attributes = vec![
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("enduser.id", tenant.to_owned()),
        ];
        if let Some(adapter) = adapter {
            attributes.push(KeyValue::new("adapter", adapter.to_owned()));
        }
        Asked {
            trace: self.clone(),
            at: now(),
            attributes,
        }
    }

    /// Ends the span of the request with the status of its answer.
    pub(crate) fn end(&self, status: u16) {
        let Some((_, context)) = &self.0 else {
            return;
        };
        let span = context.span();
        span.set_attribute(KeyValue::new(
            "http.response.status_code",
            i64::from(status),
        ));
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

impl Asked {
    /// A choice came to its end.
    pub(crate) fn finished(&self, choice: usize, usage: &Usage, reason: &'static str) {
        let more = [
            KeyValue::new("choice", number(choice)),
            KeyValue::new("gen_ai.usage.input_tokens", number(usage.prompt_tokens)),
            KeyValue::new(
                "gen_ai.usage.output_tokens",
                number(usage.completion_tokens),
            ),
            KeyValue::new(
                "gen_ai.usage.cache_read.input_tokens",
                number(usage.cached_tokens),
            ),
            KeyValue::new("gen_ai.response.finish_reasons", reason),
            KeyValue::new("preemptions", number(usage.preemptions)),
            KeyValue::new("drafted_tokens", number(usage.drafted_tokens)),
            KeyValue::new("accepted_tokens", number(usage.accepted_tokens)),
        ];
        let Some((tracer, context)) = self.generate(more) else {
            return;
        };
        let end = self.at + usage.total;
        let first_token = match usage.completion_tokens {
            0 => usage.total,
            _ => usage.first_token,
        };
        for (name, from, to) in [
            ("queue", self.at, self.at + usage.queued),
            ("prefill", self.at + usage.queued, self.at + first_token),
            ("decode", self.at + first_token, end),
        ] {
            SpanBuilder::from_name(name)
                .with_start_time(from)
                .start_with_context(tracer, &context)
                .end_with_timestamp(to);
        }
        context.span().end_with_timestamp(end);
    }

    /// The engine could not answer.
    pub(crate) fn failed(&self, message: &str) {
        let reason = [KeyValue::new("gen_ai.response.finish_reasons", "error")];
        if let Some((_, context)) = self.generate(reason) {
            context.span().set_status(Status::error(message.to_owned()));
            context.span().end_with_timestamp(now());
        }
    }

    /// Whoever asked has gone after so many tokens.
    pub(crate) fn aborted(&self, generated: usize) {
        let more = [
            KeyValue::new("gen_ai.response.finish_reasons", "abort"),
            KeyValue::new("gen_ai.usage.output_tokens", number(generated)),
        ];
        if let Some((_, context)) = self.generate(more) {
            context.span().end_with_timestamp(now());
        }
    }

    /// The span from handing in to the end, below that of the request.
    fn generate(&self, more: impl IntoIterator<Item = KeyValue>) -> Option<(&SdkTracer, Context)> {
        let (tracer, context) = self.trace.0.as_ref()?;
        let span = SpanBuilder::from_name("generate")
            .with_start_time(self.at)
            .with_attributes(self.attributes.iter().cloned().chain(more))
            .start_with_context(tracer, context);
        Some((tracer, context.with_span(span)))
    }
}

/// The headers of a request, as propagators read them.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(axum::http::HeaderName::as_str).collect()
    }
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "spans carry their times")]
fn now() -> SystemTime {
    SystemTime::now()
}

//! What Prometheus is told, under vLLM's names where it has them.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use flametune_infer::Usage;
use metrics::{SharedString, counter, gauge, histogram, with_local_recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use crate::state::{AppState, unix_seconds};

const FIRST_TOKEN: &str = "vllm:time_to_first_token_seconds";
const INTER_TOKEN: &str = "vllm:inter_token_latency_seconds";
const END_TO_END: &str = "vllm:e2e_request_latency_seconds";
const QUEUED: &str = "vllm:request_queue_time_seconds";
const INFERENCE: &str = "model_inference_latency_seconds";
const PROMPT: &str = "vllm:request_prompt_tokens";
const GENERATION: &str = "vllm:request_generation_tokens";
const HTTP: &str = "http_request_duration_seconds";

const FIRST_TOKEN_S: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
];
const INTER_TOKEN_S: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
];
const REQUEST_S: &[f64] = &[
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0,
    240.0, 480.0, 960.0,
];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
    20_000.0, 50_000.0,
];

/// The name of a model as metrics have it: its own, or `other` for those beyond the limit.
pub(crate) type ModelLabel = SharedString;

/// Counters and histograms of one server.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    models: Mutex<HashSet<String>>,
    most_models: usize,
}

impl Metrics {
    pub(crate) fn new(most_models: usize) -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for (name, buckets) in [
            (FIRST_TOKEN, FIRST_TOKEN_S),
            (INTER_TOKEN, INTER_TOKEN_S),
            (END_TO_END, REQUEST_S),
            (QUEUED, REQUEST_S),
            (INFERENCE, REQUEST_S),
            (HTTP, REQUEST_S),
            (PROMPT, TOKENS),
            (GENERATION, TOKENS),
        ] {
            builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
        }
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        with_local_recorder(&recorder, describe);
        Ok(Self {
            recorder,
            handle,
            models: Mutex::default(),
            most_models,
        })
    }

    /// The label of a model: each has series of its own, so there is a limit to them.
    pub(crate) fn label(&self, model: &str) -> ModelLabel {
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        if models.contains(model) {
            return SharedString::from(model.to_owned());
        }
        if models.len() >= self.most_models {
            return SharedString::const_str("other");
        }
        models.insert(model.to_owned());
        SharedString::from(model.to_owned())
    }

    /// Counts a choice that came to its end.
    pub(crate) fn finished(&self, model: &ModelLabel, usage: &Usage, reason: &'static str) {
        let labels = [("model_name", model.clone())];
        let inference = usage.total.saturating_sub(usage.queued);
        with_local_recorder(&self.recorder, || {
            histogram!(FIRST_TOKEN, &labels).record(usage.first_token.as_secs_f64());
            histogram!(END_TO_END, &labels).record(usage.total.as_secs_f64());
            histogram!(QUEUED, &labels).record(usage.queued.as_secs_f64());
            histogram!(INFERENCE, &labels).record(inference.as_secs_f64());
            histogram!(PROMPT, &labels).record(as_f64(usage.prompt_tokens));
            histogram!(GENERATION, &labels).record(as_f64(usage.completion_tokens));
            let gaps = usage.completion_tokens.saturating_sub(1);
            if gaps > 0 {
                let decode = usage.total.saturating_sub(usage.first_token);
                let mean = decode.as_secs_f64() / as_f64(gaps);
                histogram!(INTER_TOKEN, &labels).record_many(mean, gaps);
            }
            let generated = usage.completion_tokens as u64;
            counter!("vllm:prompt_tokens_total", &labels).increment(usage.prompt_tokens as u64);
            counter!("vllm:generation_tokens_total", &labels).increment(generated);
            counter!("tokens_generated_total", &labels).increment(generated);
        });
        self.ended(model, reason, 1);
    }

    /// Counts a request that failed in the engine.
    pub(crate) fn failed(&self, model: &ModelLabel) {
        self.ended(model, "error", 1);
    }

    /// Counts choices whose reader went away.
    pub(crate) fn aborted(&self, model: &ModelLabel, choices: usize) {
        self.ended(model, "abort", choices);
    }

    fn ended(&self, model: &ModelLabel, reason: &'static str, choices: usize) {
        let labels = [
            ("model_name", model.clone()),
            ("finished_reason", SharedString::const_str(reason)),
        ];
        with_local_recorder(&self.recorder, || {
            counter!("vllm:request_success_total", &labels).increment(choices as u64);
        });
    }

    /// Counts an answer of a route.
    pub(crate) fn http(
        &self,
        route: &'static str,
        method: &'static str,
        status: u16,
        seconds: f64,
    ) {
        let labels = [
            ("handler", SharedString::const_str(route)),
            ("method", SharedString::const_str(method)),
            ("status", SharedString::from(status.to_string())),
        ];
        with_local_recorder(&self.recorder, || {
            counter!("http_requests_total", &labels).increment(1);
            let labels = [("handler", SharedString::const_str(route))];
            histogram!(HTTP, &labels).record(seconds);
        });
    }

    /// Everything, in Prometheus' text format.
    pub(crate) fn render(&self, state: &AppState) -> String {
        let stats = state.model.backend.stats();
        let labels = [("model_name", SharedString::from(state.model.name.clone()))];
        with_local_recorder(&self.recorder, || {
            let set = |name: &'static str, value: f64| gauge!(name, &labels).set(value);
            set("vllm:num_requests_running", as_f64(stats.running));
            set("vllm:num_requests_waiting", as_f64(stats.waiting));
            set("vllm:kv_cache_usage_perc", stats.kv_usage());
            set("adapter_bytes", as_f64(stats.adapter_bytes));
            let total = |name: &'static str, value: u64| counter!(name, &labels).absolute(value);
            total("vllm:num_preemptions_total", stats.preemptions);
            let asked = stats.prompt_tokens + stats.cached_tokens;
            total("vllm:prefix_cache_queries_total", asked);
            total("vllm:prefix_cache_hits_total", stats.cached_tokens);
            let (drafted, accepted) = (stats.drafted_tokens, stats.accepted_tokens);
            total("vllm:spec_decode_num_draft_tokens_total", drafted);
            total("vllm:spec_decode_num_accepted_tokens_total", accepted);
        });
        self.handle.run_upkeep();
        let mut text = self.handle.render();
        lora_info(&mut text, state);
        text
    }
}

/// vLLM's way to tell which adapters are in use: as labels, with the time as the value.
///
/// Written by hand, so that the series of a moment do not stay.
fn lora_info(text: &mut String, state: &AppState) {
    const SHOWN: usize = 50;
    let adapters = state.model.backend.adapters();
    let used = adapters.iter().filter(|adapter| adapter.users > 0);
    let names: Vec<&str> = used
        .take(SHOWN)
        .map(|adapter| adapter.name.as_str())
        .collect();
    // Names have no character that would need escaping.
    let _ = write!(
        text,
        "# HELP vllm:lora_requests_info Adapters in use now.\n\
         # TYPE vllm:lora_requests_info gauge\n\
         vllm:lora_requests_info{{max_lora=\"{}\",running_lora_adapters=\"{}\",\
         waiting_lora_adapters=\"\"}} {}\n",
        adapters.len(),
        names.join(","),
        unix_seconds(),
    );
}

fn describe() {
    use metrics::{describe_counter, describe_gauge, describe_histogram};

    describe_histogram!(FIRST_TOKEN, "Seconds to the first token.");
    describe_histogram!(
        INTER_TOKEN,
        "Seconds between tokens, the mean of each answer."
    );
    describe_histogram!(END_TO_END, "Seconds from asking to the end of an answer.");
    describe_histogram!(QUEUED, "Seconds of waiting.");
    describe_histogram!(INFERENCE, "Seconds of an answer without waiting.");
    describe_histogram!(PROMPT, "Tokens of a prompt.");
    describe_histogram!(GENERATION, "Tokens of an answer.");
    describe_histogram!(HTTP, "Seconds to the head of a response.");
    describe_counter!("vllm:prompt_tokens_total", "Tokens of prompts.");
    describe_counter!("vllm:generation_tokens_total", "Tokens generated.");
    describe_counter!("tokens_generated_total", "Tokens generated.");
    describe_counter!("vllm:request_success_total", "Answers by how they ended.");
    describe_counter!(
        "http_requests_total",
        "Responses by route, method and status."
    );
    describe_gauge!(
        "vllm:num_requests_running",
        "Sequences that are generated now."
    );
    describe_gauge!("vllm:num_requests_waiting", "Sequences that wait.");
    describe_gauge!(
        "vllm:kv_cache_usage_perc",
        "The share of the cache in use, 0 to 1."
    );
    describe_gauge!("adapter_bytes", "Bytes of adapters in memory.");
    describe_counter!(
        "vllm:num_preemptions_total",
        "Sequences put back to make room."
    );
    describe_counter!(
        "vllm:prefix_cache_queries_total",
        "Tokens of prompts looked up."
    );
    describe_counter!("vllm:prefix_cache_hits_total", "Tokens of prompts found.");
    describe_counter!(
        "vllm:spec_decode_num_draft_tokens_total",
        "Tokens proposed ahead."
    );
    describe_counter!(
        "vllm:spec_decode_num_accepted_tokens_total",
        "Tokens agreed with."
    );
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_beyond_the_limit_share_a_label() {
        let metrics = Metrics::new(2).unwrap();
        let labels: Vec<_> = ["a", "b", "c", "a", "d"]
            .map(|model| metrics.label(model).to_string())
            .into();
        assert_eq!(labels, ["a", "b", "other", "a", "other"]);
    }
}

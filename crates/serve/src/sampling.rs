//! From the options of a request to those of the engine.

use std::time::{Duration, Instant};

use flametune_infer::{GenerateRequest, Guide, SamplingParams, StopStrings, TokenRules};
use serde_json::json;

use crate::api::{ApiError, ResponseFormat, SamplingOptions};
use crate::backend::OutputFormat;
use crate::state::AppState;

/// What a request asks for, checked; the same for each of its prompts.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) params: SamplingParams,
    pub(crate) n: usize,
    pub(crate) stop: Vec<String>,
    pub(crate) logprobs: Option<usize>,
    pub(crate) guide: Option<Guide>,
    /// Most tokens asked for; the context's rest without it.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) adapter: Option<String>,
    pub(crate) deadline: Instant,
}

impl Plan {
    /// Checks everything but the prompt.
    pub(crate) fn new(
        state: &AppState,
        model: &str,
        options: SamplingOptions,
        max_tokens: Option<u32>,
        logprobs: Option<u32>,
    ) -> Result<Self, ApiError> {
        let adapter = state.resolve(model)?;
        let limits = &state.limits;
        let n = options.n.unwrap_or(1) as usize;
        if n == 0 || n > limits.max_choices {
            let message = format!("n must be between 1 and {}, got {n}", limits.max_choices);
            return Err(ApiError::invalid_param("n", message));
        }
        let guide = guide(state, &options)?;
        let params = params(state, &options)?;
        let stop = options
            .stop
            .map(|stop| stop.into_list())
            .unwrap_or_default();
        if stop.len() > limits.max_stop_strings {
            let message = format!(
                "at most {} stop strings are allowed, got {}",
                limits.max_stop_strings,
                stop.len()
            );
            return Err(ApiError::invalid_param("stop", message));
        }
        StopStrings::new(stop.iter().map(String::as_str))?;
        let logprobs = logprobs.map(|count| count as usize);
        if let Some(count) = logprobs
            && count > limits.max_logprobs
        {
            let message = format!(
                "at most {} alternatives are allowed, got {count}",
                limits.max_logprobs
            );
            return Err(ApiError::invalid_param("top_logprobs", message));
        }
        let asked = max_tokens.map(|tokens| tokens as usize);
        if asked == Some(0) {
            return Err(ApiError::invalid_param(
                "max_tokens",
                "max_tokens must be at least 1",
            ));
        }
        let max_tokens = match (asked, limits.max_output_tokens) {
            (Some(asked), Some(most)) if asked > most => {
                let message = format!("max_tokens must be at most {most}, got {asked}");
                return Err(ApiError::invalid_param("max_tokens", message));
            }
            (asked, most) => asked.or(most),
        };
        let timeout = Duration::from_secs(state.http.request_timeout_s);
        Ok(Self {
            params,
            n,
            stop,
            logprobs,
            guide,
            max_tokens,
            adapter,
            deadline: Instant::now() + timeout,
        })
    }

    /// The engine's request for one prompt; `index` tells apart prompts with the same seed.
    pub(crate) fn request(
        &self,
        context: usize,
        prompt: Vec<u32>,
        index: usize,
        tenant: &str,
    ) -> Result<GenerateRequest, ApiError> {
        let room = context.saturating_sub(prompt.len());
        let max_tokens = self.max_tokens.unwrap_or(room);
        if prompt.is_empty() {
            return Err(ApiError::invalid_param(
                "prompt",
                "the prompt must have at least one token",
            ));
        }
        if room == 0 || max_tokens > room {
            let needed = self.max_tokens.unwrap_or(1);
            return Err(ApiError::context_exceeded(prompt.len(), needed, context));
        }
        let mut params = self.params.clone();
        params.max_tokens = max_tokens;
        params.seed = params.seed.wrapping_add(index as u64);
        params.validate()?;
        Ok(GenerateRequest {
            n: self.n,
            logprobs: self.logprobs,
            adapter: self.adapter.clone(),
            guide: self.guide.clone(),
            deadline: Some(self.deadline),
            tenant: tenant.to_owned(),
            ..GenerateRequest::new(prompt, params)
        })
    }
}

fn params(state: &AppState, options: &SamplingOptions) -> Result<SamplingParams, ApiError> {
    let top_k = match options.top_k.unwrap_or(0) {
        -1 => 0,
        top_k => usize::try_from(top_k).map_err(|_| {
            let message = format!("top_k must be at least -1, got {top_k}");
            ApiError::invalid_param("top_k", message)
        })?,
    };
    for (field, value) in [
        ("presence_penalty", options.presence_penalty),
        ("frequency_penalty", options.frequency_penalty),
    ] {
        if let Some(value) = value
            && !(-2.0..=2.0).contains(&value)
        {
            let message = format!("{field} must be between -2 and 2, got {value}");
            return Err(ApiError::invalid_param(field, message));
        }
    }
    let mut stop_token_ids = options.stop_token_ids.clone().unwrap_or_default();
    if !options.ignore_eos.unwrap_or(false) {
        stop_token_ids.extend(&state.model.tokenizer.special().eos_ids);
    }
    let mut params = SamplingParams {
        temperature: options.temperature.unwrap_or(1.0),
        top_k,
        top_p: options.top_p.unwrap_or(1.0),
        min_p: options.min_p.unwrap_or(0.0),
        repetition_penalty: options.repetition_penalty.unwrap_or(1.0),
        presence_penalty: options.presence_penalty.unwrap_or(0.0),
        frequency_penalty: options.frequency_penalty.unwrap_or(0.0),
        token_rules: TokenRules {
            logit_bias: logit_bias(options)?,
            ..TokenRules::default()
        },
        seed: options
            .seed
            .map_or_else(|| state.next_seed(), i64::cast_unsigned),
        min_tokens: options.min_tokens.unwrap_or(0) as usize,
        stop_token_ids,
        ..SamplingParams::default()
    };
    // The number of tokens is checked where the prompt's length is known.
    params.max_tokens = params.min_tokens.max(1);
    params.validate()?;
    Ok(params)
}

fn logit_bias(options: &SamplingOptions) -> Result<Vec<(Vec<u32>, f32)>, ApiError> {
    let biases = options.logit_bias.iter().flatten();
    biases
        .map(|(token, &bias)| {
            let id = token.parse::<u32>().map_err(|_| {
                let shown: String = token.chars().take(20).collect();
                let message = format!("logit_bias must name token ids, got {shown:?}");
                ApiError::invalid_param("logit_bias", message)
            })?;
            if !(-100.0..=100.0).contains(&bias) {
                let message = format!("logit_bias must be between -100 and 100, got {bias}");
                return Err(ApiError::invalid_param("logit_bias", message));
            }
            Ok((vec![id], bias))
        })
        .collect()
}

/// The constraint that a request asks for, if it asks for one.
fn guide(state: &AppState, options: &SamplingOptions) -> Result<Option<Guide>, ApiError> {
    let format = match &options.response_format {
        None | Some(ResponseFormat::Text) => None,
        Some(ResponseFormat::JsonObject) => Some(OutputFormat::JsonObject),
        Some(ResponseFormat::JsonSchema { json_schema }) => {
            Some(OutputFormat::JsonSchema(json_schema.schema.clone()))
        }
    };
    let formats = [
        ("response_format", format),
        (
            "guided_json",
            options.guided_json.clone().map(|schema| match schema {
                // Some clients send the schema as a text.
                serde_json::Value::String(text) => OutputFormat::JsonSchema(
                    serde_json::from_str(&text).unwrap_or_else(|_| json!(text)),
                ),
                schema => OutputFormat::JsonSchema(schema),
            }),
        ),
        (
            "guided_regex",
            options.guided_regex.clone().map(OutputFormat::Regex),
        ),
        (
            "guided_grammar",
            options.guided_grammar.clone().map(OutputFormat::Grammar),
        ),
        (
            "guided_choice",
            options.guided_choice.clone().map(OutputFormat::Choice),
        ),
    ];
    let mut asked = formats
        .into_iter()
        .filter_map(|(field, format)| Some((field, format?)));
    let Some((field, format)) = asked.next() else {
        return Ok(None);
    };
    if let Some((other, _)) = asked.next() {
        let message = format!("{field} and {other} exclude each other");
        return Err(ApiError::invalid_param(other, message));
    }
    let Some(guides) = &state.model.guides else {
        return Err(ApiError::invalid_param(
            field,
            "this server was built without guided output",
        ));
    };
    match guides(&format) {
        Ok(guide) => Ok(Some(guide)),
        Err(reason) => Err(ApiError::invalid_param(field, format!("{field}: {reason}"))),
    }
}

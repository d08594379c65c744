//! One streamed request, and the times of its pieces.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use flametune_infer::uniform;
use serde_json::{Value, json};
use ureq::Agent;

/// How requests are sent.
#[derive(Debug)]
pub(super) struct Ask {
    agent: Agent,
    url: String,
    authorization: Option<String>,
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Sample {
    /// From the beginning of the load to its sending.
    pub(super) sent: Duration,
    /// From its sending to the first text.
    pub(super) first: Option<Duration>,
    /// Between pieces of text.
    pub(super) gaps: Vec<Duration>,
    /// From its sending to its end.
    pub(super) total: Duration,
    pub(super) prompt_tokens: u64,
    pub(super) tokens: u64,
    pub(super) error: Option<String>,
}

/// The body of a request.
pub(super) fn body(model: &str, prompt: &str, max_tokens: usize, ignore_eos: bool) -> Value {
    json!({
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "ignore_eos": ignore_eos,
        "temperature": 0,
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

/// Words that look like a text, different for every request, so that no prompt is known already.
pub(super) fn prompt(words: usize, seed: u64, index: u64) -> String {
    const WORDS: [&str; 24] = [
        "the", "river", "of", "small", "and", "green", "house", "under", "a", "bright", "sky",
        "where", "people", "walk", "slowly", "to", "market", "with", "bread", "in", "their",
        "hands", "every", "morning",
    ];
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index below the number of words"
    )]
    let word = |place: u64| {
        let u = uniform(seed, index, place);
        WORDS[((u * WORDS.len() as f64) as usize).min(WORDS.len() - 1)]
    };
    let text: Vec<&str> = (0..words.max(1) as u64).map(word).collect();
    text.join(" ")
}

impl Ask {
    pub(super) fn new(url: &str, key: Option<String>, timeout: Duration) -> Self {
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_idle_connections(0)
            .build()
            .new_agent();
        Self {
            agent,
            url: url.trim_end_matches('/').to_owned(),
            authorization: key.map(|key| format!("Bearer {key}")),
        }
    }

    /// The first model that the server lists: its base.
    pub(super) fn first_model(&self) -> Result<String> {
        let url = format!("{}/v1/models", self.url);
        let mut request = self.agent.get(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request
            .call()
            .with_context(|| format!("there is no server at {}", self.url))?;
        let body: Value = response
            .body_mut()
            .read_json()
            .with_context(|| format!("{url} does not answer as a server should"))?;
        match body["data"][0]["id"].as_str() {
            Some(id) => Ok(id.to_owned()),
            None => bail!("{url}: {body}"),
        }
    }

    /// Sends a request and reads its answer to the end.
    pub(super) fn stream(&self, body: &Value, load_began: Instant) -> Sample {
        let began = Instant::now();
        let mut sample = Sample {
            sent: began.saturating_duration_since(load_began),
            ..Sample::default()
        };
        if let Err(error) = self.read(body, began, &mut sample) {
            sample.error = Some(format!("{error:#}"));
        }
        sample.total = began.elapsed();
        sample
    }

    fn read(&self, body: &Value, began: Instant, sample: &mut Sample) -> Result<()> {
        let mut request = self.agent.post(format!("{}/v1/completions", self.url));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = request.send_json(body)?;
        if !response.status().is_success() {
            let status = response.status();
            let text = response.body_mut().read_to_string().unwrap_or_default();
            bail!("{status}: {text}");
        }
        let mut last = None;
        for line in BufReader::new(response.body_mut().as_reader()).lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ") else {
                continue;
            };
            if data == "[DONE]" {
                if sample.tokens == 0 {
                    // A server that does not count sends a piece for each token.
                    let pieces = usize::from(sample.first.is_some()) + sample.gaps.len();
                    sample.tokens = pieces as u64;
                }
                return Ok(());
            }
            let chunk: Value = serde_json::from_str(data)?;
            if let Some(error) = chunk.get("error") {
                bail!("{error}");
            }
            sample.take(&chunk, began, &mut last);
        }
        bail!("the stream broke off")
    }
}

impl Sample {
    fn take(&mut self, chunk: &Value, began: Instant, last: &mut Option<Instant>) {
        if let Some(usage) = chunk.get("usage").filter(|usage| !usage.is_null()) {
            self.prompt_tokens = usage["prompt_tokens"].as_u64().unwrap_or(0);
            self.tokens = usage["completion_tokens"].as_u64().unwrap_or(0);
        }
        let text = chunk["choices"][0]["text"].as_str().unwrap_or_default();
        if text.is_empty() {
            return;
        }
        let now = Instant::now();
        match last.replace(now) {
            None => self.first = Some(now - began),
            Some(before) => self.gaps.push(now - before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_and_repeat() {
        assert_eq!(prompt(12, 1, 3), prompt(12, 1, 3));
        assert_ne!(prompt(12, 1, 3), prompt(12, 1, 4));
        assert_eq!(prompt(12, 1, 3).split(' ').count(), 12);
    }
}

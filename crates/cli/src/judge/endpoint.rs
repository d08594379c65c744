//! A judge behind an OpenAI-compatible endpoint.

use std::time::Duration;

use flametune_eval::judge::Judge;
use flametune_eval::{ChatTurn, GenerationOptions};
use serde_json::{Value, json};
use ureq::Agent;

/// Waits between attempts when the endpoint is busy.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(8),
];
/// Letters of an error's body that are shown.
const SHOWN: usize = 300;

/// Asks `/chat/completions`.
pub(crate) struct Endpoint {
    agent: Agent,
    url: String,
    model: String,
    key: Option<String>,
}

impl Endpoint {
    pub(crate) fn new(url: &str, model: &str, key: Option<String>, timeout_s: u64) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(timeout_s.max(1))))
            .http_status_as_error(false)
            .build();
        Self {
            agent: config.into(),
            url: format!("{}/chat/completions", url.trim_end_matches('/')),
            model: model.to_owned(),
            key,
        }
    }

    /// One answer; `Err` says whether another attempt may help.
    fn once(&self, body: &Value) -> Result<String, (bool, String)> {
        let mut request = self.agent.post(&self.url);
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request
            .send_json(body)
            .map_err(|error| (true, error.to_string()))?;
        let status = response.status().as_u16();
        let text = response
            .body_mut()
            .read_to_string()
            .map_err(|error| (true, error.to_string()))?;
        if status != 200 {
            let shown: String = text.chars().take(SHOWN).collect();
            let again = matches!(status, 408 | 409 | 429) || status >= 500;
            return Err((again, format!("status {status}: {shown}")));
        }
        let answer: Value = serde_json::from_str(&text)
            .map_err(|error| (false, format!("the answer is no JSON: {error}")))?;
        answer["choices"][0]["message"]["content"]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| {
                (
                    false,
                    "the answer has no choices[0].message.content".to_owned(),
                )
            })
    }
}

impl Judge for Endpoint {
    fn name(&self) -> String {
        format!("{} at {}", self.model, self.url)
    }

    fn answer(&self, turns: &[ChatTurn], options: &GenerationOptions) -> Result<String, String> {
        let mut body = json!({
            "model": self.model,
            "messages": turns,
            "temperature": options.temperature,
            "top_p": options.top_p,
            "max_tokens": options.max_gen_toks,
        });
        if !options.until.is_empty() {
            body["stop"] = json!(options.until);
        }
        let mut pauses = PAUSES.iter();
        loop {
            match self.once(&body) {
                Ok(text) => return Ok(text),
                Err((false, reason)) => return Err(reason),
                Err((true, reason)) => match pauses.next() {
                    None => return Err(reason),
                    Some(pause) => std::thread::sleep(*pause),
                },
            }
        }
    }
}

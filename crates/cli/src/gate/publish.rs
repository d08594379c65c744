//! Putting an adapter on a running server, and taking it back.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use ureq::Agent;

/// Loading reads a file and nothing more; a minute is long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Letters of an error's body that are shown.
const SHOWN: usize = 300;

/// A server with the adapter endpoints of vLLM.
pub(super) struct Server {
    agent: Agent,
    url: String,
    key: Option<String>,
}

impl Server {
    pub(super) fn new(url: &str, key: Option<String>) -> Self {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .build();
        let url = url.trim_end_matches('/');
        Self {
            agent: config.into(),
            url: url.strip_suffix("/v1").unwrap_or(url).to_owned(),
            key,
        }
    }

    /// Loads an adapter in place of the one of its name, asks it for a token, and puts back what was there before
    /// when either fails. The server swaps under its own lock, so no request finds half an adapter.
    pub(super) fn publish(&self, name: &str, path: &str, before: Option<&str>) -> Result<()> {
        let there = self.models()?.iter().any(|model| model == name);
        if let Err(error) = self.load(name, path, there) {
            // A server that refuses keeps what it has.
            return Err(
                error.context("the server did not take the candidate; what was live still is")
            );
        }
        let Err(error) = self.probe(name) else {
            return Ok(());
        };
        let back = match (before, there) {
            (Some(path), _) => self.load(name, path, true),
            (None, false) => self.unload(name),
            (None, true) => Err(anyhow::anyhow!("it is not known which adapter was live")),
        };
        match back {
            Ok(()) => Err(error.context("the candidate does not answer; what was live is back")),
            Err(second) => Err(error.context(format!(
                "the candidate does not answer, and what was live could not be put back: {second:#}"
            ))),
        }
    }

    /// The names of what it serves.
    pub(super) fn models(&self) -> Result<Vec<String>> {
        let mut request = self.agent.get(format!("{}/v1/models", self.url));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request
            .call()
            .with_context(|| format!("cannot reach {}", self.url))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        if status != 200 {
            bail!("{}/v1/models: status {status}: {}", self.url, short(&text));
        }
        let list: Value = serde_json::from_str(&text).context("/v1/models is no JSON")?;
        let models = list["data"].as_array().context("/v1/models has no data")?;
        Ok(models
            .iter()
            .filter_map(|model| model["id"].as_str().map(str::to_owned))
            .collect())
    }

    fn load(&self, name: &str, path: &str, in_place: bool) -> Result<()> {
        let body = json!({"lora_name": name, "lora_path": path, "load_inplace": in_place});
        self.post("/v1/load_lora_adapter", &body).map(drop)
    }

    /// Takes an adapter off the server.
    pub(super) fn unload(&self, name: &str) -> Result<()> {
        self.post("/v1/unload_lora_adapter", &json!({"lora_name": name}))
            .map(drop)
    }

    /// Whether the adapter writes a token.
    fn probe(&self, name: &str) -> Result<()> {
        let body = json!({"model": name, "prompt": "Hello", "max_tokens": 1, "temperature": 0});
        let text = self.post("/v1/completions", &body)?;
        let answer: Value = serde_json::from_str(&text).context("the answer is no JSON")?;
        answer["choices"][0]["text"]
            .as_str()
            .context("the answer has no choices[0].text")?;
        Ok(())
    }

    fn post(&self, path: &str, body: &Value) -> Result<String> {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request
            .send_json(body)
            .with_context(|| format!("{path} failed"))?;
        let status = response.status().as_u16();
        let text = response.body_mut().read_to_string()?;
        if status != 200 {
            bail!("{path}: status {status}: {}", short(&text));
        }
        Ok(text)
    }
}

fn short(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

//! How a server serves: the sections of its configuration file that this crate reads.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::Deserialize;

use crate::error::Error;

/// Section `[http]`: addresses, sizes and times of connections.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpOptions {
    /// The address to bind; loopback unless told otherwise.
    pub host: IpAddr,
    /// The port; 0 lets the system choose.
    pub port: u16,
    /// Origins whose pages may call the server; none by default, `*` for all.
    pub allowed_origins: Vec<String>,
    /// The largest body that is read.
    pub max_body_bytes: usize,
    /// Connections at a time; others wait.
    pub max_connections: usize,
    /// Seconds a request may take, waiting included.
    pub request_timeout_s: u64,
    /// Seconds that a reader may leave what is written to it untouched.
    pub write_timeout_s: u64,
    /// Seconds that running requests get when the server ends.
    pub shutdown_grace_s: u64,
    /// Requests that take longer than this are logged with a warning, in milliseconds.
    pub slow_request_ms: u64,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8000,
            allowed_origins: Vec::new(),
            max_body_bytes: 4 << 20,
            max_connections: 1024,
            request_timeout_s: 600,
            write_timeout_s: 60,
            shutdown_grace_s: 30,
            slow_request_ms: 30_000,
        }
    }
}

/// How much someone may ask for; `None` is without a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rate {
    /// Requests a minute, of which as many may come at once.
    pub requests_per_minute: Option<u32>,
    /// Tokens a minute, of prompts and answers.
    pub tokens_per_minute: Option<u32>,
    /// Requests at a time.
    pub concurrent_requests: Option<u32>,
}

/// Section `[limits]`: how much one request, and all of an adapter's, may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitOptions {
    /// Most tokens of an answer; the context's rest unless given.
    pub max_output_tokens: Option<usize>,
    /// Most choices of a request, its `n` times its prompts.
    pub max_choices: usize,
    /// Most stop strings of a request.
    pub max_stop_strings: usize,
    /// Most alternatives a token's log-probability comes with.
    pub max_logprobs: usize,
    /// What all requests without a key may ask for, where there are no keys.
    pub anonymous: Rate,
    /// What all requests to one adapter may ask for.
    pub adapter: Rate,
    /// Most models that metrics tell apart; the others are `other` together.
    pub metric_models: usize,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self {
            max_output_tokens: None,
            max_choices: 16,
            max_stop_strings: 16,
            max_logprobs: 20,
            anonymous: Rate::default(),
            adapter: Rate::default(),
            metric_models: 64,
        }
    }
}

/// What of section `[adapters]` concerns requests.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdapterOptions {
    /// The folder under which adapters may be loaded by request; none are without it.
    pub root: Option<PathBuf>,
}

/// An entry of `[[keys]]`: who may ask, and for how much.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyOptions {
    /// Who it is, for logs and fair shares.
    pub name: String,
    /// The secret that comes as `Authorization: Bearer …`.
    pub key: String,
    /// Whether it may load and unload adapters.
    #[serde(default)]
    pub admin: bool,
    /// How much it may ask for.
    #[serde(default)]
    pub rate: Rate,
}

/// The secret is left out.
impl std::fmt::Debug for KeyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyOptions")
            .field("name", &self.name)
            .field("admin", &self.admin)
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

impl HttpOptions {
    /// Checks each option.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("http.max_body_bytes", self.max_body_bytes as u64),
            ("http.max_connections", self.max_connections as u64),
            ("http.request_timeout_s", self.request_timeout_s),
            ("http.write_timeout_s", self.write_timeout_s),
        ];
        for (field, value) in positive {
            at_least_one(field, value)?;
        }
        // Times are added to the clock's: a year is long enough, and cannot overflow.
        const YEAR_S: u64 = 31_536_000;
        for (field, value) in [
            ("http.request_timeout_s", self.request_timeout_s),
            ("http.write_timeout_s", self.write_timeout_s),
            ("http.shutdown_grace_s", self.shutdown_grace_s),
        ] {
            if value > YEAR_S {
                return Err(invalid(field, "at most a year", &value));
            }
        }
        for origin in &self.allowed_origins {
            if origin != "*" && axum::http::HeaderValue::from_str(origin).is_err() {
                return Err(invalid("http.allowed_origins", "origins or *", origin));
            }
        }
        Ok(())
    }
}

impl LimitOptions {
    /// Checks each option.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    pub fn validate(&self) -> Result<(), Error> {
        at_least_one("limits.max_choices", self.max_choices as u64)?;
        if let Some(most) = self.max_output_tokens {
            at_least_one("limits.max_output_tokens", most as u64)?;
        }
        self.anonymous.validate()?;
        self.adapter.validate()
    }
}

impl Rate {
    /// Checks that nobody is shut out by a zero.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        for (field, value) in [
            ("requests_per_minute", self.requests_per_minute),
            ("tokens_per_minute", self.tokens_per_minute),
            ("concurrent_requests", self.concurrent_requests),
        ] {
            if let Some(value) = value {
                at_least_one(field, value.into())?;
            }
        }
        Ok(())
    }
}

fn at_least_one(field: &'static str, value: u64) -> Result<(), Error> {
    if value == 0 {
        return Err(invalid(field, "at least 1", &value));
    }
    Ok(())
}

fn invalid(field: &'static str, expected: &'static str, got: &dyn std::fmt::Display) -> Error {
    Error::InvalidOption {
        field,
        expected,
        got: got.to_string(),
    }
}

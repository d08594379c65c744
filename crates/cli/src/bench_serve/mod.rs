//! `flametune bench-serve`: how a server bears a load.

mod arrivals;
mod report;
mod request;

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::arrivals::arrivals;
use self::report::Report;
use self::request::{Ask, Sample};

/// Send requests to a server at a rate of your choice, and report how long they take.
///
/// The load is open-loop: requests are sent at their times whether or not earlier ones are
/// answered, as strangers do, so that a slow server cannot slow its own load down. The gaps are
/// exponential, a function of the seed.
///
/// Examples:
///
///   flametune bench-serve --rate 2 --requests 100
///   flametune bench-serve --model base --model sql --model poet --rate 4 --max-tokens 64
///   flametune bench-serve --url http://127.0.0.1:9000 --json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct BenchServe {
    /// Where the server is
    #[arg(long, default_value = "http://127.0.0.1:8000", value_name = "URL")]
    url: String,

    /// The base or an adapter; several take turns. Without it, the first that the server lists
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,

    /// Requests a second, on average; 0 sends all at once
    #[arg(long, default_value_t = 1.0, value_name = "R")]
    rate: f64,

    /// How many requests are sent
    #[arg(long, default_value_t = 32, value_name = "N")]
    requests: usize,

    /// Words of a prompt
    #[arg(long, default_value_t = 64, value_name = "N")]
    prompt_words: usize,

    /// Most tokens of an answer
    #[arg(long, default_value_t = 64, value_name = "N")]
    max_tokens: usize,

    /// Whether answers go on to --max-tokens even when the model would stop
    #[arg(long)]
    ignore_eos: bool,

    /// The same seed gives the same times and prompts
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,

    /// Seconds a request may take
    #[arg(long, default_value_t = 600, value_name = "S")]
    timeout: u64,

    /// Write the figures as JSON
    #[arg(long)]
    json: bool,
}

/// The variable that holds the key, where the server asks for one.
const KEY_VARIABLE: &str = "FLAMETUNE_API_KEY";

impl BenchServe {
    pub(crate) fn run(&self) -> Result<()> {
        if !(self.rate.is_finite() && self.rate >= 0.0) {
            bail!("--rate must be finite and not negative, got {}", self.rate);
        }
        if self.requests == 0 || self.requests > 1_000_000 {
            bail!(
                "--requests must be between 1 and 1000000, got {}",
                self.requests
            );
        }
        let ask = Ask::new(
            &self.url,
            std::env::var(KEY_VARIABLE).ok(),
            Duration::from_secs(self.timeout),
        );
        let models = match self.model.as_slice() {
            [] => vec![ask.first_model()?],
            named => named.to_vec(),
        };
        let samples = self.load(&Arc::new(ask), &models)?;
        let report = Report::of(&samples);
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{:#}", report.to_json())?;
        } else {
            write!(out, "{report}")?;
        }
        match samples.iter().find_map(|sample| sample.error.as_ref()) {
            Some(error) => bail!("{} requests failed; the first: {error}", report.failed),
            None => Ok(()),
        }
    }

    /// Sends every request at its time, each on a thread of its own.
    fn load(&self, ask: &Arc<Ask>, models: &[String]) -> Result<Vec<Sample>> {
        let started = Instant::now();
        let mut threads = Vec::with_capacity(self.requests);
        for (index, at) in arrivals(self.rate, self.requests, self.seed).enumerate() {
            thread::sleep(at.saturating_sub(started.elapsed()));
            let body = request::body(
                &models[index % models.len()],
                &request::prompt(self.prompt_words, self.seed, index as u64),
                self.max_tokens,
                self.ignore_eos,
            );
            let ask = Arc::clone(ask);
            let thread = thread::Builder::new()
                .stack_size(512 << 10)
                .spawn(move || ask.stream(&body, started));
            threads.push(thread.context("cannot start a thread for a request")?);
        }
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(sample) => Ok(sample),
                Err(_) => bail!("a request's thread panicked"),
            })
            .collect()
    }
}

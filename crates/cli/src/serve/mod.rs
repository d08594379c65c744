//! `flametune serve`: one base and its adapters behind the HTTP interface of OpenAI.

mod config;
mod encoder;
mod guides;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use flametune_infer::{Engine, EngineHandle, EngineOptions, Speculation};
use flametune_lm::{CausalLm, Checkpoint};
use flametune_serve::{AppState, Served, ServedModel, serve, shutdown_signal};
use tokio::net::TcpListener;
use tracing_subscriber::EnvFilter;

use self::config::{Config, SpeculationSection};
use crate::{model, text};

/// Serve a model and its adapters over HTTP, as OpenAI and vLLM do.
///
/// Without a file the default model is served on 127.0.0.1:8000.
///
/// Examples:
///
///   flametune serve
///   flametune serve serve.toml
///   flametune serve serve.toml --set http.port=9000 --set adapters.root=./adapters
///   flametune serve --print-config
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Serve {
    /// What to serve and how, in TOML; --print-config shows every key
    config: Option<PathBuf>,

    /// Set one key, such as http.port=9000; may be given several times
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,

    /// Show a file with every key and its usual value, and end
    #[arg(long)]
    print_config: bool,

    /// How the log is written
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people
    Text,
    /// An object a line
    Json,
}

impl Serve {
    pub(crate) fn run(&self) -> Result<()> {
        if self.print_config {
            io::stdout().write_all(config::EXAMPLE.as_bytes())?;
            return Ok(());
        }
        let config = match &self.config {
            None => config::read("--set", "", &self.set)?,
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                config::read(&path.display().to_string(), &text, &self.set)?
            }
        };
        start_log(self.log_format)?;
        let (state, engine) = load(config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the threads of the server")?;
        let served = runtime.block_on(listen(state));
        // What was given up may still sit in the engine; nobody waits for it.
        runtime.shutdown_background();
        drop(engine);
        served
    }
}

/// Logs to standard error; `RUST_LOG` chooses what.
fn start_log(format: LogFormat) -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().with_span_list(false).try_init(),
    };
    match started {
        Ok(()) => Ok(()),
        Err(error) => bail!("cannot start the log: {error}"),
    }
}

async fn listen(state: AppState) -> Result<()> {
    let address = SocketAddr::new(state.http().host, state.http().port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "reachable from other machines");
    }
    // Whoever reads the line may ask for the end at once.
    let ended = shutdown_signal();
    writeln!(io::stderr(), "serving on http://{address}")?;
    serve(listener, state, ended).await?;
    Ok(())
}

/// Loads everything that is served.
fn load(config: Config) -> Result<(AppState, EngineHandle)> {
    let section = &config.model;
    let checkpoint = model::open(&section.path)?;
    let options = section.device_args().load_options(&checkpoint)?;
    let options = match &config.quant {
        Some(quant) => quant.args().apply(options)?,
        None => options,
    };
    let tokenizer = Arc::new(text::tokenizer(&checkpoint).context("cannot read the tokenizer")?);
    let template = match text::chat_template(&tokenizer, section.chat_template.as_deref()) {
        Ok(template) => Some(template),
        // One that was asked for and is not there is an error, one that a model lacks is not.
        Err(error) if section.chat_template.is_some() => return Err(error),
        Err(_) => None,
    };
    let name = section.served_name();
    let model = model::load(&checkpoint, &options)?;
    tokenizer.check_against(model.vocab_size())?;
    let vocab_size = model.vocab_size();
    let engine = start_engine(&config, &checkpoint, model)?;
    drop(checkpoint);
    load_adapters(&config, &engine)?;

    let context = engine.max_context();
    let mut served = ServedModel::new(
        name,
        Arc::new(engine.clone()),
        Arc::clone(&tokenizer),
        context,
    );
    if let Some(template) = template {
        served = served.with_template(template);
    }
    if let Some(guides) = guides::maker(&tokenizer, vocab_size)? {
        served = served.with_guides(guides);
    }
    let mut all = Served::new(served);
    if let Some(section) = &config.embeddings {
        let (embedder, tokenizer) = encoder::load(&section.path)?;
        all = all.with_encoder(section.served_name(), Arc::new(embedder), tokenizer);
    }
    let adapters = config.adapters.options();
    let keys = config.resolved_keys()?;
    let state = AppState::new(
        all.with_http(config.http)
            .with_limits(config.limits)
            .with_adapters(adapters)
            .with_keys(keys),
    )?;
    Ok((state, engine))
}

fn start_engine(config: &Config, checkpoint: &Checkpoint, model: CausalLm) -> Result<EngineHandle> {
    let section = &config.engine;
    let speculation = match &section.speculation {
        None => None,
        Some(SpeculationSection::PromptLookup { ngram, tokens }) => {
            Some(Speculation::PromptLookup {
                ngram: *ngram,
                tokens: *tokens,
            })
        }
        Some(SpeculationSection::DraftModel { path, tokens }) => {
            let draft = model::open(path)?;
            let options = config.model.device_args().load_options(&draft)?;
            Some(Speculation::DraftModel {
                model: Box::new(model::load(&draft, &options)?),
                tokens: *tokens,
            })
        }
        Some(SpeculationSection::DraftAdapter {
            name,
            mask_token,
            tokens,
        }) => Some(Speculation::DraftAdapter {
            name: name.clone(),
            mask_token: *mask_token,
            tokens: *tokens,
        }),
    };
    let facts = crate::adapter::facts(checkpoint, None).context("cannot digest the base")?;
    let options = EngineOptions {
        kv_tokens: section.kv_tokens,
        page_tokens: section.page_tokens,
        step_tokens: section.step_tokens,
        max_running: section.max_running,
        max_waiting: section.max_waiting,
        prefix_sharing: section.prefix_sharing,
        batch_invariant: section.batch_invariant,
        adapter_bytes: config.adapters.memory_bytes,
        facts: Some(facts),
        speculation,
    };
    Engine::start(model, options).context("cannot start the engine")
}

/// Loads what the file lists, and says what passports warn of.
fn load_adapters(config: &Config, engine: &EngineHandle) -> Result<()> {
    for entry in &config.adapters.load {
        let info = engine
            .load_adapter(&entry.name, Path::new(&entry.path))
            .with_context(|| {
                format!("cannot load the adapter {} from {}", entry.name, entry.path)
            })?;
        if entry.pinned {
            engine.pin_adapter(&entry.name, true)?;
        }
        for warning in &info.warnings {
            tracing::warn!(adapter = %entry.name, "{warning}");
        }
        tracing::info!(adapter = %entry.name, bytes = info.bytes, "adapter loaded");
    }
    Ok(())
}

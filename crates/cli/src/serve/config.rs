//! The configuration file of `flametune serve`.

use anyhow::{Context, Result, anyhow, bail};
use flametune_infer::EngineOptions;
use flametune_serve::{AdapterOptions, HttpOptions, KeyOptions, LimitOptions};
use serde::Deserialize;
use toml::Table;

use crate::device::{DeviceArgs, DeviceName, DtypeName};
use crate::model;
use crate::quantize::{KindName, QuantizeArgs};
use crate::recipe::{apply, described};

/// Every key with its usual value; those that have none are comments.
pub(super) const EXAMPLE: &str = include_str!("example.toml");

/// What to serve and how.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Config {
    pub(super) model: ModelSection,
    pub(super) quant: Option<QuantSection>,
    pub(super) engine: EngineSection,
    pub(super) adapters: AdaptersSection,
    pub(super) embeddings: Option<EmbeddingsSection>,
    pub(super) http: HttpOptions,
    pub(super) limits: LimitOptions,
    pub(super) keys: Vec<KeyOptions>,
}

/// The base.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ModelSection {
    /// A model folder, a `.gguf` file, or the name of a fetched model.
    pub(super) path: String,
    /// What requests call it; the last part of the path unless given.
    pub(super) name: Option<String>,
    pub(super) device: DeviceName,
    pub(super) dtype: DtypeName,
    /// A built-in chat template or a template file, in place of the model's own.
    pub(super) chat_template: Option<String>,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self {
            path: model::DEFAULT_MODEL.to_owned(),
            name: None,
            device: DeviceName::default(),
            dtype: DtypeName::default(),
            chat_template: None,
        }
    }
}

/// How the base is quantized while it is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuantSection {
    pub(super) kind: KindName,
    #[serde(default = "sixty_four")]
    pub(super) block_size: usize,
    #[serde(default)]
    pub(super) double_quant: bool,
}

fn sixty_four() -> usize {
    64
}

/// How much the engine may use.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EngineSection {
    pub(super) kv_tokens: usize,
    pub(super) page_tokens: usize,
    pub(super) step_tokens: usize,
    pub(super) max_running: usize,
    pub(super) max_waiting: usize,
    pub(super) prefix_sharing: bool,
    pub(super) batch_invariant: bool,
    pub(super) speculation: Option<SpeculationSection>,
}

impl Default for EngineSection {
    fn default() -> Self {
        let options = EngineOptions::default();
        Self {
            kv_tokens: options.kv_tokens,
            page_tokens: options.page_tokens,
            step_tokens: options.step_tokens,
            max_running: options.max_running,
            max_waiting: options.max_waiting,
            prefix_sharing: options.prefix_sharing,
            batch_invariant: options.batch_invariant,
            speculation: None,
        }
    }
}

/// Who proposes tokens ahead of the model.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum SpeculationSection {
    PromptLookup {
        #[serde(default = "three")]
        ngram: usize,
        #[serde(default = "four")]
        tokens: usize,
    },
    DraftModel {
        path: String,
        #[serde(default = "four")]
        tokens: usize,
    },
    DraftAdapter {
        name: String,
        mask_token: u32,
        #[serde(default = "four")]
        tokens: usize,
    },
}

fn three() -> usize {
    3
}

fn four() -> usize {
    4
}

/// Which adapters there are, and where more may come from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AdaptersSection {
    /// The folder under which adapters may be loaded by request.
    pub(super) root: Option<String>,
    /// Bytes of adapters that are kept in memory.
    pub(super) memory_bytes: usize,
    /// What is loaded at the start.
    pub(super) load: Vec<AdapterEntry>,
}

impl Default for AdaptersSection {
    fn default() -> Self {
        Self {
            root: None,
            memory_bytes: EngineOptions::default().adapter_bytes,
            load: Vec::new(),
        }
    }
}

/// An adapter that is loaded at the start.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdapterEntry {
    pub(super) name: String,
    /// Its folder, which may lie anywhere.
    pub(super) path: String,
    /// Whether it stays in memory.
    #[serde(default)]
    pub(super) pinned: bool,
}

/// The encoder that answers `/v1/embeddings`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EmbeddingsSection {
    pub(super) path: String,
    pub(super) name: Option<String>,
}

impl ModelSection {
    pub(super) fn device_args(&self) -> DeviceArgs {
        DeviceArgs {
            device: self.device,
            dtype: self.dtype,
        }
    }

    pub(super) fn served_name(&self) -> String {
        served_name(self.name.as_deref(), &self.path)
    }
}

impl EmbeddingsSection {
    pub(super) fn served_name(&self) -> String {
        served_name(self.name.as_deref(), &self.path)
    }
}

/// The name given, else the last part of the path.
fn served_name(name: Option<&str>, path: &str) -> String {
    let last = path
        .trim_end_matches(['/', '\\'])
        .rsplit(['/', '\\'])
        .next();
    let last = last.filter(|last| !last.is_empty() && *last != "." && *last != "..");
    name.or(last).unwrap_or("model").to_owned()
}

impl QuantSection {
    pub(super) fn args(&self) -> QuantizeArgs {
        QuantizeArgs::new(self.kind, self.block_size, self.double_quant)
    }
}

impl AdaptersSection {
    pub(super) fn options(&self) -> AdapterOptions {
        AdapterOptions {
            root: self.root.as_ref().map(Into::into),
        }
    }
}

impl Config {
    /// The keys, those that stand in the environment fetched from there.
    pub(super) fn resolved_keys(&self) -> Result<Vec<KeyOptions>> {
        let resolve = |option: &KeyOptions| {
            let mut option = option.clone();
            if let Some(variable) = option.key.strip_prefix("env:") {
                option.key = std::env::var(variable)
                    .with_context(|| format!("keys: {}: no variable {variable}", option.name))?;
            }
            Ok(option)
        };
        self.keys.iter().map(resolve).collect()
    }

    /// Checks what needs no model.
    fn validate(&self) -> Result<()> {
        self.http.validate()?;
        self.limits.validate()?;
        if self.model.path.is_empty() {
            bail!("model.path must name a model");
        }
        let mut names: Vec<&str> = Vec::new();
        for entry in &self.adapters.load {
            if names.contains(&entry.name.as_str()) || entry.name == self.model.served_name() {
                bail!("adapters.load: the name {} stands there twice", entry.name);
            }
            names.push(&entry.name);
        }
        Ok(())
    }
}

/// Reads a file; `sets` are overrides `section.key=value`.
pub(super) fn read(name: &str, text: &str, sets: &[String]) -> Result<Config> {
    let mut table: Table =
        toml::from_str(text).map_err(|error| anyhow!(described(name, text, &error)))?;
    for set in sets {
        apply(&mut table, set)?;
    }
    let config = match table.try_into::<Config>() {
        Ok(config) => config,
        // Only an error in the text itself has a line.
        Err(error) => match toml::from_str::<Config>(text) {
            Err(in_text) if in_text.message() == error.message() => {
                bail!(described(name, text, &in_text))
            }
            _ => bail!(described(name, text, &error)),
        },
    };
    config
        .validate()
        .map_err(|error| anyhow!("{name}: {error}"))?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_what_is_usual() {
        assert_eq!(read("serve.toml", EXAMPLE, &[]).unwrap(), Config::default());
    }

    #[test]
    fn every_key_of_the_example_exists() {
        // Comments that show a key are keys once the mark is taken away.
        let text: String = EXAMPLE
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line)))
            .collect();
        let config = read("serve.toml", &text, &[]).unwrap();
        assert_eq!(config.keys.len(), 1);
        assert_eq!(config.adapters.load.len(), 1);
        assert!(config.embeddings.is_some() && config.quant.is_some());
        assert!(config.engine.speculation.is_some());
    }

    #[test]
    fn an_unknown_key_comes_with_its_line_and_the_nearest_one() {
        let refused = |text: &str| read("s.toml", text, &[]).unwrap_err().to_string();
        assert!(
            refused("[http]\nprt = 1\n")
                .starts_with("s.toml:2: unknown key `prt`; did you mean `port`?")
        );
        assert!(refused("[htp]\n").contains("did you mean `http`?"));
        assert!(
            refused("[limits]\nanonymous = { requests_per_minit = 3 }\n")
                .contains("did you mean `requests_per_minute`?")
        );
        assert!(refused("[http]\nport = 70000\n").starts_with("s.toml:2: "));
        assert!(refused("[http]\nmax_body_bytes = 0\n").contains("http.max_body_bytes must be"));
    }

    #[test]
    fn names_come_from_paths() {
        for (path, name) in [
            ("smollm2", "smollm2"),
            ("./models/llama/", "llama"),
            ("a/b.gguf", "b.gguf"),
            ("..", "model"),
        ] {
            assert_eq!(served_name(None, path), name);
        }
        assert_eq!(served_name(Some("x"), "y"), "x");
    }
}

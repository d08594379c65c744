//! The configurations of the methods with virtual tokens, under PEFT's names and with its defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::PromptBuilder;
use super::place::{PromptPlace, PromptShape};
use crate::build::{Build, MethodConfig, Modules, common_field};
use crate::check::{self, invalid};
use crate::config::CommonConfig;
use crate::error::Result;

/// The fields that all methods with virtual tokens share (PEFT's `PromptLearningConfig`).
///
/// What is absent is taken from the model when the adapter joins it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VirtualTokenConfig {
    /// The number of virtual tokens; must be given.
    pub num_virtual_tokens: Option<usize>,
    /// Width of one virtual token: of the residual stream, or of one layer's keys.
    pub token_dim: Option<usize>,
    /// 1 for decoders, the only value that is implemented.
    pub num_transformer_submodules: Option<usize>,
    /// Query heads; key and value heads in prefix tuning.
    pub num_attention_heads: Option<usize>,
    /// The number of layers.
    pub num_layers: Option<usize>,
    /// Modules to train as full copies; not implemented beside virtual tokens.
    pub modules_to_save: Option<Vec<String>>,
}

/// How prompt tuning begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PromptTuningInit {
    /// At the embeddings of a text.
    Text,
    /// At the embeddings of tokens drawn from the vocabulary.
    SampleVocab,
    /// At standard normal numbers.
    #[default]
    Random,
}

/// Prompt tuning: a trained vector for each virtual token, in front of the input.
///
/// # Source
/// - Lester, Al-Rfou and Constant 2021, arXiv:2104.08691, §2 and §2.1 (initialisation)
/// - reference: peft `tuners/prompt_tuning`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptTuningConfig {
    /// What every method's configuration has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// What every method with virtual tokens has.
    #[serde(flatten)]
    pub tokens: VirtualTokenConfig,
    /// Where the vectors begin.
    pub prompt_tuning_init: PromptTuningInit,
    /// The text of [`PromptTuningInit::Text`].
    pub prompt_tuning_init_text: Option<String>,
    /// The tokenizer of that text.
    pub tokenizer_name_or_path: Option<String>,
    /// What that tokenizer is opened with; kept as it is.
    pub tokenizer_kwargs: Option<Value>,
    /// The tokens of the text, from whoever holds a tokenizer; repeated or cut to the number of
    /// virtual tokens. Not stored.
    #[serde(skip)]
    pub init_token_ids: Option<Vec<u32>>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// How prefix tuning begins, where not at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefixInit {
    /// With keys and values of zero.
    Zero,
}

/// Prefix tuning: trained keys and values in front of those of every layer.
///
/// # Source
/// - Li and Liang 2021, arXiv:2101.00190, §4
/// - reference: peft `tuners/prefix_tuning`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixTuningConfig {
    /// What every method's configuration has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// What every method with virtual tokens has.
    #[serde(flatten)]
    pub tokens: VirtualTokenConfig,
    /// Where it begins.
    pub init_weights: Option<PrefixInit>,
    /// Width of the projection's hidden layer; `token_dim` when absent.
    pub encoder_hidden_size: Option<usize>,
    /// Whether keys and values come out of a projection while it is trained.
    pub prefix_projection: bool,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What P-tuning passes its vectors through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PromptEncoderReparameterizationType {
    /// Three linear maps.
    #[default]
    Mlp,
    /// A bidirectional LSTM and two linear maps.
    Lstm,
}

/// P-tuning: vectors in front of the input that come out of an encoder while they are trained.
///
/// # Source
/// - Liu et al. 2021, GPT Understands, Too, arXiv:2103.10385
/// - reference: peft `tuners/p_tuning`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptEncoderConfig {
    /// What every method's configuration has.
    #[serde(flatten)]
    pub common: CommonConfig,
    /// What every method with virtual tokens has.
    #[serde(flatten)]
    pub tokens: VirtualTokenConfig,
    /// The encoder.
    pub encoder_reparameterization_type: PromptEncoderReparameterizationType,
    /// Width inside the encoder; `token_dim` when absent.
    pub encoder_hidden_size: Option<usize>,
    /// Layers of the LSTM; of no account for the MLP.
    pub encoder_num_layers: usize,
    /// The probability of dropping a number between two layers of the LSTM.
    pub encoder_dropout: f64,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Default for PromptEncoderConfig {
    fn default() -> Self {
        Self {
            common: CommonConfig::default(),
            tokens: VirtualTokenConfig::default(),
            encoder_reparameterization_type: PromptEncoderReparameterizationType::Mlp,
            encoder_hidden_size: None,
            encoder_num_layers: 2,
            encoder_dropout: 0.0,
            extra: Map::new(),
        }
    }
}

impl VirtualTokenConfig {
    fn validate(&self) -> Result<()> {
        if self.num_virtual_tokens.is_none() {
            return Err(invalid("num_virtual_tokens", "must be given".to_owned()));
        }
        check::rank("num_virtual_tokens", self.len())?;
        if let Some(count) = self.num_transformer_submodules.filter(|&count| count != 1) {
            let hint = "models with an encoder and a decoder are not implemented";
            return Err(check::unsupported(
                "num_transformer_submodules",
                count,
                hint,
            ));
        }
        match self.modules_to_save.as_deref() {
            None | Some([]) => Ok(()),
            Some(names) => {
                let hint = "copies of modules beside virtual tokens are not implemented";
                Err(check::unsupported(
                    "modules_to_save",
                    names.join(", "),
                    hint,
                ))
            }
        }
    }

    /// Takes what is absent from the model, and compares what is there with it.
    fn resolve(&mut self, shape: &PromptShape, place: PromptPlace) -> Result<()> {
        let (width, heads) = match place {
            PromptPlace::Input => (shape.hidden_size, shape.num_attention_heads),
            PromptPlace::KeysValues => (shape.kv_width(), shape.num_key_value_heads),
        };
        let fit = |field, value: &mut Option<usize>, own: usize, matters: bool| match *value {
            Some(given) if matters && given != own => Err(invalid(
                field,
                format!("must be the model's {own}, got {given}"),
            )),
            given => {
                *value = Some(given.unwrap_or(own));
                Ok(())
            }
        };
        let prefix = place == PromptPlace::KeysValues;
        fit("token_dim", &mut self.token_dim, width, true)?;
        fit("num_layers", &mut self.num_layers, shape.num_layers, prefix)?;
        let given = &mut self.num_attention_heads;
        fit("num_attention_heads", given, heads, prefix)?;
        self.num_transformer_submodules.get_or_insert(1);
        Ok(())
    }

    /// The number of virtual tokens of a configuration that was validated.
    pub(super) fn len(&self) -> usize {
        self.num_virtual_tokens.unwrap_or(0)
    }
}

impl PromptTuningConfig {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error), [`Error::UnsupportedOption`](crate::Error).
    pub fn validate(&self) -> Result<()> {
        self.tokens.validate()?;
        let text = self.prompt_tuning_init == PromptTuningInit::Text;
        if text && self.prompt_tuning_init_text.is_none() {
            let reason = "must be given for the initialisation TEXT".to_owned();
            return Err(invalid("prompt_tuning_init_text", reason));
        }
        Ok(())
    }

    pub(crate) fn resolve(&mut self, shape: &PromptShape) -> Result<()> {
        self.tokens.resolve(shape, PromptPlace::Input)
    }
}

impl PrefixTuningConfig {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error), [`Error::UnsupportedOption`](crate::Error).
    pub fn validate(&self) -> Result<()> {
        check::rank("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))?;
        self.tokens.validate()
    }

    pub(crate) fn resolve(&mut self, shape: &PromptShape) -> Result<()> {
        self.tokens.resolve(shape, PromptPlace::KeysValues)?;
        self.encoder_hidden_size = self.encoder_hidden_size.or(self.tokens.token_dim);
        Ok(())
    }
}

impl PromptEncoderConfig {
    /// Checks everything that can be checked without a model.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`](crate::Error), [`Error::UnsupportedOption`](crate::Error).
    pub fn validate(&self) -> Result<()> {
        check::rank("encoder_hidden_size", self.encoder_hidden_size.unwrap_or(1))?;
        check::rank("encoder_num_layers", self.encoder_num_layers)?;
        check::dropout("encoder_dropout", self.encoder_dropout)?;
        self.tokens.validate()
    }

    pub(crate) fn resolve(&mut self, shape: &PromptShape) -> Result<()> {
        self.tokens.resolve(shape, PromptPlace::Input)?;
        self.encoder_hidden_size = self.encoder_hidden_size.or(self.tokens.token_dim);
        Ok(())
    }
}

impl MethodConfig for PromptTuningConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(PromptBuilder::PromptTuning(self)))
    }
}

impl MethodConfig for PrefixTuningConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(PromptBuilder::PrefixTuning(self)))
    }
}

impl MethodConfig for PromptEncoderConfig {
    common_field!();

    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }

    fn builder(&self, _modules: &Modules<'_>) -> Result<Box<dyn Build + '_>> {
        Ok(Box::new(PromptBuilder::PromptEncoder(self)))
    }
}

//! The architectures that are implemented, by the `model_type` of their `config.json`.

use super::fields::ConfigFile;
use crate::error::{Error, Result};

macro_rules! families {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// An implemented architecture.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Family {
            $($(#[$doc])* $variant,)*
        }

        impl Family {
            /// Every implemented architecture.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The `model_type` that names this architecture in `config.json`.
            pub fn model_type(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

families! {
    /// Llama 1, 2 and 3, SmolLM 1 and 2, and everything that shares their layout.
    Llama = "llama",
    /// Mistral: Llama with a sliding attention window.
    Mistral = "mistral",
    /// Mixtral: Mistral with a mixture of experts.
    Mixtral = "mixtral",
    /// Qwen 2 and 2.5: Llama with biases on query, key and value.
    Qwen2 = "qwen2",
    /// Qwen 3: Llama with normalised queries and keys.
    Qwen3 = "qwen3",
    /// SmolLM 3: Llama with layers that carry no positions.
    SmolLm3 = "smollm3",
    /// Gemma 1.
    Gemma = "gemma",
    /// Gemma 2.
    Gemma2 = "gemma2",
    /// Gemma 3, the text model.
    Gemma3Text = "gemma3_text",
    /// Phi 3: Llama with fused projections.
    Phi3 = "phi3",
    /// OLMo 2: normalisation after the block instead of before.
    Olmo2 = "olmo2",
    /// Granite: Llama with fixed multipliers.
    Granite = "granite",
    /// StableLM: LayerNorm and a partial rotation.
    StableLm = "stablelm",
    /// GPT-2.
    Gpt2 = "gpt2",
    /// BERT, an encoder.
    Bert = "bert",
}

impl Family {
    /// Reads `model_type`.
    ///
    /// # Errors
    /// [`UnsupportedArchitecture`](Error::UnsupportedArchitecture) when it is missing or not
    /// implemented.
    pub fn read(file: &ConfigFile) -> Result<Self> {
        let model_type = file.opt_str("model_type")?.unwrap_or("");
        Self::ALL
            .iter()
            .copied()
            .find(|family| family.model_type() == model_type)
            .ok_or_else(|| Error::UnsupportedArchitecture {
                model_type: model_type.to_owned(),
                supported: Self::ALL
                    .iter()
                    .map(|family| family.model_type().to_owned())
                    .collect(),
            })
    }
}

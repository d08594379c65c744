//! The architectures that are mapped, by their `general.architecture`.

use flametune_quant::gguf::Metadata;

use crate::error::{Error, Result};

macro_rules! architectures {
    ($($variant:ident = $name:literal,)+) => {
        /// An architecture as llama.cpp names it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Architecture {
            $($variant,)+
        }

        impl Architecture {
            pub(super) const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name, which is also the prefix of the architecture's metadata keys.
            pub(super) fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

architectures! {
    // Also SmolLM, Mistral, and all that share Llama's layout.
    Llama = "llama",
    Qwen2 = "qwen2",
    Qwen3 = "qwen3",
    Gemma = "gemma",
    Gemma2 = "gemma2",
    Gemma3 = "gemma3",
    Phi3 = "phi3",
    Gpt2 = "gpt2",
}

impl Architecture {
    pub(super) fn read(metadata: &Metadata) -> Result<Self> {
        let name = metadata.require::<&str>("general.architecture")?;
        Self::ALL
            .iter()
            .copied()
            .find(|architecture| architecture.name() == name)
            .ok_or_else(|| Error::UnsupportedArchitecture {
                model_type: name.to_owned(),
                supported: Self::ALL
                    .iter()
                    .map(|known| known.name().to_owned())
                    .collect(),
            })
    }

    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// The metadata key `suffix` of this architecture.
    pub(super) fn key(self, suffix: &str) -> String {
        format!("{}.{suffix}", self.name())
    }
}

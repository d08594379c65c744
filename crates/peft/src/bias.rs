//! Which biases of the base are trained with an adapter.

use serde::{Deserialize, Serialize};

/// Which biases of the base are trained with the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BiasMode {
    /// None of them.
    #[default]
    None,
    /// All of them.
    All,
    /// Those of adapted modules; other methods than LoRA call it by their own name on disk.
    LoraOnly,
}

/// The same on disk, with another word for the biases of adapted modules.
macro_rules! bias_words {
    ($(#[$doc:meta])* $module:ident, $only:literal) => {
        $(#[$doc])*
        pub(crate) mod $module {
            use serde::{Deserialize, Deserializer, Serializer, de};

            use super::BiasMode;

            pub(crate) fn serialize<S: Serializer>(
                mode: &BiasMode,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(match mode {
                    BiasMode::None => "none",
                    BiasMode::All => "all",
                    BiasMode::LoraOnly => $only,
                })
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<BiasMode, D::Error> {
                match String::deserialize(deserializer)?.as_str() {
                    "none" => Ok(BiasMode::None),
                    "all" => Ok(BiasMode::All),
                    $only => Ok(BiasMode::LoraOnly),
                    other => Err(de::Error::unknown_variant(other, &["none", "all", $only])),
                }
            }
        }
    };
}

bias_words!(
    /// VeRA's word.
    vera_bias,
    "vera_only"
);
bias_words!(
    /// `MiSS`'s word.
    miss_bias,
    "MiSS_only"
);

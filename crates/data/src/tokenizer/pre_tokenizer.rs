//! How text is cut before byte-level BPE, by the names that GGUF headers use.
//!
//! # Source
//! - llama.cpp `src/llama-vocab.cpp`, `llm_tokenizer_bpe` and `llama_vocab::impl::load`; where llama.cpp adapts an
//!   expression to its own engine, the original of the model's `tokenizer.json` stands here

use crate::error::{Error, Result};

/// One way of cutting text, and the flags that come with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Values of `tokenizer.ggml.pre` that mean this rule.
    pub(super) names: &'static [&'static str],
    /// Expressions that are applied one after the other; what they match stands alone.
    pub(super) patterns: &'static [&'static str],
    /// Whether a piece that is a token as a whole is taken as it is.
    pub(super) ignore_merges: bool,
    /// Whether BOS is added when the header does not say.
    pub(super) add_bos: bool,
}

/// What GPT-2 cuts by, as `ByteLevel` of the tokenizers library does.
pub(super) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const RULES: &[Rule] = &[
    Rule {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &[
            "smollm",
            "starcoder",
            "refact",
            "command-r",
            "codeshell",
            "exaone",
            "minerva-7b",
            "mellum2",
        ],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &[
            "llama3",
            "llama-v3",
            "llama-bpe",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Rule {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        patterns: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["qwen35"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["tekken"],
        patterns: &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        add_bos: true,
    },
    Rule {
        names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        patterns: &[
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: false,
        add_bos: false,
    },
];

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The first name of the rule with these expressions.
pub(super) fn name_of(patterns: &[String], ignore_merges: bool) -> Option<&'static str> {
    RULES
        .iter()
        .find(|rule| rule.ignore_merges == ignore_merges && rule.patterns == patterns)
        .and_then(|rule| rule.names.first().copied())
}

/// The rule of a name; a header without one gets llama.cpp's default.
pub(super) fn find(pre: Option<&str>) -> Result<&'static Rule> {
    let name = pre.unwrap_or("default");
    if pre.is_none() {
        log::warn!(
            "the GGUF header names no pre-tokenizer: text is cut by the default rule, which may not fit"
        );
    }
    RULES
        .iter()
        .find(|rule| rule.names.contains(&name))
        .ok_or_else(|| Error::UnknownPreTokenizer {
            pre: name.to_owned(),
            known: RULES.iter().flat_map(|rule| rule.names).copied().collect(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_means_one_rule() {
        let names: Vec<&str> = RULES.iter().flat_map(|rule| rule.names).copied().collect();
        for name in &names {
            assert_eq!(
                names.iter().filter(|other| *other == name).count(),
                1,
                "{name}"
            );
            assert!(find(Some(name)).is_ok());
        }
        assert!(
            matches!(find(Some("gpt-5")), Err(Error::UnknownPreTokenizer { pre, .. }) if pre == "gpt-5")
        );
    }
}

//! Which tokens have rows that are trained.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::invalid;
use crate::error::Result;
use crate::targets::{is_end, no_match};

/// The tokens whose rows are trained beside another method.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIndices {
    /// Of the embedding of the input.
    Input(Vec<usize>),
    /// Of embeddings by their names, or the ends of them after a dot.
    Named(BTreeMap<String, Vec<usize>>),
}

impl TokenIndices {
    fn lists(&self) -> Vec<&Vec<usize>> {
        match self {
            Self::Input(tokens) => vec![tokens],
            Self::Named(named) => named.values().collect(),
        }
    }

    /// Checks everything that can be checked without a model.
    pub(crate) fn validate(&self, field: &'static str) -> Result<()> {
        self.lists()
            .into_iter()
            .try_for_each(|tokens| check_tokens(field, tokens))
    }

    /// Checks that every name is that of an embedding.
    pub(crate) fn check(&self, field: &'static str, embeddings: &[&str]) -> Result<()> {
        let wanted: Vec<&str> = match self {
            Self::Input(_) if embeddings.is_empty() => vec![""],
            Self::Input(_) => Vec::new(),
            Self::Named(named) => named.keys().map(String::as_str).collect(),
        };
        let unmatched = |name: &&str| !embeddings.iter().any(|path| is_end(path, name));
        match wanted.into_iter().find(unmatched) {
            Some(name) => Err(no_match(field, name, embeddings)),
            None => Ok(()),
        }
    }

    /// The tokens of one embedding.
    pub(crate) fn of(&self, path: &str, is_input: bool) -> Option<&[usize]> {
        match self {
            Self::Input(tokens) => is_input.then_some(tokens),
            Self::Named(named) => named
                .iter()
                .find(|(name, _)| is_end(path, name))
                .map(|(_, tokens)| tokens.as_slice()),
        }
    }
}

/// Checks that tokens are there, and each once.
pub(super) fn check_tokens(field: &'static str, tokens: &[usize]) -> Result<()> {
    if tokens.is_empty() {
        return Err(invalid(field, "must name at least one token".to_owned()));
    }
    let mut sorted = tokens.to_vec();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(invalid(field, format!("names token {} twice", pair[0]))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_named_once_and_embeddings_exist() {
        let named = TokenIndices::Named([("wte".to_owned(), vec![1, 2])].into());
        named.validate("f").unwrap();
        named
            .check("f", &["transformer.wte", "transformer.wpe"])
            .unwrap();
        let error = named.check("f", &["embed_tokens"]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "f: `wte` matches no module, near: embed_tokens"
        );
        assert_eq!(named.of("transformer.wte", true), Some(&[1, 2][..]));
        assert_eq!(named.of("transformer.wpe", false), None);
        let message = |tokens| {
            TokenIndices::Input(tokens)
                .validate("f")
                .unwrap_err()
                .to_string()
        };
        assert_eq!(message(vec![3, 1, 3]), "f names token 3 twice");
        assert_eq!(message(Vec::new()), "f must name at least one token");
    }
}

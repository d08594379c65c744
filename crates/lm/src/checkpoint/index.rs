//! `model.safetensors.index.json`: which tensor lies in which file of a sharded checkpoint.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;

/// What is wrong with an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// The file is longer than any real index.
    #[error("the file holds {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes in the file.
        bytes: u64,
        /// The longest index accepted.
        limit: u64,
    },
    /// It is not JSON, or has no `weight_map` from tensor names to file names.
    #[error(transparent)]
    InvalidJson(#[from] serde_json::Error),
    /// It names a file that is not a plain name within the checkpoint's folder.
    #[error("tensor `{tensor}` is placed in `{shard}`, which must be a file name without folders")]
    OutsideFolder {
        /// The tensor.
        tensor: String,
        /// The file it names.
        shard: String,
    },
    /// It names a file that does not exist.
    #[error("tensor `{tensor}` is placed in `{shard}`, which does not exist")]
    MissingShard {
        /// The first tensor placed there.
        tensor: String,
        /// The file it names.
        shard: String,
    },
    /// It lists no tensors.
    #[error("weight_map is empty")]
    Empty,
}

/// A checked index.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    /// File name of each tensor, every one a plain name.
    pub(super) weight_map: BTreeMap<String, String>,
}

impl Index {
    /// The longest index accepted: the limit of a safetensors header.
    pub(super) const MAX_BYTES: u64 = 100_000_000;

    /// Parses an index and checks that no file name leaves the folder.
    pub(super) fn parse(text: &[u8]) -> Result<Self, IndexError> {
        let index: Self = serde_json::from_slice(text)?;
        if index.weight_map.is_empty() {
            return Err(IndexError::Empty);
        }
        match index
            .weight_map
            .iter()
            .find(|(_, shard)| !is_plain_name(shard))
        {
            None => Ok(index),
            Some((tensor, shard)) => Err(IndexError::OutsideFolder {
                tensor: tensor.clone(),
                shard: shard.clone(),
            }),
        }
    }

    /// The files in order of their names, each with the first tensor placed there.
    pub(super) fn shards(&self) -> BTreeMap<&str, &str> {
        let mut shards = BTreeMap::new();
        for (tensor, shard) in &self.weight_map {
            shards.entry(shard.as_str()).or_insert(tensor.as_str());
        }
        shards
    }
}

/// Whether a name stays within the folder it is joined to, on every platform.
fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(
        (components.next(), components.next()),
        (Some(Component::Normal(_)), None)
    ) && !name.contains(['/', '\\', ':', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_come_once_with_their_first_tensor() {
        let index = Index::parse(
            br#"{"metadata":{"total_size":3},"weight_map":{"b":"2.st","a":"2.st","c":"1.st"}}"#,
        )
        .unwrap();
        assert_eq!(
            index.shards(),
            BTreeMap::from([("1.st", "c"), ("2.st", "a")])
        );
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        for shard in [
            "../x",
            "a/b",
            "/etc/passwd",
            "..",
            ".",
            "",
            "a/",
            "a\\\\b",
            "c:x",
            "a\\u0000",
        ] {
            let text = format!(r#"{{"weight_map":{{"w":"{shard}"}}}}"#);
            let error = Index::parse(text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, IndexError::OutsideFolder { .. }),
                "{shard}: {error}"
            );
        }
    }

    #[test]
    fn text_that_is_no_index_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"weight_map":[]}"#,
            r#"{"weight_map":{"a":1}}"#,
        ] {
            let error = Index::parse(text.as_bytes()).unwrap_err();
            assert!(
                matches!(error, IndexError::InvalidJson(_)),
                "{text}: {error}"
            );
        }
        let error = Index::parse(br#"{"weight_map":{}}"#).unwrap_err();
        assert!(matches!(error, IndexError::Empty));
    }
}

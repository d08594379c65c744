//! An encoder that turns texts into vectors.

use std::sync::Arc;

use anyhow::{Context, Result};
use burn::tensor::{DType, Device};
use flametune_data::Tokenizer;
use flametune_infer::Embedder;
use flametune_lm::{BertModel, LoadOptions};

use crate::{model, text};

/// Loads an encoder and its tokenizer.
pub(super) fn load(path: &str) -> Result<(Embedder, Arc<Tokenizer>)> {
    let checkpoint = model::open(path)?;
    let options = LoadOptions::new(&Device::flex(), DType::F32, DType::F32);
    let encoder = BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {})
        .with_context(|| format!("cannot load the encoder {path}"))?;
    let tokenizer = text::tokenizer(&checkpoint).context("cannot read the encoder's tokenizer")?;
    tokenizer.check_against(encoder.bert.config().vocab_size)?;
    Ok((Embedder::new(encoder), Arc::new(tokenizer)))
}

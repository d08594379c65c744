//! Save → load keeps every byte.

use burn::tensor::{DType, Device};
use flametune_lm::{BertModel, Checkpoint, LoadOptions, SafetensorsCheckpoint, TensorSource};

use crate::models::{CAUSAL, Golden};

/// Options that keep a checkpoint's own dtype.
fn as_stored(source: &dyn TensorSource) -> LoadOptions {
    let name = source.names().swap_remove(0);
    let dtype = match source.info(&name).unwrap().dtype.as_str() {
        "BF16" => DType::BF16,
        _ => DType::F32,
    };
    LoadOptions::new(&Device::flex(), dtype, dtype)
}

fn assert_same_tensors(
    saved: &SafetensorsCheckpoint,
    original: &SafetensorsCheckpoint,
    what: &str,
) {
    assert_eq!(saved.names(), original.names(), "{what}");
    for name in original.names() {
        assert_eq!(
            saved.info(&name).unwrap().shape,
            original.info(&name).unwrap().shape
        );
        assert_eq!(saved.bytes(&name), original.bytes(&name), "{what}: {name}");
    }
}

#[test]
fn every_model_saves_the_bytes_it_was_loaded_from() {
    for name in CAUSAL {
        let golden = Golden::open(name);
        let checkpoint = golden.checkpoint();
        let model = golden.model_as(&as_stored(checkpoint.tensors()));
        let folder = tempfile::tempdir().unwrap();
        model
            .save_pretrained(folder.path(), checkpoint.config(), usize::MAX)
            .unwrap();
        assert_same_tensors(
            &SafetensorsCheckpoint::open(folder.path()).unwrap(),
            &SafetensorsCheckpoint::open(&golden.folder).unwrap(),
            name,
        );
        let again = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(again.config().raw(), checkpoint.config().raw());
    }
}

#[test]
fn sharded_and_bert_checkpoints_round_trip() {
    let golden = Golden::open("bert_cls");
    let checkpoint = Checkpoint::open(&golden.folder).unwrap();
    let options = as_stored(checkpoint.tensors());
    let model = BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {}).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let saved = model
        .save_pretrained(folder.path(), checkpoint.config(), 100_000)
        .unwrap();
    assert!(
        saved.files.len() > 3,
        "several shards and an index: {:?}",
        saved.files
    );
    assert_same_tensors(
        &SafetensorsCheckpoint::open(folder.path()).unwrap(),
        &SafetensorsCheckpoint::open(&golden.folder).unwrap(),
        "bert_cls",
    );
}

#[test]
fn loading_reports_every_byte() {
    let golden = Golden::open("llama");
    let mut seen = Vec::new();
    flametune_lm::CausalLm::load(
        &golden.checkpoint(),
        &LoadOptions::f32(&Device::flex()),
        &mut |progress| seen.push(progress),
    )
    .unwrap();
    let last = seen.last().unwrap();
    assert_eq!(last.bytes, last.total_bytes);
    assert_eq!(seen.len(), golden.checkpoint().tensors().names().len());
}

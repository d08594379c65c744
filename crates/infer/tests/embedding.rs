//! Vectors of texts against the states that they are made of.

use burn::tensor::Device;
use flametune_infer::{Embedder, Error, Pooling};
use flametune_lm::{AdapterPass, BertModel, Checkpoint, LoadOptions, TokenBatch};

use crate::fixture::path;

fn model() -> BertModel {
    let checkpoint = Checkpoint::open(path("models/bert_mlm")).unwrap();
    let options = LoadOptions::f32(&Device::flex());
    BertModel::from_checkpoint(&checkpoint, &options, &mut |_| {}).unwrap()
}

#[test]
fn vectors_are_means_of_states_at_length_one() {
    let texts = [vec![5, 6, 7, 8], vec![9], vec![5, 6, 7, 8]];
    let bert = model();
    let embedder = Embedder::new(bert.clone());
    let vectors = embedder.embed(&texts).unwrap();
    assert_eq!(vectors[0], vectors[2]);
    assert_eq!(embedder.embed(&texts[1..2]).unwrap()[0], vectors[1]);
    for (text, vector) in texts.iter().zip(&vectors) {
        let batch = TokenBatch::from_rows(std::slice::from_ref(text)).unwrap();
        let states = bert
            .bert
            .forward(&batch, &AdapterPass::default(), &mut |_| ())
            .unwrap();
        let mean = states.mean_dim(1).into_data().try_to_vec::<f32>().unwrap();
        let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
        assert_eq!(vector.len(), embedder.width());
        for (got, expected) in vector.iter().zip(&mean) {
            // Means of four f32 numbers.
            assert!((got - expected / length).abs() < 1e-5);
        }
    }
    let plain = Embedder::new(bert.clone())
        .with_pooling(Pooling::First)
        .with_normalization(false);
    let batch = TokenBatch::from_rows(&texts[..1]).unwrap();
    let states = bert
        .bert
        .forward(&batch, &AdapterPass::default(), &mut |_| ())
        .unwrap();
    let states = states.into_data().try_to_vec::<f32>().unwrap();
    let vectors = plain.embed(&texts[..1]).unwrap();
    assert_eq!(vectors[0], states[..plain.width()]);
}

#[test]
fn texts_without_tokens_or_with_too_many_are_refused() {
    let embedder = Embedder::new(model());
    let error = embedder.embed(&[vec![5], vec![]]).unwrap_err();
    assert!(
        matches!(error, Error::EmptyPrompt { request: 1 }),
        "{error}"
    );
    let long = vec![5; embedder.max_tokens() + 1];
    let error = embedder.embed(&[long]).unwrap_err();
    assert!(
        matches!(error, Error::EmbeddingTooLong { request: 0, .. }),
        "{error}"
    );
    assert!(embedder.embed(&[vec![u32::MAX]]).is_err());
}

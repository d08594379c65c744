//! `/v1/embeddings`.

use std::sync::Arc;

use flametune_serve::{AppState, Embedder, app};
use serde_json::json;

use crate::script::{Script, post, routes, served, tokenizer};

const PATH: &str = "/v1/embeddings";

/// The number of tokens, and the first of them.
struct Counts;

impl Embedder for Counts {
    fn embed(&self, rows: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, String> {
        let row = |ids: &Vec<u32>| vec![f32::from(u16::try_from(ids.len()).unwrap()), 0.5];
        Ok(rows.iter().map(row).collect())
    }

    fn max_tokens(&self) -> usize {
        16
    }
}

fn with_encoder() -> axum::Router {
    let served = served(Script::new()).with_encoder("mini", Arc::new(Counts), tokenizer());
    app(AppState::new(served).unwrap())
}

#[tokio::test]
async fn every_input_has_a_vector() {
    let routes = with_encoder();
    let ids = |text: &str| tokenizer().encode(text, true).unwrap();
    let lengths = [ids("Hello").len(), ids("you").len()];
    for input in [json!(["Hello", "you"]), json!([ids("Hello"), ids("you")])] {
        let body = post(&routes, PATH, json!({"model": "mini", "input": input}))
            .await
            .json();
        for (index, length) in lengths.iter().enumerate() {
            let item = &body["data"][index];
            assert_eq!(item["index"], index);
            assert_eq!(item["embedding"], json!([*length as f32, 0.5]));
        }
        let total = lengths[0] + lengths[1];
        assert_eq!(
            body["usage"],
            json!({"prompt_tokens": total, "total_tokens": total})
        );
    }
}

#[tokio::test]
async fn base64_holds_little_endian_numbers() {
    let body = json!({"model": "mini", "input": [1, 2], "encoding_format": "base64"});
    let body = post(&with_encoder(), PATH, body).await.json();
    // 2.0 and 0.5.
    assert_eq!(body["data"][0]["embedding"], "AAAAQAAAAD8=");
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_refused() {
    let routes = with_encoder();
    for (more, expected) in [
        (
            json!({"input": []}),
            "an input must have 1 to 16 tokens, got 0",
        ),
        (
            json!({"input": vec!["a"; 2049]}),
            "there must be 1 to 2048 inputs, got 2049",
        ),
        (
            json!({"input": vec![1; 17]}),
            "an input must have 1 to 16 tokens, got 17",
        ),
        (
            json!({"input": [99_999]}),
            "token 99999 is outside of the vocabulary",
        ),
        (
            json!({"input": "a", "dimensions": 3}),
            "dimensions must be the encoder's own, 2",
        ),
    ] {
        let mut body = json!({"model": "mini"});
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        let message = post(&routes, PATH, body).await.error(400);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test]
async fn a_model_that_generates_makes_no_vectors() {
    let ask = |model: &str| json!({"model": model, "input": "a"});
    let message = post(&routes(), PATH, ask("tiny")).await.error(400);
    assert!(message.contains("no encoder is served"), "{message}");
    let message = post(&with_encoder(), PATH, ask("sql")).await.error(400);
    assert!(message.contains("`mini` makes embeddings"), "{message}");
    post(&routes(), PATH, ask("mini")).await.error(404);
    let chat = json!({"model": "mini", "messages": [{"role": "user", "content": "a"}]});
    let answer = post(&with_encoder(), "/v1/chat/completions", chat).await;
    assert!(answer.error(400).contains("is an encoder"));
}

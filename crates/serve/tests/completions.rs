//! `/v1/completions` and `/tokenize`.

use serde_json::{Value, json};

use crate::script::{get, post, routes, tokenizer};

const PATH: &str = "/v1/completions";

fn body(prompt: Value, more: Value) -> Value {
    let mut body = json!({"model": "tiny", "prompt": prompt, "max_tokens": 60});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test]
async fn texts_and_ids_are_continued() {
    let ids = tokenizer().encode("Hello", false).unwrap();
    for (prompt, texts) in [
        (json!("Hello"), vec!["base> Hello#0"]),
        (
            json!(["Hello", "you"]),
            vec!["base> Hello#0", "base> you#0"],
        ),
        (json!(ids), vec!["base> Hello#0"]),
        (json!([ids, ids]), vec!["base> Hello#0", "base> Hello#0"]),
    ] {
        let answer = post(&routes(), PATH, body(prompt.clone(), json!({}))).await;
        assert_eq!(answer.status, 200, "{prompt}: {}", answer.text);
        let body = answer.json();
        let choices = body["choices"].as_array().unwrap();
        let got: Vec<&str> = choices
            .iter()
            .map(|choice| choice["text"].as_str().unwrap())
            .collect();
        assert_eq!(got, texts);
        let indices: Vec<u64> = choices.iter().filter_map(|c| c["index"].as_u64()).collect();
        assert_eq!(indices, (0..texts.len() as u64).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn choices_follow_their_prompts() {
    let body = post(&routes(), PATH, body(json!(["a", "b"]), json!({"n": 2})))
        .await
        .json();
    let texts: Vec<&str> = body["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["base> a#0", "base> a#1", "base> b#0", "base> b#1"]);
}

#[tokio::test]
async fn sixteen_tokens_are_usual() {
    let answer = post(
        &routes(),
        PATH,
        json!({"model": "tiny", "prompt": "x".repeat(60)}),
    )
    .await;
    assert_eq!(answer.json()["usage"]["completion_tokens"], 16);
}

#[tokio::test]
async fn an_echoed_prompt_comes_with_its_probabilities() {
    let options = json!({"echo": true, "logprobs": 1, "max_tokens": 0});
    let answer = post(&routes(), PATH, body(json!("Hello"), options))
        .await
        .json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["text"], "Hello");
    let logprobs = &choice["logprobs"];
    let tokens = logprobs["tokens"].as_array().unwrap();
    let text: String = tokens.iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(text, "Hello");
    let values = logprobs["token_logprobs"].as_array().unwrap();
    assert_eq!(values.len(), tokens.len());
    assert_eq!(values[0], Value::Null);
    assert!(values[1..].iter().all(|value| *value == -0.25));
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    assert_eq!(logprobs["text_offset"][0], 0);

    let options = json!({"echo": true});
    let answer = post(&routes(), PATH, body(json!("Hello"), options))
        .await
        .json();
    assert_eq!(answer["choices"][0]["text"], "Hellobase> Hello#0");
}

#[tokio::test]
async fn offsets_count_characters_of_the_answer() {
    let options = json!({"logprobs": 2, "max_tokens": 4});
    let answer = post(&routes(), PATH, body(json!("Hello"), options))
        .await
        .json();
    let logprobs = &answer["choices"][0]["logprobs"];
    let tokens = logprobs["tokens"].as_array().unwrap();
    let mut at = 0;
    for (token, offset) in tokens
        .iter()
        .zip(logprobs["text_offset"].as_array().unwrap())
    {
        assert_eq!(offset.as_u64().unwrap(), at);
        at += token.as_str().unwrap().chars().count() as u64;
    }
    assert_eq!(logprobs["top_logprobs"][0].as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_stream_says_the_same() {
    let options = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = post(&routes(), PATH, body(json!("Hello"), options))
        .await
        .events();
    let (usage, chunks) = events.split_last().unwrap();
    let text: String = chunks
        .iter()
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "base> Hello#0");
    assert_eq!(
        chunks.last().unwrap()["choices"][0]["finish_reason"],
        "stop"
    );
    assert!(usage["usage"]["total_tokens"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn what_is_not_supported_is_said() {
    for (options, expected) in [
        (json!({"suffix": "x"}), "suffix is not supported"),
        (json!({"best_of": 3}), "best_of must be as large as n"),
        (
            json!({"echo": true, "stream": true}),
            "echo and stream exclude each other",
        ),
        (json!({"max_tokens": 0}), "max_tokens must be at least 1"),
        (json!({"logprobs": 1000}), "at most 20 alternatives"),
    ] {
        let answer = post(&routes(), PATH, body(json!("Hello"), options)).await;
        let message = answer.error(400);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test]
async fn texts_are_tokenized() {
    let ids = tokenizer().encode("Hello", true).unwrap();
    let options = json!({"prompt": "Hello", "return_token_strs": true});
    let body = post(&routes(), "/tokenize", options).await.json();
    assert_eq!(body["tokens"], json!(ids));
    assert_eq!(body["count"], ids.len());
    assert_eq!(body["token_strs"].as_array().unwrap().len(), ids.len());
    let options = json!({"messages": [{"role": "user", "content": "Hi"}]});
    let body = post(&routes(), "/tokenize", options).await.json();
    let text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(
        body["tokens"],
        json!(tokenizer().encode(text, false).unwrap())
    );
    assert_eq!(
        post(&routes(), "/tokenize", json!({})).await.error(400),
        "there must be either a prompt or messages"
    );
}

#[tokio::test]
async fn models_are_the_base_and_its_adapters() {
    let body = get(&routes(), "/v1/models").await.json();
    let models = body["data"].as_array().unwrap();
    let ids: Vec<&str> = models
        .iter()
        .map(|model| model["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["tiny", "sql", "poet"]);
    assert_eq!(models[1]["parent"], "tiny");
    let one = get(&routes(), "/v1/models/sql").await.json();
    assert_eq!(one, models[1]);
    assert_eq!(
        get(&routes(), "/v1/models/nothing").await.error(404),
        "the model `nothing` does not exist"
    );
}

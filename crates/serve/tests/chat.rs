//! `/v1/chat/completions`.

use serde_json::{Value, json};

use crate::script::{Ending, Script, chat, post, routes, said, served};
use flametune_serve::{AppState, app};

const PATH: &str = "/v1/chat/completions";

#[tokio::test]
async fn a_conversation_is_answered() {
    let answer = post(&routes(), PATH, chat("Hi", json!({}))).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(body["model"], "tiny");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["content"], said("base", "Hi", 0));
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(choice["logprobs"], Value::Null);
    let usage = &body["usage"];
    assert!(usage["completion_tokens"].as_u64().unwrap() > 0);
    assert_eq!(
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap(),
        usage["total_tokens"].as_u64().unwrap()
    );
}

#[tokio::test]
async fn the_model_picks_the_adapter() {
    let answer = post(&routes(), PATH, chat("Hi", json!({"model": "sql"}))).await;
    let body = answer.json();
    assert_eq!(body["model"], "sql");
    assert_eq!(
        body["choices"][0]["message"]["content"],
        said("sql", "Hi", 0)
    );
}

#[tokio::test]
async fn a_stream_says_the_same_piece_by_piece() {
    let options = json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}});
    let answer = post(&routes(), PATH, chat("Grüße 🦙", options)).await;
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/event-stream")
    );
    let events = answer.events();
    let mut texts = [String::new(), String::new()];
    let mut reasons = [Value::Null, Value::Null];
    let mut roles = 0;
    let (usage, chunks) = events.split_last().unwrap();
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], events[0]["id"]);
        let choice = &chunk["choices"][0];
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        roles += usize::from(choice["delta"]["role"] == "assistant");
        texts[index].push_str(choice["delta"]["content"].as_str().unwrap_or_default());
        if !choice["finish_reason"].is_null() {
            reasons[index] = choice["finish_reason"].clone();
        }
    }
    assert_eq!(roles, 2);
    assert_eq!(
        texts,
        [said("base", "Grüße 🦙", 0), said("base", "Grüße 🦙", 1)]
    );
    assert_eq!(reasons, [json!("stop"), json!("stop")]);
    assert_eq!(usage["choices"], json!([]));
    let whole = post(&routes(), PATH, chat("Grüße 🦙", json!({"n": 2})))
        .await
        .json();
    assert_eq!(usage["usage"], whole["usage"]);
}

#[tokio::test]
async fn stop_strings_end_an_answer_before_them() {
    for stream in [false, true] {
        // Spelled by several tokens, as the tokenizer knows single bytes.
        let options = json!({"stop": ["\nassist", "never"], "stream": stream});
        let answer = post(&routes(), PATH, chat("Hi", options)).await;
        let (text, reason) = if stream {
            let events = answer.events();
            let contents = events
                .iter()
                .map(|event| &event["choices"][0]["delta"]["content"]);
            let text = contents.filter_map(Value::as_str).collect::<String>();
            let last = &events.last().unwrap()["choices"][0]["finish_reason"];
            (text, last.clone())
        } else {
            let choice = &answer.json()["choices"][0];
            let text = choice["message"]["content"].as_str().unwrap().to_owned();
            (text, choice["finish_reason"].clone())
        };
        assert_eq!(text, "base> user\nHi", "{stream}");
        assert_eq!(reason, "stop");
    }
}

#[tokio::test]
async fn a_stop_string_given_alone_is_one() {
    let answer = post(&routes(), PATH, chat("Hi", json!({"stop": ">"}))).await;
    assert_eq!(answer.json()["choices"][0]["message"]["content"], "base");
}

#[tokio::test]
async fn an_answer_has_no_more_tokens_than_asked_for() {
    for name in ["max_tokens", "max_completion_tokens"] {
        let body = post(&routes(), PATH, chat("Hi", json!({name: 3})))
            .await
            .json();
        assert_eq!(body["usage"]["completion_tokens"], 3);
        assert_eq!(body["choices"][0]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn log_probabilities_come_with_every_token() {
    let options = json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 4});
    let whole = post(&routes(), PATH, chat("é", options.clone()))
        .await
        .json();
    let content = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(content.len(), 4);
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| token["bytes"].as_array().unwrap())
        .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect();
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(bytes, text.as_bytes());
    for token in &content {
        assert_eq!(token["logprob"], -0.25);
        assert_eq!(token["top_logprobs"].as_array().unwrap().len(), 3);
        assert_eq!(token["top_logprobs"][0]["token"], token["token"]);
        // JSON knows no infinity.
        assert_eq!(token["top_logprobs"][2]["logprob"], -9999.0);
    }
    let mut streaming = options;
    streaming["stream"] = json!(true);
    let events = post(&routes(), PATH, chat("é", streaming)).await.events();
    let streamed: Vec<Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(streamed, content);
}

#[tokio::test]
async fn parts_of_text_are_joined_and_others_refused() {
    let message = |part: Value| {
        json!({"model": "tiny", "messages": [{"role": "user", "content": [
            {"type": "text", "text": "a"}, part]}]})
    };
    let body = message(json!({"type": "text", "text": "b"}));
    let answer = post(&routes(), PATH, body).await.json();
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        said("base", "a\nb", 0)
    );
    let image = json!({"type": "image_url", "image_url": {"url": "data:"}});
    let answer = post(&routes(), PATH, message(image)).await;
    assert_eq!(
        answer.error(400),
        "only parts of type `text` are understood"
    );
}

#[tokio::test]
async fn tools_reach_the_template() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {}}}]);
    let answer = post(
        &routes(),
        PATH,
        chat("Hi", json!({"tools": tools, "tool_choice": "auto"})),
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let answer = post(
        &routes(),
        PATH,
        chat("Hi", json!({"tools": tools, "tool_choice": "required"})),
    )
    .await;
    assert!(
        answer
            .error(400)
            .starts_with("tool_choice must be auto or none")
    );
}

#[tokio::test]
async fn an_error_in_mid_stream_is_an_event() {
    let state = AppState::new(served(Script::new().ending(Ending::Fails))).unwrap();
    let routes = app(state);
    let events = post(&routes, PATH, chat("Hi", json!({"stream": true})))
        .await
        .events();
    let error = &events.last().unwrap()["error"];
    assert_eq!(error["type"], "server_error");
    assert!(!error["message"].as_str().unwrap().contains("secret"));
    let whole = post(&routes, PATH, chat("Hi", json!({}))).await;
    assert!(!whole.error(500).contains("secret"));
}

#[tokio::test]
async fn guided_output_needs_a_build_that_has_it() {
    for options in [
        json!({"response_format": {"type": "json_object"}}),
        json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}}),
        json!({"guided_regex": "a+"}),
    ] {
        let answer = post(&routes(), PATH, chat("Hi", options)).await;
        assert_eq!(
            answer.error(400),
            "this server was built without guided output"
        );
    }
    let text = json!({"response_format": {"type": "text"}});
    assert_eq!(post(&routes(), PATH, chat("Hi", text)).await.status, 200);
}

#[tokio::test]
async fn requests_at_once_get_their_own_answers() {
    let routes = routes();
    let tasks: Vec<_> = (0..64)
        .map(|index| {
            let routes = routes.clone();
            tokio::spawn(async move {
                let text = format!("my secret is {index}");
                let model = ["tiny", "sql", "poet"][index % 3];
                let answer = post(&routes, PATH, chat(&text, json!({"model": model}))).await;
                let name = if model == "tiny" { "base" } else { model };
                let content = answer.json()["choices"][0]["message"]["content"].clone();
                assert_eq!(content, said(name, &text, 0));
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

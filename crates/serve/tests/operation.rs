//! Health, metrics, ids, and the interface's own description.

use axum::body::Body;
use axum::http::Request;
use flametune_serve::{AppState, app, openapi};
use serde_json::json;

use crate::script::{Script, chat, get, post, routes, send, served};

#[tokio::test]
async fn health_is_not_readiness() {
    let state = AppState::new(served(Script::new())).unwrap();
    let routes = app(state.clone());
    assert_eq!(get(&routes, "/ready").await.text, "ready");
    state.set_ready(false);
    get(&routes, "/ready").await.error(503);
    assert_eq!(get(&routes, "/health").await.status, 200);
}

#[tokio::test]
async fn metrics_have_the_names_that_dashboards_expect() {
    let routes = routes();
    for model in ["tiny", "sql"] {
        post(
            &routes,
            "/v1/chat/completions",
            chat("Hi", json!({"model": model})),
        )
        .await;
    }
    get(&routes, "/v1/nothing").await;
    let answer = get(&routes, "/metrics").await;
    assert!(
        answer.headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    let text = answer.text;
    for line in [
        "# TYPE vllm:time_to_first_token_seconds histogram",
        r#"vllm:time_to_first_token_seconds_bucket{model_name="sql",le="0.005"} 1"#,
        r#"vllm:time_to_first_token_seconds_count{model_name="tiny"} 1"#,
        "# TYPE vllm:inter_token_latency_seconds histogram",
        "# TYPE vllm:e2e_request_latency_seconds histogram",
        r#"vllm:num_requests_running{model_name="tiny"} 2"#,
        r#"vllm:num_requests_waiting{model_name="tiny"} 1"#,
        r#"vllm:kv_cache_usage_perc{model_name="tiny"} 0.25"#,
        r#"vllm:lora_requests_info{max_lora="2",running_lora_adapters="sql,poet""#,
        "# TYPE model_inference_latency_seconds histogram",
        "tokens_generated_total{model_name=\"sql\"}",
        "vllm:generation_tokens_total{model_name=\"tiny\"}",
        r#"http_requests_total{handler="unknown",method="GET",status="404"} 1"#,
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn paths_and_models_of_strangers_are_no_labels() {
    let routes = routes();
    for index in 0..20 {
        get(&routes, &format!("/made-up-{index}")).await;
        let model = format!("made-up-{index}");
        post(
            &routes,
            "/v1/chat/completions",
            chat("Hi", json!({"model": model})),
        )
        .await;
    }
    assert!(!get(&routes, "/metrics").await.text.contains("made-up"));
}

#[tokio::test]
async fn requests_have_ids() {
    let routes = routes();
    let ask = |id: &str| {
        Request::get("/health")
            .header("x-request-id", id)
            .body(Body::empty())
            .unwrap()
    };
    let id = |answer: &crate::script::Answer| {
        answer.headers["x-request-id"].to_str().unwrap().to_owned()
    };
    assert_eq!(id(&send(&routes, ask("mine-1")).await), "mine-1");
    // What could break a log line is replaced.
    assert_ne!(id(&send(&routes, ask("a b")).await), "a b");
    assert_ne!(
        id(&send(&routes, ask(&"x".repeat(65))).await),
        "x".repeat(65)
    );
    let first = id(&get(&routes, "/health").await);
    assert_ne!(first, id(&get(&routes, "/health").await));
    let answer = post(&routes, "/v1/chat/completions", chat("Hi", json!({}))).await;
    assert_eq!(answer.json()["id"], format!("chatcmpl-{}", id(&answer)));
}

#[tokio::test]
async fn the_interface_describes_itself() {
    let routes = routes();
    let api = get(&routes, "/openapi.json").await.json();
    assert_eq!(api, serde_json::to_value(openapi()).unwrap());
    let mut paths: Vec<&str> = api["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    paths.sort_unstable();
    insta::assert_snapshot!(paths.join("\n"), @r"
    /health
    /metrics
    /ready
    /tokenize
    /v1/chat/completions
    /v1/completions
    /v1/embeddings
    /v1/load_lora_adapter
    /v1/models
    /v1/models/{id}
    /v1/unload_lora_adapter
    ");
    let docs = get(&routes, "/docs/").await;
    assert!(docs.text.contains("swagger"), "{}", docs.text);
}

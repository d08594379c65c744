//! Keys, rates, and requests whose reader is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use flametune_serve::{AppState, HttpOptions, KeyOptions, LimitOptions, Rate, app};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::script::{Answer, Ending, Script, chat, get, post, request, send, served};

const CHAT: &str = "/v1/chat/completions";

fn keys() -> Vec<KeyOptions> {
    let key = |name: &str, key: &str, requests| KeyOptions {
        name: name.to_owned(),
        key: key.to_owned(),
        admin: false,
        rate: Rate {
            requests_per_minute: requests,
            ..Rate::default()
        },
    };
    vec![
        key("ann", "ann-secret", None),
        key("bob", "bob-secret", Some(2)),
    ]
}

fn guarded() -> Router {
    app(AppState::new(served(Script::new()).with_keys(keys())).unwrap())
}

async fn ask(routes: &Router, authorization: &str) -> Answer {
    let mut request = request(Method::POST, CHAT, chat("Hi", json!({})).to_string());
    let value = authorization.parse().unwrap();
    request.headers_mut().insert("authorization", value);
    send(routes, request).await
}

#[tokio::test]
async fn a_key_opens_the_door_and_nothing_else_does() {
    let routes = guarded();
    assert_eq!(ask(&routes, "Bearer ann-secret").await.status, 200);
    assert_eq!(ask(&routes, "bearer bob-secret").await.status, 200);
    for wrong in [
        "Bearer ann-secre",
        "Bearer ann-secrets",
        "Bearer ",
        "Bearer",
        "ann-secret",
        "Basic ann-secret",
        "Bearer  ann-secret",
        &format!("Bearer {}", "x".repeat(5000)),
    ] {
        let answer = ask(&routes, wrong).await;
        answer.error(401);
        assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
    let answer = post(&routes, CHAT, chat("Hi", json!({}))).await;
    assert!(answer.error(401).starts_with("no API key provided"));
}

#[tokio::test]
async fn without_a_key_nothing_is_told() {
    let routes = guarded();
    for path in ["/v1/models", "/v1/models/sql"] {
        get(&routes, path).await.error(401);
    }
    for path in [
        CHAT,
        "/v1/completions",
        "/tokenize",
        "/v1/embeddings",
        "/v1/load_lora_adapter",
    ] {
        // Before the body is looked at.
        send(&routes, request(Method::POST, path, "{"))
            .await
            .error(401);
    }
    for path in ["/health", "/ready", "/metrics", "/", "/openapi.json"] {
        assert_eq!(get(&routes, path).await.status, 200, "{path}");
    }
    assert!(!get(&routes, "/").await.text.contains("poet"));
}

#[tokio::test]
async fn each_key_has_a_rate_of_its_own() {
    let routes = guarded();
    for _ in 0..2 {
        assert_eq!(ask(&routes, "Bearer bob-secret").await.status, 200);
    }
    let answer = ask(&routes, "Bearer bob-secret").await;
    assert!(
        answer
            .error(429)
            .starts_with("your key has no requests per minute left")
    );
    assert_eq!(answer.json()["error"]["code"], "rate_limit_exceeded");
    let wait: u64 = answer.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    for _ in 0..5 {
        assert_eq!(ask(&routes, "Bearer ann-secret").await.status, 200);
    }
}

#[tokio::test]
async fn tokens_and_adapters_have_rates_too() {
    let limits = LimitOptions {
        anonymous: Rate {
            tokens_per_minute: Some(100_000),
            ..Rate::default()
        },
        adapter: Rate {
            tokens_per_minute: Some(10),
            ..Rate::default()
        },
        ..LimitOptions::default()
    };
    let routes = app(AppState::new(served(Script::new()).with_limits(limits)).unwrap());
    let sql = || chat("Hi", json!({"model": "sql"}));
    assert_eq!(post(&routes, CHAT, sql()).await.status, 200);
    let answer = post(&routes, CHAT, sql()).await;
    assert!(
        answer
            .error(429)
            .starts_with("this adapter has no tokens per minute left")
    );
    // Others go on.
    assert_eq!(
        post(&routes, CHAT, chat("Hi", json!({"model": "poet"})))
            .await
            .status,
        200
    );
    assert_eq!(post(&routes, CHAT, chat("Hi", json!({}))).await.status, 200);
}

#[tokio::test]
async fn a_full_queue_is_too_many_requests() {
    let mut script = Script::new();
    script.full = true;
    let routes = app(AppState::new(served(script)).unwrap());
    let answer = post(&routes, CHAT, chat("Hi", json!({}))).await;
    answer.error(429);
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn who_leaves_is_cancelled_and_counted_out() {
    let script = Script::new().ending(Ending::Hangs);
    let alive = Arc::clone(&script.alive);
    let limits = LimitOptions {
        anonymous: Rate {
            concurrent_requests: Some(1),
            ..Rate::default()
        },
        ..LimitOptions::default()
    };
    let routes = app(AppState::new(served(script).with_limits(limits)).unwrap());
    for _ in 0..3 {
        let body = chat("Hi", json!({"stream": true})).to_string();
        let response = routes
            .clone()
            .oneshot(request(Method::POST, CHAT, body))
            .await
            .unwrap();
        let mut stream = response.into_body().into_data_stream();
        assert!(stream.next().await.unwrap().is_ok());
        assert_eq!(alive.load(Ordering::SeqCst), 1);
        // Another one does not fit beside it.
        post(&routes, CHAT, chat("Hi", json!({"stream": true})))
            .await
            .error(429);
        drop(stream);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
    let metrics = get(&routes, "/metrics").await.text;
    assert!(
        metrics.contains(r#"finished_reason="abort"} 3"#)
            || metrics.contains(r#"finished_reason="abort",model_name="tiny"} 3"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn other_origins_are_let_in_only_when_asked_for() {
    let preflight = || {
        Request::builder()
            .method(Method::OPTIONS)
            .uri(CHAT)
            .header("origin", "https://example.org")
            .header("access-control-request-method", "POST")
            .header(
                "access-control-request-headers",
                "content-type,authorization",
            )
            .body(Body::empty())
            .unwrap()
    };
    let closed = app(AppState::new(served(Script::new())).unwrap());
    let answer = send(&closed, preflight()).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    let http = HttpOptions {
        allowed_origins: vec!["https://example.org".to_owned()],
        ..HttpOptions::default()
    };
    let opened = app(AppState::new(served(Script::new()).with_http(http)).unwrap());
    let answer = send(&opened, preflight()).await;
    assert_eq!(
        answer.headers["access-control-allow-origin"],
        "https://example.org"
    );
}

#[tokio::test]
async fn seeds_and_tenants_reach_the_engine() {
    let script = Arc::new(Script::new());
    let model = flametune_serve::ServedModel::new(
        "tiny",
        Arc::clone(&script) as Arc<dyn flametune_serve::Backend>,
        crate::script::tokenizer(),
        crate::script::CONTEXT,
    );
    let routes = app(AppState::new(flametune_serve::Served::new(model)).unwrap());
    let body = |seed: Value| json!({"model": "tiny", "prompt": ["a", "b"], "seed": seed});
    post(&routes, "/v1/completions", body(json!(7))).await;
    post(&routes, "/v1/completions", body(json!(null))).await;
    post(&routes, "/v1/completions", body(json!(null))).await;
    let seen = script.seen.lock().unwrap();
    let seed = |index: usize| {
        let (_, rest) = seen[index].split_once("seed: ").unwrap();
        rest.split(',').next().unwrap().to_owned()
    };
    assert_eq!((seed(0).as_str(), seed(1).as_str()), ("7", "8"));
    assert_ne!(seed(2), seed(4));
    assert!(seen[0].contains("tenant: \"anonymous\""));
}

//! Adapters in and out, only from where they may come.

use flametune_serve::{AdapterOptions, AppState, KeyOptions, Rate, app};
use serde_json::json;
use tempfile::TempDir;

use crate::script::{Script, chat, get, post, request, routes, send, served};

const LOAD: &str = "/v1/load_lora_adapter";
const UNLOAD: &str = "/v1/unload_lora_adapter";

fn with_root() -> (axum::Router, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("root/team/math")).unwrap();
    std::fs::create_dir_all(folder.path().join("secret")).unwrap();
    let adapters = AdapterOptions {
        root: Some(folder.path().join("root")),
    };
    let state = AppState::new(served(Script::new()).with_adapters(adapters)).unwrap();
    (app(state), folder)
}

#[tokio::test]
async fn an_adapter_comes_answers_and_goes() {
    let (routes, _folder) = with_root();
    let body = json!({"lora_name": "math", "lora_path": "team/math"});
    let answer = post(&routes, LOAD, body.clone()).await;
    assert_eq!(
        answer.text,
        "Success: LoRA adapter 'math' added successfully."
    );
    let models = get(&routes, "/v1/models").await.text;
    assert!(models.contains("\"math\""));
    let answer = post(
        &routes,
        "/v1/chat/completions",
        chat("Hi", json!({"model": "math"})),
    )
    .await;
    assert_eq!(answer.status, 200);
    // A second time only when it is meant.
    assert_eq!(
        post(&routes, LOAD, body.clone()).await.error(400),
        "the model `math` is there already"
    );
    let mut again = body;
    again["load_inplace"] = json!(true);
    assert_eq!(post(&routes, LOAD, again).await.status, 200);

    let answer = post(&routes, UNLOAD, json!({"lora_name": "math"})).await;
    assert_eq!(
        answer.text,
        "Success: LoRA adapter 'math' removed successfully."
    );
    post(&routes, UNLOAD, json!({"lora_name": "math"}))
        .await
        .error(404);
    post(
        &routes,
        "/v1/chat/completions",
        chat("Hi", json!({"model": "math"})),
    )
    .await
    .error(404);
}

#[tokio::test]
async fn nothing_is_loaded_from_elsewhere() {
    let (routes, folder) = with_root();
    let secret = folder.path().join("secret");
    for path in [
        "../secret",
        "team/../../secret",
        "..",
        "/etc",
        "",
        "team/math\u{0}",
        "team\\..\\..\\secret",
        "file:///etc",
        "~",
        secret.to_str().unwrap(),
    ] {
        let body = json!({"lora_name": "math", "lora_path": path});
        let answer = post(&routes, LOAD, body).await;
        let status = answer.status.as_u16();
        assert!(status == 400 || status == 404, "{path}: {}", answer.text);
        answer.error(status);
    }
    assert!(!get(&routes, "/v1/models").await.text.contains("math"));
}

#[tokio::test]
async fn names_of_adapters_are_plain() {
    let (routes, _folder) = with_root();
    for name in [
        "",
        "..",
        "../x",
        "a b",
        "a/b",
        "a\"b",
        "\n",
        "tiny",
        &"x".repeat(500),
    ] {
        let body = json!({"lora_name": name, "lora_path": "team/math"});
        post(&routes, LOAD, body).await.error(400);
    }
}

#[tokio::test]
async fn without_a_folder_nothing_is_loaded() {
    let body = json!({"lora_name": "math", "lora_path": "team/math"});
    let message = post(&routes(), LOAD, body).await.error(403);
    assert!(message.contains("no folder"), "{message}");
}

#[tokio::test]
async fn only_administrators_change_adapters() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("math")).unwrap();
    let key = |name: &str, key: &str, admin| KeyOptions {
        name: name.to_owned(),
        key: key.to_owned(),
        admin,
        rate: Rate::default(),
    };
    let served = served(Script::new())
        .with_adapters(AdapterOptions {
            root: Some(folder.path().to_owned()),
        })
        .with_keys(vec![
            key("user", "user-key", false),
            key("boss", "boss-key", true),
        ]);
    let routes = app(AppState::new(served).unwrap());
    let load = |key: &str| {
        let body = json!({"lora_name": "math", "lora_path": "math"}).to_string();
        let mut request = request(axum::http::Method::POST, LOAD, body);
        let value = format!("Bearer {key}").parse().unwrap();
        request.headers_mut().insert("authorization", value);
        request
    };
    send(&routes, load("user-key")).await.error(403);
    assert_eq!(send(&routes, load("boss-key")).await.status, 200);
}

#[test]
fn a_folder_that_is_not_there_is_an_error_at_the_start() {
    let adapters = AdapterOptions {
        root: Some("no/such/folder".into()),
    };
    let error = AppState::new(served(Script::new()).with_adapters(adapters)).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("adapters.root no/such/folder: ")
    );
}

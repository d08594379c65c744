//! The page, as a browser gets it.

use flametune_serve::{AppState, app};

use crate::script::{Script, adapter, get, routes, served};

#[tokio::test]
async fn the_page_lists_the_base_and_its_adapters() {
    let answer = get(&routes(), "/").await;
    assert_eq!(answer.headers["content-type"], "text/html; charset=utf-8");
    for part in [
        "<title>tiny · Flametune</title>",
        r#"<option value="tiny">tiny (base)</option>"#,
        r#"<option value="sql">sql</option>"#,
        "<td>poet</td><td>4</td><td>1</td><td>3</td>",
        r#"data-needs-key="false""#,
        r#"<div id="log" role="log""#,
    ] {
        assert!(
            answer.text.contains(part),
            "{part} is not in\n{}",
            answer.text
        );
    }
}

#[tokio::test]
async fn names_are_escaped() {
    let script = Script::new();
    *script.adapters.lock().unwrap() = vec![adapter("<script>alert(1)</script>")];
    let routes = app(AppState::new(served(script)).unwrap());
    let html = get(&routes, "/").await.text;
    assert!(!html.contains("<script>alert"), "{html}");
}

#[tokio::test]
async fn everything_comes_from_the_server_itself() {
    let routes = routes();
    let page = get(&routes, "/").await;
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'"),
        "{policy}"
    );
    assert!(!page.text.contains("http://") && !page.text.contains("https://"));
    assert!(!page.text.contains("<script>") && !page.text.contains("style="));
    for (path, kind) in [("/page.js", "text/javascript"), ("/page.css", "text/css")] {
        let answer = get(&routes, path).await;
        assert!(
            answer.headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with(kind)
        );
        assert!(!answer.text.contains("://"), "{path}");
        assert!(page.text.contains(path));
    }
}

//! The application for human comparisons, without a socket.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use flametune_eval::ab::{AbAnswer, AbItem, AbOptions, AbStore, Side, app, read_items};
use flametune_eval::stats::Outcome;
use tower::ServiceExt;

fn item(index: usize) -> AbItem {
    let answer = |model: &str| AbAnswer {
        model: model.into(),
        text: format!("<b>{model}'s text {index}</b>"),
    };
    AbItem {
        id: format!("item {index}/ü"),
        prompt: format!("Question {index} & more?"),
        first: answer("alpha"),
        second: answer("beta"),
    }
}

fn store(n: usize) -> Arc<AbStore> {
    let store = AbStore::in_memory(7).unwrap();
    let items: Vec<AbItem> = (0..n).map(item).collect();
    assert_eq!(store.add_items(&items).unwrap(), n);
    Arc::new(store)
}

fn router(store: &Arc<AbStore>) -> Router {
    let options = AbOptions {
        title: "Compare".into(),
        results_key: "secret key".into(),
    };
    app(Arc::clone(store), options)
}

async fn send(router: &Router, request: Request<Body>) -> (StatusCode, String, Option<String>) {
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let location = response
        .headers()
        .get(header::LOCATION)
        .map(|value| value.to_str().unwrap().to_owned());
    let body = axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap(), location)
}

async fn get(router: &Router, path: &str) -> (StatusCode, String) {
    let (status, body, _) = send(router, Request::get(path).body(Body::empty()).unwrap()).await;
    (status, body)
}

async fn post(router: &Router, path: &str, form: &str) -> (StatusCode, Option<String>) {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()))
        .unwrap();
    let (status, _, location) = send(router, request).await;
    (status, location)
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What stands in the hidden field of a page.
fn shown_item(page: &str) -> Option<String> {
    let value = page
        .split("name=\"item\" value=\"")
        .nth(1)?
        .split('"')
        .next()?;
    Some(value.to_owned())
}

#[tokio::test]
async fn from_the_first_vote_to_the_export() {
    let store = store(3);
    let router = router(&store);
    let (status, page) = get(&router, "/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("Your name"));
    let (status, location) = post(&router, "/rate", "rater=J%C3%B6rg").await;
    assert_eq!(
        (status, location.as_deref()),
        (StatusCode::SEE_OTHER, Some("/rate/J%C3%B6rg"))
    );
    for done in 0..3 {
        let (_, page) = get(&router, "/rate/J%C3%B6rg").await;
        assert!(page.contains(&format!("{done} of 3 done")), "{page}");
        // Blind: no name of a model anywhere but inside its own text, and that text is escaped.
        assert!(!page.contains("<b>"), "{page}");
        let item = shown_item(&page).unwrap();
        let form = format!("item={}&side=left&comment=+fine+", encoded(&item));
        let (status, _) = post(&router, "/rate/J%C3%B6rg", &form).await;
        assert_eq!(status, StatusCode::SEE_OTHER);
    }
    let (_, page) = get(&router, "/rate/J%C3%B6rg").await;
    assert!(page.contains("all 3 pairs are done"), "{page}");
    let (status, _) = get(&router, "/export.jsonl").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, export) = get(&router, "/export.jsonl?key=secret+key").await;
    assert_eq!(status, StatusCode::OK);
    let votes: Vec<serde_json::Value> = export
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(votes.len(), 3);
    for vote in &votes {
        assert_eq!(
            vote["outcome"], vote["left"],
            "a vote for the left is one for what was there"
        );
        assert_eq!(vote["comment"], "fine");
    }
    let (status, page) = get(&router, "/results?key=secret+key").await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.contains("Bradley-Terry") && page.contains("alpha"),
        "{page}"
    );
    let (_, json) = get(&router, "/results.json?key=secret+key").await;
    let results: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(results["votes"]["Jörg"], 3);
    assert_eq!(results["left_rate"], 1.0);
}

#[tokio::test]
async fn wrong_names_items_and_sides_are_refused() {
    let store = store(1);
    let router = router(&store);
    let (status, page, _) = send(
        &router,
        Request::post("/rate")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from("rater=%3Cscript%3E"))
            .unwrap(),
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        page.contains("role=\"alert\"") && !page.contains("<script>\""),
        "{page}"
    );
    assert!(!page.contains("value=\"<script>\""), "{page}");
    assert_eq!(get(&router, "/rate/a%20b").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(
        post(&router, "/rate/ann", "item=nothing&side=left").await.0,
        StatusCode::NOT_FOUND
    );
    let status = post(&router, "/rate/ann", "item=nothing&side=middle")
        .await
        .0;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        get(&router, "/results?key=secret").await.0,
        StatusCode::FORBIDDEN
    );
    assert!(store.votes().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn raters_who_vote_at_once_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("votes.sqlite");
    let store = AbStore::open(&path, 7).unwrap();
    let items: Vec<AbItem> = (0..25).map(item).collect();
    store.add_items(&items).unwrap();
    let store = Arc::new(store);
    let router = router(&store);
    let tasks: Vec<_> = (0..4)
        .map(|rater| {
            let router = router.clone();
            tokio::spawn(async move {
                let path = format!("/rate/rater{rater}");
                let mut votes = 0;
                while let Some(item) = shown_item(&get(&router, &path).await.1) {
                    let side = ["left", "right", "tie"][votes % 3];
                    let form = format!("item={}&side={side}", encoded(&item));
                    assert_eq!(post(&router, &path, &form).await.0, StatusCode::SEE_OTHER);
                    votes += 1;
                }
                votes
            })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 25);
    }
    assert_eq!(store.votes().unwrap().len(), 100);
    drop((router, store));
    // All is there when the database is opened again, and a second process could write beside it.
    let again = AbStore::open(&path, 99).unwrap();
    let other = AbStore::open(&path, 7).unwrap();
    assert_eq!(again.votes().unwrap().len(), 100);
    assert_eq!(
        again.left_for("item 1/ü", "ann"),
        other.left_for("item 1/ü", "ann"),
        "the first seed stays"
    );
    other.vote("item 1/ü", "late", Side::Tie, "").unwrap();
    assert_eq!(again.progress("late").unwrap(), (1, 25));
    let results = again.results().unwrap();
    // Four raters with each other, and the late one with each of them.
    assert_eq!(results.raters.len(), 6 + 4);
}

#[test]
fn a_vote_can_be_changed_and_taken_back() {
    let store = store(2);
    let first = store.next_item("ann").unwrap().unwrap().id;
    store.vote(&first, "ann", Side::Left, "").unwrap();
    store.vote(&first, "ann", Side::Tie, "").unwrap();
    assert_eq!(store.votes().unwrap().len(), 1);
    assert_eq!(store.votes().unwrap()[0].outcome, Outcome::Tie);
    assert_eq!(store.undo("ann").unwrap(), Some(first.clone()));
    assert_eq!(store.undo("ann").unwrap(), None);
    assert_eq!(
        store.next_item("ann").unwrap().unwrap().id,
        first,
        "the order is the rater's own"
    );
}

#[test]
fn sides_are_balanced_over_items_and_raters() {
    let store = AbStore::in_memory(3).unwrap();
    let left = (0..2000)
        .filter(|index| {
            store.left_for(&format!("{}", index / 4), &format!("rater{}", index % 4))
                == Outcome::First
        })
        .count();
    // Four standard deviations of 2000 fair coins are 89.
    assert!(left.abs_diff(1000) < 90, "{left}");
}

#[test]
fn items_are_added_once_and_never_changed() {
    let store = store(2);
    assert_eq!(store.add_items(&[item(0), item(5)]).unwrap(), 1);
    let mut changed = item(1);
    changed.prompt = "Other?".into();
    let message = store
        .add_items(&[item(6), changed])
        .unwrap_err()
        .to_string();
    assert_eq!(
        message,
        "items:2: item \"item 1/ü\" is in the database with other texts"
    );
    assert_eq!(store.items().unwrap().len(), 3, "all or nothing");
}

#[test]
fn a_file_of_items_names_the_line_that_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("items.jsonl");
    let line = serde_json::to_string(&item(1)).unwrap();
    std::fs::write(&path, format!("{line}\n{line}\n")).unwrap();
    let message = read_items(&path).unwrap_err().to_string();
    assert!(
        message.ends_with("items.jsonl:2: item \"item 1/ü\" is there twice"),
        "{message}"
    );
    std::fs::write(&path, "{\"id\": \"1\"}\n").unwrap();
    let message = read_items(&path).unwrap_err().to_string();
    assert!(
        message.ends_with("items.jsonl:1: missing field `prompt`"),
        "{message}"
    );
}

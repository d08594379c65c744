//! The hub client against a mock hub: whole, broken, gated and lying answers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::mock::{COMMIT, Mock, Served};
use super::{Hub, Repository, encode};

const BYTES: usize = 300_000;

fn weights() -> Served {
    Served::large("model.safetensors", BYTES)
}

fn resolve(file: &str) -> String {
    format!("/tiny/llama/resolve/{COMMIT}/{file}")
}

fn get(mock: &Mock, token: Option<&str>, folder: &Path) -> Result<usize, String> {
    let model = Repository::parse("tiny/llama").unwrap();
    Hub::new(&mock.endpoint, token.map(str::to_owned), Duration::ZERO)
        .fetch(&model, folder)
        .map_err(|error| format!("{error:#}"))
}

/// The error of a fetch, after which nothing unfinished may be left.
fn refused(files: Vec<Served>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let error = get(&Mock::start(files, None), None, dir.path()).unwrap_err();
    let left = crate::workspace::files(dir.path()).unwrap();
    assert!(!left.contains(&"model.safetensors".to_owned()), "{left:?}");
    error
}

#[test]
fn a_model_arrives_whole_and_only_its_files() {
    let files = vec![
        Served::small("config.json", "{}"),
        Served::small("1_Pooling/config.json", "{\"a\": 1}"),
        Served::small("README.md", "about"),
        Served::small("original/model.safetensors", "a copy"),
        weights(),
    ];
    let mock = Mock::start(files, None);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(get(&mock, None, dir.path()).unwrap(), 3);
    assert_eq!(
        crate::workspace::files(dir.path()).unwrap(),
        ["1_Pooling/config.json", "config.json", "model.safetensors"]
    );
    assert_eq!(
        fs::read(dir.path().join("model.safetensors")).unwrap(),
        weights().content()
    );
    assert_eq!(
        fs::read(dir.path().join("1_Pooling/config.json")).unwrap(),
        b"{\"a\": 1}"
    );

    // A second run asks for the list and the small files, whose content has no hash.
    let before = mock.requests().len();
    assert_eq!(get(&mock, None, dir.path()).unwrap(), 3);
    let again = mock.requests()[before..].to_vec();
    assert_eq!(again.len(), 3, "{again:?}");
    assert!(!again.contains(&resolve("model.safetensors")), "{again:?}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_ended() {
    let mock = Mock::start(vec![weights().cut_after(&[100_000, 50_000])], None);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(get(&mock, None, dir.path()).unwrap(), 1);
    assert_eq!(
        fs::read(dir.path().join("model.safetensors")).unwrap(),
        weights().content()
    );
    let url = resolve("model.safetensors");
    let expected = [
        url.clone(),
        format!("{url} bytes=100000-"),
        format!("{url} bytes=150000-"),
    ];
    assert_eq!(mock.requests()[1..], expected);
}

#[test]
fn the_next_run_goes_on_where_the_last_ended() {
    let dir = tempfile::tempdir().unwrap();
    let dead = Mock::start(vec![weights().cut_after(&[70_000, 0, 0, 0, 0, 0])], None);
    let error = get(&dead, None, dir.path()).unwrap_err();
    assert!(
        error.contains("broke off at 70000 of 300000 bytes"),
        "{error}"
    );
    assert!(!dir.path().join("model.safetensors").exists());

    let mock = Mock::start(vec![weights()], None);
    assert_eq!(get(&mock, None, dir.path()).unwrap(), 1);
    assert_eq!(
        fs::read(dir.path().join("model.safetensors")).unwrap(),
        weights().content()
    );
    assert_eq!(
        mock.requests()[1..],
        [format!("{} bytes=70000-", resolve("model.safetensors"))]
    );
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let mock = Mock::start(vec![weights().cut_after(&[100_000]).without_ranges()], None);
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(get(&mock, None, dir.path()).unwrap(), 1);
    assert_eq!(
        fs::read(dir.path().join("model.safetensors")).unwrap(),
        weights().content()
    );
}

#[test]
fn a_gated_model_asks_for_a_token_and_opens_with_the_right_one() {
    let mock = Mock::start(vec![weights()], Some("secret"));
    let dir = tempfile::tempdir().unwrap();
    let error = get(&mock, None, dir.path()).unwrap_err();
    assert!(
        error.contains("gated") && error.contains("set HF_TOKEN"),
        "{error}"
    );
    let error = get(&mock, Some("wrong"), dir.path()).unwrap_err();
    assert!(
        error.contains("the token in HF_TOKEN does not open it"),
        "{error}"
    );
    assert_eq!(get(&mock, Some("secret"), dir.path()).unwrap(), 1);
}

#[test]
fn an_unknown_model_is_said_to_be_unknown() {
    let mock = Mock::start(vec![weights()], None);
    let hub = Hub::new(&mock.endpoint, None, Duration::ZERO);
    let dir = tempfile::tempdir().unwrap();
    let error = hub
        .fetch(&Repository::parse("tiny/absent@v1").unwrap(), dir.path())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no such repository, revision or file (status 404)"
    );
    assert_eq!(
        mock.requests(),
        ["/api/models/tiny/absent/revision/v1?blobs=true"]
    );
}

#[test]
fn sizes_and_hashes_that_differ_from_the_listing_are_refused() {
    let error = refused(vec![weights().listed_as(BYTES + 1)]);
    assert!(
        error.contains("says 300001 bytes, the file itself 300000"),
        "{error}"
    );
    let error = refused(vec![weights().listed_as(BYTES - 1)]);
    assert!(
        error.contains("says 299999 bytes, the file itself 300000"),
        "{error}"
    );
    let error = refused(vec![weights().hashed_as(&"0".repeat(64))]);
    assert!(
        error.contains("wrong content, nothing kept: expected sha256 000"),
        "{error}"
    );
}

#[test]
fn listings_without_weights_or_with_unsafe_paths_are_refused() {
    let error = refused(vec![Served::small("config.json", "{}")]);
    assert!(error.contains("no .safetensors file"), "{error}");
    let error = refused(vec![Served::small("../../evil.json", "{}"), weights()]);
    assert!(
        error.contains("../../evil.json: the hub lists a path"),
        "{error}"
    );
}

#[test]
fn names_are_checked_before_they_reach_an_address_or_a_path() {
    let model = Repository::parse("Qwen/Qwen3-0.6B@refs/pr/1").unwrap();
    assert_eq!(model.folder(), "Qwen--Qwen3-0.6B@refs--pr--1");
    assert_eq!(Repository::parse("a/b").unwrap().folder(), "a--b");
    for wrong in [
        "gpt2",
        "a/b/c",
        "a/",
        "../b",
        "a/b@",
        "a/b@../c",
        "a b/c",
        "a/b?c",
        "datasets/a",
    ] {
        let error = Repository::parse(wrong).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "expected OWNER/NAME[@REVISION] or datasets/OWNER/NAME[@REVISION], got `{wrong}`"
            )
        );
    }
    assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
    assert_eq!(encode("a dir/b+c.json", true), "a%20dir/b%2Bc.json");
}

#[test]
fn a_data_set_arrives_with_its_data_files_alone() {
    let repository = Repository::parse("datasets/o/n@v1").unwrap();
    assert_eq!(repository.folder(), "datasets--o--n@v1");
    assert_eq!(repository.page(), "datasets/o/n");
    assert_eq!(repository.api(), "datasets/o/n");
    let wanted = |path| repository.kind.wants(path);
    for path in ["data/train-0.parquet", "a.jsonl.gz", "b.csv.zst", "c.json"] {
        assert!(wanted(path), "{path}");
    }
    for path in [
        "README.md",
        "load.py",
        "a.gz",
        "picture.png",
        "model.safetensors",
    ] {
        assert!(!wanted(path), "{path}");
    }
}

//! On a real socket: a request that runs is finished before the server ends.

use std::io::{Read, Write};
use std::net::TcpStream;

use flametune_serve::{AppState, serve};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::script::{Ending, Script, chat, served};

fn ask(address: std::net::SocketAddr, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
    .unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_the_server_after_its_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = AppState::new(served(Script::new())).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, state.clone(), async {
        let _ = ended.await;
    }));
    let body = chat("Hi", json!({})).to_string();
    let answer = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        ask(address, &body).read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("chat.completion"));
    end.send(()).unwrap();
    server.await.unwrap().unwrap();
    assert!(!state.is_ready());
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_is_noticed() {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let script = Script::new().ending(Ending::Hangs);
    let alive = Arc::clone(&script.alive);
    let state = AppState::new(served(script)).unwrap();
    let (end, ended) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, state, async {
        let _ = ended.await;
    }));
    // Whole and streamed: both hang, and both are left.
    for stream in [false, true] {
        let body = chat("Hi", json!({"stream": stream})).to_string();
        let connection = tokio::task::spawn_blocking(move || ask(address, &body))
            .await
            .unwrap();
        while alive.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        drop(connection);
        while alive.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    }
    end.send(()).unwrap();
    server.await.unwrap().unwrap();
}

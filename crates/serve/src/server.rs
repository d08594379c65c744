//! The routes on a socket, until a signal ends them.

use std::future::Future;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::app::app;
use crate::error::Error;
use crate::listener::{LimitedListener, Patience};
use crate::state::AppState;

/// Serves until `ended` is done, and then until the requests that run are done.
///
/// From then on `/ready` says no and no connection is accepted. What still runs after
/// `http.shutdown_grace_s` is given up.
///
/// # Errors
/// [`Error::Io`] when the listener fails.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    ended: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    /// Beyond the longest request, nothing is waited for on a silent connection.
    const MARGIN_S: u64 = 60;
    let http = state.http().clone();
    let patience = Patience {
        writing: Duration::from_secs(http.write_timeout_s),
        idle: Duration::from_secs(http.request_timeout_s + MARGIN_S),
    };
    let listener = LimitedListener::new(listener, http.max_connections, patience);
    let (sender, begun) = tokio::sync::oneshot::channel();
    let signalled = {
        let state = state.clone();
        async move {
            ended.await;
            state.set_ready(false);
            tracing::info!("ending: finishing what runs");
            let _ = sender.send(());
        }
    };
    let serving = axum::serve(listener, app(state)).with_graceful_shutdown(signalled);
    let grace = async {
        // Without a signal this never comes to an end.
        if begun.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(Duration::from_secs(http.shutdown_grace_s)).await;
    };
    tokio::select! {
        result = async { serving.await } => Ok(result?),
        () = grace => {
            tracing::warn!("given up what still runs");
            Ok(())
        }
    }
}

/// Done when the process is asked to end: by Ctrl-C, or by SIGTERM where there is one.
///
/// From the call on, and not only once it is awaited, such a signal no longer ends the process by
/// itself. It must be called inside of a runtime.
#[cfg(unix)]
pub fn shutdown_signal() -> impl Future<Output = ()> + Send + 'static {
    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// Where the system hands out no signals, none comes.
    async fn received(signal: Option<Signal>) {
        match signal {
            Some(mut signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
    let interrupt = signal(SignalKind::interrupt()).ok();
    let terminate = signal(SignalKind::terminate()).ok();
    async move {
        tokio::select! {
            () = received(interrupt) => {}
            () = received(terminate) => {}
        }
    }
}

/// Done when the process is asked to end by Ctrl-C.
#[cfg(not(unix))]
pub async fn shutdown_signal() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

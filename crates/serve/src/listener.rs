//! Connections with limits: how many there are, and how long one may do nothing.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// With something written that is not taken.
    pub(crate) writing: Duration,
    /// With nothing written or read at all.
    pub(crate) idle: Duration,
}

/// A listener that waits with accepting while there are too many connections.
pub(crate) struct LimitedListener {
    inner: TcpListener,
    room: Arc<Semaphore>,
    patience: Patience,
}

impl LimitedListener {
    pub(crate) fn new(inner: TcpListener, most: usize, patience: Patience) -> Self {
        Self {
            inner,
            room: Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS))),
            patience,
        }
    }
}

impl Listener for LimitedListener {
    type Io = Connection<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.inner).await;
        // Pieces of a stream are small, and should not wait for each other.
        let _ = stream.set_nodelay(true);
        (Connection::new(stream, self.patience, permit), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.inner.local_addr()
    }
}

/// A connection that ends when nothing has moved for too long.
pub(crate) struct Connection<S> {
    stream: S,
    patience: Patience,
    /// When something moved last.
    moved: Instant,
    reading: Pin<Box<Sleep>>,
    writing: Option<Pin<Box<Sleep>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S> Connection<S> {
    fn new(stream: S, patience: Patience, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self {
            stream,
            patience,
            moved: Instant::now(),
            reading: Box::pin(sleep(patience.idle)),
            writing: None,
            _permit: permit,
        }
    }

    fn moved(&mut self) {
        self.moved = Instant::now();
        self.writing = None;
    }

    /// Whether a write that cannot go on has waited for too long.
    fn stuck(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.patience.writing;
        let timer = self
            .writing
            .get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(timed_out("what was written was not taken"))
    }

    /// Whether a read that brings nothing has waited for too long, with nothing written either.
    fn silent(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.reading.as_mut().poll(context));
            let until = self.moved + self.patience.idle;
            if until <= Instant::now() {
                return Poll::Ready(timed_out("nothing was said"));
            }
            self.reading.as_mut().reset(until);
        }
    }
}

fn timed_out(what: &str) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, what)
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(result) => {
                self.moved();
                Poll::Ready(result)
            }
            Poll::Pending => self.silent(context).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(result) => {
                self.moved();
                Poll::Ready(result)
            }
            Poll::Pending => self.stuck(context).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// A peer that neither says nor takes anything.
    struct Stuck;

    impl AsyncRead for Stuck {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Stuck {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    fn connection() -> Connection<Stuck> {
        let patience = Patience {
            writing: Duration::from_millis(5),
            idle: Duration::from_millis(5),
        };
        Connection::new(Stuck, patience, None)
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let mut connection = connection();
        let write = poll_fn(|context| Pin::new(&mut connection).poll_write(context, b"text"));
        assert_eq!(write.await.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn silence_ends_a_connection() {
        let mut connection = connection();
        let mut bytes = [0; 8];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = poll_fn(|context| Pin::new(&mut connection).poll_read(context, &mut buffer));
        assert_eq!(read.await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}

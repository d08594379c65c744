//! The way from the engine's thread to whoever asked: blocking or awaited.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::request::EngineEvent;
use crate::error::{Error, Result};

/// What the two ends share.
#[derive(Debug)]
struct Shared<T> {
    queue: Mutex<Queue<T>>,
    arrived: Condvar,
    /// Whether the receiver is gone.
    abandoned: AtomicBool,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    waker: Option<Waker>,
    closed: bool,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        // A queue is whole between any two statements, so a panic elsewhere leaves it usable.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's end.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

/// The caller's end.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

/// Two ends of an unbounded queue.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: Mutex::new(Queue {
            items: VecDeque::new(),
            waker: None,
            closed: false,
        }),
        arrived: Condvar::new(),
        abandoned: AtomicBool::new(false),
    });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    pub(crate) fn send(&self, item: T) {
        let waker = {
            let mut queue = self.0.lock();
            queue.items.push_back(item);
            queue.waker.take()
        };
        self.0.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Acquire)
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut queue = self.0.lock();
            queue.closed = true;
            queue.waker.take()
        };
        self.0.arrived.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// Waits for the next item; `None` once the sender is gone and nothing is left.
    pub(crate) fn recv(&self) -> Option<T> {
        let mut queue = self.0.lock();
        loop {
            if let Some(item) = queue.items.pop_front() {
                return Some(item);
            }
            if queue.closed {
                return None;
            }
            queue = self
                .0
                .arrived
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn try_recv(&self) -> Option<T> {
        self.0.lock().items.pop_front()
    }

    fn poll(&self, context: &mut Context<'_>) -> Poll<Option<T>> {
        let mut queue = self.0.lock();
        match queue.items.pop_front() {
            Some(item) => Poll::Ready(Some(item)),
            None if queue.closed => Poll::Ready(None),
            None => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Release);
    }
}

/// The answers to one request, as they come.
///
/// Dropping it cancels the request: before its next step the engine frees what it holds.
/// The events end after the last choice is finished, or after an error.
///
/// # Examples
/// ```no_run
/// # fn example(engine: &flametune_infer::EngineHandle) -> flametune_infer::Result<()> {
/// use flametune_infer::{EngineEvent, GenerateRequest, SamplingParams};
///
/// let request = GenerateRequest::new(vec![1, 2, 3], SamplingParams::default());
/// let mut ticket = engine.submit(request)?;
/// let mut tokens = Vec::new();
/// while let Some(event) = ticket.recv() {
///     if let EngineEvent::Token { token, .. } = event? {
///         tokens.push(token);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Ticket {
    pub(super) events: Receiver<Result<EngineEvent>>,
    pub(super) choices_left: usize,
    pub(super) wake: super::inbox::Bell,
}

impl Ticket {
    /// Waits for the next event; `None` when there are no more.
    pub fn recv(&mut self) -> Option<Result<EngineEvent>> {
        if self.choices_left == 0 {
            return None;
        }
        let event = self.events.recv();
        self.seen(event)
    }

    /// The next event if it is there already.
    pub fn try_recv(&mut self) -> Option<Result<EngineEvent>> {
        let event = self.events.try_recv()?;
        self.seen(Some(event))
    }

    /// The next event, for executors of futures.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<EngineEvent>>> {
        if self.choices_left == 0 {
            return Poll::Ready(None);
        }
        match self.events.poll(context) {
            Poll::Ready(event) => Poll::Ready(self.seen(event)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Awaits the next event; `None` when there are no more.
    pub async fn next(&mut self) -> Option<Result<EngineEvent>> {
        std::future::poll_fn(|context| self.poll_recv(context)).await
    }

    /// Counts the choices that are done, and tells the end of the engine from that of the request.
    fn seen(&mut self, event: Option<Result<EngineEvent>>) -> Option<Result<EngineEvent>> {
        match &event {
            Some(Ok(EngineEvent::Finished { .. })) => self.choices_left -= 1,
            Some(Ok(_)) => {}
            Some(Err(_)) => self.choices_left = 0,
            None => {
                self.choices_left = 0;
                return Some(Err(Error::EngineStopped));
            }
        }
        event
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.events.0.abandoned.store(true, Ordering::Release);
        self.wake.ring();
    }
}

/// One answer that comes later.
#[derive(Debug)]
pub struct Pending<T> {
    pub(super) answer: Receiver<Result<T>>,
}

impl<T> Pending<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// What went wrong, or [`Error::EngineStopped`].
    pub fn wait(self) -> Result<T> {
        self.answer.recv().unwrap_or(Err(Error::EngineStopped))
    }

    /// Awaits the answer.
    ///
    /// # Errors
    /// What went wrong, or [`Error::EngineStopped`].
    pub async fn answer(self) -> Result<T> {
        std::future::poll_fn(|context| self.answer.poll(context))
            .await
            .unwrap_or(Err(Error::EngineStopped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_arrive_in_order_and_the_end_is_seen() {
        let (sender, receiver) = channel();
        let thread = std::thread::spawn(move || {
            for item in 0..100 {
                sender.send(item);
            }
        });
        let items: Vec<i32> = std::iter::from_fn(|| receiver.recv()).collect();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
        thread.join().unwrap();
    }

    #[test]
    fn a_future_is_woken_when_something_arrives() {
        use std::sync::atomic::AtomicUsize;
        use std::task::Wake;

        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let (sender, receiver) = channel();
        assert!(receiver.poll(&mut context).is_pending());
        sender.send(7);
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert_eq!(receiver.poll(&mut context), Poll::Ready(Some(7)));
        assert!(receiver.poll(&mut context).is_pending());
        drop(sender);
        assert_eq!(count.0.load(Ordering::SeqCst), 2);
        assert_eq!(receiver.poll(&mut context), Poll::Ready(None));
    }

    #[test]
    fn the_sender_learns_that_nobody_listens() {
        let (sender, receiver) = channel::<u8>();
        assert!(!sender.is_abandoned());
        drop(receiver);
        assert!(sender.is_abandoned());
    }
}

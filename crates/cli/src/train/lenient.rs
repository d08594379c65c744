//! Observers that a run can do without.

use flametune_train::record::{Observer, Record};

use super::terminal::warn;

/// Passes events on until that fails once; then says so, and lets the run go on without.
pub(super) struct Lenient {
    what: &'static str,
    observer: Option<Box<dyn Observer>>,
}

impl Lenient {
    /// For an observer that writes `what`.
    pub(super) fn boxed(what: &'static str, observer: Box<dyn Observer>) -> Box<dyn Observer> {
        Box::new(Self {
            what,
            observer: Some(observer),
        })
    }

    fn pass_on(
        &mut self,
        tell: impl FnOnce(&mut dyn Observer) -> flametune_train::Result<()>,
    ) -> flametune_train::Result<()> {
        if let Some(observer) = &mut self.observer
            && let Err(error) = tell(observer.as_mut())
        {
            warn(&format!("{} ends here: {error}", self.what));
            self.observer = None;
        }
        Ok(())
    }
}

impl Observer for Lenient {
    fn observe(&mut self, record: &Record) -> flametune_train::Result<()> {
        self.pass_on(|observer| observer.observe(record))
    }

    fn resume(&mut self, earlier: &[Record], step: usize) -> flametune_train::Result<()> {
        self.pass_on(|observer| observer.resume(earlier, step))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use flametune_train::Error;
    use flametune_train::record::{Event, Note};

    use super::*;

    struct Full(Arc<AtomicUsize>);

    impl Observer for Full {
        fn observe(&mut self, _record: &Record) -> flametune_train::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Err(Error::NothingToTrain)
        }
    }

    #[test]
    fn what_failed_once_is_not_asked_again() {
        let asked = Arc::new(AtomicUsize::new(0));
        let mut lenient = Lenient::boxed("the test", Box::new(Full(Arc::clone(&asked))));
        let record = Record {
            time: 0.0,
            event: Event::Warning(Note {
                step: 1,
                text: String::new(),
            }),
        };
        assert!(lenient.observe(&record).is_ok() && lenient.observe(&record).is_ok());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}

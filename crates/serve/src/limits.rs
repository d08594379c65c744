//! How much each key and each adapter may ask for: token buckets, and requests at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::ANONYMOUS;
use crate::options::{KeyOptions, Rate};

/// A store that fills steadily up to a minute's worth, and from which is taken.
///
/// It may go below zero: who has had more than was there waits until it is above again.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    capacity: f64,
    level: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_minute: u32, now: Instant) -> Self {
        let capacity = f64::from(per_minute);
        Self {
            capacity,
            level: capacity,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.capacity / 60.0).min(self.capacity);
        self.at = now;
    }

    /// How long until `amount` is there; zero when it is.
    fn wait(&self, amount: f64) -> Duration {
        let missing = (amount - self.level).max(0.0);
        Duration::from_secs_f64((missing * 60.0 / self.capacity).min(3600.0))
    }
}

/// What one key or adapter has used.
#[derive(Debug)]
struct Account {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    most_running: Option<u32>,
    running: u32,
}

impl Account {
    fn new(rate: Rate, now: Instant) -> Self {
        let bucket = |per_minute: Option<u32>| per_minute.map(|rate| Bucket::full(rate, now));
        Self {
            requests: bucket(rate.requests_per_minute),
            tokens: bucket(rate.tokens_per_minute),
            most_running: rate.concurrent_requests,
            running: 0,
        }
    }

    /// What stands against one more request.
    fn refusal(&mut self, now: Instant) -> Option<(&'static str, Duration)> {
        if self.most_running.is_some_and(|most| self.running >= most) {
            return Some(("requests at a time", Duration::from_secs(1)));
        }
        let buckets = [
            (&mut self.requests, "requests per minute"),
            (&mut self.tokens, "tokens per minute"),
        ];
        for (bucket, what) in buckets {
            if let Some(bucket) = bucket {
                bucket.fill(now);
                let wait = bucket.wait(1.0);
                if !wait.is_zero() {
                    return Some((what, wait));
                }
            }
        }
        None
    }

    fn begin(&mut self, prompt_tokens: f64) {
        self.running += 1;
        if let Some(bucket) = &mut self.requests {
            bucket.level -= 1.0;
        }
        self.take(prompt_tokens);
    }

    fn take(&mut self, tokens: f64) {
        if let Some(bucket) = &mut self.tokens {
            bucket.level -= tokens;
        }
    }
}

/// Why a request has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limited {
    /// Whose limit it is.
    pub(crate) whose: String,
    /// Which limit.
    pub(crate) what: &'static str,
    /// How long to wait.
    pub(crate) retry_after: Duration,
}

/// The accounts of all keys and adapters.
#[derive(Debug, Clone)]
pub(crate) struct Limiter(Arc<Mutex<Accounts>>);

#[derive(Debug)]
struct Accounts {
    tenants: HashMap<String, Account>,
    adapters: HashMap<String, Account>,
    adapter_rate: Rate,
}

impl Limiter {
    pub(crate) fn new(keys: &[KeyOptions], anonymous: Rate, adapter: Rate) -> Self {
        let now = Instant::now();
        let mut tenants: HashMap<_, _> = keys
            .iter()
            .map(|key| (key.name.clone(), Account::new(key.rate, now)))
            .collect();
        tenants.insert(ANONYMOUS.to_owned(), Account::new(anonymous, now));
        Self(Arc::new(Mutex::new(Accounts {
            tenants,
            adapters: HashMap::new(),
            adapter_rate: adapter,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request in, if both its key and its adapter have room for it.
    pub(crate) fn admit(
        &self,
        now: Instant,
        tenant: &str,
        adapter: Option<&str>,
        prompt_tokens: usize,
    ) -> Result<Permit, Limited> {
        let mut accounts = self.lock();
        let rate = accounts.adapter_rate;
        if let Some(adapter) = adapter
            && !accounts.adapters.contains_key(adapter)
        {
            let account = Account::new(rate, now);
            accounts.adapters.insert(adapter.to_owned(), account);
        }
        let Accounts {
            tenants, adapters, ..
        } = &mut *accounts;
        let mut concerned = Vec::with_capacity(2);
        concerned.extend(tenants.get_mut(tenant).map(|account| (account, "your key")));
        let of_adapter = adapter.and_then(|name| adapters.get_mut(name));
        concerned.extend(of_adapter.map(|account| (account, "this adapter")));
        for (account, whose) in &mut concerned {
            if let Some((what, retry_after)) = account.refusal(now) {
                return Err(Limited {
                    whose: (*whose).to_owned(),
                    what,
                    retry_after,
                });
            }
        }
        for (account, _) in concerned {
            account.begin(as_f64(prompt_tokens));
        }
        Ok(Permit {
            limiter: self.clone(),
            tenant: tenant.to_owned(),
            adapter: adapter.map(str::to_owned),
        })
    }

    /// Forgets an adapter that is gone.
    pub(crate) fn forget(&self, adapter: &str) {
        self.lock().adapters.remove(adapter);
    }

    fn each(&self, tenant: &str, adapter: Option<&str>, change: impl Fn(&mut Account)) {
        let mut accounts = self.lock();
        if let Some(account) = accounts.tenants.get_mut(tenant) {
            change(account);
        }
        if let Some(account) = adapter.and_then(|name| accounts.adapters.get_mut(name)) {
            change(account);
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "token counts are far below 2^52"
)]
fn as_f64(tokens: usize) -> f64 {
    tokens as f64
}

/// A request that was counted in; dropping it counts it out.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Limiter,
    tenant: String,
    adapter: Option<String>,
}

impl Permit {
    /// Counts tokens of an answer.
    pub(crate) fn take(&self, tokens: usize) {
        let adapter = self.adapter.as_deref();
        self.limiter.each(&self.tenant, adapter, |account| {
            account.take(as_f64(tokens))
        });
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let adapter = self.adapter.as_deref();
        self.limiter.each(&self.tenant, adapter, |account| {
            account.running = account.running.saturating_sub(1);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: Option<u32>, tokens: Option<u32>, running: Option<u32>) -> Rate {
        Rate {
            requests_per_minute: requests,
            tokens_per_minute: tokens,
            concurrent_requests: running,
        }
    }

    fn refused(result: Result<Permit, Limited>) -> (&'static str, Duration) {
        let limited = result.unwrap_err();
        (limited.what, limited.retry_after)
    }

    #[test]
    fn requests_come_back_at_their_rate() {
        let limiter = Limiter::new(&[], rate(Some(3), None, None), Rate::default());
        let now = Instant::now();
        for _ in 0..3 {
            limiter.admit(now, ANONYMOUS, None, 1).unwrap();
        }
        let (what, wait) = refused(limiter.admit(now, ANONYMOUS, None, 1));
        assert_eq!(what, "requests per minute");
        assert!((wait.as_secs_f64() - 20.0).abs() < 0.1, "{wait:?}");
        let later = now + Duration::from_secs(21);
        limiter.admit(later, ANONYMOUS, None, 1).unwrap();
        refused(limiter.admit(later, ANONYMOUS, None, 1));
    }

    #[test]
    fn tokens_beyond_the_store_are_a_debt() {
        let limiter = Limiter::new(&[], rate(None, Some(60), None), Rate::default());
        let now = Instant::now();
        let permit = limiter.admit(now, ANONYMOUS, None, 50).unwrap();
        permit.take(30);
        let (what, wait) = refused(limiter.admit(now, ANONYMOUS, None, 1));
        assert_eq!(what, "tokens per minute");
        // 20 below zero, one a second, and one has to be there.
        assert!((wait.as_secs_f64() - 21.0).abs() < 0.1, "{wait:?}");
    }

    #[test]
    fn who_is_done_makes_room() {
        let limiter = Limiter::new(&[], rate(None, None, Some(1)), Rate::default());
        let now = Instant::now();
        let permit = limiter.admit(now, ANONYMOUS, None, 1).unwrap();
        assert_eq!(
            refused(limiter.admit(now, ANONYMOUS, None, 1)).0,
            "requests at a time"
        );
        drop(permit);
        limiter.admit(now, ANONYMOUS, None, 1).unwrap();
    }

    #[test]
    fn adapters_have_accounts_of_their_own_and_a_refusal_costs_nothing() {
        let limiter = Limiter::new(&[], rate(Some(2), None, None), rate(Some(1), None, None));
        let now = Instant::now();
        limiter.admit(now, ANONYMOUS, Some("a"), 1).unwrap();
        for _ in 0..10 {
            let limited = limiter.admit(now, ANONYMOUS, Some("a"), 1).unwrap_err();
            assert_eq!(limited.whose, "this adapter");
        }
        limiter.admit(now, ANONYMOUS, Some("b"), 1).unwrap();
        let limited = limiter.admit(now, ANONYMOUS, Some("c"), 1).unwrap_err();
        assert_eq!(limited.whose, "your key");
    }
}

//! The adapters of an engine: generations that never change, leases on them, and a budget.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use flametune_lm::{AdapterPass, CausalLm, VirtualSlots};
use flametune_peft::{AdapterParts, Facts, Passport, check_name, load_adapter, sha256_hex};

use super::inbox::Bell;
use super::stats::AdapterInfo;
use crate::error::{Error, Result};

/// The files that an adapter's numbers are a function of.
const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// The most names that an error lists.
const NAMED: usize = 16;

/// All adapters, in memory or not.
#[derive(Debug)]
pub(super) struct Registry {
    /// The model without adapters; its tensors are those of the engine.
    base: CausalLm,
    facts: Option<Facts>,
    budget: usize,
    bell: Bell,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<String, Entry>,
    /// Generations that have no name any more, while someone may use them.
    retired: Vec<Weak<Generation>>,
    loaded: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    generation: Arc<Generation>,
    pinned: bool,
    requests: u64,
}

/// What was loaded at one time under one name.
#[derive(Debug)]
pub(super) struct Generation {
    number: u64,
    /// What it is called inside models.
    key: String,
    name: String,
    folder: PathBuf,
    digest: String,
    bytes: usize,
    slots: VirtualSlots,
    warnings: Vec<String>,
    place: Mutex<Place>,
    /// When it was asked for last, by the registry's clock.
    used: AtomicU64,
    users: Mutex<usize>,
    idle: Condvar,
}

/// Where the parameters of a generation are.
#[derive(Debug)]
enum Place {
    Here(Box<AdapterParts>),
    /// In their folder.
    Away,
    /// On their way into memory.
    Coming,
    Lost(String),
}

/// The right to use a generation, which stays what it is for as long.
#[derive(Debug)]
pub(super) struct Lease(Arc<Generation>);

impl Lease {
    fn new(generation: &Arc<Generation>) -> Self {
        *lock(&generation.users) += 1;
        Self(Arc::clone(generation))
    }

    /// What the adapter is called inside models.
    pub(super) fn key(&self) -> &str {
        &self.0.key
    }

    /// Tells generations apart, from 1.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// Its virtual tokens.
    pub(super) fn slots(&self) -> VirtualSlots {
        self.0.slots
    }

    pub(super) fn virtual_tokens(&self) -> usize {
        self.0.slots.len()
    }
}

impl Clone for Lease {
    fn clone(&self) -> Self {
        Self::new(&self.0)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *lock(&self.0.users) -= 1;
        self.0.idle.notify_all();
    }
}

impl Generation {
    fn users(&self) -> usize {
        *lock(&self.users)
    }

    /// Whether it takes memory, now or soon.
    fn takes_memory(&self) -> bool {
        matches!(*lock(&self.place), Place::Here(_) | Place::Coming)
    }
}

/// Locks what is whole between any two statements, so that a panic elsewhere leaves it usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came out of a folder.
struct Loaded {
    parts: AdapterParts,
    slots: VirtualSlots,
}

impl Registry {
    pub(super) fn new(base: CausalLm, facts: Option<Facts>, budget: usize, bell: Bell) -> Self {
        Self {
            base,
            facts,
            budget,
            bell,
            state: Mutex::default(),
        }
    }

    /// Loads a folder under a name; an adapter that has the name already keeps its users.
    pub(super) fn load(&self, name: &str, folder: &Path) -> Result<AdapterInfo> {
        check_name(name)?;
        let warnings = self.check_passport(folder)?;
        let number = {
            let mut state = lock(&self.state);
            state.loaded += 1;
            state.loaded
        };
        let key = format!("g{number}");
        let digest = digest(folder)?;
        let loaded = self.read(&key, folder)?;
        if self::digest(folder)? != digest {
            return Err(changed(name, folder));
        }
        let generation = Arc::new(Generation {
            number,
            key,
            name: name.to_owned(),
            folder: folder.to_owned(),
            digest,
            bytes: loaded.parts.bytes(),
            slots: loaded.slots,
            warnings,
            place: Mutex::new(Place::Here(Box::new(loaded.parts))),
            used: AtomicU64::new(0),
            users: Mutex::new(0),
            idle: Condvar::new(),
        });
        let mut state = lock(&self.state);
        state.tick(&generation);
        let old = state
            .entries
            .get(name)
            .map(|entry| Arc::clone(&entry.generation));
        let replaced = old.as_ref().filter(|old| old.users() == 0);
        self.make_room(&state, &generation, replaced)?;
        let pinned = state.entries.get(name).is_some_and(|entry| entry.pinned);
        if let Some(old) = old {
            state.retire(&old);
        }
        let entry = Entry {
            generation,
            pinned,
            requests: 0,
        };
        let info = entry.info();
        state.entries.insert(name.to_owned(), entry);
        drop(state);
        self.bell.ring();
        Ok(info)
    }

    /// Forgets a name, and waits until nobody uses what it stood for.
    pub(super) fn unload(&self, name: &str) -> Result<()> {
        let generation = {
            let mut state = lock(&self.state);
            let Some(entry) = state.entries.remove(name) else {
                return Err(state.unknown(name));
            };
            state.retire(&entry.generation);
            entry.generation
        };
        // An idle engine may hold it as a draft.
        self.bell.ring();
        let mut users = lock(&generation.users);
        while *users > 0 {
            users = generation
                .idle
                .wait(users)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(users);
        self.bell.ring();
        Ok(())
    }

    pub(super) fn pin(&self, name: &str, pinned: bool) -> Result<()> {
        let mut state = lock(&self.state);
        match state.entries.get_mut(name) {
            Some(entry) => {
                entry.pinned = pinned;
                Ok(())
            }
            None => Err(state.unknown(name)),
        }
    }

    pub(super) fn list(&self) -> Vec<AdapterInfo> {
        let state = lock(&self.state);
        state.entries.values().map(Entry::info).collect()
    }

    /// Whether a generation still has a name.
    pub(super) fn knows(&self, number: u64) -> bool {
        let state = lock(&self.state);
        let mut entries = state.entries.values();
        entries.any(|entry| entry.generation.number == number)
    }

    /// The bytes of adapters in memory.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.state).bytes()
    }

    /// The right to use an adapter, for a new request.
    pub(super) fn lease(&self, name: &str) -> Result<Lease> {
        let mut state = lock(&self.state);
        let Some(entry) = state.entries.get_mut(name) else {
            return Err(state.unknown(name));
        };
        entry.requests += 1;
        let generation = Arc::clone(&entry.generation);
        state.tick(&generation);
        Ok(Lease::new(&generation))
    }

    /// The right to use an adapter, if there is one of that name, without counting it as asked for.
    pub(super) fn peek(&self, name: &str) -> Option<Lease> {
        let state = lock(&self.state);
        let entry = state.entries.get(name)?;
        Some(Lease::new(&entry.generation))
    }

    /// The parameters behind a lease; `None` while they are on their way.
    pub(super) fn parts(self: &Arc<Self>, lease: &Lease) -> Result<Option<AdapterParts>> {
        match &*lock(&lease.0.place) {
            Place::Here(parts) => return Ok(Some(parts.as_ref().clone())),
            Place::Coming => return Ok(None),
            Place::Lost(reason) => {
                return Err(Error::AdapterLost {
                    name: lease.0.name.clone(),
                    reason: reason.clone(),
                });
            }
            Place::Away => {}
        }
        let state = lock(&self.state);
        if let Err(error) = self.make_room(&state, &lease.0, None) {
            // Someone who uses memory now will be done with it; pinned adapters stay for good.
            let frees = |entry: &Entry| {
                !entry.pinned && entry.generation.takes_memory() && entry.generation.users() > 0
            };
            let waits = state.entries.values().any(frees)
                || state.retired.iter().any(|old| old.strong_count() > 0);
            return if waits { Ok(None) } else { Err(error) };
        }
        *lock(&lease.0.place) = Place::Coming;
        drop(state);
        let (registry, generation) = (Arc::clone(self), Arc::clone(&lease.0));
        std::thread::Builder::new()
            .name("flametune-adapter".to_owned())
            .spawn(move || registry.bring(&generation))
            .map_err(|source| Error::Thread { source })?;
        Ok(None)
    }

    /// Reads a generation again.
    fn bring(&self, generation: &Generation) {
        let read = || {
            if digest(&generation.folder)? != generation.digest {
                return Err(changed(&generation.name, &generation.folder));
            }
            self.read(&generation.key, &generation.folder)
        };
        let place = match read() {
            Ok(loaded) => Place::Here(Box::new(loaded.parts)),
            Err(error) => Place::Lost(error.to_string()),
        };
        *lock(&generation.place) = place;
        self.bell.ring();
    }

    /// Loads an adapter into a copy of the base, and takes it out again.
    fn read(&self, key: &str, folder: &Path) -> Result<Loaded> {
        let mut copy = self.base.clone();
        load_adapter(&mut copy, key, folder)?;
        let slots = copy.virtual_slots(&AdapterPass::one(key));
        let parts = AdapterParts::take(&mut copy, key)?;
        Ok(Loaded { parts, slots })
    }

    fn check_passport(&self, folder: &Path) -> Result<Vec<String>> {
        let Some(facts) = &self.facts else {
            return Ok(Vec::new());
        };
        let Some(passport) = Passport::read(folder)? else {
            return Ok(vec!["there is no passport".to_owned()]);
        };
        let warnings = passport.check(facts)?;
        Ok(warnings.iter().map(ToString::to_string).collect())
    }

    /// Sends adapters away, those asked for longest ago first, until there is room for `new`.
    fn make_room(
        &self,
        state: &State,
        new: &Arc<Generation>,
        replaced: Option<&Arc<Generation>>,
    ) -> Result<()> {
        let replaced_bytes = replaced
            .filter(|old| old.takes_memory())
            .map_or(0, |old| old.bytes);
        let fits = |taken: usize| taken.saturating_add(new.bytes) <= self.budget;
        let mut taken = state.bytes() - replaced_bytes;
        let mut leaving: Vec<&Arc<Generation>> = state
            .entries
            .values()
            .filter(|entry| !entry.pinned)
            .map(|entry| &entry.generation)
            .filter(|generation| {
                let is_replaced = replaced.is_some_and(|old| Arc::ptr_eq(old, generation));
                let here = matches!(*lock(&generation.place), Place::Here(_));
                !is_replaced && here && generation.users() == 0
            })
            .collect();
        leaving.sort_by_key(|generation| generation.used.load(Ordering::Relaxed));
        let spare: usize = leaving.iter().map(|generation| generation.bytes).sum();
        if !fits(taken - spare) {
            return Err(Error::AdapterBudget {
                name: new.name.clone(),
                bytes: new.bytes,
                budget: self.budget,
                in_use: taken - spare,
            });
        }
        for generation in leaving {
            if fits(taken) {
                break;
            }
            *lock(&generation.place) = Place::Away;
            taken -= generation.bytes;
        }
        Ok(())
    }
}

impl State {
    fn tick(&mut self, generation: &Generation) {
        self.clock += 1;
        generation.used.store(self.clock, Ordering::Relaxed);
    }

    /// Keeps sight of a generation that has lost its name, for as long as it takes memory.
    fn retire(&mut self, generation: &Arc<Generation>) {
        self.retired.retain(|old| old.strong_count() > 0);
        self.retired.push(Arc::downgrade(generation));
    }

    fn bytes(&self) -> usize {
        let named = self
            .entries
            .values()
            .map(|entry| Arc::clone(&entry.generation));
        let retired = self.retired.iter().filter_map(Weak::upgrade);
        named
            .chain(retired)
            .filter(|generation| generation.takes_memory())
            .map(|generation| generation.bytes)
            .sum()
    }

    fn unknown(&self, name: &str) -> Error {
        Error::UnknownAdapter {
            name: name.to_owned(),
            known: self.entries.keys().take(NAMED).cloned().collect(),
        }
    }
}

impl Entry {
    fn info(&self) -> AdapterInfo {
        let generation = &self.generation;
        AdapterInfo {
            name: generation.name.clone(),
            folder: generation.folder.clone(),
            generation: generation.number,
            bytes: generation.bytes,
            resident: matches!(*lock(&generation.place), Place::Here(_)),
            pinned: self.pinned,
            users: generation.users(),
            requests: self.requests,
            warnings: generation.warnings.clone(),
        }
    }
}

fn changed(name: &str, folder: &Path) -> Error {
    Error::AdapterChanged {
        name: name.to_owned(),
        folder: folder.to_owned(),
    }
}

/// A digest of the files that make an adapter what it is.
fn digest(folder: &Path) -> Result<String> {
    let mut digests = String::new();
    for file in FILES {
        let path = folder.join(file);
        let bytes = fs::read(&path).map_err(|source| flametune_peft::Error::Io { path, source })?;
        digests += &sha256_hex(&bytes);
    }
    Ok(digests)
}

//! Who holds which page of the key/value cache, and which pages hold what prompts begin with.

use std::collections::{BTreeMap, HashMap};

/// What a full page holds: these slots, behind those of another page, computed by one adapter.
///
/// The whole content is compared, not a digest of it, so nobody is ever given another text's keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Content {
    /// The serial number of the page before, or [`ROOT`].
    parent: u64,
    /// The number of the adapter's generation; 0 stands for the base.
    owner: u64,
    slots: Box<[u32]>,
}

/// The parent of first pages.
pub(super) const ROOT: u64 = 0;

/// All pages: free, held by sequences, or kept for sequences that begin alike.
#[derive(Debug)]
pub(crate) struct Pages {
    page_len: usize,
    sharing: bool,
    /// How many sequences hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
    /// What each page is known for, with its serial number.
    names: Vec<Option<(Content, u64)>>,
    known: HashMap<Content, u32>,
    /// Pages that are known for something and held by nobody, by the time they were let go.
    idle: BTreeMap<u64, u32>,
    idle_since: Vec<u64>,
    serial: u64,
    clock: u64,
}

/// The pages of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// In the order of the slots.
    pub(crate) pages: Vec<u32>,
    /// How many of them are full and known.
    named: usize,
    /// The serial number of the last of these.
    last: u64,
}

impl Pages {
    pub(crate) fn new(count: usize, page_len: usize, sharing: bool) -> Self {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let len = count as usize;
        Self {
            page_len,
            sharing,
            holders: vec![0; len],
            free: (0..count).rev().collect(),
            names: vec![None; len],
            known: HashMap::new(),
            idle: BTreeMap::new(),
            idle_since: vec![0; len],
            serial: ROOT,
            clock: 0,
        }
    }

    /// Whether pages become known at all.
    pub(crate) fn is_sharing(&self) -> bool {
        self.sharing
    }

    /// Pages in all.
    pub(crate) fn count(&self) -> usize {
        self.holders.len()
    }

    /// Pages that sequences hold.
    pub(crate) fn used(&self) -> usize {
        self.count() - self.available()
    }

    /// Pages that are kept and held by nobody.
    pub(crate) fn cached(&self) -> usize {
        self.idle.len()
    }

    /// Pages that can be given away now.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// How many pages `slots` slots take.
    pub(crate) fn needed(&self, slots: usize) -> usize {
        slots.div_ceil(self.page_len)
    }

    /// Takes hold of the known pages that `slots` begin with, at most those that end within the
    /// first `limit` slots, and returns how many slots that are.
    pub(crate) fn find(
        &mut self,
        owner: u64,
        slots: &[u32],
        limit: usize,
        held: &mut Held,
    ) -> usize {
        *held = Held::default();
        if !self.sharing {
            return 0;
        }
        let limit = limit.min(slots.len());
        for slots in slots[..limit].chunks_exact(self.page_len) {
            let content = Content {
                parent: held.last,
                owner,
                slots: slots.into(),
            };
            let Some(&page) = self.known.get(&content) else {
                break;
            };
            if let Some((_, serial)) = &self.names[page as usize] {
                held.last = *serial;
            }
            self.hold(page);
            held.pages.push(page);
            held.named += 1;
        }
        held.pages.len() * self.page_len
    }

    /// Gives a sequence enough pages for `slots` slots; changes nothing when there are too few.
    pub(crate) fn reserve(&mut self, held: &mut Held, slots: usize) -> bool {
        let missing = self.needed(slots).saturating_sub(held.pages.len());
        if missing > self.available() {
            return false;
        }
        for _ in 0..missing {
            let page = match self.free.pop() {
                Some(page) => page,
                None => match self.idle.pop_first() {
                    Some((_, page)) => {
                        self.forget(page);
                        page
                    }
                    None => return false,
                },
            };
            self.holders[page as usize] = 1;
            held.pages.push(page);
        }
        true
    }

    /// Makes the full pages among the first `filled` slots known.
    pub(crate) fn publish(&mut self, owner: u64, slots: &[u32], filled: usize, held: &mut Held) {
        if !self.sharing {
            return;
        }
        let full = (filled.min(slots.len()) / self.page_len).min(held.pages.len());
        while held.named < full {
            let first = held.named * self.page_len;
            let content = Content {
                parent: held.last,
                owner,
                slots: slots[first..first + self.page_len].into(),
            };
            let page = held.pages[held.named];
            match self.known.get(&content) {
                // Someone else was first; what follows is known behind that page.
                Some(&other) => {
                    if let Some((_, serial)) = &self.names[other as usize] {
                        held.last = *serial;
                    }
                }
                None => {
                    self.serial += 1;
                    held.last = self.serial;
                    self.known.insert(content.clone(), page);
                    self.names[page as usize] = Some((content, self.serial));
                }
            }
            held.named += 1;
        }
    }

    /// Lets go of all pages of a sequence.
    pub(crate) fn release(&mut self, held: &mut Held) {
        // The last ones first, so that beginnings are kept longest.
        for &page in held.pages.iter().rev() {
            let holders = &mut self.holders[page as usize];
            *holders -= 1;
            if *holders > 0 {
                continue;
            }
            if self.names[page as usize].is_some() {
                self.clock += 1;
                self.idle_since[page as usize] = self.clock;
                self.idle.insert(self.clock, page);
            } else {
                self.free.push(page);
            }
        }
        *held = Held::default();
    }

    /// Forgets what an adapter has computed, of pages that nobody holds.
    pub(crate) fn forget_owner(&mut self, owner: u64) {
        let of_owner = |page: &u32| {
            let name = &self.names[*page as usize];
            name.as_ref()
                .is_some_and(|(content, _)| content.owner == owner)
        };
        let pages: Vec<u32> = self.idle.values().copied().filter(of_owner).collect();
        for page in pages {
            self.idle.remove(&self.idle_since[page as usize]);
            self.forget(page);
            self.free.push(page);
        }
    }

    fn hold(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        if *holders == 0 {
            self.idle.remove(&self.idle_since[page as usize]);
        }
        *holders += 1;
    }

    fn forget(&mut self, page: u32) {
        if let Some((content, _)) = self.names[page as usize].take() {
            self.known.remove(&content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn slots(text: &str) -> Vec<u32> {
        text.bytes().map(u32::from).collect()
    }

    /// Reads a text as a sequence would: finds, reserves, fills, publishes.
    fn read(pages: &mut Pages, owner: u64, text: &str) -> (Held, usize) {
        let slots = slots(text);
        let mut held = Held::default();
        let found = pages.find(owner, &slots, slots.len() - 1, &mut held);
        assert!(pages.reserve(&mut held, slots.len()));
        pages.publish(owner, &slots, slots.len(), &mut held);
        (held, found)
    }

    #[test]
    fn texts_that_begin_alike_share_pages_with_the_same_adapter_only() {
        let mut pages = Pages::new(16, 2, true);
        let (first, found) = read(&mut pages, 0, "abcdef");
        assert_eq!(found, 0);
        let (second, found) = read(&mut pages, 0, "abcdXY");
        assert_eq!(found, 4);
        assert_eq!(first.pages[..2], second.pages[..2]);
        let (_, found) = read(&mut pages, 7, "abcdef");
        assert_eq!(found, 0, "another adapter");
        // The same page behind another one is another content.
        let (_, found) = read(&mut pages, 0, "cdcdef");
        assert_eq!(found, 0);
    }

    #[test]
    fn the_last_slot_is_never_found() {
        let mut pages = Pages::new(8, 2, true);
        let (mut held, _) = read(&mut pages, 0, "abcd");
        pages.release(&mut held);
        let (_, found) = read(&mut pages, 0, "abcd");
        assert_eq!(found, 2);
    }

    #[test]
    fn idle_pages_stay_known_until_their_room_is_needed() {
        let mut pages = Pages::new(4, 2, true);
        let (mut held, _) = read(&mut pages, 0, "abcdef");
        pages.release(&mut held);
        assert_eq!((pages.used(), pages.cached(), pages.available()), (0, 3, 4));
        let (mut held, found) = read(&mut pages, 0, "abXX");
        assert_eq!(found, 2);
        // "ef" was let go first, so its page is the one that went when there was no free one.
        let mut more = Held::default();
        assert!(pages.reserve(&mut more, 4));
        assert!(!pages.reserve(&mut Held::default(), 1));
        pages.release(&mut held);
        pages.release(&mut more);
        let (_, found) = read(&mut pages, 0, "abcdef");
        assert_eq!(found, 2);
    }

    #[test]
    fn an_owner_can_be_forgotten() {
        let mut pages = Pages::new(4, 2, true);
        let (mut held, _) = read(&mut pages, 3, "abcd");
        pages.release(&mut held);
        pages.forget_owner(3);
        assert_eq!((pages.cached(), pages.available()), (0, 4));
        assert_eq!(read(&mut pages, 3, "abcd").1, 0);
    }

    proptest! {
        /// Any mix of texts coming and going holds no page twice and ends with all pages there.
        #[test]
        fn nothing_is_lost(
            texts in prop::collection::vec(("[ab]{1,9}", 0u64..2), 1..40),
            sharing: bool,
        ) {
            let mut pages = Pages::new(12, 2, sharing);
            let mut running: Vec<Held> = Vec::new();
            for (text, owner) in texts {
                let slots = slots(&text);
                let mut held = Held::default();
                pages.find(owner, &slots, slots.len() - 1, &mut held);
                while !pages.reserve(&mut held, slots.len()) {
                    let mut oldest = running.remove(0);
                    pages.release(&mut oldest);
                }
                pages.publish(owner, &slots, slots.len(), &mut held);
                running.push(held);
                let mut holders = vec![0; 12];
                for held in &running {
                    held.pages.iter().for_each(|&page| holders[page as usize] += 1);
                }
                prop_assert_eq!(&holders, &pages.holders);
                let idle = pages.free.len() + pages.idle.len();
                let held = holders.iter().filter(|&&count| count > 0).count();
                prop_assert_eq!(idle + held, 12);
            }
            for mut held in running {
                pages.release(&mut held);
            }
            prop_assert_eq!(pages.available(), 12);
            prop_assert_eq!(pages.known.len(), pages.idle.len());
        }
    }
}

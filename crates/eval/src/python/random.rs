//! `random.Random`: the Mersenne Twister, and the methods that few-shot sampling and bootstraps call.

/// Words of state.
const N: usize = 624;
/// Distance of the recurrence.
const M: usize = 397;

/// Python's `random.Random(seed)`, draw for draw.
///
/// # Source
/// - Matsumoto and Nishimura 1998, MT19937, with Python's seeding by array (`Modules/_randommodule.c`)
/// - `Lib/random.py` of Python 3.11: `sample`, `choices`, `shuffle`, `_randbelow_with_getrandbits`
///
/// # Examples
/// ```
/// use flametune_eval::python::PythonRandom;
///
/// // random.Random(1234).sample(range(10), 3)
/// assert_eq!(PythonRandom::new(1234).sample(10, 3), Some(vec![7, 1, 0]));
/// ```
#[derive(Clone)]
pub struct PythonRandom {
    state: Box<[u32; N]>,
    next: usize,
}

impl std::fmt::Debug for PythonRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PythonRandom")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl PythonRandom {
    /// The generator that `random.Random(seed)` makes of an integer.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let words = [low(seed), low(seed >> 32)];
        let key = if words[1] == 0 {
            &words[..1]
        } else {
            &words[..]
        };
        let mut random = Self::from_word(19_650_218);
        let state = &mut random.state;
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed)
                .wrapping_add(key[j])
                .wrapping_add(u32::try_from(j).unwrap_or(u32::MAX));
            i += 1;
            j += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
            if j >= key.len() {
                j = 0;
            }
        }
        for _ in 0..N - 1 {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(u32::try_from(i).unwrap_or(u32::MAX));
            i += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        random
    }

    fn from_word(seed: u32) -> Self {
        let mut state = Box::new([0; N]);
        state[0] = seed;
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253_u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(u32::try_from(i).unwrap_or(u32::MAX));
        }
        Self { state, next: N }
    }

    fn word(&mut self) -> u32 {
        if self.next >= N {
            for k in 0..N {
                let y = (self.state[k] & 0x8000_0000) | (self.state[(k + 1) % N] & 0x7fff_ffff);
                let twist = if y & 1 == 0 { 0 } else { 0x9908_b0df };
                self.state[k] = self.state[(k + M) % N] ^ (y >> 1) ^ twist;
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`: 53 random bits in `[0, 1)`.
    pub fn random(&mut self) -> f64 {
        let a = self.word() >> 5;
        let b = self.word() >> 6;
        (f64::from(a) * 67_108_864.0 + f64::from(b)) / 9_007_199_254_740_992.0
    }

    /// `getrandbits(bits)` for at most 64 bits.
    fn bits(&mut self, bits: u32) -> u64 {
        match bits {
            0 => 0,
            1..=32 => u64::from(self.word() >> (32 - bits)),
            _ => {
                let first = u64::from(self.word());
                let second = u64::from(self.word() >> (64 - bits.min(64)));
                first | (second << 32)
            }
        }
    }

    /// `_randbelow(bound)`: uniform below `bound`, by rejection.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            return 0;
        }
        let bits = usize::BITS - bound.leading_zeros();
        loop {
            let drawn = self.bits(bits);
            match usize::try_from(drawn) {
                Ok(drawn) if drawn < bound => return drawn,
                _ => {}
            }
        }
    }

    /// The positions that `sample(population, k)` takes of a population of `n`; `None` when `k > n`.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        let mut set_size = 21_usize;
        if k > 5 {
            // 4 ** ceil(log(3k, 4)): 3k is no power of four, so the integer form is the same.
            let mut power = 1_usize;
            while power < k.saturating_mul(3) {
                power = power.saturating_mul(4);
            }
            set_size = set_size.saturating_add(power);
        }
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return Some(
                (0..k)
                    .map(|taken| {
                        let at = self.below(n - taken);
                        let chosen = pool[at];
                        pool[at] = pool[n - taken - 1];
                        chosen
                    })
                    .collect(),
            );
        }
        let mut seen = std::collections::HashSet::with_capacity(k);
        Some(
            (0..k)
                .map(|_| {
                    loop {
                        let at = self.below(n);
                        if seen.insert(at) {
                            return at;
                        }
                    }
                })
                .collect(),
        )
    }

    /// One position of `choices(population, k)`: `floor(random() * n)`.
    pub fn choice(&mut self, n: usize) -> usize {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "the product is at least zero and below n"
        )]
        let at = (self.random() * n as f64) as usize;
        at
    }

    /// `shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the low half is what is wanted"
)]
fn low(word: u64) -> u32 {
    word as u32
}

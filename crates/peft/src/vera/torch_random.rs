//! The numbers of torch's generator on the CPU, which a file without projections refers to.

const N: usize = 624;
const M: usize = 397;

/// The Mersenne Twister of 32 bits, seeded and read as torch does.
///
/// # Source
/// - Matsumoto and Nishimura 1998, Mersenne Twister, ACM TOMACS 8(1)
/// - reference: torch `ATen/core/MT19937RNGEngine.h`, `ATen/core/TransformationHelper.h`; golden
///   `fixtures/peft/vera`
#[derive(Debug, Clone)]
pub(super) struct TorchRandom {
    state: [u32; N],
    next: usize,
}

impl TorchRandom {
    /// The generator after `manual_seed(seed)`, which looks at the low 32 bits.
    #[expect(clippy::cast_possible_truncation, reason = "as torch")]
    pub(super) fn new(seed: u64) -> Self {
        let mut state = [0; N];
        state[0] = seed as u32;
        for i in 1..N {
            let before: u32 = state[i - 1];
            state[i] = (before ^ (before >> 30))
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        Self { state, next: N }
    }

    fn refill(&mut self) {
        for i in 0..N {
            let mixed = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    fn bits(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// The next `count` numbers of `uniform_(-bound, bound)` in f32: 24 random bits each.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "24 bits are exact, and bounds are rounded as torch rounds them"
    )]
    pub(super) fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        let (from, to) = (-bound as f32, bound as f32);
        (0..count)
            .map(|_| {
                let unit = (self.bits() & 0x00ff_ffff) as f32 / 16_777_216.0;
                // torch's kernel is compiled with fused multiplication and addition.
                unit.mul_add(to - from, from)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first and the ten thousandth output for the default seed (C++ standard, rand.predef).
        let mut random = TorchRandom::new(5489);
        assert_eq!(random.bits(), 3_499_211_612);
        for _ in 0..9998 {
            random.bits();
        }
        assert_eq!(random.bits(), 4_123_659_995);
    }
}

//! Random bytes as a value that is passed in, so that a test or a simulation can decide them.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random bytes: the system, or a sequence that a seed determines. Clones share the sequence.
#[derive(Clone)]
pub struct RandomBytes(Source);

#[derive(Clone)]
enum Source {
    System,
    Seeded(Arc<AtomicU64>),
}

impl RandomBytes {
    /// The system's generator (getrandom(2)).
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// The sequence of this seed, the same in every run (SplitMix64). Not for secrets.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(AtomicU64::new(seed))))
    }

    /// Returns the next bytes.
    pub fn bytes<const COUNT: usize>(&self) -> [u8; COUNT] {
        let mut bytes = [0; COUNT];
        match &self.0 {
            Source::System => getrandom::fill(&mut bytes).expect("the system has random bytes, see getrandom(2)"),
            Source::Seeded(state) => {
                for chunk in bytes.chunks_mut(8) {
                    let word = next_word(state).to_le_bytes();
                    chunk.copy_from_slice(&word[..chunk.len()]);
                }
            }
        }
        bytes
    }
}

impl fmt::Debug for RandomBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System => "RandomBytes(system)",
            Source::Seeded(_) => "RandomBytes(seeded)",
        })
    }
}

/// SplitMix64 by Guy Steele, Doug Lea and Christine Flood: "Fast splittable pseudorandom number generators" (2014).
fn next_word(state: &AtomicU64) -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut word = state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_sequence_that_clones_share() {
        let (first, second) = (RandomBytes::seeded(7), RandomBytes::seeded(7));
        let draws: Vec<[u8; 11]> = (0..3).map(|_| first.bytes()).collect();
        let shared = second.clone();
        assert_eq!(draws, [second.bytes(), shared.bytes(), second.bytes()]);
        assert_ne!(draws[0], draws[1]);
        assert_ne!(RandomBytes::seeded(8).bytes::<11>(), draws[0]);
    }

    #[test]
    fn the_system_does_not_repeat_itself() {
        let random = RandomBytes::system();
        assert_ne!(random.bytes::<16>(), random.bytes::<16>());
    }
}

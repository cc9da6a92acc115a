//! Counts and checksums of entries, so that two sides can be compared without sending the entries.
//!
//! A [`Checksum`] is the sum of a number per entry, so the order of the entries does not matter; a writer and its readers
//! get the same for the same entries, in either layout. It finds accidents, not malice.
//!
//! [`Tally`] keeps it up to date from changes alone. The sum needs what an entry was before, so 13 bytes per entry
//! (and the hash table's slack: 1.7 MB for 100,000 entries) are kept: a hash of the name, 31 bits of the entry's hash and one bit
//! that says whether the running list has named it.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hash, Hasher, RandomState};

use serde::{Deserialize, Serialize};

/// What entries add up to. Equal sets have equal checksums.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Checksum(u64);

impl Checksum {
    /// Counts an entry in. `name` is what follows the kind's prefix in its key.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        self.0 = self.0.wrapping_add(u64::from(entry_hash(name, value)));
    }

    /// The checksum of a whole set.
    pub fn of<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Checksum {
        let mut sum = Checksum::default();
        for (name, value) in entries {
            sum.add(name, value);
        }
        sum
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Checksum> for String {
    fn from(sum: Checksum) -> String {
        sum.to_string()
    }
}

impl TryFrom<String> for Checksum {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Checksum, Self::Error> {
        u64::from_str_radix(&text, 16).map(Checksum)
    }
}

/// The entries of one kind of one cluster, counted.
#[derive(Debug, Default)]
pub struct Tally {
    entries: HashMap<Name, Mark, BuildHasherDefault<Plain>>,
    /// Seeded per tally, so that a peer cannot choose names that collide.
    names: RandomState,
    sum: u64,
    /// Flips with every list.
    generation: bool,
}

impl Tally {
    #[must_use]
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn checksum(&self) -> Checksum {
        Checksum(self.sum)
    }

    /// A list begins: what it does not name is gone at [`Tally::listed`].
    pub fn relisting(&mut self) {
        // A list that broke off has left marks of both kinds: all of them become old ones.
        self.generation = !self.generation;
        let old = !self.generation;
        for mark in self.entries.values_mut() {
            mark.set_generation(old);
        }
    }

    pub fn put(&mut self, name: &str, value: &[u8]) {
        let mark = Mark::new(entry_hash(name, value), self.generation);
        let before = self.entries.insert(self.name(name), mark);
        let gone = before.map_or(0, Mark::weight);
        self.sum = self.sum.wrapping_sub(gone).wrapping_add(mark.weight());
    }

    pub fn delete(&mut self, name: &str) {
        if let Some(mark) = self.entries.remove(&self.name(name)) {
            self.sum = self.sum.wrapping_sub(mark.weight());
        }
    }

    pub fn listed(&mut self) {
        let (generation, sum) = (self.generation, &mut self.sum);
        self.entries.retain(|_, mark| {
            let keep = mark.generation() == generation;
            if !keep {
                *sum = sum.wrapping_sub(mark.weight());
            }
            keep
        });
    }

    pub fn clear(&mut self) {
        self.entries = HashMap::default();
        self.sum = 0;
    }

    fn name(&self, name: &str) -> Name {
        let hash = self.names.hash_one(name);
        Name([half(hash), half(hash >> 32)])
    }
}

/// A hash of a name, aligned to four bytes, so that a row of the table takes twelve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Name([u32; 2]);

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.0[0]) | u64::from(self.0[1]) << 32);
    }
}

/// Takes what is a hash already as it is.
#[derive(Debug, Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// 31 bits of an entry's hash, and the generation in the lowest bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark(u32);

impl Mark {
    fn new(entry: u32, generation: bool) -> Mark {
        Mark(entry << 1 | u32::from(generation))
    }

    fn weight(self) -> u64 {
        u64::from(self.0 >> 1)
    }

    fn generation(self) -> bool {
        self.0 & 1 == 1
    }

    fn set_generation(&mut self, generation: bool) {
        self.0 = self.0 & !1 | u32::from(generation);
    }
}

/// 31 bits that depend on every byte of both, the same in every process and version.
fn entry_hash(name: &str, value: &[u8]) -> u32 {
    let hash = absorb(absorb(0, name.as_bytes()), value);
    half(finish(hash)) >> 1
}

/// Odd, with bits spread evenly: the golden ratio's fraction, as in Knuth's multiplicative hashing.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn absorb(mut hash: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        hash = step(hash, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The length parts the name from the value, and zeros at the end from nothing.
    step(step(hash, u64::from_le_bytes(last)), bytes.len() as u64)
}

fn step(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(GOLDEN);
    mixed ^ mixed >> 29
}

fn finish(hash: u64) -> u64 {
    let mixed = (hash ^ hash >> 32).wrapping_mul(GOLDEN);
    mixed ^ mixed >> 32
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn half(word: u64) -> u32 {
    word as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checksums_do_not_change_between_versions() {
        let sum = Checksum::of([("a/b", &b"hello, world"[..]), ("c", b"")]);
        assert_eq!(sum.to_string(), "00000000b9a03e59");
        let json = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<Checksum>(&json).unwrap(), sum);
    }

    #[test]
    fn near_entries_differ() {
        let texts: [(&str, &[u8]); 8] = [
            ("", b""),
            ("a", b""),
            ("", b"a"),
            ("a", b"a"),
            ("aa", b""),
            ("a", b"\0"),
            ("a", b"\0\0"),
            ("a", b"12345678"),
        ];
        let hashes: std::collections::BTreeSet<u32> = texts.iter().map(|(n, v)| entry_hash(n, v)).collect();
        assert_eq!(hashes.len(), texts.len());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8),
        Delete(u8),
        /// A list of these; cut off before its end, or not.
        List(Vec<(u8, u8)>, bool),
    }

    fn step_strategy() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..20u8, 0..4u8).prop_map(|(n, v)| Step::Put(n, v)),
            (0..20u8).prop_map(Step::Delete),
            (prop::collection::vec((0..20u8, 0..4u8), 0..10), any::<bool>()).prop_map(|(l, cut)| Step::List(l, cut)),
        ]
    }

    proptest! {
        #[test]
        fn a_tally_agrees_with_the_set(steps in prop::collection::vec(step_strategy(), 0..60)) {
            let (mut tally, mut set) = (Tally::default(), BTreeMap::new());
            let put = |tally: &mut Tally, set: &mut BTreeMap<String, [u8; 1]>, n: u8, v: u8| {
                tally.put(&n.to_string(), &[v]);
                set.insert(n.to_string(), [v]);
            };
            for step in steps {
                match step {
                    Step::Put(n, v) => put(&mut tally, &mut set, n, v),
                    Step::Delete(n) => {
                        tally.delete(&n.to_string());
                        set.remove(&n.to_string());
                    }
                    Step::List(list, cut) => {
                        tally.relisting();
                        if !cut {
                            set.clear();
                        }
                        for (n, v) in list {
                            put(&mut tally, &mut set, n, v);
                        }
                        if !cut {
                            tally.listed();
                        }
                    }
                }
                prop_assert_eq!(tally.count(), set.len());
                let whole = Checksum::of(set.iter().map(|(n, v)| (n.as_str(), v.as_slice())));
                prop_assert_eq!(tally.checksum(), whole);
            }
        }
    }
}

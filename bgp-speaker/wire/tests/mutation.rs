//! Mutates what real speakers sent, always in the same way, and asks of the result what the fuzz targets ask.
//!
//! Runs a bounded number of inputs; `CAUSEWAY_FUZZ_CASES=300000000` (`make soak`) is for a night.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

#[path = "common/captures.rs"]
mod captures;
#[path = "../../../tests/fuzz/src/targets.rs"]
mod targets;

/// Enough for every mutation of every capture, in a few seconds.
const CASES: u64 = 1_000_000;

#[test]
fn mutated_captures_do_no_harm() {
    #[allow(clippy::disallowed_methods, reason = "the size of a test, not the codec's configuration")]
    let cases = std::env::var("CAUSEWAY_FUZZ_CASES")
        .map_or(CASES, |text| text.parse().expect("CAUSEWAY_FUZZ_CASES is a number"));
    let seeds: Vec<Vec<u8>> = captures::captures().into_iter().map(|(_, octets)| octets).collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for case in 0..cases {
        let seed = random.pick(&seeds);
        let mut input = seed.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &seeds, &mut random);
        }
        let choice = u8::try_from(random.below(32)).unwrap();
        match case % 4 {
            0 => targets::stream(&[&[choice], input.as_slice()].concat()),
            1 if seed.get(18) == Some(&1) => targets::open(input.get(19..).unwrap_or_default()),
            _ => targets::update(&[&[choice], input.get(19..).unwrap_or_default()].concat()),
        }
    }
    println!("{cases} inputs from {} captures", seeds.len());
}

fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let interesting = [0, 1, 2, 3, 4, 5, 7, 8, 14, 15, 16, 17, 18, 24, 32, 33, 64, 127, 128, 129, 254, 255];
    let at = random.below(input.len());
    match random.below(9) {
        0 => flip(input, at, random),
        1 => set(input, at, *random.pick(&interesting)),
        2 => set(input, at, u8::try_from(random.below(256)).unwrap()),
        3 => input.insert(at, *random.pick(&interesting)),
        4 => drop(input.splice(at..(at + random.below(8)).min(input.len()), [])),
        5 => {
            let copied = input[at..(at + random.below(40)).min(input.len())].to_vec();
            let to = random.below(input.len());
            drop(input.splice(to..to, copied));
        }
        6 => {
            let other = random.pick(seeds);
            let from = random.below(other.len());
            let piece = other[from..(from + random.below(60)).min(other.len())].to_vec();
            drop(input.splice(at..at, piece));
        }
        7 => input.truncate(at),
        // A length that is a little off: the classic of parsers.
        _ => {
            let near = input.get(at).map_or(0, |octet| octet.wrapping_add(u8::try_from(random.below(3)).unwrap()));
            set(input, at, near.wrapping_sub(1));
        }
    }
}

fn set(input: &mut [u8], at: usize, octet: u8) {
    if let Some(place) = input.get_mut(at) {
        *place = octet;
    }
}

fn flip(input: &mut [u8], at: usize, random: &mut Random) {
    if let Some(place) = input.get_mut(at) {
        *place ^= 1 << random.below(8);
    }
}

/// xorshift64*: the same numbers on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// 0 for 0.
    fn below(&mut self, limit: usize) -> usize {
        let limit = u64::try_from(limit).unwrap();
        usize::try_from((self.next() >> 16) % limit.max(1)).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

//! Hostile variations of valid bytes, each a function of a seed and a number.
//!
//! The input number `n` under seed `s` never changes, so a failure is repeated by its two numbers alone.

/// No input is longer: every decoder of ours refuses by length first, and short inputs run faster.
pub const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Bytes that often sit on an edge: lengths, tags and terminators of CBOR, protobuf and text.
const EDGES: &[u8] =
    &[0x00, 0x01, 0x18, 0x1b, 0x3b, 0x5b, 0x5f, 0x7f, 0x80, 0x9b, 0x9f, 0xbb, 0xbf, 0xd8, 0xfb, 0xff];

/// A small deterministic generator (splitmix64).
pub struct Random(u64);

impl Random {
    /// Starts the sequence for one input.
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Self(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`, or 0 if the bound is 0.
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }
}

/// Returns input number `number` under `seed`, grown from `corpus`. The first inputs are the corpus itself.
pub fn input(corpus: &[Vec<u8>], seed: u64, number: u64) -> Vec<u8> {
    if let Some(start) = usize::try_from(number).ok().and_then(|index| corpus.get(index)) {
        return start.clone();
    }
    let mut random = Random::new(seed, number);
    let mut bytes = match corpus.len() {
        0 => Vec::new(),
        count => corpus[random.below(count)].clone(),
    };
    for _ in 0..1 + random.below(4) {
        change(&mut bytes, corpus, &mut random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len());
    let length = 1 + random.below(bytes.len().saturating_sub(at).min(64));
    let end = (at + length).min(bytes.len());
    match random.below(10) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
        1 if !bytes.is_empty() => bytes[at] = EDGES[random.below(EDGES.len())],
        2 if !bytes.is_empty() => bytes[at] = random.next() as u8,
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let piece = bytes[at..end].to_vec();
            let repeats = 1 + random.below(16);
            bytes.splice(at..at, piece.repeat(repeats));
        }
        6 => {
            let noise: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
            bytes.splice(at..at, noise);
        }
        7 if !corpus.is_empty() => {
            let other = &corpus[random.below(corpus.len())];
            let cut = random.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[cut..]);
        }
        // A length field that promises far more than follows.
        8 => {
            let width = [1, 2, 4, 8][random.below(4)];
            let lie = [u64::MAX, u64::MAX >> 1, 1 << 32, 1 << 20][random.below(4)].to_be_bytes();
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, lie[8 - width..].iter().copied());
        }
        // Nesting: many copies of a byte that opens something.
        _ => {
            let opener = [0x81, 0x9f, 0xa1, 0xc1, b'[', b'{', b'('][random.below(7)];
            bytes.splice(at..at, vec![opener; 1 << random.below(13)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_a_function_of_its_seed_and_number() {
        let corpus = vec![b"one".to_vec(), b"two".to_vec()];
        assert_eq!(input(&corpus, 1, 0), b"one");
        let inputs = |seed| (0..500).map(|number| input(&corpus, seed, number)).collect::<Vec<_>>();
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        assert!(inputs(7).iter().all(|bytes| bytes.len() <= INPUT_BYTES_MAX));
        assert_eq!(input(&[], 1, 5).len(), input(&[], 1, 5).len());
    }
}

//! HMAC-SHA1 (RFC 2104) of several messages at once on the processor's SHA instructions: one message waits for each of
//! its rounds, several fill each other's waits. No SHA-1 for everybody: where those instructions are missing there is
//! no [`LaneKey`], and the `hmac` crate does it all. Called by `srtp_cm` for the tags of what leaves.

use std::array;
use std::cmp::Reverse;

/// Messages at once.
pub(super) const LANES: usize = 4;
pub(super) const DIGEST_LEN: usize = 20;
const BLOCK_LEN: usize = 64;

type Block = [u8; BLOCK_LEN];
type State = [u32; 5];

/// FIPS 180-4 section 5.3.1.
const START: State = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];

/// A key, of which both blocks are hashed already.
#[derive(Clone, Copy)]
pub(super) struct LaneKey {
    inner: State,
    outer: State,
    hasher: Hasher,
}

impl LaneKey {
    /// None where the processor has no SHA instructions.
    pub(super) fn new(key: &[u8; DIGEST_LEN]) -> Option<LaneKey> {
        let hasher = Hasher::detect()?;
        let mut states = [START; LANES];
        let blocks: [Block; 2] = [0x36, 0x5C].map(|pad| {
            let mut block = [pad; BLOCK_LEN];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            block
        });
        hasher.hash(&mut states, |lane| blocks.get(lane..lane + 1));
        Some(LaneKey { inner: states[0], outer: states[1], hasher })
    }
}

/// A packet, and what is authenticated behind it.
#[derive(Clone, Copy)]
pub(super) struct LaneMessage<'a> {
    pub(super) key: &'a LaneKey,
    pub(super) packet: &'a [u8],
    pub(super) tail: [u8; 4],
}

/// The tags of the first [`LANES`] messages, in their order.
pub(super) fn authenticate(messages: &[LaneMessage<'_>]) -> [[u8; DIGEST_LEN]; LANES] {
    let Some(hasher) = messages.first().map(|message| message.key.hasher) else { return [[0; DIGEST_LEN]; LANES] };
    let mut states = array::from_fn(|lane| messages.get(lane).map_or(START, |message| message.key.inner));
    hasher.hash(&mut states, |lane| Some(messages.get(lane)?.packet.as_chunks().0));
    let mut ends = [End::EMPTY; LANES];
    for (end, LaneMessage { packet, tail, .. }) in ends.iter_mut().zip(messages) {
        end.fill(packet, tail);
    }
    hasher.hash(&mut states, |lane| Some(ends[lane].blocks()));
    for ((end, state), message) in ends.iter_mut().zip(&mut states).zip(messages) {
        *end = End::EMPTY;
        end.fill(&bytes(state), &[]);
        *state = message.key.outer;
    }
    hasher.hash(&mut states, |lane| Some(ends[lane].blocks()));
    states.map(|state| bytes(&state))
}

fn bytes(state: &State) -> [u8; DIGEST_LEN] {
    let mut bytes = [0; DIGEST_LEN];
    bytes.as_chunks_mut().0.iter_mut().zip(state).for_each(|(bytes, word)| *bytes = word.to_be_bytes());
    bytes
}

/// The last one or two blocks of a text: what is left of it, a one, zeros, its length (FIPS 180-4 section 5.1.1).
#[derive(Clone, Copy)]
struct End {
    blocks: [Block; 2],
    count: usize,
}

impl End {
    const EMPTY: End = End { blocks: [[0; BLOCK_LEN]; 2], count: 0 };

    /// With the end of `text` and with `tail`, which follow the block of the key.
    fn fill(&mut self, text: &[u8], tail: &[u8]) {
        let bits = 8 * (BLOCK_LEN + text.len() + tail.len()) as u64;
        let left = text.as_chunks::<BLOCK_LEN>().1;
        self.count = if left.len() + tail.len() + 9 > BLOCK_LEN { 2 } else { 1 };
        let bytes = self.blocks.as_flattened_mut();
        bytes[..left.len()].copy_from_slice(left);
        bytes[left.len()..][..tail.len()].copy_from_slice(tail);
        bytes[left.len() + tail.len()] = 0x80;
        bytes[self.count * BLOCK_LEN - 8..][..8].copy_from_slice(&bits.to_be_bytes());
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks[..self.count]
    }
}

/// A text on its way through [`Hasher::hash`].
#[derive(Clone, Copy)]
struct Lane<'a> {
    state: State,
    blocks: &'a [Block],
    number: usize,
}

/// There is one only where the processor has the instructions.
#[derive(Clone, Copy)]
struct Hasher(Proof);

#[cfg(not(target_arch = "x86_64"))]
type Proof = std::convert::Infallible;
#[cfg(target_arch = "x86_64")]
type Proof = ();

impl Hasher {
    fn detect() -> Option<Hasher> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("sha") && is_x86_feature_detected!("ssse3") && is_x86_feature_detected!("sse4.1") {
            return Some(Hasher(()));
        }
        None
    }

    /// Takes each state through its lane's blocks, whose numbers may differ.
    fn hash<'a>(self, states: &mut [State; LANES], blocks: impl Fn(usize) -> Option<&'a [Block]>) {
        let mut lanes: [Lane<'a>; LANES] =
            array::from_fn(|number| Lane { state: states[number], blocks: blocks(number).unwrap_or_default(), number });
        // The longest first: those that go on longer then stand side by side, and all that move on keep the order.
        lanes.sort_unstable_by_key(|lane| Reverse(lane.blocks.len()));
        loop {
            match lanes.partition_point(|lane| !lane.blocks.is_empty()) {
                0 => break,
                1 => self.compress::<1>(&mut lanes),
                2 => self.compress::<2>(&mut lanes),
                3 => self.compress::<3>(&mut lanes),
                _ => self.compress::<LANES>(&mut lanes),
            }
        }
        lanes.iter().for_each(|lane| states[lane.number] = lane.state);
    }

    /// Takes the first `N` lanes as far as the shortest goes.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "instructions that a processor may not have"))]
    fn compress<const N: usize>(self, lanes: &mut [Lane<'_>; LANES]) {
        let Some(lanes) = lanes.first_chunk_mut::<N>() else { return };
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `detect`, which alone makes a `Hasher`, has seen all features that the function needs.
        unsafe {
            x86::compress(lanes);
        }
        #[cfg(not(target_arch = "x86_64"))]
        match (self.0, lanes) {}
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Block, Lane};
    use core::arch::x86_64::*;

    /// FIPS 180-4 section 6.1.2: 80 rounds a block, four an instruction, of all lanes in turn.
    #[target_feature(enable = "sha,ssse3,sse4.1")]
    pub(super) fn compress<const N: usize>(lanes: &mut [Lane<'_>; N]) {
        let count = lanes.iter().map(|lane| lane.blocks.len()).min().unwrap_or(0);
        let (mut abcd, mut e) = ([_mm_setzero_si128(); N], [_mm_setzero_si128(); N]);
        for lane in 0..N {
            let state = lanes[lane].state.map(u32::cast_signed);
            abcd[lane] = _mm_set_epi32(state[0], state[1], state[2], state[3]);
            e[lane] = _mm_set_epi32(state[4], 0, 0, 0);
        }
        for at in 0..count {
            let (abcd_before, e_before) = (abcd, e);
            let mut words = [[_mm_setzero_si128(); 4]; N];
            for lane in 0..N {
                words[lane] = load(&lanes[lane].blocks[at]);
            }
            macro_rules! rounds {
                ($function:literal: $($four:literal)*) => {$(
                    for lane in 0..N {
                        let words = &mut words[lane];
                        if $four >= 4 {
                            let next = _mm_sha1msg1_epu32(words[$four % 4], words[($four + 1) % 4]);
                            let next = _mm_xor_si128(next, words[($four + 2) % 4]);
                            words[$four % 4] = _mm_sha1msg2_epu32(next, words[($four + 3) % 4]);
                        }
                        let word = words[$four % 4];
                        let input = match $four {
                            0 => _mm_add_epi32(e[lane], word),
                            _ => _mm_sha1nexte_epu32(e[lane], word),
                        };
                        e[lane] = abcd[lane];
                        abcd[lane] = _mm_sha1rnds4_epu32::<$function>(abcd[lane], input);
                    }
                )*};
            }
            rounds!(0: 0 1 2 3 4);
            rounds!(1: 5 6 7 8 9);
            rounds!(2: 10 11 12 13 14);
            rounds!(3: 15 16 17 18 19);
            for lane in 0..N {
                abcd[lane] = _mm_add_epi32(abcd[lane], abcd_before[lane]);
                e[lane] = _mm_sha1nexte_epu32(e[lane], e_before[lane]);
            }
        }
        for lane in 0..N {
            let state = [
                _mm_extract_epi32::<3>(abcd[lane]),
                _mm_extract_epi32::<2>(abcd[lane]),
                _mm_extract_epi32::<1>(abcd[lane]),
                _mm_extract_epi32::<0>(abcd[lane]),
                _mm_extract_epi32::<3>(e[lane]),
            ];
            lanes[lane].state = state.map(i32::cast_unsigned);
            lanes[lane].blocks = &lanes[lane].blocks[count..];
        }
    }

    /// Sixteen big-endian words, the first of each four on top.
    #[target_feature(enable = "ssse3")]
    fn load(block: &Block) -> [__m128i; 4] {
        let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0A0B_0C0D_0E0F);
        let mut words = [_mm_setzero_si128(); 4];
        for (four, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
            let bytes = u128::from_le_bytes(*bytes);
            *four = _mm_shuffle_epi8(_mm_set_epi64x((bytes >> 64) as i64, bytes as i64), order);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hmac::{Hmac, Mac};
    use rand::{Rng, SeedableRng, rngs::StdRng};
    use sha1::Sha1;

    struct Sample {
        key: [u8; DIGEST_LEN],
        lanes: LaneKey,
        packet: Vec<u8>,
        tail: [u8; 4],
    }

    impl Sample {
        /// None where this machine cannot tell.
        fn random(rng: &mut StdRng, len: usize) -> Option<Sample> {
            let key = rng.random();
            let packet = (0..len).map(|_| rng.random()).collect();
            Some(Sample { key, lanes: LaneKey::new(&key)?, packet, tail: rng.random() })
        }

        fn tag(&self) -> [u8; DIGEST_LEN] {
            let mac = <Hmac<Sha1> as Mac>::new_from_slice(&self.key).unwrap();
            mac.chain_update(&self.packet).chain_update(self.tail).finalize().into_bytes().into()
        }
    }

    fn compare(samples: &[Sample]) {
        let messages: Vec<_> = samples
            .iter()
            .map(|Sample { lanes, packet, tail, .. }| LaneMessage { key: lanes, packet, tail: *tail })
            .collect();
        let tags = authenticate(&messages);
        for (sample, tag) in samples.iter().zip(tags) {
            let lens: Vec<_> = samples.iter().map(|sample| sample.packet.len()).collect();
            assert_eq!(tag, sample.tag(), "{} bytes among {lens:?}", sample.packet.len());
        }
    }

    #[test]
    fn each_length_has_the_tag_that_the_hmac_crate_gives_it() {
        let mut rng = StdRng::seed_from_u64(1);
        for len in (0..=300).chain(1_140..1_260).chain([1_472, 1_499, 1_500]) {
            for count in 1..=LANES {
                let Some(samples) = (0..count).map(|_| Sample::random(&mut rng, len)).collect::<Option<Vec<_>>>()
                else {
                    return;
                };
                compare(&samples);
            }
        }
    }

    #[test]
    fn lengths_and_keys_mix() {
        let mut rng = StdRng::seed_from_u64(2);
        for round in 0..5_000 {
            let longest = if round % 2 == 0 { 200 } else { 1_500 };
            let lens: Vec<usize> = (0..=rng.random_range(0..LANES)).map(|_| rng.random_range(0..=longest)).collect();
            let samples = lens.iter().map(|len| Sample::random(&mut rng, *len)).collect::<Option<Vec<_>>>();
            let Some(samples) = samples else { return };
            compare(&samples);
        }
        assert_eq!(authenticate(&[]), [[0; DIGEST_LEN]; LANES]);
    }
}

//! Whether a stream's payload descriptors can be believed: where whole payloads are encrypted end to end, there is
//! noise in their place. An encoder's descriptors have the same fields in every packet; in noise, fields come and go.
//! One per encoding; `router` feeds it what `wire::codec` read of each packet.

use crate::wire::codec::PayloadInfo;

/// The weight of a packet whose fields differ from the one before, or that is garbled; any other takes away 1.
const CHANGE: u8 = 8;
const NOISE: u8 = 3 * CHANGE;
const NOISE_MAX: u8 = 8 * CHANGE;

#[derive(Clone, Copy, Debug, Default)]
pub struct Legibility {
    /// Whether the newest packet had a picture id, and a TL0PICIDX.
    fields: Option<(bool, bool)>,
    noise: u8,
}

impl Legibility {
    pub fn on_packet(&mut self, info: &PayloadInfo) {
        let fields = (info.picture.is_some(), info.tl0_picture_index.is_some());
        let odd = match self.fields.replace(fields) {
            Some(before) if before != fields => true,
            _ => info.garbled && fields == (false, false),
        };
        self.noise = if odd { (self.noise + CHANGE).min(NOISE_MAX) } else { self.noise.saturating_sub(1) };
    }

    pub fn is_legible(&self) -> bool {
        self.noise < NOISE
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::wire::codec::{Codec, inspect};

    #[test]
    fn noise_is_told_within_a_few_packets_and_for_as_long_as_it_lasts() {
        for codec in [Codec::Vp8, Codec::Vp9, Codec::H264] {
            let mut rng = StdRng::seed_from_u64(1);
            let mut legibility = Legibility::default();
            let mut packet =
                |legibility: &mut Legibility| legibility.on_packet(&inspect(codec, &rng.random::<[u8; 64]>()));
            for _ in 0..40 {
                packet(&mut legibility);
            }
            for n in 0..1_000_000 {
                packet(&mut legibility);
                assert!(!legibility.is_legible(), "{codec:?} {n}");
            }
        }
    }

    #[test]
    fn an_encoder_is_believed_whatever_few_odd_packets_come() {
        let [whole, bare] =
            [&[0x90, 0xE0, 0x80, 1, 2, 0, 1][..], &[0x10, 1]].map(|payload| inspect(Codec::Vp8, payload));
        let mut legibility = Legibility::default();
        for n in 0..1_000 {
            legibility.on_packet(if n % 50 == 49 { &bare } else { &whole });
            assert!(legibility.is_legible(), "{n}");
        }
        for n in 0..8 {
            legibility.on_packet(if n % 2 == 0 { &bare } else { &whole });
        }
        assert!(!legibility.is_legible());
        for _ in 0..NOISE_MAX {
            legibility.on_packet(&whole);
        }
        assert!(legibility.is_legible(), "the encryption was switched off");
    }
}

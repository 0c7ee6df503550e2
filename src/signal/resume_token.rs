//! The token by which a peer's next socket takes it up: sealed with a key of the process, so that nobody can make or
//! read one, and good once. It says which peer and which of its tokens it is, and nothing else.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::base::id::PeerId;

/// RosterOp apart from whatever else the key could ever seal.
const PURPOSE: &[u8] = b"weirgate resume token";
const CONTENT: usize = 16;
const SEALED: usize = NONCE_LEN + CONTENT + 16;

/// The content of a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ResumeTicket {
    pub(super) peer: PeerId,
    /// The number of the token among those of its peer.
    pub(super) number: u64,
}

pub(super) struct TokenSealer {
    key: LessSafeKey,
}

impl TokenSealer {
    pub(super) fn new(key: &[u8; 32]) -> TokenSealer {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("a key of AES-256 has 32 bytes");
        TokenSealer { key: LessSafeKey::new(key) }
    }

    /// In hex, which passes through URLs and names of subprotocols. `nonce` is drawn for this token alone (NIST SP
    /// 800-38D section 8.2.2: random ones do for 2^32 tokens of a key).
    pub(super) fn seal(&self, nonce: [u8; NONCE_LEN], ticket: ResumeTicket) -> String {
        let mut content = [0; CONTENT];
        content[..8].copy_from_slice(&ticket.peer.0.to_be_bytes());
        content[8..].copy_from_slice(&ticket.number.to_be_bytes());
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(PURPOSE), &mut content)
            .expect("16 bytes are not too long");
        let bytes = nonce.iter().chain(&content).chain(tag.as_ref());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// None: it is none of ours.
    pub(super) fn open(&self, token: &str) -> Option<ResumeTicket> {
        let mut sealed = unhex(token)?;
        let (nonce, sealed) = sealed.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let content = self.key.open_in_place(nonce, Aad::from(PURPOSE), sealed).ok()?;
        let (peer, number) = content.split_at_checked(8)?;
        let number_of = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
        Some(ResumeTicket { peer: PeerId(number_of(peer)?), number: number_of(number)? })
    }
}

/// The one text of a token, so that none has two.
fn unhex(token: &str) -> Option<[u8; SEALED]> {
    let digits = token.as_bytes();
    if digits.len() != 2 * SEALED {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; SEALED];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// Which of a peer's tokens is good. The one that opened its present socket stays so until the client has said something
/// there: before that the next token may have been lost with the connection.
#[derive(Debug)]
pub(super) struct GoodTokens {
    next: u64,
    unconfirmed: Option<u64>,
}

impl Default for GoodTokens {
    fn default() -> GoodTokens {
        GoodTokens { next: 1, unconfirmed: None }
    }
}

impl GoodTokens {
    /// The number of the token to give out.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn admits(&self, number: u64) -> bool {
        number == self.next || self.unconfirmed == Some(number)
    }

    /// One that is good opened a socket.
    pub(super) fn used(&mut self, number: u64) {
        self.unconfirmed = Some(number);
        self.next = self.next.max(number + 1);
    }

    /// The client has spoken on the socket that it opened, and so it has the next one.
    pub(super) fn confirmed(&mut self) {
        self.unconfirmed = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICKET: ResumeTicket = ResumeTicket { peer: PeerId(7), number: 3 };

    #[test]
    fn a_token_opens_with_its_key_alone_and_in_no_other_form() {
        let sealer = TokenSealer::new(&[1; 32]);
        let token = sealer.seal([9; NONCE_LEN], TICKET);
        assert_eq!(sealer.open(&token), Some(TICKET));
        assert_eq!(TokenSealer::new(&[2; 32]).open(&token), None, "of another process");
        assert!(!token.contains("00000007") && token.len() == 2 * SEALED);
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        let others =
            ["", &token[2..], &format!("{token}00"), &token.to_uppercase(), &"é".repeat(SEALED), &"0".repeat(88)];
        for other in others {
            assert_eq!(sealer.open(other), None, "{other}");
        }
    }

    #[test]
    fn one_changed_digit_anywhere_forges_nothing() {
        let sealer = TokenSealer::new(&[1; 32]);
        let token = sealer.seal([9; NONCE_LEN], TICKET);
        for at in 0..token.len() {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(sealer.open(&String::from_utf8(forged).unwrap()), None, "digit {at}");
        }
    }

    #[test]
    fn a_token_is_good_until_the_client_has_the_next() {
        let mut tokens = GoodTokens::default();
        assert!(tokens.admits(1) && !tokens.admits(0) && !tokens.admits(2));
        tokens.used(1);
        assert!(tokens.admits(1) && tokens.admits(2), "the answer may have been lost");
        tokens.used(1);
        assert_eq!((tokens.next(), tokens.admits(1)), (2, true));
        tokens.confirmed();
        assert!(!tokens.admits(1) && tokens.admits(2));
        tokens.used(2);
        assert!(!tokens.admits(1) && tokens.admits(2) && tokens.admits(3));
    }
}

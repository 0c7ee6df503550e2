//! Everything that stands between a datagram and its plaintext: the DTLS handshake behind its gate, the certificate it
//! presents, and SRTP with the keys it yields. Knows bytes and keys, neither streams nor peers. Called by `transport`.

pub mod certificate;
mod dropped;
pub mod dtls;
pub mod lane;
pub mod srtp;

pub use self::dropped::SecureDrop;

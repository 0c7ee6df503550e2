//! A key that tokens are checked with. The algorithm is the key's: what a token says of it only has to be the same
//! (RFC 8725 section 3.1).

use std::fmt;

use ring::hmac;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};

pub(super) enum Material {
    Hs256(hmac::Key),
    /// RFC 8017: modulus and exponent, without leading zeros.
    Rs256 {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    Ed25519([u8; 32]),
}

pub(super) struct TokenKey {
    /// The name under which a JWKS lists it.
    pub(super) kid: Option<String>,
    pub(super) material: Material,
}

/// What RFC 7518 section 3.2 asks of a secret for HS256.
pub(super) const SECRET_BYTES_MIN: usize = 32;
/// What ring verifies; RFC 7518 section 3.3 has the lower bound.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

impl Material {
    /// None: it is shorter than [`SECRET_BYTES_MIN`].
    pub(super) fn secret(secret: &[u8]) -> Option<Material> {
        let long = secret.len() >= SECRET_BYTES_MIN;
        long.then(|| Material::Hs256(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// None: its length is none that is taken here, or the exponent is none of RSA.
    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Option<Material> {
        let strip = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let (n, e) = (strip(n), strip(e));
        let bits = n.len() * 8 - n.first().map_or(0, |byte| byte.leading_zeros() as usize);
        let exponent = e.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let fits = RSA_BITS.contains(&bits) && n.last().is_some_and(|byte| byte % 2 == 1);
        (fits && e.len() <= 4 && exponent >= 3 && exponent % 2 == 1).then_some(Material::Rs256 { n, e })
    }
}

impl TokenKey {
    /// Whether a token with this header may be this key's. A token without `kid` may be any's.
    pub(super) fn is_for(&self, alg: &str, kid: Option<&str>) -> bool {
        let same = match self.material {
            Material::Hs256(_) => alg == "HS256",
            Material::Rs256 { .. } => alg == "RS256",
            // RFC 8037 section 3.1, and its name by RFC 9864.
            Material::Ed25519(_) => matches!(alg, "EdDSA" | "Ed25519"),
        };
        same && match (&self.kid, kid) {
            (Some(own), Some(kid)) => own == kid,
            _ => true,
        }
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Hs256(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Rs256 { n, e } => {
                let key = RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            Material::Ed25519(key) => {
                UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signature).is_ok()
            }
        }
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let alg = match self.material {
            Material::Hs256(_) => "HS256",
            Material::Rs256 { .. } => "RS256",
            Material::Ed25519(_) => "EdDSA",
        };
        write!(f, "a key for {alg}, kid {:?}", self.kid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_one_algorithm_and_one_name() {
        let key = |kid: Option<&str>| TokenKey {
            kid: kid.map(str::to_owned),
            material: Material::secret(&[7; SECRET_BYTES_MIN]).expect("it is long enough"),
        };
        assert!(key(None).is_for("HS256", None) && key(None).is_for("HS256", Some("x")));
        assert!(key(Some("a")).is_for("HS256", None) && key(Some("a")).is_for("HS256", Some("a")));
        assert!(!key(Some("a")).is_for("HS256", Some("b")));
        for alg in ["none", "HS384", "RS256", "EdDSA", "hs256", ""] {
            assert!(!key(None).is_for(alg, None), "{alg}");
        }
        assert!(Material::secret(&[7; SECRET_BYTES_MIN - 1]).is_none());
        assert!(!format!("{:?}", key(None)).contains('7'));
    }

    #[test]
    fn an_rsa_key_has_a_length_and_an_exponent() {
        let n = |bytes: usize| [vec![0, 0xc0], vec![1; bytes - 1]].concat();
        assert!(Material::rsa(&n(256), &[1, 0, 1]).is_some() && Material::rsa(&n(256), &[0, 0, 3]).is_some());
        for (n, e) in [
            (n(255), vec![1, 0, 1]),
            (n(1_025), vec![1, 0, 1]),
            (vec![], vec![1, 0, 1]),
            ([vec![0xc0; 255], vec![2]].concat(), vec![1, 0, 1]),
            (n(256), vec![1]),
            (n(256), vec![4]),
            (n(256), vec![]),
            (n(256), vec![1, 0, 0, 0, 1]),
        ] {
            assert!(Material::rsa(&n, &e).is_none(), "{} {e:?}", n.len());
        }
    }
}

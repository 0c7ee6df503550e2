//! The cryptography of the crate `dimpl` on `ring`, which everything else here stands on: its own back ends would bring a C
//! toolchain or a second family of RustCrypto crates. No algorithm is ours, only who calls whom. One suite of each version
//! of DTLS: the crate wants both, and 1.3 is never started.

use aes::cipher::{BlockEncrypt, KeyInit, generic_array::GenericArray};
use dimpl::crypto::{
    Aad, ActiveKeyExchange, Buf, Cipher, CryptoProvider, Dtls12CipherSuite, Dtls13CipherSuite, HashAlgorithm,
    HashContext, HashProvider, HmacProvider, KeyProvider, NamedGroup, Nonce, SecureRandom, SignatureAlgorithm,
    SignatureVerifier, SigningKey, SupportedDtls12CipherSuite, SupportedDtls13CipherSuite, SupportedKxGroup, TmpBuf,
};
use dimpl::{CryptoError, CryptoOperation};
use ring::aead::{self, AES_128_GCM, LessSafeKey, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, EcdsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use ring::{agreement, digest, hmac};
use std::cell::Cell;
use std::fmt;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};

const KEY_LEN: usize = 16;
const TAG_LEN: usize = 16;

thread_local! {
    /// Records that ciphers of this thread have opened.
    static OPENED: Cell<u64> = const { Cell::new(0) };
}

/// How many records were opened on this thread so far. The crate passes over those that do not open in silence.
pub(super) fn opened() -> u64 {
    OPENED.get()
}

pub(super) fn ring_provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: &[&Group(NamedGroup::X25519), &Group(NamedGroup::Secp256r1), &Group(NamedGroup::Secp384r1)],
        signature_verification: &Ring,
        key_provider: &Ring,
        secure_random: &Ring,
        hash_provider: &Ring,
        hmac_provider: &Ring,
        cipher_suites: &[&Ring],
        dtls13_cipher_suites: &[&Ring],
    }
}

#[derive(Debug)]
struct Ring;

fn failed(operation: CryptoOperation) -> CryptoError {
    CryptoError::OperationFailed(operation)
}

#[derive(Debug)]
struct Gcm(LessSafeKey);

impl Gcm {
    fn create(key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let key = UnboundKey::new(&AES_128_GCM, key).map_err(|_| failed(CryptoOperation::CreateCipher))?;
        Ok(Box::new(Gcm(LessSafeKey::new(key))))
    }
}

impl Cipher for Gcm {
    fn encrypt(&mut self, text: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        let (nonce, aad) = (aead::Nonce::assume_unique_for_key(nonce.0), aead::Aad::from(&aad[..]));
        let tag = self.0.seal_in_place_separate_tag(nonce, aad, text.as_mut());
        text.extend_from_slice(tag.map_err(|_| failed(CryptoOperation::Encrypt))?.as_ref());
        Ok(())
    }

    fn decrypt(&mut self, text: &mut TmpBuf<'_>, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        let (nonce, aad) = (aead::Nonce::assume_unique_for_key(nonce.0), aead::Aad::from(&aad[..]));
        let opened = self.0.open_in_place(nonce, aad, text.as_mut());
        let len = opened.map_err(|_| failed(CryptoOperation::Decrypt))?.len();
        text.truncate(len);
        OPENED.set(OPENED.get() + 1);
        Ok(())
    }
}

impl SupportedDtls12CipherSuite for Ring {
    fn suite(&self) -> Dtls12CipherSuite {
        Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    /// RFC 5288 section 3: no MAC key.
    fn key_lengths(&self) -> (usize, usize, usize) {
        (0, KEY_LEN, 4)
    }

    fn explicit_nonce_len(&self) -> usize {
        8
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        Gcm::create(key)
    }
}

impl SupportedDtls13CipherSuite for Ring {
    fn suite(&self) -> Dtls13CipherSuite {
        Dtls13CipherSuite::AES_128_GCM_SHA256
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn key_len(&self) -> usize {
        KEY_LEN
    }

    fn iv_len(&self) -> usize {
        12
    }

    fn tag_len(&self) -> usize {
        TAG_LEN
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        Gcm::create(key)
    }

    /// RFC 9147 section 4.2.3.
    fn encrypt_sn(&self, key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
        let mut block = GenericArray::from(*sample);
        aes::Aes128::new(GenericArray::from_slice(key)).encrypt_block(&mut block);
        block.into()
    }
}

#[derive(Debug)]
struct Group(NamedGroup);

impl Group {
    fn algorithm(&self) -> Option<&'static agreement::Algorithm> {
        match self.0 {
            NamedGroup::X25519 => Some(&agreement::X25519),
            NamedGroup::Secp256r1 => Some(&agreement::ECDH_P256),
            NamedGroup::Secp384r1 => Some(&agreement::ECDH_P384),
            _ => None,
        }
    }
}

impl SupportedKxGroup for Group {
    fn name(&self) -> NamedGroup {
        self.0
    }

    fn start_exchange(&self, mut public: Buf) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let algorithm = self.algorithm().ok_or(CryptoError::UnsupportedKeyExchangeGroup(self.0))?;
        let private = agreement::EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
            .map_err(|_| failed(CryptoOperation::GenerateEphemeralKey))?;
        let key = private.compute_public_key().map_err(|_| failed(CryptoOperation::ComputePublicKey))?;
        public.clear();
        public.extend_from_slice(key.as_ref());
        Ok(Box::new(Exchange { group: self.0, algorithm, private, public }))
    }
}

struct Exchange {
    group: NamedGroup,
    algorithm: &'static agreement::Algorithm,
    private: agreement::EphemeralPrivateKey,
    public: Buf,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Exchange({:?})", self.group)
    }
}

impl ActiveKeyExchange for Exchange {
    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn complete(self: Box<Self>, peer: &[u8], shared: &mut Buf) -> Result<(), CryptoError> {
        let peer = agreement::UnparsedPublicKey::new(self.algorithm, peer);
        agreement::agree_ephemeral(self.private, &peer, |secret| {
            shared.clear();
            shared.extend_from_slice(secret);
        })
        .map_err(|_| CryptoError::InvalidPublicKey(self.group))
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

/// Our key: ECDSA on P-256, as `Identity` makes it.
struct Signer(EcdsaKeyPair);

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer")
    }
}

impl SigningKey for Signer {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, signature: &mut Buf) -> Result<(), CryptoError> {
        if hash != HashAlgorithm::SHA256 {
            return Err(failed(CryptoOperation::Sign));
        }
        let signed = self.0.sign(&SystemRandom::new(), data).map_err(|_| failed(CryptoOperation::Sign))?;
        signature.clear();
        signature.extend_from_slice(signed.as_ref());
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        HashAlgorithm::SHA256
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        &[HashAlgorithm::SHA256]
    }
}

impl KeyProvider for Ring {
    fn load_private_key(&self, pkcs8: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8, &SystemRandom::new());
        Ok(Box::new(Signer(key.map_err(|_| CryptoError::InvalidPrivateKey)?)))
    }
}

impl SignatureVerifier for Ring {
    /// Only that whoever signed has the certificate's key: `transport` compares the certificate itself.
    fn verify_signature(
        &self,
        certificate: &[u8],
        data: &[u8],
        signature: &[u8],
        hash: HashAlgorithm,
        algorithm: SignatureAlgorithm,
    ) -> Result<(), CryptoError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|_| CryptoError::CertificateParseFailed)?;
        let key = parsed.public_key();
        let curve = key.algorithm.parameters.as_ref().ok_or(CryptoError::MissingEcCurveParameter)?;
        let curve = curve.as_oid().map_err(|_| CryptoError::InvalidEcCurveParameter)?;
        let group = if curve == OID_EC_P256 {
            NamedGroup::Secp256r1
        } else if curve == OID_NIST_EC_P384 {
            NamedGroup::Secp384r1
        } else {
            return Err(CryptoError::UnsupportedEcCurve);
        };
        let verifier: &dyn VerificationAlgorithm = match (algorithm, group, hash) {
            (SignatureAlgorithm::ECDSA, NamedGroup::Secp256r1, HashAlgorithm::SHA256) => &ECDSA_P256_SHA256_ASN1,
            (SignatureAlgorithm::ECDSA, NamedGroup::Secp256r1, HashAlgorithm::SHA384) => &ECDSA_P256_SHA384_ASN1,
            (SignatureAlgorithm::ECDSA, NamedGroup::Secp384r1, HashAlgorithm::SHA256) => &ECDSA_P384_SHA256_ASN1,
            (SignatureAlgorithm::ECDSA, NamedGroup::Secp384r1, HashAlgorithm::SHA384) => &ECDSA_P384_SHA384_ASN1,
            _ => return Err(CryptoError::UnsupportedSignatureAlgorithm(algorithm)),
        };
        let verified = UnparsedPublicKey::new(verifier, &key.subject_public_key.data).verify(data, signature);
        verified.map_err(|_| failed(CryptoOperation::VerifySignature))
    }
}

impl SecureRandom for Ring {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), CryptoError> {
        SystemRandom::new().fill(bytes).map_err(|_| failed(CryptoOperation::FillRandom))
    }
}

struct Hash(digest::Context);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

impl HashContext for Hash {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn clone_and_finalize(&self, hash: &mut Buf) {
        hash.clear();
        hash.extend_from_slice(self.0.clone().finish().as_ref());
    }
}

impl HashProvider for Ring {
    /// The suites want SHA-256 and nothing else.
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        let sha384 = algorithm == HashAlgorithm::SHA384;
        Box::new(Hash(digest::Context::new(if sha384 { &digest::SHA384 } else { &digest::SHA256 })))
    }
}

impl HmacProvider for Ring {
    fn hmac(&self, hash: HashAlgorithm, key: &[u8], data: &[u8], out: &mut [u8]) -> Result<usize, CryptoError> {
        let algorithm = match hash {
            HashAlgorithm::SHA256 => hmac::HMAC_SHA256,
            HashAlgorithm::SHA384 => hmac::HMAC_SHA384,
            _ => return Err(CryptoError::UnsupportedHmacHash(hash)),
        };
        let tag = hmac::sign(&hmac::Key::new(algorithm, key), data);
        let room = out.get_mut(..tag.as_ref().len()).ok_or(failed(CryptoOperation::ComputeHmac))?;
        room.copy_from_slice(tag.as_ref());
        Ok(room.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secure::certificate::Identity;

    /// The crate's own vectors: hash, HMAC, PRF, signatures, AES-GCM, record numbers, and each group with itself.
    #[test]
    fn the_crate_finds_everything_right() {
        ring_provider().validate().unwrap();
    }

    #[test]
    fn our_own_certificate_verifies_what_our_key_signs() {
        let identity = Identity::generate().unwrap();
        let mut key = Ring.load_private_key(identity.private_key()).unwrap();
        let mut signature = Buf::new();
        key.sign(b"transcript", HashAlgorithm::SHA256, &mut signature).unwrap();
        let verify = |data: &[u8], hash| {
            Ring.verify_signature(identity.der(), data, &signature, hash, SignatureAlgorithm::ECDSA)
        };
        assert_eq!(verify(b"transcript", HashAlgorithm::SHA256), Ok(()));
        assert!(verify(b"another", HashAlgorithm::SHA256).is_err());
        assert!(verify(b"transcript", HashAlgorithm::SHA384).is_err());
        let rsa = SignatureAlgorithm::RSA;
        assert!(Ring.verify_signature(identity.der(), b"transcript", &signature, HashAlgorithm::SHA256, rsa).is_err());
        assert!(key.sign(b"transcript", HashAlgorithm::SHA384, &mut signature).is_err());
    }

    #[test]
    fn only_what_opens_is_counted() {
        let mut cipher = Gcm::create(&[7; KEY_LEN]).unwrap();
        let aad = || {
            let mut aad = Aad(Default::default());
            aad.0.push(1);
            aad
        };
        let mut text = Buf::new();
        text.extend_from_slice(b"plain");
        cipher.encrypt(&mut text, aad(), Nonce([3; 12])).unwrap();
        let before = opened();
        let mut bytes = text.to_vec();
        assert!(cipher.decrypt(&mut TmpBuf::new(&mut bytes), aad(), Nonce([4; 12])).is_err());
        let mut bytes = text.to_vec();
        let mut opening = TmpBuf::new(&mut bytes);
        cipher.decrypt(&mut opening, aad(), Nonce([3; 12])).unwrap();
        assert_eq!((opening.as_ref(), opened()), (&b"plain"[..], before + 1));
        assert!(Gcm::create(&[7; 5]).is_err());
    }
}

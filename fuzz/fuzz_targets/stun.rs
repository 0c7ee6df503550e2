//! STUN messages through the `stun` crate, with the checks an ICE-lite agent makes before it believes one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use stun::attributes::{ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME};
use stun::fingerprint::FINGERPRINT;
use stun::integrity::MessageIntegrity;
use stun::message::{BINDING_SUCCESS, Getter, Message};
use stun::textattrs::TextAttribute;
use stun::xoraddr::XorMappedAddress;

fuzz_target!(|bytes: &[u8]| {
    let mut message = Message::new();
    if message.unmarshal_binary(bytes).is_err() {
        return;
    }
    let attributes: usize = message.attributes.0.iter().map(|attribute| attribute.value.len() + 4).sum();
    assert!(attributes + 20 <= bytes.len(), "attributes lie within the message");
    let _ = FINGERPRINT.check(&message);
    let _ = TextAttribute::get_from_as(&message, ATTR_USERNAME);
    let _ = (message.get(ATTR_PRIORITY), message.get(ATTR_ICE_CONTROLLING), message.contains(ATTR_USE_CANDIDATE));
    let mut address = XorMappedAddress::default();
    let _ = address.get_from(&message);
    let key = MessageIntegrity::new_short_term_integrity("a password no seed was signed with".into());
    assert!(key.check(&mut message).is_err(), "nobody forges an HMAC");

    let mut reply = Message::new();
    let ours = XorMappedAddress { ip: [192, 0, 2, 1].into(), port: 40_000 };
    let id = Box::new(message.transaction_id);
    reply
        .build(&[Box::new(BINDING_SUCCESS), id, Box::new(ours), Box::new(key.clone()), Box::new(FINGERPRINT)])
        .expect("a reply can be built for every request");
    let mut read = Message::new();
    read.unmarshal_binary(&reply.raw).expect("our reply is a message");
    assert!(read.transaction_id == message.transaction_id && FINGERPRINT.check(&read).is_ok());
    key.check(&mut read).expect("our reply carries its integrity");
});

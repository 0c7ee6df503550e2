//! The hub against its reference model: see `tests/reference/hub.rs`.
#![no_main]

#[path = "../../tests/reference/choices.rs"]
mod choices;
#[path = "../../tests/reference/hub.rs"]
mod hub;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    hub::run(input);
});

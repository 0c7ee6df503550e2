//! The DTLS gate in both roles against badly treated handshakes: see `tests/reference/flights.rs`.
#![no_main]

#[path = "../../tests/reference/choices.rs"]
mod choices;
#[path = "../../tests/reference/flights.rs"]
mod flights;

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    flights::run(input);
});

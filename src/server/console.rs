//! The console's files, put into the binary by build.rs: `FILES` holds (path, MIME type, bytes), and the page itself
//! has the path `/`.

include!(concat!(env!("OUT_DIR"), "/console.rs"));

/// The file at this path of the server.
pub(super) fn file(path: &str) -> Option<(&'static str, &'static [u8])> {
    FILES.iter().find(|(name, ..)| *name == path).map(|(_, mime, bytes)| (*mime, *bytes))
}

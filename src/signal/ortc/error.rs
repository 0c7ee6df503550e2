//! Why parameters or capabilities are refused, in words a client's developer can act on.

use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OrtcError {
    /// A field is missing or malformed; `path` starts at the message's own field (`rtpParameters.codecs[0].clockRate`).
    Invalid { path: String, expected: String },
    /// The publisher's first codec is none of the router's.
    UnsupportedCodec { path: String, codec: String },
    /// The receiver's capabilities have no codec for this producer.
    CannotConsume { codec: &'static str },
}

impl fmt::Display for OrtcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OrtcError::Invalid { path, expected } => write!(f, "{path}: {expected}"),
            OrtcError::UnsupportedCodec { path, codec } => {
                write!(f, "{path}: {codec} is not supported; get-rtp-capabilities lists the codecs that are")
            }
            OrtcError::CannotConsume { codec } => {
                write!(f, "rtpCapabilities.codecs: none can receive this producer's {codec}")
            }
        }
    }
}

impl std::error::Error for OrtcError {}

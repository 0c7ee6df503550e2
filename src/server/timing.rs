//! The timeouts of a connection. [`super::runtime`] and [`super::websocket`] keep to them; tests shorten them.

use std::time::Duration;

use crate::base::limits::{
    ENTRY_WAIT, HTTP_CONNECTION_MAX, HTTP_HEAD_WAIT, SOCKET_GOODBYE, SOCKET_PING_INTERVAL, SOCKET_SILENCE_MAX,
};

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub ping_interval: Duration,
    pub silence_max: Duration,
    pub goodbye: Duration,
    pub head_wait: Duration,
    pub connection_max: Duration,
    /// For the first message of a socket whose credential comes in it.
    pub entry_wait: Duration,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            ping_interval: SOCKET_PING_INTERVAL,
            silence_max: SOCKET_SILENCE_MAX,
            goodbye: SOCKET_GOODBYE,
            head_wait: HTTP_HEAD_WAIT,
            connection_max: HTTP_CONNECTION_MAX,
            entry_wait: ENTRY_WAIT,
        }
    }
}

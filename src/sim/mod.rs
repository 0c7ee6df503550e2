//! The test world: stand-ins for everything outside of the SFU. All sans-IO: the simulation moves it on virtual time,
//! `client` on real sockets. May see every layer but the edges.

pub mod browser;
pub mod bus;
pub mod decoder;
pub mod descriptor;
pub mod endpoint;
pub mod engine;
pub mod estimator;
pub mod ice_client;
pub mod link;
pub mod payload;
pub mod plain_rtp;
pub mod receiver_reports;
pub mod rig;
pub mod scalability;
pub mod script;
pub mod sink;
pub mod source;
pub mod tap;
pub mod visitor;
pub mod world;

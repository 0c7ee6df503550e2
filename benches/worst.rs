//! The cost of each kind of datagram and of command on a shard at the maximum of every bound, beside the same in an
//! everyday call; and the cost of requests at the hub. `tests/worst.rs` holds the ratio.

#[path = "../tests/cpu/mod.rs"]
mod cpu;
#[expect(dead_code, reason = "what tests need of it")]
#[path = "../tests/shard_rig/mod.rs"]
mod shard_rig;
#[path = "../tests/worst/mod.rs"]
mod worst;

fn print(what: &str, costs: &[worst::Cost]) {
    println!("{what:48} {:>12} {:>12} {:>8}", "typical ns", "worst ns", "ratio");
    for cost in costs {
        println!("{:48} {:12.0} {:12.0} {:8.1}", cost.name, cost.typical, cost.worst, cost.ratio());
    }
    println!();
}

fn main() {
    print("RTP", &worst::rtp());
    print("RTCP", &worst::rtcp());
    print("STUN", &worst::stun());
    print("DTLS", &worst::dtls());
    print("commands", &worst::commands());
    print("requests", &worst::messages());
}

//! What each kind of datagram and of command costs a shard at the maximum of every bound, beside the same in an everyday
//! call. `tests/worst.rs` holds the ratio.

#![expect(unsafe_code, reason = "the thread's CPU clock is behind a system call")]

#[expect(dead_code, reason = "what tests need of it")]
#[path = "../tests/shard_rig/mod.rs"]
mod shard_rig;
#[path = "../tests/worst/mod.rs"]
mod worst;

fn main() {
    println!("{:48} {:>12} {:>12} {:>8}", "CPU time in a shard", "typical ns", "worst ns", "ratio");
    for measure in [worst::rtp, worst::rtcp, worst::stun, worst::commands] {
        for cost in measure() {
            println!("{:48} {:12.0} {:12.0} {:8.1}", cost.name, cost.typical, cost.worst, cost.ratio());
        }
        println!();
    }
}

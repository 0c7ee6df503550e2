//! The sockets of all shards on all addresses, bound or adopted in one place.

use std::net::SocketAddr;

use socket2::Socket;

use super::socket::{SOCKET_BUFFER_BYTES, Sharing, adopt, bind, check_free, local_address, receive_buffer_granted};
use crate::base::limits::LOCAL_ADDRESSES_MAX;
use crate::net::StartError;

/// A socket on each address for each shard: one port for all, or a port each.
pub(in crate::net) fn bind_all(
    addresses: &[SocketAddr],
    shards: usize,
    port_each: bool,
) -> Result<Vec<Vec<Socket>>, StartError> {
    let mut sockets: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for address in addresses {
        let failed = |address| move |error| StartError::Bind { address, error };
        // With port 0 the first socket finds the port and the others follow.
        let mut shared = *address;
        for (slot, sockets) in sockets.iter_mut().enumerate() {
            let (wanted, sharing) = if port_each {
                let port = port_of(*address, slot).ok_or(StartError::PortsExhausted { first: *address, shards })?;
                (SocketAddr::new(address.ip(), port), Sharing::Alone)
            } else {
                (shared, Sharing::Group)
            };
            if slot == 0 && sharing == Sharing::Group {
                check_free(wanted).map_err(failed(wanted))?;
            }
            let socket = bind(wanted, sharing).map_err(failed(wanted))?;
            shared = local_address(&socket).map_err(failed(wanted))?;
            sockets.push(socket);
        }
    }
    warn_of_small_buffers(&sockets);
    Ok(sockets)
}

/// A socket for the lanes of each shard: nobody shares it, so that a lane is of one shard by its address.
pub(in crate::net) fn bind_lanes(first: SocketAddr, shards: usize) -> Result<Vec<Socket>, StartError> {
    let ports: Option<Vec<u16>> = (0..shards).map(|slot| port_of(first, slot)).collect();
    let one = |port| {
        let address = SocketAddr::new(first.ip(), port);
        bind(address, Sharing::Alone).map_err(|error| StartError::LaneBind { address, error })
    };
    ports.ok_or(StartError::LanePorts { first, shards })?.into_iter().map(one).collect()
}

/// Adopts the sockets that the process was started with. `port_each`: those of one IP address go to the shards in their
/// order.
pub(in crate::net) fn adopt_all(
    inherited: Vec<Socket>,
    shards: usize,
    port_each: bool,
) -> Result<Vec<Vec<Socket>>, StartError> {
    let mut groups: Vec<(SocketAddr, Vec<Socket>)> = Vec::new();
    for socket in inherited {
        let address = adopt(&socket).map_err(StartError::Resources)?;
        if address.ip().is_unspecified() {
            return Err(StartError::InheritedWildcard(address));
        }
        if !port_each && shards > 1 && !socket.reuse_port().unwrap_or(false) {
            return Err(StartError::InheritedAlone(address));
        }
        let together = |known: &SocketAddr| if port_each { known.ip() == address.ip() } else { *known == address };
        match groups.iter_mut().find(|(known, _)| together(known)) {
            Some((_, sockets)) => sockets.push(socket),
            None => groups.push((address, vec![socket])),
        }
    }
    if groups.len() > LOCAL_ADDRESSES_MAX {
        return Err(StartError::Addresses(groups.len()));
    }
    let mut of_shards: Vec<Vec<Socket>> = (0..shards).map(|_| Vec::new()).collect();
    for (address, sockets) in groups {
        if sockets.len() != shards {
            return Err(StartError::InheritedCount { address, sockets: sockets.len(), shards });
        }
        of_shards.iter_mut().zip(sockets).for_each(|(of_shard, socket)| of_shard.push(socket));
    }
    warn_of_small_buffers(&of_shards);
    Ok(of_shards)
}

/// Bursts need room in the sockets.
fn warn_of_small_buffers(sockets: &[Vec<Socket>]) {
    if let Some(socket) = sockets.first().and_then(|sockets| sockets.first())
        && let Ok(granted) = receive_buffer_granted(socket)
        && granted < SOCKET_BUFFER_BYTES
    {
        tracing::warn!(
            granted,
            "the kernel grants small socket buffers, so that bursts may be lost: sysctl -w net.core.rmem_max={0} \
             net.core.wmem_max={0}, or CAP_NET_ADMIN",
            SOCKET_BUFFER_BYTES
        );
    }
}

/// The port of the shard in `slot`; 0 stays 0 (any free one).
fn port_of(address: SocketAddr, slot: usize) -> Option<u16> {
    match address.port() {
        0 => Some(0),
        first => first.checked_add(u16::try_from(slot).ok()?),
    }
}

/// A second socket for each shard on each address, in the same groups; only the steering program gives it anything.
pub(in crate::net) fn bind_quiet(addresses: &[SocketAddr], shards: usize) -> Result<Vec<Vec<Socket>>, StartError> {
    let one = |address: SocketAddr| bind(address, Sharing::Group).map_err(|error| StartError::Bind { address, error });
    (0..shards).map(|_| addresses.iter().map(|address| one(*address)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_count_up_and_not_past_the_end() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert_eq!(port_of(at(40_000), 3), Some(40_003));
        assert_eq!(port_of(at(65_535), 0), Some(65_535));
        assert_eq!(port_of(at(65_535), 1), None);
        assert_eq!(port_of(at(0), 9), Some(0));
        assert!(matches!(bind_all(&[at(65_535)], 2, true), Err(StartError::PortsExhausted { shards: 2, .. })));
    }

    #[test]
    fn a_port_in_use_and_a_foreign_address_are_named_with_their_cure() {
        let mine = bind_all(&[SocketAddr::from(([127, 0, 0, 1], 0))], 1, false).unwrap();
        let address = local_address(&mine[0][0]).unwrap();
        for port_each in [false, true] {
            let error = bind_all(&[address], 2, port_each).unwrap_err().to_string();
            assert!(error.contains(&address.to_string()) && error.contains("--rtc-listen"), "{error}");
        }
        let foreign = SocketAddr::from(([192, 0, 2, 1], 0));
        let error = bind_all(&[foreign], 1, false).unwrap_err().to_string();
        assert!(error.contains("--announce"), "{error}");
    }

    fn inherited(sharing: Sharing) -> (Socket, SocketAddr) {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0)), sharing).unwrap();
        let address = local_address(&socket).unwrap();
        (socket, address)
    }

    #[test]
    fn adopted_sockets_are_dealt_out_to_the_shards_by_address_or_by_port() {
        let (one, at) = inherited(Sharing::Group);
        let two = bind(at, Sharing::Group).unwrap();
        let shards = adopt_all(vec![one, two], 2, false).unwrap();
        assert!(shards.iter().all(|sockets| sockets.len() == 1 && local_address(&sockets[0]).unwrap() == at));
        let [(one, first), (two, second)] = [inherited(Sharing::Alone), inherited(Sharing::Alone)];
        let shards = adopt_all(vec![one, two], 2, true).unwrap();
        assert_eq!(local_address(&shards[0][0]).unwrap(), first);
        assert_eq!(local_address(&shards[1][0]).unwrap(), second);
    }

    #[test]
    fn inherited_sockets_that_fit_no_shards_are_named_with_their_cure() {
        let wildcard = bind(SocketAddr::from(([0, 0, 0, 0], 0)), Sharing::Group).unwrap();
        for (sockets, shards, cure) in [
            (vec![inherited(Sharing::Group).0], 2, "ListenDatagram="),
            (vec![inherited(Sharing::Alone).0], 2, "ReusePort=yes"),
            (vec![wildcard], 1, "of this machine"),
        ] {
            let error = adopt_all(sockets, shards, false).unwrap_err().to_string();
            assert!(error.contains(cure), "{error}");
        }
        assert_eq!(
            adopt_all(vec![inherited(Sharing::Alone).0], 1, false).unwrap().len(),
            1,
            "one shard shares nothing"
        );
    }
}

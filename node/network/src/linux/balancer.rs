//! Load balancers' addresses: led to the Service table on every machine, and answered for on the wire by one.
//!
//! ```text
//!   every machine    ADDRESS/32 via BASE+2, as the Service range: never followed to its end, for the table translates before
//!   the announcer    ADDRESS as a proxied neighbour of the link whose network it is in, so that the kernel answers ARP for it
//! ```
//! A machine that begins to announce says so to the wire (gratuitous ARP, RFC 5227, section 3): others have the one before it in
//! their tables. All of it stays in the kernel when the agent goes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::size_of;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::pod_network::{PodNetworkConfig, PodNetworkError, expect_link, inner_end, set_sysctl};
use super::rtnl::{self, Rtnl, RtnlError};
use crate::cidr::Cidr;

/// How often a new announcer says so: one datagram may be lost.
const TIMES: usize = 3;

/// Leads these addresses, and no others, to the Service table.
pub(super) fn lead(
    config: &PodNetworkConfig,
    addresses: &BTreeSet<Ipv4Addr>,
) -> Result<(), RtnlError> {
    rtnl::with(async |rtnl: &Rtnl| {
        let link = expect_link(rtnl, &config.link()).await?;
        let everywhere = Cidr::new(Ipv4Addr::UNSPECIFIED, 0);
        let led = rtnl.ranges_within(everywhere).await?.into_iter().filter(|(range, by)| {
            *by == link
                && range.prefix() == 32
                && !config.pods.overlaps(*range)
                && !config.services.overlaps(*range)
        });
        let led: BTreeSet<Ipv4Addr> = led.map(|(range, _)| range.base()).collect();
        for address in led.difference(addresses) {
            rtnl.remove_range(link, Cidr::new(*address, 32)).await?;
        }
        for address in addresses.difference(&led) {
            rtnl.add_via(link, Cidr::new(*address, 32), inner_end(config)).await?;
        }
        Ok(())
    })
}

/// Answers on the wire for `fresh` addresses, too, and no more for `old` ones, if it did.
pub(super) fn announce<'a>(
    fresh: impl Iterator<Item = &'a Ipv4Addr>,
    old: &BTreeSet<Ipv4Addr>,
) -> Result<(), PodNetworkError> {
    let fresh: Vec<Ipv4Addr> = fresh.copied().collect();
    let links: BTreeMap<Ipv4Addr, (u32, String)> = rtnl::with(async |rtnl: &Rtnl| {
        for (link, address) in rtnl.proxied().await? {
            if old.contains(&address) {
                rtnl.no_longer_proxy(link, address).await?;
            }
        }
        let networks = rtnl.networks().await?;
        let mut links = BTreeMap::new();
        for address in &fresh {
            // Elsewhere a router has to know the way.
            let network = networks.iter().find(|(network, _)| network.contains(*address));
            let Some((_, link)) = network else { continue };
            rtnl.proxy(*link, *address).await?;
            links.insert(*address, (*link, rtnl::link_name(rtnl, *link).await));
        }
        Ok(links)
    })?;
    for (address, (link, name)) in links {
        // Else answers to what is asked come up to a second late, to spare a network with many that could answer.
        set_sysctl(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
        if let Err(error) = tell(link, &name, address) {
            tracing::warn!(%error, %address, link = name, "the wire was not told who has a load balancer's address");
        }
    }
    Ok(())
}

/// Says to everybody on a wire that the address is here.
fn tell(link: u32, name: &str, address: Ipv4Addr) -> io::Result<()> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/address"))?;
    let bytes = text.trim().split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok());
    let Ok(hardware) = <[u8; 6]>::try_from(bytes.collect::<Vec<u8>>()) else {
        return Err(io::Error::other("the link has no Ethernet address"));
    };
    // It receives nothing: no protocol is asked for.
    let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: zero is a valid value of all fields.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = libc::AF_PACKET as u16;
    to.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
    to.sll_ifindex = link as i32;
    to.sll_halen = 6;
    to.sll_addr[..6].fill(0xff);
    let message = announcement(hardware, address);
    for _ in 0..TIMES {
        Errno::result(unsafe {
            // SAFETY: message and address are valid for the lengths that are given.
            libc::sendto(
                socket.as_raw_fd(),
                message.as_ptr().cast(),
                message.len(),
                0,
                std::ptr::from_ref(&to).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
    }
    Ok(())
}

/// An ARP request (RFC 826) for the sender's own address.
fn announcement(hardware: [u8; 6], address: Ipv4Addr) -> [u8; 28] {
    let mut message = [0; 28];
    // Ethernet, IPv4, their addresses' lengths, a request.
    message[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
    message[8..14].copy_from_slice(&hardware);
    message[14..18].copy_from_slice(&address.octets());
    message[24..28].copy_from_slice(&address.octets());
    message
}

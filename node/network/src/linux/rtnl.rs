//! Links, addresses and routes of the current thread's network namespace, through rtnetlink.
//!
//! Each call opens a connection, works and closes it: this happens when the agent starts and stops, never per Pod.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd};

use futures::TryStreamExt;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType,
};
use rtnetlink::{
    Error, Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, LinkVxlan, RouteMessageBuilder,
};

use super::netns::on_thread;
use super::peers::Way;
use crate::cidr::Cidr;
use crate::ranges::Neighbourhood;

/// The MTU of links that nobody says anything of.
const ETHERNET_MTU: u32 = 1500;

/// A step on links, addresses or routes that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {reason}")]
pub struct RtnlError {
    step: String,
    reason: String,
}

impl RtnlError {
    pub(crate) fn missing_link(name: &str) -> Self {
        RtnlError { step: format!("find link {name}"), reason: "it is gone".to_owned() }
    }
}

/// A connection to the routing tables of one namespace.
pub(crate) struct Rtnl {
    handle: Handle,
}

/// One route, as far as conflicts are concerned.
#[derive(Debug, Clone)]
pub(crate) struct RouteEntry {
    pub(crate) destination: Cidr,
    pub(crate) link: Option<u32>,
}

/// What of this machine's IPv4 space is in use: the destinations of its routes and its addresses' networks. Default
/// routes are left out: they lead everywhere.
///
/// # Errors
/// When the kernel refuses to list them.
pub fn taken_ranges() -> Result<Vec<Cidr>, RtnlError> {
    with(async |rtnl| {
        let mut taken: Vec<Cidr> =
            rtnl.routes().await?.into_iter().map(|route| route.destination).collect();
        taken.extend(rtnl.addresses().await?);
        taken.retain(|range| range.prefix() > 0);
        Ok(taken)
    })
}

/// The networks that this machine is in or has routes to, but for those of the links that `is_known` tells, and loopback.
///
/// # Errors
/// When the kernel refuses to list them.
pub fn neighbourhood(
    is_known: impl Fn(&str) -> bool + Send + Sync,
) -> Result<Vec<Neighbourhood>, RtnlError> {
    with(async |rtnl| {
        let mut found = Vec::new();
        let routes = rtnl.routes().await?.into_iter();
        let routes = routes.filter_map(|route| Some((route.destination, route.link?, false)));
        let networks = rtnl.networks().await?.into_iter().map(|(range, link)| (range, link, true));
        for (range, link, is_own) in networks.chain(routes) {
            let link = link_name(rtnl, link).await;
            let is_told = range.prefix() == 0 || range.base().is_loopback() || is_known(&link);
            if !is_told && !range.base().is_multicast() && !range.base().is_broadcast() {
                found.push(Neighbourhood { range, link, is_own });
            }
        }
        Ok(found)
    })
}

/// Runs `work` with a connection to the namespace of the calling thread.
pub(crate) fn with<T: Send>(
    work: impl AsyncFnOnce(&Rtnl) -> Result<T, RtnlError> + Send,
) -> Result<T, RtnlError> {
    // A thread of its own: callers may be inside a tokio runtime, where another cannot be started.
    on_thread(|| {
        let open = |error: io::Error| RtnlError {
            step: "open a netlink socket".to_owned(),
            reason: error.to_string(),
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(open)?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(open)?;
            tokio::spawn(connection);
            work(&Rtnl { handle }).await
        })
    })
}

impl Rtnl {
    /// The index of the link called `name`.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<u32>, RtnlError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        match links.try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(Error::NetlinkError(error)) if is(&error, libc::ENODEV) => Ok(None),
            Err(error) => Err(failed(format!("look for link {name}"), error)),
        }
    }

    /// The index of the link called `name`, and that of its other end, which counts in the namespace where that is.
    pub(crate) async fn pair(&self, name: &str) -> Result<Option<(u32, Option<u32>)>, RtnlError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = match links.try_next().await {
            Err(Error::NetlinkError(error)) if is(&error, libc::ENODEV) => return Ok(None),
            found => found.map_err(|error| failed(format!("look for link {name}"), error))?,
        };
        let other = |link: &LinkMessage| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Link(index) => Some(*index),
                _ => None,
            })
        };
        Ok(link.map(|link| (link.header.index, other(&link))))
    }

    /// The names of all links.
    pub(crate) async fn link_names(&self) -> Result<Vec<String>, RtnlError> {
        let all: Vec<LinkMessage> = self.links().await?;
        let names = all.into_iter().filter_map(|link| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        });
        Ok(names.collect())
    }

    async fn links(&self) -> Result<Vec<LinkMessage>, RtnlError> {
        let links = self.handle.link().get().execute().try_collect().await;
        links.map_err(|error| failed("list links".to_owned(), error))
    }

    /// The largest packet that leaves this machine whole: by its default route, or else Ethernet's.
    pub(crate) async fn uplink_mtu(&self) -> Result<u32, RtnlError> {
        let routes = self.routes().await?;
        let uplinks: Vec<u32> =
            routes.iter().filter(|r| r.destination.prefix() == 0).filter_map(|r| r.link).collect();
        let mtu = |link: &LinkMessage| {
            link.attributes.iter().find_map(|attribute| match attribute {
                LinkAttribute::Mtu(mtu) => Some(*mtu),
                _ => None,
            })
        };
        let links = self.links().await?;
        let found =
            links.iter().filter(|link| uplinks.contains(&link.header.index)).filter_map(mtu);
        // IPv4 wants no less than 576; a loopback as uplink would say 65536, which a veth takes no more than.
        Ok(found.min().unwrap_or(ETHERNET_MTU).clamp(576, 65535))
    }

    /// Sets the largest packet that a link takes.
    pub(crate) async fn set_mtu(&self, link: u32, mtu: u32) -> Result<(), RtnlError> {
        let message = LinkUnspec::new_with_index(link).mtu(mtu).build();
        let result = self.handle.link().change(message).execute().await;
        result.map_err(|error| failed(format!("set the MTU of link {link} to {mtu}"), error))
    }

    /// A link's IPv4 addresses.
    pub(crate) async fn addresses_of(&self, link: u32) -> Result<Vec<Ipv4Addr>, RtnlError> {
        let all = self.handle.address().get().set_link_index_filter(link).execute();
        let all: Vec<_> = all
            .try_collect()
            .await
            .map_err(|error| failed(format!("list the addresses of link {link}"), error))?;
        let addresses = all.iter().flat_map(|message| &message.attributes);
        let v4 = addresses.filter_map(|attribute| match attribute {
            AddressAttribute::Address(std::net::IpAddr::V4(ip)) => Some(*ip),
            _ => None,
        });
        Ok(v4.collect())
    }

    /// Creates a veth pair: `host` here, `inner` in the namespace that `namespace` refers to.
    pub(crate) async fn add_veth(
        &self,
        host: &str,
        inner: &str,
        namespace: impl AsFd,
    ) -> Result<(), RtnlError> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(inner.to_owned())
            .setns_by_fd(namespace.as_fd().as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
            .name(host.to_owned())
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .build();
        let result = self.handle.link().add(pair).execute().await;
        result.map_err(|error| failed(format!("create the veth pair {host}"), error))
    }

    /// Deletes a link; one that is gone already is no error.
    pub(crate) async fn delete_link(&self, name: &str) -> Result<(), RtnlError> {
        let Some(index) = self.link(name).await? else { return Ok(()) };
        match self.handle.link().del(index).execute().await {
            Err(Error::NetlinkError(error)) if is(&error, libc::ENODEV) => Ok(()),
            result => result.map_err(|error| failed(format!("delete link {name}"), error)),
        }
    }

    /// Sets a link up.
    pub(crate) async fn up(&self, link: u32) -> Result<(), RtnlError> {
        let message = LinkUnspec::new_with_index(link).up().build();
        let result = self.handle.link().change(message).execute().await;
        result.map_err(|error| failed(format!("set link {link} up"), error))
    }

    /// Takes a link's addresses away, and their local routes with them.
    #[cfg(test)]
    pub(crate) async fn remove_addresses(&self, link: u32) -> Result<(), RtnlError> {
        let failed = |error| failed(format!("remove the addresses of link {link}"), error);
        let all: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(link)
            .execute()
            .try_collect()
            .await
            .map_err(failed)?;
        for address in all {
            self.handle.address().del(address).execute().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Gives a link an address, unless it has it.
    pub(crate) async fn add_address(
        &self,
        link: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> Result<(), RtnlError> {
        let result =
            self.handle.address().add(link, address.into(), prefix).replace().execute().await;
        result.map_err(|error| {
            failed(format!("add address {address}/{prefix} to link {link}"), error)
        })
    }

    /// Makes every address of `range` this namespace's own (AnyIP).
    pub(crate) async fn add_local(&self, link: u32, range: Cidr) -> Result<(), RtnlError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.base(), range.prefix())
            .output_interface(link)
            .table_id(libc::RT_TABLE_LOCAL.into())
            .kind(RouteType::Local)
            .scope(RouteScope::Host)
            .build();
        self.add_route(route, || format!("make {range} local")).await
    }

    /// Leads `range` to `gateway`.
    pub(crate) async fn add_via(
        &self,
        link: u32,
        range: Cidr,
        gateway: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let route = via(link, range, gateway).build();
        self.add_route(route, || format!("route {range} via {gateway}")).await
    }

    /// Leads `range` to `gateway`, which is taken to be at the link's other end.
    pub(crate) async fn add_via_on_link(
        &self,
        link: u32,
        range: Cidr,
        gateway: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let route = via(link, range, gateway).onlink().build();
        self.add_route(route, || format!("route {range} via {gateway}")).await
    }

    /// How packets for an address leave.
    pub(crate) async fn way_to(&self, address: Ipv4Addr) -> Result<Way, RtnlError> {
        let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32);
        let mut answers = self.handle.route().get(question.build()).execute();
        let step = || format!("find the way to {address}");
        let found = answers.try_next().await.map_err(|error| failed(step(), error))?;
        let found = found.ok_or_else(|| RtnlError { step: step(), reason: "none".to_owned() })?;
        let gateway = found.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => Some(*ip),
            _ => None,
        });
        let link = output(&found).unwrap_or_default();
        Ok(Way { link, gateway, is_local: found.header.kind == RouteType::Local })
    }

    /// Ranges within `range` that the main table leads somewhere, and by which link.
    pub(crate) async fn ranges_within(&self, range: Cidr) -> Result<Vec<(Cidr, u32)>, RtnlError> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let all: Vec<RouteMessage> =
            all.try_collect().await.map_err(|error| failed("list routes".to_owned(), error))?;
        let main = all.iter().filter(|route| route.header.table == libc::RT_TABLE_MAIN);
        let entries = main.filter_map(entry);
        let inside = entries.filter(|route| {
            route.destination.prefix() >= range.prefix() && range.overlaps(route.destination)
        });
        Ok(inside.filter_map(|route| Some((route.destination, route.link?))).collect())
    }

    /// Leads a range nowhere any more.
    pub(crate) async fn remove_range(&self, link: u32, range: Cidr) -> Result<(), RtnlError> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.base(), range.prefix())
            .output_interface(link);
        self.delete_route(route.build(), || format!("remove the route of {range}")).await
    }

    /// Creates one end of a VXLAN tunnel, which learns nothing: its tables are written.
    pub(crate) async fn add_tunnel(
        &self,
        name: &str,
        id: u32,
        port: u16,
        own: Ipv4Addr,
        hardware: [u8; 6],
    ) -> Result<(), RtnlError> {
        let tunnel = LinkVxlan::new(name, id).port(port).local(own).learning(false);
        let result = self.handle.link().add(tunnel.address(hardware.to_vec()).build()).execute();
        result.await.map_err(|error| failed(format!("create the tunnel {name}"), error))
    }

    /// The address that a tunnel of this name sends from, if there is one.
    pub(crate) async fn tunnel_from(&self, name: &str) -> Result<Option<Ipv4Addr>, RtnlError> {
        let mut links = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = match links.try_next().await {
            Err(Error::NetlinkError(error)) if is(&error, libc::ENODEV) => return Ok(None),
            found => found.map_err(|error| failed(format!("look for link {name}"), error))?,
        };
        let attributes = link.iter().flat_map(|link| &link.attributes);
        let infos = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::LinkInfo(infos) => Some(infos),
            _ => None,
        });
        let tunnel = infos.flatten().find_map(|info| match info {
            LinkInfo::Data(InfoData::Vxlan(tunnel)) => Some(tunnel),
            _ => None,
        });
        Ok(tunnel.into_iter().flatten().find_map(|info| match info {
            InfoVxlan::Local(address) => Some(*address),
            _ => None,
        }))
    }

    /// Says at which machine a tunnel has that hardware address.
    pub(crate) async fn forward_to(
        &self,
        link: u32,
        hardware: [u8; 6],
        machine: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let entry = self.handle.neighbours().add_bridge(link, &hardware);
        let entry = entry.destination(machine.into()).flags(NeighbourFlags::Own);
        let result = entry.replace().execute().await;
        result.map_err(|error| failed(format!("lead the tunnel {link} to {machine}"), error))
    }

    /// Says which hardware address an address has.
    pub(crate) async fn add_neighbour(
        &self,
        link: u32,
        address: Ipv4Addr,
        hardware: [u8; 6],
    ) -> Result<(), RtnlError> {
        let entry = self.handle.neighbours().add(link, address.into());
        let result = entry.link_layer_address(&hardware).replace().execute().await;
        result.map_err(|error| failed(format!("make {address} known on link {link}"), error))
    }

    /// Answers for `address` on the link, though it is elsewhere.
    pub(crate) async fn proxy(&self, link: u32, address: Ipv4Addr) -> Result<(), RtnlError> {
        let entry = self.handle.neighbours().add(link, address.into());
        let result = entry.flags(NeighbourFlags::Proxy).replace().execute().await;
        result.map_err(|error| failed(format!("answer for {address} on link {link}"), error))
    }

    /// Takes that back.
    pub(crate) async fn no_longer_proxy(
        &self,
        link: u32,
        address: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let entry = self.handle.neighbours().add(link, address.into());
        let entry = entry.flags(NeighbourFlags::Proxy).message_mut().clone();
        match self.handle.neighbours().del(entry).execute().await {
            Err(Error::NetlinkError(error)) if is(&error, libc::ENOENT) => Ok(()),
            result => result.map_err(|error| {
                failed(format!("no longer answer for {address} on link {link}"), error)
            }),
        }
    }

    /// What is answered for on links, though it is elsewhere.
    pub(crate) async fn proxied(&self) -> Result<Vec<(u32, Ipv4Addr)>, RtnlError> {
        let all = self.handle.neighbours().get().proxies();
        let all = all.set_address_family(AddressFamily::Inet).execute();
        let all: Vec<_> = all
            .try_collect()
            .await
            .map_err(|error| failed("list proxied neighbours".to_owned(), error))?;
        let address = |attribute: &NeighbourAttribute| match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(*ip),
            _ => None,
        };
        let entries = all.iter().filter_map(|entry| {
            Some((entry.header.ifindex, entry.attributes.iter().find_map(address)?))
        });
        Ok(entries.collect())
    }

    /// Says that `range` is reached on the link itself.
    pub(crate) async fn add_on_link(&self, link: u32, range: Cidr) -> Result<(), RtnlError> {
        self.add_route(on_link(link, range), || format!("route {range} to link {link}")).await
    }

    /// Takes that back.
    pub(crate) async fn remove_on_link(&self, link: u32, range: Cidr) -> Result<(), RtnlError> {
        let step = || format!("remove the route of {range} to link {link}");
        self.delete_route(on_link(link, range), step).await
    }

    /// Leads `address` to `gateway`, although a wider range that contains it is local.
    pub(crate) async fn except(
        &self,
        link: u32,
        address: Ipv4Addr,
        gateway: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let route = exception(link, address).gateway(gateway).build();
        self.add_route(route, || format!("except {address} from the local addresses")).await
    }

    /// Takes that back.
    pub(crate) async fn no_longer_except(
        &self,
        link: u32,
        address: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let step = || format!("remove the exception of {address} from the local addresses");
        self.delete_route(exception(link, address).build(), step).await
    }

    /// Addresses that are excepted from the local ones.
    pub(crate) async fn exceptions(&self) -> Result<Vec<Ipv4Addr>, RtnlError> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let all: Vec<RouteMessage> =
            all.try_collect().await.map_err(|error| failed("list routes".to_owned(), error))?;
        let excepted = all.iter().filter(|route| {
            route.header.table == libc::RT_TABLE_LOCAL && route.header.kind == RouteType::Unicast
        });
        Ok(excepted.filter_map(entry).map(|route| route.destination.base()).collect())
    }

    /// Takes an address from a link, if it has it.
    pub(crate) async fn remove_address(
        &self,
        link: u32,
        address: Ipv4Addr,
    ) -> Result<(), RtnlError> {
        let failed = |error| failed(format!("remove address {address} of link {link}"), error);
        let found = self.handle.address().get().set_link_index_filter(link);
        let found = found.set_address_filter(address.into()).execute();
        let found: Vec<_> = found.try_collect().await.map_err(failed)?;
        for message in found {
            self.handle.address().del(message).execute().await.map_err(failed)?;
        }
        Ok(())
    }

    /// All IPv4 routes of all tables.
    pub(crate) async fn routes(&self) -> Result<Vec<RouteEntry>, RtnlError> {
        let all = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let all: Vec<RouteMessage> =
            all.try_collect().await.map_err(|error| failed("list routes".to_owned(), error))?;
        Ok(all.iter().filter_map(entry).collect())
    }

    /// The networks of all IPv4 addresses.
    async fn addresses(&self) -> Result<Vec<Cidr>, RtnlError> {
        Ok(self.networks().await?.into_iter().map(|(network, _)| network).collect())
    }

    /// The networks of all IPv4 addresses, and the links that they are of.
    pub(crate) async fn networks(&self) -> Result<Vec<(Cidr, u32)>, RtnlError> {
        let all: Vec<_> = self
            .handle
            .address()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| failed("list addresses".to_owned(), error))?;
        let networks = all
            .iter()
            .filter(|message| message.header.family == AddressFamily::Inet)
            .filter_map(|message| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Address(std::net::IpAddr::V4(ip)) => {
                        let network = Cidr::new(*ip, message.header.prefix_len);
                        Some((network, message.header.index))
                    }
                    _ => None,
                })
            });
        Ok(networks.collect())
    }

    async fn delete_route(
        &self,
        route: RouteMessage,
        step: impl FnOnce() -> String,
    ) -> Result<(), RtnlError> {
        match self.handle.route().del(route).execute().await {
            Err(Error::NetlinkError(error)) if is(&error, libc::ESRCH) => Ok(()),
            result => result.map_err(|error| failed(step(), error)),
        }
    }

    async fn add_route(
        &self,
        route: RouteMessage,
        step: impl FnOnce() -> String,
    ) -> Result<(), RtnlError> {
        let result = self.handle.route().add(route).replace().execute().await;
        result.map_err(|error| failed(step(), error))
    }
}

fn on_link(link: u32, range: Cidr) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(range.base(), range.prefix())
        .output_interface(link)
        .scope(RouteScope::Link)
        .build()
}

fn exception(link: u32, address: Ipv4Addr) -> RouteMessageBuilder<Ipv4Addr> {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(address, 32)
        .output_interface(link)
        .table_id(libc::RT_TABLE_LOCAL.into())
}

/// The name of the link `index`, for messages.
pub(crate) async fn link_name(rtnl: &Rtnl, index: u32) -> String {
    let mut links = rtnl.handle.link().get().match_index(index).execute();
    let link = links.try_next().await.ok().flatten();
    let name = link.and_then(|link| {
        link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        })
    });
    name.unwrap_or_else(|| format!("number {index}"))
}

fn entry(route: &RouteMessage) -> Option<RouteEntry> {
    if route.header.address_family != AddressFamily::Inet {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(*ip),
        _ => None,
    });
    let link = output(route);
    let destination = destination.unwrap_or(Ipv4Addr::UNSPECIFIED);
    Some(RouteEntry {
        destination: Cidr::new(destination, route.header.destination_prefix_length),
        link,
    })
}

fn via(link: u32, range: Cidr, gateway: Ipv4Addr) -> RouteMessageBuilder<Ipv4Addr> {
    let route = RouteMessageBuilder::<Ipv4Addr>::new();
    let route = route.destination_prefix(range.base(), range.prefix());
    route.output_interface(link).gateway(gateway)
}

fn output(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn is(error: &ErrorMessage, errno: i32) -> bool {
    error.code.is_some_and(|code| code.get() == -errno)
}

fn failed(step: String, error: Error) -> RtnlError {
    let reason = match error {
        Error::NetlinkError(error) => error.to_io().to_string(),
        other => other.to_string(),
    };
    RtnlError { step, reason }
}

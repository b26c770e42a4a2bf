//! Machines of a cluster: network namespaces on one wire, which this machine is on, too.
//!
//! The wire is a bridge with a subnet of 198.18.0.0/15, which is set aside for tests (RFC 2544); nothing leads from there to
//! the world outside.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::sync::LazyLock;

use anyhow::Context as _;
use coracle_network::Cidr;
use coracle_network::linux::NetNs;
use coracle_network::linux::nft::{Loss, forget_connections, hide, set_losses};
use futures::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

/// The table of what a machine loses; it goes with the machine.
const LOSSES: &str = "losses";
/// The table of a router that hides machines; it goes with the router.
const HIDING: &str = "hiding";
/// Where network namespaces have their names.
const NAMESPACES: &str = "/run/netns";

static ANYBODY: LazyLock<Cidr> = LazyLock::new(|| Cidr::new(Ipv4Addr::UNSPECIFIED, 0));

/// A wire; its links end with it.
pub(crate) struct Wire {
    number: u8,
    /// Says to others which subnets are in use.
    _claim: UnixListener,
}

/// A machine on it, apart from this one.
pub struct Machine {
    namespace: NetNs,
    link: String,
    address: Ipv4Addr,
    /// What it is behind, if anything; it goes after the machine.
    router: Option<Box<Machine>>,
}

impl Wire {
    /// A wire of its own.
    pub(crate) fn lay() -> anyhow::Result<Self> {
        let claim = |number: u8| {
            let name =
                SocketAddr::from_abstract_name(format!("coracle/test-wire/{number}")).ok()?;
            Some((number, UnixListener::bind_addr(&name).ok()?))
        };
        let (number, claim) = (0..=u8::MAX).find_map(claim).context("all wires are in use")?;
        let wire = Self { number, _claim: claim };
        let (name, address) = (wire.bridge(), wire.address(1));
        with_netlink(async move |netlink| {
            netlink.link().add(LinkBridge::new(&name).up().build()).execute().await?;
            let bridge = index(&netlink, &name).await?;
            netlink.address().add(bridge, address.into(), 24).execute().await?;
            Ok(())
        })?;
        Ok(wire)
    }

    fn bridge(&self) -> String {
        format!("cotest{}", self.number)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.number, last)
    }

    /// This machine's address on it.
    pub(crate) fn own_address(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Addresses on it that no machine has: a pool for load balancers.
    pub(crate) fn spare_addresses(&self) -> (Ipv4Addr, Ipv4Addr) {
        (self.address(200), self.address(209))
    }

    /// One machine more, the `number`-th.
    pub(crate) fn add(&self, number: u8) -> anyhow::Result<Machine> {
        let (bridge, link) = (self.bridge(), format!("cotest{}-{number}", self.number));
        let machine = Machine::new(link, self.address(10 + number), None)?;
        machine.plug_in()?;
        let link = machine.link.clone();
        with_netlink(async move |netlink| {
            let (bridge, link) = (index(&netlink, &bridge).await?, index(&netlink, &link).await?);
            let message = LinkUnspec::new_with_index(link).controller(bridge).up().build();
            netlink.link().change(message).execute().await?;
            Ok(())
        })?;
        machine.settle(self.own_address())?;
        Ok(machine)
    }

    /// One machine more, behind a router that is the `number`-th: from there it reaches everybody, under the router's address,
    /// and nobody reaches it.
    pub(crate) fn add_hidden(&self, number: u8) -> anyhow::Result<Machine> {
        let router = self.add(number)?;
        let inside = |last| Ipv4Addr::new(198, 19, self.number, last);
        router.run(|| {
            hide(HIDING, Cidr::new(inside(0), 24))?;
            // It must not take up connections in their midst that it has forgotten, as some do.
            std::fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0")?;
            anyhow::Ok(std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
        })??;
        let link = format!("{}h", router.link);
        let machine = Machine::new(link, inside(10), Some(Box::new(router)))?;
        machine.plug_in()?;
        let (link, gateway) = (machine.link.clone(), inside(1));
        machine.outside(|| {
            with_netlink(async move |netlink| {
                let link = index(&netlink, &link).await?;
                netlink.address().add(link, gateway.into(), 24).execute().await?;
                let up = LinkUnspec::new_with_index(link).up().build();
                Ok(netlink.link().change(up).execute().await?)
            })
        })?;
        machine.settle(gateway)?;
        Ok(machine)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let name = self.bridge();
        let _ = with_netlink(async move |netlink| {
            let bridge = index(&netlink, &name).await?;
            Ok(netlink.link().del(bridge).execute().await?)
        });
    }
}

impl Machine {
    fn new(link: String, address: Ipv4Addr, router: Option<Box<Machine>>) -> anyhow::Result<Self> {
        let namespace = NetNs::ensure(&Path::new(NAMESPACES).join(&link))?;
        Ok(Self { namespace, link, address, router })
    }

    /// Runs `work` where the other end of its link is.
    fn outside<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        match &self.router {
            Some(router) => router.run(work)?,
            None => work(),
        }
    }

    /// Makes its link.
    fn plug_in(&self) -> anyhow::Result<()> {
        let (file, link) = (self.namespace.open()?, self.link.clone());
        self.outside(|| {
            with_netlink(async move |netlink| {
                let peer = LinkMessageBuilder::<LinkUnspec>::new().name("eth0".to_owned());
                let peer = peer.setns_by_fd(file.as_fd().as_raw_fd()).build();
                let veth = LinkVeth::new(&link, "eth0").set_info_data(
                    rtnetlink::packet_route::link::InfoData::Veth(
                        rtnetlink::packet_route::link::InfoVeth::Peer(peer),
                    ),
                );
                Ok(netlink.link().add(veth.build()).execute().await?)
            })
        })
    }

    /// Gives it its address, and a way to the rest of the world.
    fn settle(&self, gateway: Ipv4Addr) -> anyhow::Result<()> {
        let address = self.address;
        self.run(|| {
            with_netlink(async move |netlink| {
                let lo = index(&netlink, "lo").await?;
                let up = LinkUnspec::new_with_index(lo).up().build();
                netlink.link().change(up).execute().await?;
                let eth = index(&netlink, "eth0").await?;
                netlink.address().add(eth, address.into(), 24).execute().await?;
                let up = LinkUnspec::new_with_index(eth).up().build();
                netlink.link().change(up).execute().await?;
                let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build();
                Ok(netlink.route().add(default).execute().await?)
            })
        })?
    }

    /// The file that its network namespace is mounted on.
    pub fn namespace(&self) -> &Path {
        self.namespace.path()
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Runs `work` on a thread of that machine.
    ///
    /// # Errors
    /// When its namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        Ok(self.namespace.run(work)?)
    }

    /// Loses all packets that come to this machine from these addresses and ranges; from nobody any more if there are none. What it
    /// sends itself arrives: a partition has to be made on both sides.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn deaf_to(&self, whom: &[Cidr]) -> anyhow::Result<()> {
        let losses = whom.iter().map(|from| Loss { from: *from, to: *ANYBODY, one_of: 1 });
        self.lose(&losses.collect::<Vec<_>>())
    }

    /// Loses all packets that this machine, or a Pod of its own, sends to these addresses and ranges.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mute_to(&self, whom: &[Cidr]) -> anyhow::Result<()> {
        let losses = whom.iter().map(|to| Loss { from: *ANYBODY, to: *to, one_of: 1 });
        self.lose(&losses.collect::<Vec<_>>())
    }

    /// Loses both.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn apart_from(&self, whom: &[Cidr]) -> anyhow::Result<()> {
        let ways = whom.iter().flat_map(|whom| [(*whom, *ANYBODY), (*ANYBODY, *whom)]);
        self.lose(&ways.map(|(from, to)| Loss { from, to, one_of: 1 }).collect::<Vec<_>>())
    }

    /// Loses one of so many packets to this machine, from it and through it; none if it is 0.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lose_one_of(&self, one_of: u32) -> anyhow::Result<()> {
        let losses = (one_of > 0).then_some(Loss { from: *ANYBODY, to: *ANYBODY, one_of });
        self.lose(losses.as_slice())
    }

    fn lose(&self, losses: &[Loss]) -> anyhow::Result<()> {
        Ok(self.run(|| set_losses(LOSSES, losses))??)
    }

    /// Gives it another address, in a network of that prefix length.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, address: Ipv4Addr, prefix: u8) -> anyhow::Result<()> {
        self.run(|| {
            with_netlink(async move |netlink| {
                let eth = index(&netlink, "eth0").await?;
                Ok(netlink.address().add(eth, address.into(), prefix).execute().await?)
            })
        })?
    }

    /// Restarts the router that it is behind: what that knew of connections is gone, and they with it.
    ///
    /// # Errors
    /// When it is behind none, or the kernel refuses.
    pub fn restart_router(&self) -> anyhow::Result<()> {
        let router = self.router.as_ref().context("this machine is behind no router")?;
        Ok(router.run(forget_connections)??)
    }

    /// Pulls its plug, or puts it in again.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn plug(&self, is_in: bool) -> anyhow::Result<()> {
        let name = self.link.clone();
        self.outside(|| {
            with_netlink(async move |netlink| {
                let link = LinkUnspec::new_with_index(index(&netlink, &name).await?);
                let link = if is_in { link.up() } else { link.down() };
                Ok(netlink.link().change(link.build()).execute().await?)
            })
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.namespace.remove();
        let name = self.link.clone();
        // The other end went with the namespace, unless a process lives there on.
        let _ = self.outside(|| {
            with_netlink(async move |netlink| {
                let link = index(&netlink, &name).await?;
                Ok(netlink.link().del(link).execute().await?)
            })
        });
    }
}

async fn index(netlink: &Handle, name: &str) -> anyhow::Result<u32> {
    let mut links = netlink.link().get().match_name(name.to_owned()).execute();
    let link = links.try_next().await?.with_context(|| format!("no link {name}"))?;
    Ok(link.header.index)
}

/// Runs `work` with a connection to the calling thread's namespace.
fn with_netlink<T: Send>(
    work: impl AsyncFnOnce(Handle) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    // On a thread of its own: the caller may be a runtime's.
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
            runtime.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection()?;
                tokio::spawn(connection);
                work(handle).await
            })
        });
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

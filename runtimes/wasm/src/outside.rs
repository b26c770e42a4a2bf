//! A way to look names up from the machine's own network. Pods live in a namespace of their own, and
//! a machine's resolver often listens on loopback (`127.0.0.53`), where they cannot reach it. Only
//! then is there a thread outside their namespace, and names are all that it is for.

use std::fs;
use std::io;
use std::net::IpAddr;

use tokio::runtime::{Builder, Runtime};

const RESOLVERS: &str = "/etc/resolv.conf";

/// Starts that thread where it is needed. To be called before the namespace is entered.
pub(crate) fn start() -> io::Result<Option<Runtime>> {
    if !on_loopback(&fs::read_to_string(RESOLVERS).unwrap_or_default()) {
        return Ok(None);
    }
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).max_blocking_threads(8).thread_name("resolver").enable_all();
    builder.build().map(Some)
}

/// Whether the resolver is this machine itself; so it is where none is named.
fn on_loopback(resolvers: &str) -> bool {
    let mut named = resolvers.lines().filter_map(|line| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        // An IPv6 address may name its link.
        address.split('%').next()?.parse::<IpAddr>().ok()
    });
    let mut any = false;
    let loopback = named.any(|address| {
        any = true;
        address.is_loopback()
    });
    loopback || !any
}

#[cfg(test)]
mod tests {
    use super::on_loopback;

    #[test]
    fn a_resolver_is_here_or_elsewhere() {
        for (text, here) in [
            ("", true),
            ("# nameserver 1.1.1.1\noptions edns0\n", true),
            ("nameserver 127.0.0.53\n", true),
            ("nameserver\t::1", true),
            ("search a\nnameserver 10.0.0.2\n", false),
            ("nameserver 10.0.0.2\nnameserver 127.0.0.1\n", true),
            ("nameserver fe80::1%eth0\n", false),
        ] {
            assert_eq!(on_loopback(text), here, "{text:?}");
        }
    }
}

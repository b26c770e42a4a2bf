//! Addresses of names outside of the cluster that Ingresses lead to, by Services of type ExternalName.
//!
//! The proxy knows addresses alone, so the agent asks for them: when a name is first wanted, and then every now and then for as
//! long as some Service stands for it. What was found last stays while nobody answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How old an answer may be; the machine's resolver tells no time to live.
const FRESH: Duration = Duration::from_secs(30);
/// How soon a name is asked for again that has no addresses.
const AGAIN: Duration = Duration::from_secs(5);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Names at a time; whoever may make Services could make any number.
const MOST: usize = 1024;
/// Addresses of one name that are used.
const ADDRESSES: usize = 16;

/// What is known of a name.
type Found = Result<Vec<IpAddr>, String>;

/// The names; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Externals {
    known: Arc<Mutex<HashMap<String, Found>>>,
}

impl Externals {
    /// The addresses of a name, or why there are none. One that is new is looked up from now on, for as long as it `is_wanted`,
    /// and `changed` is called when it has others.
    pub(crate) fn addresses(
        &self,
        name: &str,
        is_wanted: impl Fn(&str) -> bool + Send + 'static,
        changed: impl Fn() + Send + 'static,
    ) -> Found {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(name) {
            return found.clone();
        }
        if known.len() >= MOST {
            return Err(format!("there are more than {MOST} other such names"));
        }
        let first = Err("it is being looked up".to_owned());
        known.insert(name.to_owned(), first.clone());
        let (all, name) = (self.known.clone(), name.to_owned());
        tokio::spawn(async move {
            loop {
                let found = look_up(&name).await;
                let rest = if found.is_ok() { FRESH } else { AGAIN };
                {
                    let mut known = all.lock().unwrap_or_else(PoisonError::into_inner);
                    let before = known.get(&name);
                    // Better an old address than none.
                    let keeps = found.is_err() && before.is_some_and(|before| before.is_ok());
                    if !keeps && before != Some(&found) {
                        known.insert(name.clone(), found);
                        drop(known);
                        changed();
                    }
                }
                tokio::time::sleep(rest).await;
                if !is_wanted(&name) {
                    all.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                    return;
                }
            }
        });
        first
    }
}

async fn look_up(name: &str) -> Found {
    let looked = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((name, 0))).await;
    let found = looked.map_err(|_| format!("no answer within {PATIENCE:?}"))?;
    let found = found.map_err(|error| error.to_string())?;
    let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    let any = !addresses.is_empty();
    addresses.retain(may_lead_to);
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES);
    match (addresses.is_empty(), any) {
        (false, _) => Ok(addresses),
        (true, true) => Err("it has only addresses of the machine itself".to_owned()),
        (true, false) => Err("it has no addresses".to_owned()),
    }
}

/// Whoever may make a Service must not reach what the machine has for itself alone.
fn may_lead_to(address: &IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !(address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            let is_link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            !(address.is_loopback()
                || is_link_local
                || address.is_unspecified()
                || address.is_multicast())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_addresses_are_not_led_to() {
        for (address, may) in [
            ("192.0.2.1", true),
            ("10.1.2.3", true),
            ("2001:db8::1", true),
            ("127.0.0.1", false),
            ("127.8.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("169.254.169.254", false),
            ("fe80::1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(may_lead_to(&parsed), may, "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_is_looked_up_while_it_is_wanted() {
        let externals = Externals::default();
        let (told, mut news) = tokio::sync::mpsc::unbounded_channel();
        let ask = || {
            let told = told.clone();
            externals.addresses("192.0.2.7", |_| true, move || told.send(()).unwrap_or_default())
        };
        assert_eq!(ask(), Err("it is being looked up".to_owned()));
        news.recv().await.expect("it was found");
        assert_eq!(ask(), Ok(vec!["192.0.2.7".parse().expect("an address")]));
        let told = told.clone();
        let own = move || told.send(()).unwrap_or_default();
        assert!(externals.addresses("localhost", |_| true, own).is_err());
        news.recv().await.expect("it was refused");
        let again = externals.addresses("localhost", |_| true, || {});
        assert_eq!(again, Err("it has only addresses of the machine itself".to_owned()));
    }
}

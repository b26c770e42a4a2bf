//! The fixed part of a Service table: its sets, chains and rules. What changes lives in the sets alone.
//!
//! ```text
//! services      address . protocol . port             → chain "pick-N" (address 0.0.0.0: a NodePort)
//! backends      address . protocol . port . number    → address . port
//! refused       address . protocol . port             Services without backends
//! guarded       address . protocol . port             → chain "from-N", for those whom only some may call
//! affinity      caller . address . protocol . port    → address . port: whose backend whose is, until it ends
//! stuck         address . protocol . port . address . port       backends that callers may stay with
//! balanced      address                               load balancers' addresses
//! same          link . link                           each link to Pods, twice: in and out again
//!
//! prerouting, output   → dispatch: look the destination up in `services`; then, if it is local, as a NodePort; each first
//!                        as what callers from outside of the cluster are led to, where they call from there
//! pick-N               → number = random below N; look up in `backends`; translate
//! pick-sticky-S-N      → whom `affinity` says, if `stuck` still has it; or pick, and keep that in `affinity` for S seconds
//! allow, allow-local   → guarded: new connections of those who may not are dropped
//! postrouting          → masquerade what could not find its way back
//! forward, input, local → refuse: `refused`, and whatever else of the Service range and of `balanced` was not
//!                        translated
//! ```
//! There is one `pick` chain per number of backends, not per Service, so a changed endpoint rewrites two or three
//! elements, whatever the number of Services and of backends. Keys for callers from outside have a bit set in their protocol.

use std::net::Ipv4Addr;

use super::elements::Class;
use super::expr::{
    CALLER, Expr, Field, OUTSIDE, R0, R1, R2, R3, R4, SCRATCH, Test, Verdict, link_name,
};
use super::rules::{RulesConfig, Scope};
use super::wire::{APPEND, Batch, CREATE, Verb};
use crate::cidr::Cidr;

pub(super) const SERVICES: &str = "services";
pub(super) const BACKENDS: &str = "backends";
pub(super) const REFUSED: &str = "refused";
pub(super) const SAME: &str = "same";
pub(super) const GUARDED: &str = "guarded";
pub(super) const BALANCED: &str = "balanced";
pub(super) const STUCK: &str = "stuck";
pub(super) const AFFINITY: &str = "affinity";
/// The most callers that are kept at a time, as kube-proxy has it.
const CALLERS: u32 = 65_535;
const DISPATCH: &str = "dispatch";
const REFUSE: &str = "refuse";
const REJECT: &str = "reject";
/// `IPS_DST_NAT`: the connection's destination is translated.
const DESTINATION_TRANSLATED: u32 = 1 << 5;
/// `NF_CT_STATE_BIT(IP_CT_NEW)`.
const NEW: u32 = 1 << 3;
/// The same of `IP_CT_ESTABLISHED` and of `IP_CT_RELATED`.
const GOES_ON: u32 = 1 << 1 | 1 << 2;
/// `RTN_LOCAL`.
const LOCAL: u32 = 2;
const TCP: u8 = 6;

/// Where a chain is hooked in (`enum nf_inet_hooks`).
#[derive(Clone, Copy)]
pub(super) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Priorities (`enum nf_ip_hook_priorities`).
const RAW: i32 = -300;
const BEFORE_DESTINATION: i32 = -110;
const DESTINATION: i32 = -100;
const FILTER: i32 = 0;
const SOURCE: i32 = 100;

/// Writes the table, replacing one of the same name in the same transaction.
pub(super) fn create(batch: &mut Batch, config: &RulesConfig) {
    delete(batch, &config.table);
    create_table(batch, &config.table);
    let mut table = Table { batch, config };
    table.set(SERVICES, 1, 12, SetData::Verdict);
    table.set(BACKENDS, 2, 16, SetData::Value(8));
    table.set(REFUSED, 3, 12, SetData::None);
    table.set(SAME, 4, 8, SetData::None);
    table.set(GUARDED, 5, 12, SetData::Verdict);
    table.set(AFFINITY, 6, 16, SetData::Remembered(8));
    table.set(STUCK, 7, 20, SetData::None);
    table.set(BALANCED, 8, 4, SetData::None);
    table.chain(DISPATCH, None);
    if config.scope == Scope::Host {
        table.dispatch(outside(config), false, true);
    }
    table.dispatch(vec![], false, false);
    let dispatch = || Expr::Verdict(Verdict::Jump(DISPATCH.to_owned()));
    table.chain("output", Some(("nat", Hook::Output, DESTINATION)));
    table.rule("output", [dispatch()]);
    if config.scope == Scope::Host {
        table.chain("prerouting", Some(("nat", Hook::Prerouting, DESTINATION)));
        table.rule("prerouting", [dispatch()]);
        let local = vec![
            Expr::LoadAddressType(Field::DestinationAddress, R0),
            Expr::Compare(R0, Test::Equal, LOCAL.to_ne_bytes().to_vec()),
        ];
        table.dispatch([local.clone(), outside(config)].concat(), true, true);
        table.dispatch(local, true, false);
        table.allow();
        table.guard();
        table.masquerade();
        table.refuse();
    }
}

/// Creates a table, unless it exists.
pub(super) fn create_table(batch: &mut Batch, table: &str) {
    batch.message(Verb::NewTable, CREATE, |out| out.string(1, table));
}

/// Adds a chain: its kind, and where it is hooked in with which priority, if anywhere.
pub(super) fn add_chain(
    batch: &mut Batch,
    table: &str,
    chain: &str,
    hook: Option<(&str, Hook, i32)>,
) {
    batch.message(Verb::NewChain, CREATE, |out| {
        out.string(1, table);
        out.string(3, chain);
        if let Some((kind, hook, priority)) = hook {
            out.nest(4, |out| {
                out.number(1, hook as u32);
                out.number(2, priority as u32);
            });
            out.number(5, 1);
            out.string(7, kind);
        }
    });
}

/// Adds a rule to the end of a chain.
pub(super) fn add_rule(
    batch: &mut Batch,
    table: &str,
    chain: &str,
    expressions: impl IntoIterator<Item = Expr>,
) {
    batch.message(Verb::NewRule, APPEND, |out| {
        out.string(1, table);
        out.string(2, chain);
        out.nest(4, |out| expressions.into_iter().for_each(|expression| expression.put(out)));
    });
}

/// Deletes the table, whether or not it exists.
pub(super) fn delete(batch: &mut Batch, table: &str) {
    create_table(batch, table);
    batch.message(Verb::DelTable, 0, |out| out.string(1, table));
}

/// Writes the chain that picks one of a number of backends.
pub(super) fn add_pick(batch: &mut Batch, config: &RulesConfig, class: Class) {
    let name = class.chain();
    let mut table = Table { batch, config };
    table.chain(&name, None);
    let key = key(class.node_port, class.outside);
    let translate = Expr::DestinationNat { address: R3, port: R4 };
    let pick = [
        Expr::Random { value: R3, modulus: class.backends },
        Expr::Find { map: BACKENDS, key: R0, value: R3 },
    ];
    if let Some(seconds) = class.sticky {
        let caller = Expr::Load(Field::SourceAddress, CALLER);
        let remember = Expr::Remember { map: AFFINITY, key: CALLER, value: R3, seconds };
        let again = [
            caller.clone(),
            Expr::Find { map: AFFINITY, key: CALLER, value: R3 },
            Expr::Member { set: STUCK, key: R0 },
            remember.clone(),
            translate.clone(),
        ];
        table.rule(&name, key.iter().cloned().chain(again));
        // Whom there is no room for is led on all the same, by the next rule.
        let anew =
            [Expr::Forget { map: AFFINITY, key: CALLER, value: R3 }, remember, translate.clone()];
        table.rule(&name, key.iter().cloned().chain([caller]).chain(pick.clone()).chain(anew));
    }
    table.rule(&name, key.into_iter().chain(pick).chain([translate]));
}

/// Writes the chain that drops what comes from elsewhere than these ranges.
pub(super) fn add_sources(batch: &mut Batch, config: &RulesConfig, name: &str, ranges: &[Cidr]) {
    let mut table = Table { batch, config };
    table.chain(name, None);
    for range in ranges {
        let allowed = within(Field::SourceAddress, *range, Test::Equal);
        table.rule(name, allowed.into_iter().chain([Expr::Verdict(Verdict::Return)]));
    }
    table.rule(name, [Expr::Verdict(Verdict::Drop)]);
}

/// Removes such a chain; nothing may lead to it any more.
pub(super) fn remove_chain(batch: &mut Batch, config: &RulesConfig, name: &str) {
    batch.message(Verb::DelRule, 0, |out| {
        out.string(1, &config.table);
        out.string(2, name);
    });
    batch.message(Verb::DelChain, 0, |out| {
        out.string(1, &config.table);
        out.string(3, name);
    });
}

/// Loads the packet's key: destination address (none for NodePorts), protocol and port.
fn key(node_port: bool, outside: bool) -> Vec<Expr> {
    let address = if node_port {
        Expr::Constant(R0, [0; 4])
    } else {
        Expr::Load(Field::DestinationAddress, R0)
    };
    let mut key = vec![address, Expr::LoadProtocol(R1)];
    key.extend(outside.then_some(Expr::Mark(R1, OUTSIDE)));
    key.push(Expr::Load(Field::DestinationPort, R2));
    key
}

/// Goes on if the caller is neither a Pod nor this machine.
fn outside(config: &RulesConfig) -> Vec<Expr> {
    let no_pod = within(Field::SourceAddress, config.cluster, Test::Differs);
    no_pod.into_iter().chain(not_from_here()).collect()
}

/// Goes on if the packet's source is no address of this machine's.
fn not_from_here() -> [Expr; 2] {
    [
        Expr::LoadAddressType(Field::SourceAddress, SCRATCH),
        Expr::Compare(SCRATCH, Test::Differs, LOCAL.to_ne_bytes().to_vec()),
    ]
}

/// Goes on if the field is (or is not) in the range.
pub(super) fn within(field: Field, range: Cidr, test: Test) -> [Expr; 3] {
    [
        Expr::Load(field, SCRATCH),
        Expr::Mask(SCRATCH, range.mask().to_be_bytes()),
        Expr::Compare(SCRATCH, test, range.base().octets().to_vec()),
    ]
}

fn input_link(name: &str, test: Test) -> [Expr; 2] {
    [Expr::LoadInputLink, Expr::Compare(SCRATCH, test, link_name(name))]
}

fn output_link(name: &str, test: Test) -> [Expr; 2] {
    [Expr::LoadOutputLink, Expr::Compare(SCRATCH, test, link_name(name))]
}

/// Goes on if the packet leaves (or does not leave) for some Pods: the links of isolation groups begin as the Pods' own.
fn to_pods(link: &str, test: Test) -> [Expr; 2] {
    [Expr::LoadOutputLink, Expr::Compare(SCRATCH, test, link.as_bytes().to_vec())]
}

/// Goes on if the packet comes from some Pods.
fn from_pods(link: &str) -> [Expr; 2] {
    [Expr::LoadInputLink, Expr::Compare(SCRATCH, Test::Equal, link.as_bytes().to_vec())]
}

fn translated() -> [Expr; 3] {
    [
        Expr::LoadConnectionStatus(SCRATCH),
        Expr::Mask(SCRATCH, DESTINATION_TRANSLATED.to_ne_bytes()),
        Expr::Compare(SCRATCH, Test::Differs, vec![0; 4]),
    ]
}

/// Goes on if the packet's connection is in one of these states.
fn in_state(states: u32) -> [Expr; 3] {
    [
        Expr::LoadConnectionState(SCRATCH),
        Expr::Mask(SCRATCH, states.to_ne_bytes()),
        Expr::Compare(SCRATCH, Test::Differs, vec![0; 4]),
    ]
}

/// Goes on if a Service (or a NodePort) of this table is what was called: others on this machine translate as well, another
/// cluster for one.
fn led(node_port: bool) -> [Expr; 5] {
    let address = match node_port {
        true => Expr::Constant(R0, [0; 4]),
        false => Expr::LoadBegun(Field::DestinationAddress, R0),
    };
    [
        address,
        Expr::LoadProtocol(R1),
        Expr::LoadBegun(Field::DestinationPort, R2),
        // Whatever has backends has a first one.
        Expr::Constant(R3, [0; 4]),
        Expr::Find { map: BACKENDS, key: R0, value: R0 },
    ]
}

enum SetData {
    None,
    Verdict,
    Value(u32),
    /// Written by rules, each element with an end.
    Remembered(u32),
}

struct Table<'a> {
    batch: &'a mut Batch,
    config: &'a RulesConfig,
}

impl Table<'_> {
    /// A set (or map) of keys of `key_length` bytes. `id` tells sets of one transaction apart.
    fn set(&mut self, name: &str, id: u32, key_length: u32, data: SetData) {
        // Types only matter to those who list the table: address 7, protocol 12, port 13, number 19 (as marks are: `nft` breaks
        // off at numbers without a length), joined by 6 bits.
        let address_protocol_port = (7 << 6 | 12) << 6 | 13;
        let key_type = match key_length {
            // Two links' numbers.
            4 => 7,
            8 => 20 << 6 | 20,
            16 if matches!(data, SetData::Remembered(_)) => ((7 << 6 | 7) << 6 | 12) << 6 | 13,
            16 => address_protocol_port << 6 | 19,
            20 => (address_protocol_port << 6 | 7) << 6 | 13,
            _ => address_protocol_port,
        };
        self.batch.message(Verb::NewSet, CREATE, |out| {
            out.string(1, &self.config.table);
            out.string(2, name);
            // NFT_SET_MAP; NFT_SET_TIMEOUT and NFT_SET_EVAL.
            let flags = match data {
                SetData::None => 0,
                SetData::Verdict | SetData::Value(_) => 8,
                SetData::Remembered(_) => 8 | 0x10 | 0x20,
            };
            out.number(3, flags);
            out.number(4, key_type);
            out.number(5, key_length);
            match data {
                SetData::None => {}
                SetData::Verdict => out.number(6, 0xffff_ff00),
                SetData::Value(length) | SetData::Remembered(length) => {
                    out.number(6, 7 << 6 | 13);
                    out.number(7, length);
                }
            }
            if matches!(data, SetData::Remembered(_)) {
                out.nest(9, |out| out.number(1, CALLERS));
            }
            out.number(10, id);
        });
    }

    fn chain(&mut self, name: &str, hook: Option<(&str, Hook, i32)>) {
        add_chain(self.batch, &self.config.table, name, hook);
    }

    fn rule(&mut self, chain: &str, expressions: impl IntoIterator<Item = Expr>) {
        add_rule(self.batch, &self.config.table, chain, expressions);
    }

    /// Follows what `services` says of the packet's key, where the conditions hold.
    fn dispatch(&mut self, conditions: Vec<Expr>, node_port: bool, outside: bool) {
        let look = [Expr::Dispatch { map: SERVICES, key: R0 }];
        let rule = conditions.into_iter().chain(key(node_port, outside)).chain(look);
        self.rule(DISPATCH, rule);
    }

    /// Who may begin a connection to a load balancer's address. What has begun goes on.
    fn allow(&mut self) {
        for (name, hook) in [("allow", Hook::Prerouting), ("allow-local", Hook::Output)] {
            self.chain(name, Some(("filter", hook, BEFORE_DESTINATION)));
            let look = [Expr::Dispatch { map: GUARDED, key: R0 }];
            self.rule(name, in_state(NEW).into_iter().chain(key(false, false)).chain(look));
        }
    }

    /// `route_localnet` on the links to Pods and to other machines lets answers to 127.0.0.1 in; nothing else from there may
    /// reach loopback (CVE-2020-8558). Answers still carry the link's address at this point.
    fn guard(&mut self) {
        self.chain("guard", Some(("filter", Hook::Prerouting, RAW)));
        let loopback = Cidr::new(Ipv4Addr::LOCALHOST, 8);
        let rule = input_link("lo", Test::Differs).into_iter();
        let rule = rule.chain(within(Field::DestinationAddress, loopback, Test::Equal));
        self.rule("guard", rule.chain([Expr::Verdict(Verdict::Drop)]));
        // A container may be root in its namespace and send under any address: only its own comes through. What the kernel
        // has for that (`rp_filter`) is as weak as the machine's own setting for all links.
        let forged = from_pods(&self.config.link).into_iter().chain([
            Expr::LoadReverse(SCRATCH),
            Expr::Compare(SCRATCH, Test::Equal, vec![0]),
            Expr::Verdict(Verdict::Drop),
        ]);
        self.rule("guard", forged);
    }

    /// A caller's address is kept wherever the answer comes back this way by itself.
    fn masquerade(&mut self) {
        let (link, pods, cluster) =
            (self.config.link.clone(), self.config.pods, self.config.cluster);
        let loopback = Cidr::new(Ipv4Addr::LOCALHOST, 8);
        self.chain("postrouting", Some(("nat", Hook::Postrouting, SOURCE)));
        let mut masquerade = |conditions: &[&[Expr]]| {
            let conditions = conditions.iter().flat_map(|expressions| expressions.iter().cloned());
            self.rule("postrouting", conditions.chain([Expr::Masquerade]));
        };
        // A NodePort called through 127.0.0.1.
        masquerade(&[
            &output_link("lo", Test::Differs),
            &within(Field::SourceAddress, loopback, Test::Equal),
        ]);
        // A Pod that is led back where it came from, to itself or to another in its namespace: that would be answered in
        // there, past this machine. Between two namespaces callers keep their addresses.
        let same = [
            Expr::LoadInputIndex(R0),
            Expr::LoadOutputIndex(R1),
            Expr::Member { set: SAME, key: R0 },
        ];
        masquerade(&[&same, &translated()]);
        // A Pod that calls the world outside. To Pods of other machines it comes under its own address.
        masquerade(&[
            &to_pods(&link, Test::Differs),
            &within(Field::SourceAddress, pods, Test::Equal),
            &within(Field::DestinationAddress, cluster, Test::Differs),
        ]);
        // The world outside that is led on to another machine's Pod, whose answer would not come back this way.
        for node_port in [false, true] {
            masquerade(&[
                &translated(),
                &within(Field::SourceAddress, cluster, Test::Differs),
                &within(Field::DestinationAddress, pods, Test::Differs),
                &not_from_here(),
                &led(node_port),
            ]);
        }
    }

    /// Callers of a Service without backends, or of no Service, are told at once. What was answered before was led somewhere:
    /// it passes first, since all traffic of the machine comes by here.
    fn refuse(&mut self) {
        let pass = || in_state(GOES_ON).into_iter().chain([Expr::Verdict(Verdict::Return)]);
        self.chain(REJECT, None);
        let tcp =
            [Expr::LoadProtocol(R0), Expr::Compare(R0, Test::Equal, vec![TCP]), Expr::RejectTcp];
        self.rule(REJECT, tcp);
        self.rule(REJECT, [Expr::RejectIcmp]);
        let reject = || Expr::Verdict(Verdict::Goto(REJECT.to_owned()));
        let refused = || [Expr::Member { set: REFUSED, key: R0 }, reject()];
        self.chain(REFUSE, None);
        self.rule(REFUSE, key(false, false).into_iter().chain(refused()));
        let range = within(Field::DestinationAddress, self.config.services, Test::Equal);
        self.rule(REFUSE, range.into_iter().chain([reject()]));
        let balanced = [
            Expr::Load(Field::DestinationAddress, R0),
            Expr::Member { set: BALANCED, key: R0 },
            reject(),
        ];
        self.rule(REFUSE, balanced);
        for (name, hook) in [("forward", Hook::Forward), ("local", Hook::Output)] {
            self.chain(name, Some(("filter", hook, FILTER)));
            self.rule(name, pass());
            self.rule(name, [Expr::Verdict(Verdict::Jump(REFUSE.to_owned()))]);
        }
        self.chain("input", Some(("filter", Hook::Input, FILTER)));
        self.rule("input", pass());
        self.rule("input", key(true, false).into_iter().chain(refused()));
    }
}

//! Tables that lose packets on purpose, or hide machines behind a router, for tests of what goes on without them.

use super::expr::{Expr, Field, R0, SCRATCH, Test, Verdict};
use super::ruleset::{self, Hook};
use super::wire::{Batch, DELETE_CONNECTION, NftError, NftSocket};
use crate::cidr::Cidr;

/// Before anything else looks at a packet.
const FIRST: i32 = -400;
/// `NF_CT_STATE_BIT` of connections that begin, and of packets that belong to none.
const NEW_OR_INVALID: u32 = 1 << 3 | 1;

/// What is lost: packets to this machine, from it and through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Only those that come from here.
    pub from: Cidr,
    /// Only those that are meant for there.
    pub to: Cidr,
    /// Only one of so many, by chance; all of them if it is 1.
    pub one_of: u32,
}

/// Makes these losses all that there are in the calling thread's network namespace; none removes the table.
///
/// # Errors
/// When the kernel refuses.
pub fn set_losses(table: &str, losses: &[Loss]) -> Result<(), NftError> {
    let socket = NftSocket::open()?;
    let mut batch = Batch::new();
    ruleset::delete(&mut batch, table);
    if !losses.is_empty() {
        ruleset::create_table(&mut batch, table);
    }
    let hooks = [("lose", Hook::Prerouting), ("lose-own", Hook::Output)];
    for (chain, hook) in hooks.into_iter().filter(|_| !losses.is_empty()) {
        ruleset::add_chain(&mut batch, table, chain, Some(("filter", hook, FIRST)));
        for loss in losses {
            let mut rule = Vec::new();
            rule.extend(ruleset::within(Field::SourceAddress, loss.from, Test::Equal));
            rule.extend(ruleset::within(Field::DestinationAddress, loss.to, Test::Equal));
            if loss.one_of > 1 {
                rule.push(Expr::Random { value: R0, modulus: loss.one_of });
                rule.push(Expr::Compare(R0, Test::Equal, vec![0; 4]));
            }
            rule.push(Expr::Verdict(Verdict::Drop));
            ruleset::add_rule(&mut batch, table, chain, rule);
        }
    }
    socket.commit(batch)
}

/// Makes the calling thread's network namespace a router as homes and offices have them: machines `inside` reach others under
/// its address, and nobody outside can begin anything with them, or with it.
///
/// # Errors
/// When the kernel refuses.
pub fn hide(table: &str, inside: Cidr) -> Result<(), NftError> {
    let socket = NftSocket::open()?;
    let mut batch = Batch::new();
    ruleset::delete(&mut batch, table);
    ruleset::create_table(&mut batch, table);
    let masquerade = ruleset::within(Field::SourceAddress, inside, Test::Equal)
        .into_iter()
        .chain(ruleset::within(Field::DestinationAddress, inside, Test::Differs))
        .chain([Expr::Masquerade]);
    ruleset::add_chain(&mut batch, table, "masquerade", Some(("nat", Hook::Postrouting, 100)));
    ruleset::add_rule(&mut batch, table, "masquerade", masquerade);
    for (chain, hook) in [("forward", Hook::Forward), ("input", Hook::Input)] {
        ruleset::add_chain(&mut batch, table, chain, Some(("filter", hook, 0)));
        let refuse = ruleset::within(Field::SourceAddress, inside, Test::Differs);
        let refuse = refuse.into_iter().chain([
            Expr::LoadConnectionState(SCRATCH),
            Expr::Mask(SCRATCH, NEW_OR_INVALID.to_ne_bytes()),
            Expr::Compare(SCRATCH, Test::Differs, vec![0; 4]),
            Expr::Verdict(Verdict::Drop),
        ]);
        ruleset::add_rule(&mut batch, table, chain, refuse);
    }
    socket.commit(batch)
}

/// Forgets all connections of the calling thread's network namespace, as a router does that is restarted.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_connections() -> Result<(), NftError> {
    NftSocket::open()?.ask(DELETE_CONNECTION, &[])
}

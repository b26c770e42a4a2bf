//! Which IDs of the machine are a Pod's that has users of its own (`hostUsers: false`). Pure.
//!
//! They follow from the number of its isolation group, which no two of an agent have at once, which is kept on disk while the
//! Pod has anything here, and which is free again afterwards. They lie above the numbers of hosts' users; the last 65,536 are
//! nobody's, since -1 is one of them.

use coracle_sandbox::UserMapping;

/// Users and groups of a Pod, as the kubelet gives them.
const COUNT: u32 = 0x1_0000;
/// The first of all Pods' IDs.
const FIRST: u32 = 0x8000_0000;
/// How many Pods' there are.
const RANGES: u32 = 0x7fff;

/// Those of a Pod, by the number of its group. Agents of one machine begin in different places, as their first users' numbers
/// tell; where these are nearer to each other than both have Pods, they meet.
pub(super) fn of_group(first_user: u32, number: u16) -> UserMapping {
    let agent = first_user >> 12 & 0xffff;
    let range = (agent / 2 + u32::from(number)) % RANGES;
    let guest = first_user.checked_add(u32::from(number));
    UserMapping { host: FIRST + range * COUNT, count: COUNT, guest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_share_ids() {
        for first_user in [0x7000_0000, 0x7abc_d000, 0x7fff_f000] {
            let mut hosts: Vec<u32> =
                (1..0x1000).map(|number| of_group(first_user, number).host).collect();
            hosts.sort_unstable();
            assert!(hosts[0] >= FIRST && hosts[0].is_multiple_of(COUNT));
            assert!(hosts.windows(2).all(|pair| pair[1] - pair[0] >= COUNT));
            assert!(hosts.last().is_some_and(|last| last.checked_add(COUNT).is_some()));
        }
        assert_eq!(
            of_group(0x7000_4000, 3),
            UserMapping { host: 0x8005_0000, count: 0x1_0000, guest: Some(0x7000_4003) }
        );
    }
}

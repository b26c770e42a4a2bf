use super::*;

const QUEUING: Queuing = Queuing { queues: 16, hand: 4, length: 50 };

fn hash(flow: u64) -> u64 {
    // Any mixing does.
    let mut mixed = flow.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[test]
fn hands_are_different_queues_and_differ() {
    let hands: Vec<Vec<usize>> = (0..200).map(|flow| deal(hash(flow), 16, 4)).collect();
    for hand in &hands {
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 4, "{hand:?}");
        assert!(sorted.iter().all(|queue| *queue < 16), "{hand:?}");
    }
    let alike = hands.windows(2).filter(|pair| pair[0] == pair[1]).count();
    assert!(alike < 3, "{alike} neighbours share all of their queues");
    assert_eq!(deal(7, 2, 6).len(), 2, "no more queues than there are");
}

/// A noisy flow asks for hundreds of requests at once, a quiet one for ten: all of the quiet one's are served before half of
/// the noisy one's are, whatever time each takes.
#[test]
fn many_requests_of_one_do_not_starve_few_of_another() {
    for (noisy, quiet) in (0..40).map(|i| (hash(2 * i), hash(2 * i + 1))) {
        let mut queues = Queues::new(Some(QUEUING));
        let mut serving = VecDeque::new();
        let mut refused = 0;
        let mut served = Vec::new();
        let mut take = |queues: &mut Queues, ticket, flow| {
            let taken = queues.seated();
            match queues.arrive(ticket, flow, 1, |seats| taken + seats <= 4) {
                Arrival::Served(seated) => serving.push_back((ticket, seated)),
                Arrival::Waits => {}
                Arrival::Refused => refused += 1,
            }
        };
        for ticket in 0..500 {
            take(&mut queues, ticket, noisy);
        }
        for ticket in 1000..1010 {
            take(&mut queues, ticket, quiet);
        }
        assert!(refused > 0, "the noisy flow fills its own queues");
        while let Some((ticket, seated)) = serving.pop_front() {
            served.push(ticket);
            queues.done(seated, Duration::from_millis(10));
            let taken = queues.seated();
            serving.extend(queues.next(|seats| taken + seats <= 4));
        }
        let quiet_done = served.iter().rposition(|ticket| *ticket >= 1000).expect("served");
        let count = served.iter().filter(|ticket| **ticket >= 1000).count();
        assert_eq!(count, 10, "all of the quiet flow's are served");
        assert!(quiet_done < served.len() / 2, "{quiet_done} of {}", served.len());
        assert_eq!(queues.seated(), 0);
    }
}

#[test]
fn who_leaves_is_not_served_and_wide_requests_wait_for_all_of_their_seats() {
    let mut queues = Queues::new(Some(QUEUING));
    let Arrival::Served(first) = queues.arrive(1, 1, 3, |seats| seats <= 4) else { panic!() };
    assert_eq!(queues.arrive(2, 1, 2, |_| false), Arrival::Waits);
    assert_eq!(queues.arrive(3, 2, 1, |_| true), Arrival::Waits, "nobody overtakes who waits");
    assert_eq!(queues.next(|_| false), None);
    queues.leave(2);
    queues.done(first, Duration::ZERO);
    let (ticket, _) = queues.next(|_| true).expect("the other");
    assert_eq!((ticket, queues.is_waiting(), queues.seated()), (3, false, 1));
}

#[test]
fn a_level_without_queues_turns_away() {
    let mut queues = Queues::new(None);
    assert!(matches!(queues.arrive(1, 1, 1, |_| true), Arrival::Served(_)));
    assert_eq!(queues.arrive(2, 1, 1, |_| false), Arrival::Refused);
}

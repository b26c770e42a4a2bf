use std::time::Duration;

use super::*;

fn all(slots: &Arc<Slots>, held: &Arc<Held>, purpose: Purpose) -> Vec<Slot> {
    std::iter::from_fn(|| slots.try_take(held, purpose)).collect()
}

#[test]
fn whoever_takes_all_it_can_leaves_some() {
    let slots = Slots::new(900);
    let pods: Vec<Arc<Held>> = (0..10).map(|_| Arc::default()).collect();
    let taken: Vec<Vec<Slot>> = pods.iter().map(|p| all(&slots, p, Purpose::Request)).collect();
    assert!((620..=640).contains(&taken[0].len()), "{}", taken[0].len());
    assert!(taken.iter().all(|taken| taken.len() >= FEW));
    let late = Arc::new(Held::default());
    assert_eq!(all(&slots, &late, Purpose::Request).len(), FEW);
    let first = pods[0].clone();
    assert!(slots.try_take(&first, Purpose::Request).is_none());
    drop(taken);
    assert_eq!((slots.free(), first.count()), (900, 0));
}

#[test]
fn equal_parts_are_where_greedy_pods_meet() {
    let slots = Slots::new(410);
    let pods: Vec<Arc<Held>> = (0..5).map(|_| Arc::default()).collect();
    let mut taken: Vec<Vec<Slot>> = pods.iter().map(|_| Vec::new()).collect();
    taken[0] = all(&slots, &pods[0], Purpose::Request);
    // The first gives back what ends; everybody takes what is allowed.
    for _ in 0..2000 {
        for (pod, mine) in pods.iter().zip(&mut taken) {
            mine.pop();
            mine.extend(all(&slots, pod, Purpose::Request));
        }
    }
    for pod in &pods {
        assert!((50..=90).contains(&pod.count()), "{}", pod.count());
    }
}

#[test]
fn commands_leave_some_to_requests() {
    let slots = Slots::new(80);
    let pod = Arc::new(Held::default());
    let commands = all(&slots, &pod, Purpose::Command);
    assert_eq!(commands.len(), 70);
    let others: Vec<Arc<Held>> = (0..4).map(|_| Arc::default()).collect();
    let taken: Vec<_> = others.iter().map(|pod| all(&slots, pod, Purpose::Request)).collect();
    assert_eq!(taken.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2, 0]);
}

#[tokio::test]
async fn a_slot_that_becomes_free_goes_to_one_that_waits() {
    let slots = Slots::new(2);
    assert_eq!(slots.reserve(), 0);
    let (busy, waits): (Arc<Held>, Arc<Held>) = Default::default();
    let mut taken = all(&slots, &busy, Purpose::Request);
    assert_eq!(taken.len(), 2);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let (slots, waits) = (slots.clone(), waits.clone());
            tokio::spawn(async move { slots.take(&waits, Purpose::Request).await })
        })
        .collect();
    tokio::task::yield_now().await;
    for task in waiting {
        assert!(!task.is_finished());
        taken.pop();
        drop(tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap());
    }
    assert_eq!((slots.free(), slots.waiting.load(SeqCst)), (2, 0));
}

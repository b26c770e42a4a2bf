use std::time::Duration;

use super::*;

const MIB: u64 = 1 << 20;

fn hold(account: &Arc<Account>, bytes: u64) -> Result<Hold, OutOfMemory> {
    let mut hold = Hold::new(account.clone());
    hold.grow(bytes - INSTANCE)?;
    Ok(hold)
}

#[test]
fn one_account_for_all_instances_and_the_pod() {
    let pod = Account::new(Some(100 * MIB), None);
    let (one, two) =
        (Account::new(Some(60 * MIB), Some(pod.clone())), Account::new(None, Some(pod.clone())));
    let mut first = hold(&one, 40 * MIB).unwrap();
    assert!(
        matches!(first.grow(21 * MIB), Err(OutOfMemory::Limit { limit, .. }) if limit == 60 * MIB)
    );
    first.grow(20 * MIB).unwrap();
    assert!(
        matches!(hold(&two, 41 * MIB), Err(OutOfMemory::Limit { limit, .. }) if limit == 100 * MIB)
    );
    let second = hold(&two, 40 * MIB).unwrap();
    assert_eq!((one.used(), two.used(), pod.used()), (60 * MIB, 40 * MIB, 100 * MIB));
    first.undo();
    drop(second);
    assert_eq!((one.used(), two.used(), pod.used()), (40 * MIB, 0, 40 * MIB));
    drop(first);
    assert_eq!((one.used(), pod.used()), (0, 0));
}

#[test]
fn as_many_are_admitted_as_fit_once_the_need_is_known() {
    let account = Account::new(Some(100 * MIB), None);
    let unknown: Vec<_> = std::iter::from_fn(|| account.try_admit()).take(50).collect();
    assert_eq!(unknown.len(), 50);
    drop(unknown);
    drop(hold(&account, 30 * MIB).unwrap());
    let admitted: Vec<_> = std::iter::from_fn(|| account.try_admit()).collect();
    assert_eq!(admitted.len(), 3);
    drop(admitted);
    // What is held without having been expected counts as well.
    let held = hold(&account, 60 * MIB).unwrap();
    let one = account.try_admit().unwrap();
    assert!(account.try_admit().is_none());
    drop((one, held));
    assert_eq!((account.used(), account.reserved.load(SeqCst)), (0, 0));
    // A need larger than the limit admits one: whether it fits will be seen.
    account.learn_at_least(1000 * MIB);
    assert!(account.try_admit().is_some());
    // Small instances make the large one forgotten.
    for _ in 0..100 {
        drop(hold(&account, 5 * MIB).unwrap());
    }
    assert!(account.need.load(Relaxed) < 10 * MIB, "{}", account.need.load(Relaxed));
}

#[test]
fn without_a_limit_all_are_admitted() {
    let account = Account::new(None, Some(Account::new(None, None)));
    account.learn_at_least(u64::MAX);
    assert_eq!(std::iter::from_fn(|| account.try_admit()).take(10_000).count(), 10_000);
}

#[tokio::test]
async fn who_does_not_fit_yet_waits_for_another_to_end() {
    let pod = Account::new(Some(50 * MIB), None);
    let (one, two) =
        (Account::new(None, Some(pod.clone())), Account::new(Some(90 * MIB), Some(pod.clone())));
    for account in [&one, &two] {
        account.learn_at_least(30 * MIB);
    }
    let first = one.admit().await;
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            let two = two.clone();
            tokio::spawn(async move { drop(two.admit().await) })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    drop(first);
    for task in waiting {
        tokio::time::timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    }
    assert_eq!((pod.reserved.load(SeqCst), two.waiting.load(SeqCst)), (0, 0));
}

#[test]
fn what_is_lent_counts_until_it_is_given_back() {
    let pod = Account::new(Some(100), None);
    let account = Account::new(None, Some(pod.clone()));
    let first = account.lend(60).expect("it fits");
    assert!(account.lend(60).is_none(), "it does not fit into the Pod");
    assert_eq!((account.used(), pod.used()), (60, 60));
    drop(first);
    assert_eq!((account.used(), pod.used()), (0, 0));
    assert!(account.lend(60).is_some());
}

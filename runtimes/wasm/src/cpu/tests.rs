use super::*;

/// Spins until this thread has used so much CPU.
fn spin(millis: u64) {
    let end = meter::thread_cpu() + millis * 1_000_000;
    while meter::thread_cpu() < end {
        std::hint::spin_loop();
    }
}

#[test]
fn buckets_fill_at_their_rate() {
    let bucket = Bucket::default();
    // 1 ms of CPU at 100m takes 10 ms; what was saved up pays for the first 100 ms.
    let nap = bucket.charge(1_000_000, 100, 0);
    assert!((9_000_000..=10_000_000).contains(&nap), "{nap}");
    let nap = bucket.charge(9_000_000, 100, LIMIT_BURST);
    assert!((99_000_000..=100_000_000).contains(&nap), "{nap}");
    assert_eq!(Bucket::default().charge(10_000_000, 100, LIMIT_BURST), 0);
    assert_eq!(Bucket::default().debt(), 0);
    assert!(Bucket::default().charge(u64::MAX, 1, 0) <= MOST_DEBT);
}

#[tokio::test]
async fn polls_are_charged_to_container_and_pod_and_nested_ones_once() {
    let pod = Cpu::new(None, 0, None);
    let outer = Cpu::new(None, 0, Some(pod.clone()));
    let inner = Cpu::new(Some(100), 0, Some(pod.clone()));
    metered(outer.clone(), async {
        spin(5);
        metered(inner.clone(), async {
            spin(20);
            tokio::time::sleep(Duration::from_millis(30)).await;
            spin(1);
        })
        .await;
        spin(5);
    })
    .await;
    let millis = |cpu: &Cpu| cpu.used() / 100_000;
    // In tenths of milliseconds; a poll that was interrupted by the kernel is charged what it ran.
    assert!((100..=125).contains(&millis(&outer)), "{}", millis(&outer));
    assert!((210..=235).contains(&millis(&inner)), "{}", millis(&inner));
    assert_eq!(pod.used(), outer.used() + inner.used());
    // 21 ms at 100m: 210 ms, of which 100 were saved up and 30 slept.
    let debt = inner.debt().unwrap();
    assert!(debt > Duration::from_millis(20) && debt < Duration::from_millis(111), "{debt:?}");
    assert_eq!(outer.debt(), None);
}

#[tokio::test]
async fn waiting_costs_nothing_and_many_short_polls_add_up() {
    let cpu = Cpu::new(None, 0, None);
    metered(cpu.clone(), tokio::time::sleep(Duration::from_millis(100))).await;
    assert!(cpu.used() < 5_000_000, "{}", cpu.used());
    let before = (cpu.used(), meter::thread_cpu());
    metered(cpu.clone(), async {
        for _ in 0..2000 {
            (0..2_000).for_each(|n| {
                std::hint::black_box(n);
            });
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (charged, used) = (cpu.used() - before.0, meter::thread_cpu() - before.1);
    assert!(charged <= used * 11 / 10 && charged * 2 >= used, "{charged} charged of {used}");
}

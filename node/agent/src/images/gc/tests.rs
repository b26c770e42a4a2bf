use super::*;

fn disk(percent_used: u64) -> Disk {
    Disk { capacity: 1000, available: 1000 - 10 * percent_used }
}

#[test]
fn thresholds_are_the_kubelets() {
    let settings = Settings::default();
    assert_eq!(disk(84).judge(&settings), (0, false));
    assert_eq!(disk(85).judge(&settings), (50, false));
    assert_eq!(disk(90).judge(&settings), (100, false));
    assert_eq!(disk(95).judge(&settings), (150, false));
    assert_eq!(disk(96).judge(&settings), (u64::MAX, true));
    let all = Settings { high_percent: 0, low_percent: 0, ..Settings::default() };
    assert_eq!(disk(20).judge(&all), (200, false));
    let never = Settings { high_percent: 100, pressure_percent: 0, ..Settings::default() };
    assert_eq!(disk(99).judge(&never), (0, false));
    assert_eq!(Disk { capacity: 0, available: 0 }.judge(&settings), (0, false));
}

#[test]
fn the_least_recently_used_goes_first() {
    let now = SystemTime::now();
    let ago = |seconds| now - Duration::from_secs(seconds);
    let candidate = |digest: &str, seconds, protected| Candidate {
        digest: digest.to_owned(),
        used: ago(seconds),
        protected,
    };
    let all = vec![
        candidate("young", 10, false),
        candidate("old", 500, false),
        candidate("older", 900, false),
        candidate("used", 9999, true),
    ];
    assert_eq!(plan(all, now, Duration::from_secs(120)), ["older", "old"]);
    // A clock that was set back protects.
    let ahead = Candidate { used: now + Duration::from_secs(60), ..candidate("ahead", 0, false) };
    assert!(plan(vec![ahead], now, Duration::from_secs(1)).is_empty());
}

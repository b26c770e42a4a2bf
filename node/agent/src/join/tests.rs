use super::*;

#[test]
fn a_wrong_clock_is_told_with_both_times() {
    let time = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let now = time(1_000_000_000);
    let of = |error| by_the_clock(rustls::Error::InvalidCertificate(error), now).to_string();
    for (error, expected) in [
        (
            CertificateError::NotValidYetContext { time: now, not_before: time(1_100_000_000) },
            "from 2004-11-09T11:33:20Z on",
        ),
        (
            CertificateError::ExpiredContext { time: now, not_after: time(900_000_000) },
            "until 1998-07-09T16:00:00Z",
        ),
    ] {
        let said = of(error);
        for part in [expected, "2001-09-09T01:46:40Z", "set the clock"] {
            assert!(said.contains(part), "{said}");
        }
    }
    assert!(!of(CertificateError::BadSignature).contains("clock"));
}

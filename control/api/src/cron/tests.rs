use super::*;

#[track_caller]
fn check(schedule: &str, name: &str, after: &str, expected: &[&str]) {
    let schedule: Schedule = schedule.parse().expect(schedule);
    let zone = zone(Some(name)).expect(name);
    let mut at: Timestamp = after.parse().expect("a time");
    for expected in expected {
        at = schedule.next(at, &zone).expect("it is due some time");
        assert_eq!(at.to_string(), *expected, "{schedule:?} in {name}");
    }
}

#[test]
fn fields_say_when() {
    let new_year = "2024-01-01T00:00:00Z";
    check(
        "* * * * *",
        "UTC",
        "2024-01-01T00:00:30Z",
        &["2024-01-01T00:01:00Z", "2024-01-01T00:02:00Z"],
    );
    check(
        "*/20 3 * * *",
        "UTC",
        new_year,
        &[
            "2024-01-01T03:00:00Z",
            "2024-01-01T03:20:00Z",
            "2024-01-01T03:40:00Z",
            "2024-01-02T03:00:00Z",
        ],
    );
    check(
        "5/30 23 31 dec ?",
        "UTC",
        new_year,
        &["2024-12-31T23:05:00Z", "2024-12-31T23:35:00Z", "2025-12-31T23:05:00Z"],
    );
    check("0 0 29 2 *", "UTC", new_year, &["2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"]);
    // A day of the month or of the week; but of both where one is any.
    check(
        "0 0 13 * FRI",
        "UTC",
        new_year,
        &["2024-01-05T00:00:00Z", "2024-01-12T00:00:00Z", "2024-01-13T00:00:00Z"],
    );
    check(
        "0 12 * * Mon-Tue,4",
        "UTC",
        new_year,
        &["2024-01-01T12:00:00Z", "2024-01-02T12:00:00Z", "2024-01-04T12:00:00Z"],
    );
    check(
        "0 0 */2 * 1",
        "UTC",
        new_year,
        &[
            "2024-01-03T00:00:00Z",
            "2024-01-05T00:00:00Z",
            "2024-01-07T00:00:00Z",
            "2024-01-08T00:00:00Z",
        ],
    );
    check("@hourly", "UTC", "2024-01-01T00:30:00Z", &["2024-01-01T01:00:00Z"]);
    check("@weekly", "UTC", new_year, &["2024-01-07T00:00:00Z"]);
    check("@yearly", "UTC", new_year, &["2025-01-01T00:00:00Z"]);
    check(
        "@every 1h30m",
        "UTC",
        "2024-01-01T00:00:10.5Z",
        &["2024-01-01T01:30:10Z", "2024-01-01T03:00:10Z"],
    );
    let never: Schedule = "0 0 30 2 *".parse().expect("written right");
    assert_eq!(never.next(new_year.parse().expect("a time"), &TimeZone::UTC), None);
}

#[test]
fn zones_say_where_and_clocks_change() {
    check("30 9 * * *", "Asia/Kolkata", "2024-01-01T00:00:00Z", &["2024-01-01T04:00:00Z"]);
    // Clocks go from 2:00 to 3:00 on 31 March: 2:30 is left out.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2024-03-29T12:00:00Z",
        &["2024-03-30T01:30:00Z", "2024-04-01T00:30:00Z"],
    );
    // And back from 3:00 to 2:00 on 27 October: 2:30 is there twice.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2024-10-26T12:00:00Z",
        &["2024-10-27T00:30:00Z", "2024-10-27T01:30:00Z", "2024-10-28T01:30:00Z"],
    );
    // Midnight itself may be left out.
    check("0 * * * *", "America/Asuncion", "2023-09-30T12:00:00Z", &["2023-09-30T13:00:00Z"]);
    assert_eq!(zone(Some("Mars/Base")), Err("unknown time zone Mars/Base".to_owned()));
}

#[test]
fn what_is_wrong_is_named() {
    for (schedule, why) in [
        ("", "empty spec string"),
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("* * * * * *", "expected exactly 5 fields, found 6: [* * * * * *]"),
        ("60 * * * *", "end of range (60) above maximum (59): 60"),
        ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
        ("* * * * 7", "end of range (7) above maximum (6): 7"),
        ("5-1 * * * *", "beginning of range (5) beyond end of range (1): 5-1"),
        ("1-2-3 * * * *", "too many hyphens: 1-2-3"),
        ("1/2/3 * * * *", "too many slashes: 1/2/3"),
        ("*/0 * * * *", "step of range should be a positive number: */0"),
        ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
        ("@never", "unrecognized descriptor: @never"),
        ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
    ] {
        assert_eq!(schedule.parse::<Schedule>(), Err(why.to_owned()), "{schedule}");
    }
}

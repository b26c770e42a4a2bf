use coracle_api::plan::Write;

use super::*;
use crate::tests::{NOW, cluster, created, owner, patches};

/// 2030-01-01T00:00:00Z in minutes.
const MINUTE: i64 = 31_557_600;

fn cron_job(spec: Value, status: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "tick", "creationTimestamp": "2029-12-31T23:59:30Z"},
        "spec": {"schedule": "* * * * *", "concurrencyPolicy": "Allow",
            "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"template": {}}}},
        "status": status,
    });
    crate::tests::json_merge(&mut object["spec"], spec);
    object
}

fn job(name: &str, time: &str, condition: &str) -> Value {
    let conditions = if condition.is_empty() {
        json!([])
    } else {
        json!([{"type": condition, "status": "True", "lastTransitionTime": NOW}])
    };
    json!({
        "metadata": {"name": name, "annotations": {SCHEDULED: time}, "ownerReferences": owner(&kinds::CRON_JOB, "tick")},
        "spec": {},
        "status": {"startTime": time, "completionTime": if condition == "Complete" { json!(NOW) } else { Value::Null }, "conditions": conditions},
    })
}

fn plan(objects: Vec<(&'static coracle_api::Kind, Value)>) -> Plan {
    CronJobController.reconcile(&cluster(objects), &Key::new("ns", "tick"))
}

fn active(name: &str) -> Value {
    json!({"active": [{"name": name, "namespace": "ns", "uid": format!("uid-{name}")}], "lastScheduleTime": "2029-12-31T23:59:00Z"})
}

#[test]
fn a_job_is_created_when_due_and_noted() {
    let first =
        plan(vec![(&kinds::CRON_JOB, cron_job(json!({"timeZone": "Asia/Tokyo"}), json!({})))]);
    let [job] = created(&first)[..] else { panic!("{first:?}") };
    let name = format!("tick-{MINUTE}");
    assert_eq!(job["metadata"]["name"], name.as_str());
    assert_eq!(job["metadata"]["annotations"][SCHEDULED], "2030-01-01T09:00:00+09:00");
    assert_eq!(job["metadata"]["labels"]["app"], "tick");
    assert_eq!(first.events[0].message, format!("Created job {name}"));

    let mut job = job.clone();
    job["status"] = json!({});
    let second = plan(vec![(&kinds::CRON_JOB, cron_job(json!({}), json!({}))), (&kinds::JOB, job)]);
    let [("tick", status)] = patches(&second)[..] else { panic!("{second:?}") };
    assert_eq!(status["status"]["lastScheduleTime"], NOW);
    assert_eq!(status["status"]["active"][0]["name"], name.as_str());
    assert_eq!(created(&second).len(), 0, "once for each time");
    assert_eq!(second.requeue_after, Some(Duration::from_millis(60_100)));
}

#[test]
fn policies_and_deadlines() {
    let old = || (&kinds::JOB, job("old", "2029-12-31T23:59:00Z", ""));
    for (spec, creates, deletes, reason) in [
        (json!({"concurrencyPolicy": "Allow"}), 1, 0, "SuccessfulCreate"),
        (json!({"concurrencyPolicy": "Forbid"}), 0, 0, "JobAlreadyActive"),
        (json!({"concurrencyPolicy": "Replace"}), 1, 1, "SuccessfulDelete"),
        (json!({"suspend": true}), 0, 0, ""),
        (json!({"schedule": "0 12 * * *"}), 0, 0, ""),
        (json!({"schedule": "odd"}), 0, 0, "UnparseableSchedule"),
        (json!({"timeZone": "Mars/Base"}), 0, 0, "UnknownTimeZone"),
    ] {
        let plan = plan(vec![(&kinds::CRON_JOB, cron_job(spec.clone(), active("old"))), old()]);
        let deleted = plan.writes.iter().filter(|w| matches!(w, Write::Delete { .. })).count();
        assert_eq!((created(&plan).len(), deleted), (creates, deletes), "{spec}: {plan:?}");
        assert_eq!(plan.events.first().map_or("", |e| e.reason.as_str()), reason, "{spec}");
    }
    // Due at midnight, looked at ten seconds later.
    let mut world = cluster([(
        &kinds::CRON_JOB,
        cron_job(json!({"schedule": "@hourly", "startingDeadlineSeconds": 5}), json!({})),
    )]);
    world.now += SignedDuration::from_secs(10);
    let late = CronJobController.reconcile(&world, &Key::new("ns", "tick"));
    assert_eq!(
        (created(&late).len(), late.events.len()),
        (0, 0),
        "out of the deadline: not even due"
    );
}

#[test]
fn finished_jobs_are_noted_and_few_are_kept() {
    let spec = json!({"schedule": "0 12 * * *", "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0});
    let plan = plan(vec![
        (&kinds::CRON_JOB, cron_job(spec, active("b"))),
        (&kinds::JOB, job("a", "2029-12-31T23:58:00Z", "Complete")),
        (&kinds::JOB, job("b", "2029-12-31T23:59:00Z", "Complete")),
        (&kinds::JOB, job("c", "2029-12-31T23:57:00Z", "Failed")),
    ]);
    let [("tick", status)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(
        (&status["status"]["active"], &status["status"]["lastSuccessfulTime"]),
        (&Value::Null, &json!(NOW))
    );
    let deleted: Vec<_> = plan
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Delete { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(deleted, ["a", "c"]);
    assert_eq!(plan.events[0].message, "Saw completed job: b, condition: Complete");
}

#[test]
fn a_job_that_is_gone_is_forgotten() {
    let plan = plan(vec![(&kinds::CRON_JOB, cron_job(json!({"suspend": true}), active("gone")))]);
    let [("tick", status)] = patches(&plan)[..] else { panic!("{plan:?}") };
    assert_eq!(status["status"]["active"], Value::Null);
    assert_eq!(plan.events[0].reason, "MissingJob");
}

/// The last of the times that were missed, and about how many.
#[test]
fn missed_times() {
    let check = |schedule: &str, earliest: &str, now: &str| {
        let schedule: Schedule = schedule.parse().expect("a schedule");
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        let (last, missed) = latest(&schedule, &TimeZone::UTC, time(earliest), time(now));
        (last.map(|at| at.to_string()).unwrap_or_default(), missed)
    };
    let found = |last: &str, missed: i64| (last.to_owned(), missed);
    assert_eq!(check("@hourly", "2024-01-01T10:30:00Z", "2024-01-01T10:59:00Z"), found("", 0));
    assert_eq!(
        check("@hourly", "2024-01-01T10:30:00Z", "2024-01-01T11:00:00Z"),
        found("2024-01-01T11:00:00Z", 1)
    );
    assert_eq!(
        check("@hourly", "2024-01-01T10:30:00Z", "2024-01-01T14:30:00Z"),
        found("2024-01-01T14:00:00Z", 4)
    );
    assert_eq!(
        check("* * * * *", "2020-01-01T00:00:00Z", "2024-01-01T00:00:30Z").0,
        "2024-01-01T00:00:00Z"
    );
    assert_eq!(
        check("30 6-16/4 * * 1-5", "2024-01-05T00:00:00Z", "2024-01-08T05:00:00Z").0,
        "2024-01-05T14:30:00Z"
    );
    // Half a year after its day: the last minute of it.
    assert_eq!(
        check("* * 1 1 *", "2023-12-31T00:00:00Z", "2024-06-01T00:00:00Z").0,
        "2024-01-01T23:59:00Z"
    );
}

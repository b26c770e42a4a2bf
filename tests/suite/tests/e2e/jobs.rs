//! Jobs and CronJobs.

use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, eventually};
use serde_json::Value;

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect};

/// A Job whose Pods run the command component with `args`; `more` is part of its spec.
fn job(name: &str, more: &str, args: &[&str]) -> String {
    format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {more}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: hello-command:v1
        command: [hello-command]
        args: {args:?}
"#
    )
}

async fn status(cluster: &Cluster, name: &str) -> anyhow::Result<Value> {
    Ok(cluster.get(&["job", name]).await?["status"].clone())
}

/// The condition of a type, if it is true.
fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    let mut conditions = status["conditions"].as_array()?.iter();
    conditions.find(|c| c["type"] == kind && c["status"] == "True")
}

/// Waits until a Job has failed for that reason; returns its status.
async fn failed(cluster: &Cluster, name: &str, reason: &str) -> anyhow::Result<Value> {
    eventually(SOON, "the Job fails", async || {
        let status = status(cluster, name).await?;
        let found = condition(&status, "Failed").with_context(|| format!("{status:#}"))?;
        anyhow::ensure!(found["reason"] == reason, "{status:#}");
        Ok(status)
    })
    .await
}

/// No Pod waits for a Job to count it.
async fn none_held(cluster: &Cluster) -> Outcome {
    eventually(SOON, "every finalizer is off", async || {
        let pods = cluster.get(&["pods"]).await?;
        let held =
            |pod: &&Value| pod["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
        let held = pods["items"].as_array().into_iter().flatten().find(held);
        anyhow::ensure!(held.is_none(), "{held:#?}");
        Ok(())
    })
    .await
}

pub(crate) async fn a_job_completes(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    kubectl(&[
        "create",
        "job",
        "one",
        "--image=hello-command:v1",
        "--",
        "hello-command",
        "--lines",
        "2",
    ])
    .await?;
    cluster.apply(&job("many", "completions: 5\n  parallelism: 2", &["--lines", "1"])).await?;
    for name in ["job/one", "job/many"] {
        kubectl(&["wait", "--for=condition=Complete", name, PATIENCE]).await?;
    }
    let status = status(&cluster, "many").await?;
    anyhow::ensure!(status["succeeded"] == 5 && status["ready"] == 0, "{status:#}");
    anyhow::ensure!(condition(&status, "SuccessCriteriaMet").is_some(), "{status:#}");
    none_held(&cluster).await?;
    expect(
        &kubectl(&["get", "jobs"]).await?,
        &["NAME", "STATUS", "COMPLETIONS", "DURATION", "Complete", "5/5"],
    )?;
    expect(&kubectl(&["logs", "job/one"]).await?, &["line 1"])?;
    let described = kubectl(&["describe", "job", "many"]).await?;
    expect(
        &described,
        &[
            "Completions:",
            "5 Succeeded / 0 Failed",
            "SuccessfulCreate",
            "Completed",
            "Job completed",
        ],
    )?;
    // Deleted with its Pods, as kubectl asks for; without a word about them, they stay.
    kubectl(&["delete", "job", "one"]).await?;
    kubectl(&["delete", "--raw", "/apis/batch/v1/namespaces/default/jobs/many"]).await?;
    eventually(SOON, "only the Pods of one Job are left", async || {
        let pods = cluster.get(&["pods"]).await?;
        let left: Vec<_> = pods["items"].as_array().into_iter().flatten().collect();
        let orphans = left.iter().all(|pod| pod["metadata"]["ownerReferences"].is_null());
        anyhow::ensure!(left.len() == 5 && orphans, "{pods:#}");
        anyhow::ensure!(cluster.get(&["jobs"]).await?["items"] == serde_json::json!([]));
        Ok(())
    })
    .await
}

pub(crate) async fn failures_are_counted_and_end_it(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let policy = "backoffLimit: 6\n  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}";
    let jobs = [
        job("limit", "backoffLimit: 0", &["--exit", "3"]),
        job("policy", policy, &["--exit", "42"]),
        job("late", "activeDeadlineSeconds: 2", &["--sleep", "600"]),
        job("lasting", "ttlSecondsAfterFinished: 0", &["--lines", "1"]),
    ];
    cluster.apply(&jobs.join("---")).await?;
    let status = failed(&cluster, "limit", "BackoffLimitExceeded").await?;
    anyhow::ensure!(status["failed"] == 1, "{status:#}");
    let status = failed(&cluster, "policy", "PodFailurePolicy").await?;
    let message = condition(&status, "Failed").map(|c| c["message"].to_string());
    expect(&message.unwrap_or_default(), &["exit code 42 matching FailJob rule at index 0"])?;
    let status = failed(&cluster, "late", "DeadlineExceeded").await?;
    anyhow::ensure!(status["failed"] == 1 && status["active"].is_null(), "{status:#}");
    eventually(SOON, "a Job goes after its time", async || {
        let left = cluster.kubectl(&["get", "jobs", "-o", "name"]).await?;
        anyhow::ensure!(!left.contains("lasting"), "{left}");
        Ok(())
    })
    .await?;
    none_held(&cluster).await?;
    let events = cluster.kubectl(&["get", "events"]).await?;
    expect(&events, &["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"])
}

pub(crate) async fn indexes_are_told_and_done_once(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let indexed = "completionMode: Indexed\n  completions: 3\n  parallelism: 3";
    let policy = format!("{indexed}\n  successPolicy: {{rules: [{{succeededIndexes: '1'}}]}}");
    let failing = format!("{indexed}\n  backoffLimitPerIndex: 0");
    let said = job("said", indexed, &["$(JOB_COMPLETION_INDEX)", "--lines", "1"]);
    let jobs = [
        said,
        job("failing", &failing, &["--exit", "1"]),
        job("early", &policy, &["--lines", "1"]),
    ];
    cluster.apply(&jobs.join("---")).await?;
    for name in ["job/said", "job/early"] {
        cluster.kubectl(&["wait", "--for=condition=Complete", name, PATIENCE]).await?;
    }
    let told = status(&cluster, "said").await?;
    anyhow::ensure!(told["completedIndexes"] == "0-2" && told["succeeded"] == 3, "{told:#}");
    let pods = cluster.get(&["pods", "-l", "job-name=said"]).await?;
    let index = "batch.kubernetes.io/job-completion-index";
    for pod in pods["items"].as_array().into_iter().flatten() {
        let (meta, spec) = (&pod["metadata"], &pod["spec"]);
        let at = meta["annotations"][index].as_str().context("an index")?;
        anyhow::ensure!(
            meta["labels"][index] == at && spec["hostname"] == format!("said-{at}"),
            "{pod:#}"
        );
        let name = meta["name"].as_str().context("a name")?;
        anyhow::ensure!(name.starts_with(&format!("said-{at}-")), "{name}");
        expect(&cluster.kubectl(&["logs", name]).await?, &[at])?;
    }
    let told = failed(&cluster, "failing", "FailedIndexes").await?;
    anyhow::ensure!(told["failedIndexes"] == "0-2" && told["failed"] == 3, "{told:#}");
    let told = status(&cluster, "early").await?;
    let why = condition(&told, "SuccessCriteriaMet").map(|c| c["reason"].clone());
    anyhow::ensure!(
        why.is_some_and(|why| why == "SuccessPolicy" || why == "CompletionsReached"),
        "{told:#}"
    );
    none_held(&cluster).await
}

pub(crate) async fn jobs_are_suspended_and_resumed(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    let suspend = async |suspend: bool| {
        let patch = format!("{{\"spec\":{{\"suspend\":{suspend}}}}}");
        kubectl(&["patch", "job", "long", "--type=merge", "-p", &patch]).await
    };
    cluster
        .apply(&job("long", "suspend: true\n  podReplacementPolicy: Failed", &["--sleep", "600"]))
        .await?;
    eventually(SOON, "it says that it is suspended", async || {
        expect(&kubectl(&["get", "job", "long"]).await?, &["Suspended"])
    })
    .await?;
    anyhow::ensure!(status(&cluster, "long").await?["startTime"].is_null());
    suspend(false).await?;
    let running = async || {
        eventually(SOON, "its Pod runs", async || {
            let status = status(&cluster, "long").await?;
            anyhow::ensure!(status["active"] == 1 && status["ready"] == 1, "{status:#}");
            let pods = cluster.get(&["pods", "-l", "job-name=long"]).await?;
            Ok(pods["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned())
        })
        .await
    };
    running().await?;
    suspend(true).await?;
    eventually(SOON, "its Pod goes, uncounted", async || {
        let pods = cluster.kubectl(&["get", "pods", "-l", "job-name=long", "-o", "name"]).await?;
        anyhow::ensure!(pods.is_empty(), "{pods}");
        let status = status(&cluster, "long").await?;
        anyhow::ensure!(status["failed"].is_null() && status["terminating"] == 0, "{status:#}");
        Ok(())
    })
    .await?;
    suspend(false).await?;
    let first = running().await?;
    // A Pod that somebody deletes is replaced, and counts as failed.
    kubectl(&["delete", "pod", &first]).await?;
    eventually(SOON, "it was counted", async || {
        let status = status(&cluster, "long").await?;
        anyhow::ensure!(status["failed"] == 1, "{status:#}");
        Ok(())
    })
    .await?;
    // With its Pods before it.
    kubectl(&["delete", "job", "long", "--cascade=foreground", PATIENCE]).await?;
    let left = kubectl(&["get", "pods", "-o", "name"]).await?;
    anyhow::ensure!(left.is_empty(), "{left}");
    Ok(())
}

pub(crate) async fn cron_jobs_make_jobs(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-command", "hello-command:v1")]).await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    let create = ["create", "cronjob", "tick", "--image=hello-command:v1", "--schedule=* * * * *"];
    kubectl(&[&create[..], &["--", "hello-command", "--lines", "1"]].concat()).await?;
    for (schedule, wanted) in [
        ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
        ("61 * * * *", "end of range (61) above maximum (59): 61"),
    ] {
        let schedule = format!("--schedule={schedule}");
        let bad = ["create", "cronjob", "bad", "--image=x", schedule.as_str()];
        expect(&cluster.kubectl_with(&bad, "").await?.refused()?, &["spec.schedule", wanted])?;
    }
    kubectl(&["create", "job", "--from=cronjob/tick", "by-hand"]).await?;
    kubectl(&["wait", "--for=condition=Complete", "job/by-hand", PATIENCE]).await?;
    // A minute begins within a minute.
    let minute = std::time::Duration::from_secs(100);
    let made = eventually(minute, "a Job for the minute completes", async || {
        let jobs = cluster.get(&["jobs"]).await?;
        let scheduled = "batch.kubernetes.io/cronjob-scheduled-timestamp";
        let mut jobs = jobs["items"].as_array().into_iter().flatten();
        let made = jobs.find(|job| !job["metadata"]["annotations"][scheduled].is_null());
        let made = made.context("none was made")?;
        condition(&made["status"], "Complete").with_context(|| format!("{made:#}"))?;
        let told = cluster.get(&["cronjob", "tick"]).await?["status"].clone();
        anyhow::ensure!(told["lastSuccessfulTime"].is_string(), "{told:#}");
        Ok(made.clone())
    })
    .await?;
    let name = made["metadata"]["name"].as_str().context("a name")?;
    let minutes: i64 = name.strip_prefix("tick-").context(name.to_owned())?.parse()?;
    let last = cluster.get(&["cronjob", "tick"]).await?["status"]["lastScheduleTime"].clone();
    anyhow::ensure!(last.as_str().is_some_and(|last| last.ends_with(":00Z")), "{last}");
    anyhow::ensure!(minutes > 29_000_000, "{name} is no number of minutes");
    expect(
        &kubectl(&["get", "cronjobs"]).await?,
        &["SCHEDULE", "TIMEZONE", "<none>", "* * * * *", "False"],
    )?;
    let described = kubectl(&["describe", "cronjob", "tick"]).await?;
    expect(&described, &["Created job tick-", "Saw completed job", "Concurrency Policy"])?;
    kubectl(&["patch", "cronjob", "tick", "-p", r#"{"spec":{"suspend":true}}"#]).await?;
    kubectl(&["delete", "cronjob", "tick"]).await?;
    eventually(SOON, "its Jobs and their Pods go with it", async || {
        let left = kubectl(&["get", "jobs,pods", "-o", "name"]).await?;
        anyhow::ensure!(left.is_empty(), "{left}");
        Ok(())
    })
    .await
}

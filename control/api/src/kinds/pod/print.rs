//! The row of a Pod in `kubectl get pods`, as users have learned to read it (`printPod` upstream).

use jiff::Timestamp;
use serde_json::Value;

use crate::age::human_duration;
use crate::json::Json;
use crate::kinds::common::{object_age, or};
use crate::object::Object;

/// Cells of the columns of [`super::KIND`].
pub(super) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let pod = object.value();
    let row = summarise(&pod);
    let restarts = match row.last_restart {
        Some(time) if row.restarts > 0 => {
            let ago = human_duration(now.duration_since(time).as_secs());
            format!("{} ({ago} ago)", row.restarts)
        }
        _ => row.restarts.to_string(),
    };
    let gates = pod.list(&["spec", "readinessGates"]);
    let met = gates.iter().filter(|g| condition(&pod, g.text(&["conditionType"])) == "True").count();
    let ip = pod.list(&["status", "podIPs"]).first().map_or("", |ip| ip.text(&["ip"]));
    vec![
        object.meta.name.as_str().into(),
        format!("{}/{}", row.ready, row.total).into(),
        row.status.into(),
        restarts.into(),
        object_age(object, now),
        or(or(ip, pod.text(&["status", "podIP"])), "<none>").into(),
        or(object.node_name.as_deref().unwrap_or(""), "<none>").into(),
        or(pod.text(&["status", "nominatedNodeName"]), "<none>").into(),
        if gates.is_empty() { "<none>".into() } else { format!("{met}/{}", gates.len()).into() },
    ]
}

#[derive(Default)]
struct Row {
    ready: usize,
    total: usize,
    status: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Row {
    fn count_restarts(&mut self, container: &Value) {
        self.restarts += container.int(&["restartCount"]).unwrap_or(0);
        let ended = container.text(&["lastState", "terminated", "finishedAt"]).parse().ok();
        self.last_restart = self.last_restart.max(ended);
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    pod.list(&["status", "conditions"])
        .iter()
        .find(|c| c.text(&["type"]) == kind)
        .map_or("", |c| c.text(&["status"]))
}

/// Why a container ended, in a word: its reason, else its signal or exit code.
fn end_reason(terminated: &Value) -> String {
    match (terminated.text(&["reason"]), terminated.int(&["signal"]).unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated.int(&["exitCode"]).unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn summarise(pod: &Value) -> Row {
    let init = pod.list(&["spec", "initContainers"]);
    let sidecar = |name: &str| {
        init.iter().any(|c| c.text(&["name"]) == name && c.text(&["restartPolicy"]) == "Always")
    };
    let phase = pod.text(&["status", "phase"]);
    let why = pod.text(&["status", "reason"]);
    let mut row = Row {
        status: or(why, phase).to_owned(),
        total: pod.list(&["spec", "containers"]).len()
            + init.iter().filter(|c| c.text(&["restartPolicy"]) == "Always").count(),
        ..Row::default()
    };
    if pod.list(&["status", "conditions"]).iter().any(|c| {
        c.text(&["type"]) == "PodScheduled" && c.text(&["reason"]) == "SchedulingGated"
    }) {
        row.status = "SchedulingGated".into();
    }

    // Init containers: the first that is neither done nor a started sidecar is what the Pod waits for.
    let mut sidecars = Row::default();
    let mut initialising = false;
    for (i, container) in pod.list(&["status", "initContainerStatuses"]).iter().enumerate() {
        let is_sidecar = sidecar(container.text(&["name"]));
        row.count_restarts(container);
        if is_sidecar {
            sidecars.count_restarts(container);
        }
        let terminated = container.at(&["state", "terminated"]);
        let waiting = container.text(&["state", "waiting", "reason"]);
        row.status = match terminated {
            Some(end) if end.int(&["exitCode"]) == Some(0) => continue,
            _ if is_sidecar && container.flag(&["started"]) => {
                row.ready += usize::from(container.flag(&["ready"]));
                continue;
            }
            Some(end) => format!("Init:{}", end_reason(end)),
            None if !matches!(waiting, "" | "PodInitializing") => format!("Init:{waiting}"),
            None => format!("Init:{i}/{}", init.len()),
        };
        initialising = true;
        break;
    }

    if !initialising || condition(pod, "Initialized") == "True" {
        row.restarts = sidecars.restarts;
        row.last_restart = sidecars.last_restart;
        let mut running = false;
        for container in pod.list(&["status", "containerStatuses"]).iter().rev() {
            row.count_restarts(container);
            let waiting = container.text(&["state", "waiting", "reason"]);
            if !waiting.is_empty() {
                row.status = waiting.to_owned();
            } else if let Some(end) = container.at(&["state", "terminated"]) {
                row.status = end_reason(end);
            } else if container.flag(&["ready"]) && container.has(&["state", "running"]) {
                running = true;
                row.ready += 1;
            }
        }
        if row.status == "Completed" && running {
            let ready = condition(pod, "Ready") == "True";
            row.status = if ready { "Running" } else { "NotReady" }.to_owned();
        }
    }

    if pod.has(&["metadata", "deletionTimestamp"]) {
        if why == "NodeLost" {
            row.status = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            row.status = "Terminating".into();
        }
    }
    row
}

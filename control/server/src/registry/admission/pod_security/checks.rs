//! The Pod Security Standards (`pod-security-admission/policy` upstream), in its words: people look for them.
//!
//! A check is about one thing. `restricted` is what `baseline` has, but for the checks that it has stricter ones for.

use std::collections::BTreeSet;

use coracle_api::json::Json;
use serde_json::Value;

/// A Pod, or what a workload makes Pods of: an object with `metadata` and `spec`.
pub(super) struct Pod<'a>(pub(super) &'a Value);

/// What a check has against a Pod: what it is, and who has it.
pub(super) struct Finding {
    pub(super) reason: String,
    pub(super) detail: String,
}

type Check = fn(&Pod<'_>, u32) -> Option<Finding>;

/// Since which minor version there is a check.
struct Since(u32, Check);

const BASELINE: [Since; 9] = [
    Since(0, app_armor),
    Since(0, host_namespaces),
    Since(0, host_ports),
    Since(34, probe_hosts),
    Since(0, privileged),
    Since(0, proc_mount),
    Since(0, se_linux),
    Since(0, sysctls),
    Since(0, windows_host_process),
];
/// Those of `baseline` for which `restricted` has stricter ones.
const OVERLAPPING: [Since; 3] =
    [Since(0, default_capabilities), Since(0, host_paths), Since(0, allowed_seccomp)];
const RESTRICTED: [Since; 6] = [
    Since(8, no_escalation),
    Since(22, dropped_capabilities),
    Since(0, volume_types),
    Since(0, non_root),
    Since(23, non_root_user),
    Since(19, required_seccomp),
];

/// What stands against a Pod, at a minor version of the standards.
pub(super) fn evaluate(pod: &Pod<'_>, restricted: bool, minor: u32) -> Vec<Finding> {
    let more = if restricted { &RESTRICTED[..] } else { &OVERLAPPING[..] };
    let since = BASELINE.iter().chain(more).filter(|Since(since, _)| *since <= minor);
    since.filter_map(|Since(_, check)| check(pod, minor)).collect()
}

impl<'a> Pod<'a> {
    fn spec(&self) -> &'a Value {
        self.0.get("spec").unwrap_or(&Value::Null)
    }

    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec();
        ["initContainers", "containers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|list| spec.get(list).and_then(Value::as_array).into_iter().flatten())
    }

    /// Names of the containers that are so.
    fn those(&self, is_so: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        let bad = self.containers().filter(|container| is_so(container));
        bad.map(|c| c.get("name").and_then(Value::as_str).unwrap_or_default()).collect()
    }

    fn annotations(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let all = self.0.get("metadata").and_then(|m| m.get("annotations")?.as_object());
        let all = all.into_iter().flatten();
        all.filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
    }

    fn is_windows(&self) -> bool {
        self.spec().text(&["os", "name"]) == "windows"
    }

    /// Who has a field of its `securityContext` so: the Pod, and names of containers.
    fn who(&self, path: &[&str], is_so: impl Fn(&Value) -> bool) -> Vec<String> {
        let has = |of: &Value| {
            let context = of.at(&["securityContext"]);
            context.and_then(|context| context.at(path)).is_some_and(&is_so)
        };
        let mut who = Vec::new();
        if has(self.spec()) {
            who.push("pod".to_owned());
        }
        who.extend(named(&self.those(has)));
        who
    }

    /// The values of a field of `securityContext`, the Pod's and the containers', that are so.
    fn values(&self, path: &[&str], is_so: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        let all = std::iter::once(self.spec()).chain(self.containers());
        let values = all.filter_map(|of| {
            let context = of.get("securityContext")?;
            path.iter().try_fold(context, |value, field| value.get(field))?.as_str()
        });
        values.filter(|value| is_so(value)).collect()
    }
}

fn finding(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
    Some(Finding { reason: reason.into(), detail: detail.into() })
}

/// `container "a"`, `containers "a", "b"`; nothing of none.
fn named(names: &[&str]) -> Option<String> {
    let plural = if names.len() == 1 { "container" } else { "containers" };
    (!names.is_empty()).then(|| format!("{plural} {}", quoted(names.iter().copied())))
}

fn quoted<'a>(items: impl IntoIterator<Item = &'a str>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| format!("\"{item}\"")).collect();
    items.join(", ")
}

fn security<'a>(container: &'a Value, path: &[&str]) -> Option<&'a Value> {
    container.at(&["securityContext"])?.at(path)
}

fn app_armor(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    const PREFIX: &str = "container.apparmor.security.beta.kubernetes.io/";
    let allowed = |kind: &str| matches!(kind, "" | "RuntimeDefault" | "Localhost");
    let path = ["appArmorProfile", "type"];
    let mut who = pod.who(&path, |kind| !allowed(kind.as_str().unwrap_or_default()));
    let mut values: BTreeSet<String> =
        pod.values(&path, |kind| !allowed(kind)).into_iter().map(str::to_owned).collect();
    let mut annotations = BTreeSet::new();
    for (key, value) in pod.annotations().filter(|(key, _)| key.starts_with(PREFIX)) {
        let default = matches!(value, "" | "runtime/default");
        if !default && !value.starts_with("localhost/") {
            annotations.insert(key);
            values.insert(value.to_owned());
        }
    }
    if !annotations.is_empty() {
        let plural = if annotations.len() == 1 { "annotation" } else { "annotations" };
        who.push(format!("{plural} {}", quoted(annotations)));
    }
    if who.is_empty() {
        return None;
    }
    let plural = if values.len() == 1 { "" } else { "s" };
    let values = quoted(values.iter().map(String::as_str));
    finding(
        format!("forbidden AppArmor profile{plural}"),
        format!("{} must not set AppArmor profile type to {values}", who.join(" and ")),
    )
}

fn host_namespaces(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let used = ["hostIPC", "hostNetwork", "hostPID"].into_iter().filter(|f| pod.spec().flag(&[f]));
    let used: Vec<_> = used.map(|field| format!("{field}=true")).collect();
    if used.is_empty() {
        return None;
    }
    finding("host namespaces", used.join(", "))
}

fn host_ports(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let ports = |container: &Value| -> Vec<String> {
        let ports = container.list(&["ports"]).iter().filter_map(|p| p.int(&["hostPort"]));
        ports.filter(|port| *port != 0).map(|port| port.to_string()).collect()
    };
    let who = pod.those(|container| !ports(container).is_empty());
    let all: BTreeSet<String> = pod.containers().flat_map(ports).collect();
    let (uses, plural) = (plural(&who, "uses", "use"), if all.len() == 1 { "" } else { "s" });
    let all: Vec<_> = all.into_iter().collect();
    finding("hostPort", format!("{} {uses} hostPort{plural} {}", named(&who)?, all.join(", ")))
}

fn plural<'a, T>(of: &[T], one: &'a str, many: &'a str) -> &'a str {
    if of.len() == 1 { one } else { many }
}

fn probe_hosts(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    const HANDLERS: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let hosts = |container: &Value| -> Vec<String> {
        let handlers = HANDLERS.iter().filter_map(|path| container.at(path));
        let hosts = handlers.flat_map(|handler| {
            [handler.text(&["httpGet", "host"]), handler.text(&["tcpSocket", "host"])]
        });
        hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let mut who = pod.those(|container| !hosts(container).is_empty());
    who.sort_unstable();
    let all: BTreeSet<String> = pod.containers().flat_map(hosts).collect();
    let (uses, s) = (plural(&who, "uses", "use"), if all.len() == 1 { "" } else { "s" });
    let all = quoted(all.iter().map(String::as_str));
    finding(
        "probe or lifecycle host",
        format!("{} {uses} probe or lifecycle host{s} {all}", named(&who)?),
    )
}

fn privileged(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let who = named(&pod.those(|c| security(c, &["privileged"]) == Some(&Value::Bool(true))))?;
    finding("privileged", format!("{who} must not set securityContext.privileged=true"))
}

fn proc_mount(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let other = |kind: &str| kind != "Default";
    let is_so = |c: &Value| security(c, &["procMount"]).and_then(Value::as_str).is_some_and(other);
    let who = named(&pod.those(is_so))?;
    let values = quoted(pod.values(&["procMount"], other));
    finding("procMount", format!("{who} must not set securityContext.procMount to {values}"))
}

fn se_linux(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    let allowed = |kind: &str| {
        matches!(kind, "" | "container_t" | "container_init_t" | "container_kvm_t")
            || (minor >= 31 && kind == "container_engine_t")
    };
    let who = pod.who(&["seLinuxOptions"], |options| {
        !allowed(options.text(&["type"]))
            || !options.text(&["user"]).is_empty()
            || !options.text(&["role"]).is_empty()
    });
    if who.is_empty() {
        return None;
    }
    let values = |field| pod.values(&["seLinuxOptions", field], |value| !value.is_empty());
    let mut what = Vec::new();
    let types: Vec<_> = values("type").into_iter().filter(|kind| !allowed(kind)).collect();
    if !types.is_empty() {
        what.push(format!("{} {}", plural(&types, "type", "types"), quoted(types.iter().copied())));
    }
    for field in ["user", "role"] {
        if !values(field).is_empty() {
            what.push(format!("{field} may not be set"));
        }
    }
    let (who, what) = (who.join(" and "), what.join("; "));
    finding("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {what}"))
}

fn sysctls(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    /// Each with the version since which it is safe.
    const SAFE: [(&str, u32); 12] = [
        ("kernel.shm_rmid_forced", 0),
        ("net.ipv4.ip_local_port_range", 0),
        ("net.ipv4.tcp_syncookies", 0),
        ("net.ipv4.ping_group_range", 0),
        ("net.ipv4.ip_unprivileged_port_start", 0),
        ("net.ipv4.ip_local_reserved_ports", 27),
        ("net.ipv4.tcp_keepalive_time", 29),
        ("net.ipv4.tcp_fin_timeout", 29),
        ("net.ipv4.tcp_keepalive_intvl", 29),
        ("net.ipv4.tcp_keepalive_probes", 29),
        ("net.ipv4.tcp_rmem", 32),
        ("net.ipv4.tcp_wmem", 32),
    ];
    let all = pod.spec().list(&["securityContext", "sysctls"]).iter().map(|s| s.text(&["name"]));
    let safe = |name: &str| SAFE.iter().any(|(known, since)| *known == name && *since <= minor);
    let bad: Vec<_> = all.filter(|name| !safe(name)).collect();
    if bad.is_empty() {
        return None;
    }
    finding("forbidden sysctls", bad.join(", "))
}

fn windows_host_process(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let who = pod.who(&["windowsOptions", "hostProcess"], |set| *set == true);
    if who.is_empty() {
        return None;
    }
    let who = who.join(" and ");
    finding(
        "hostProcess",
        format!("{who} must not set securityContext.windowsOptions.hostProcess=true"),
    )
}

/// Capabilities that a container adds and that are none of `allowed`.
fn added<'a>(container: &'a Value, allowed: &[&str]) -> Vec<&'a str> {
    let path = ["securityContext", "capabilities", "add"];
    let list = container.list(&path).iter().filter_map(Value::as_str);
    list.filter(|capability| !allowed.contains(capability)).collect()
}

/// Who adds capabilities beyond the allowed ones, if somebody does.
fn adds(pod: &Pod<'_>, allowed: &[&str]) -> Option<String> {
    let who = named(&pod.those(|container| !added(container, allowed).is_empty()))?;
    let what: BTreeSet<&str> = pod.containers().flat_map(|c| added(c, allowed)).collect();
    Some(format!("{who} must not include {} in securityContext.capabilities.add", quoted(what)))
}

fn default_capabilities(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    const DEFAULT: [&str; 13] = [
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    ];
    finding("non-default capabilities", adds(pod, &DEFAULT)?)
}

fn host_paths(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let volumes = pod.spec().list(&["volumes"]).iter().filter(|v| v.has(&["hostPath"]));
    let names: Vec<_> = volumes.map(|volume| volume.text(&["name"])).collect();
    if names.is_empty() {
        return None;
    }
    let volumes = plural(&names, "volume", "volumes");
    finding("hostPath volumes", format!("{volumes} {}", quoted(names)))
}

fn is_known_seccomp(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

/// Who names a seccomp profile that is none of the known.
fn bad_seccomp(pod: &Pod<'_>) -> Option<Finding> {
    let bad = |profile: &Value| !is_known_seccomp(profile.text(&["type"]));
    let who = pod.who(&["seccompProfile"], bad);
    if who.is_empty() {
        return None;
    }
    let values = pod.values(&["seccompProfile", "type"], |kind| !is_known_seccomp(kind));
    let (who, values) = (who.join(" and "), quoted(values));
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {values}");
    finding("seccompProfile", detail)
}

fn allowed_seccomp(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 19 {
        return bad_seccomp(pod);
    }
    // Annotations, as it was then.
    const POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
    const CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
    let names = pod.those(|_| true);
    let concerns = |key: &str| {
        key == POD || key.strip_prefix(CONTAINER).is_some_and(|name| names.contains(&name))
    };
    let allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let bad: BTreeSet<_> = pod
        .annotations()
        .filter(|(key, value)| concerns(key) && !allowed(value))
        .map(|(key, value)| format!("{key}=\"{value}\""))
        .collect();
    let bad: Vec<_> = bad.into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    let annotations = plural(&bad, "annotation", "annotations");
    finding("seccompProfile", format!("forbidden {annotations} {}", bad.join(", ")))
}

fn no_escalation(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let unset = |c: &Value| security(c, &["allowPrivilegeEscalation"]) != Some(&Value::Bool(false));
    let who = named(&pod.those(unset))?;
    finding(
        "allowPrivilegeEscalation != false",
        format!("{who} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

fn dropped_capabilities(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    let keeps = |c: &Value| {
        let dropped = c.list(&["securityContext", "capabilities", "drop"]);
        !dropped.iter().any(|capability| capability == "ALL")
    };
    let keeps = named(&pod.those(keeps))
        .map(|who| format!("{who} must set securityContext.capabilities.drop=[\"ALL\"]"));
    let details: Vec<_> = keeps.into_iter().chain(adds(pod, &["NET_BIND_SERVICE"])).collect();
    if details.is_empty() {
        return None;
    }
    finding("unrestricted capabilities", details.join("; "))
}

fn volume_types(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    const ALLOWED: [&str; 9] = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "image",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    let mut bad = Vec::new();
    let mut types = BTreeSet::new();
    for volume in pod.spec().list(&["volumes"]) {
        if ALLOWED.iter().any(|kind| volume.has(&[kind])) {
            continue;
        }
        bad.push(volume.text(&["name"]));
        let kind = volume.as_object().and_then(|v| v.keys().find(|key| *key != "name"));
        types.insert(kind.map_or("unknown", String::as_str));
    }
    if bad.is_empty() {
        return None;
    }
    let (volumes, uses) = (plural(&bad, "volume", "volumes"), plural(&bad, "uses", "use"));
    let restricted =
        if types.len() == 1 { "restricted volume type" } else { "restricted volume types" };
    finding(
        "restricted volume types",
        format!("{volumes} {} {uses} {restricted} {}", quoted(bad), quoted(types)),
    )
}

fn non_root(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    const REASON: &str = "runAsNonRoot != true";
    let who = pod.who(&["runAsNonRoot"], |set| *set == false);
    if !who.is_empty() {
        let who = who.join(" and ");
        return finding(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    if security(pod.spec(), &["runAsNonRoot"]).is_some() {
        return None;
    }
    let who = named(&pod.those(|c| security(c, &["runAsNonRoot"]).is_none()))?;
    finding(REASON, format!("pod or {who} must set securityContext.runAsNonRoot=true"))
}

fn non_root_user(pod: &Pod<'_>, _: u32) -> Option<Finding> {
    let who = pod.who(&["runAsUser"], |user| *user == 0);
    if who.is_empty() {
        return None;
    }
    finding("runAsUser=0", format!("{} must not set runAsUser=0", who.join(" and ")))
}

fn required_seccomp(pod: &Pod<'_>, minor: u32) -> Option<Finding> {
    if minor >= 25 && pod.is_windows() {
        return None;
    }
    if let Some(bad) = bad_seccomp(pod) {
        return Some(bad);
    }
    if security(pod.spec(), &["seccompProfile"]).is_some() {
        return None;
    }
    let who = named(&pod.those(|c| security(c, &["seccompProfile"]).is_none()))?;
    finding(
        "seccompProfile",
        format!(
            "pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\""
        ),
    )
}

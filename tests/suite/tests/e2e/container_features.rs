//! What Pods may ask for their containers: hooks and probes that execute, namespaces, rights, and how what cannot be is told.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::containers::Layer;
use coracle_test_cluster::{Cluster, User, containers, eventually, http, tools};
use serde_json::{Value, json};

use crate::container_images::{available, layout};
use crate::containers::push_script;
use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// Runs until it is told to end, and ends then.
const STAYS: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// A cluster of root's with the image `box:v1`, which stays; none where there cannot be one.
pub(crate) async fn boxes(context: &Context) -> anyhow::Result<Option<Arc<Cluster>>> {
    if context.user != User::Root {
        return Ok(None);
    }
    let cluster = context.up().await?;
    Ok(push_script(&cluster, "box:v1", STAYS).await?.then_some(cluster))
}

/// A Pod of that spec, without a wait at its end.
pub(crate) async fn apply(cluster: &Cluster, name: &str, mut spec: Value) -> Outcome {
    if spec["terminationGracePeriodSeconds"].is_null() {
        spec["terminationGracePeriodSeconds"] = json!(1);
    }
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}}, "spec": spec});
    cluster.apply(&pod.to_string()).await.map(drop)
}

/// A spec of one container, with `more` of its own.
pub(crate) fn one(more: Value) -> Value {
    let mut container = json!({"name": "app", "image": "box:v1"});
    if let (Some(own), Some(more)) = (container.as_object_mut(), more.as_object()) {
        own.extend(more.clone());
    }
    json!({"containers": [container]})
}

/// A spec of one container that does `script`, once.
fn once(script: &str, context: Value) -> Value {
    let command = json!({"command": ["sh", "-c", script], "securityContext": context});
    let mut spec = one(command);
    spec["restartPolicy"] = json!("Never");
    spec
}

/// Waits until the Pod's status is as wanted; it, then.
pub(crate) async fn becomes(
    cluster: &Cluster,
    pod: &str,
    what: &str,
    check: impl Fn(&Value) -> bool,
) -> anyhow::Result<Value> {
    eventually(SOON * 2, what, async || {
        let status = cluster.get(&["pod", pod]).await?["status"].clone();
        anyhow::ensure!(check(&status), "{pod}: {status:#}");
        Ok(status)
    })
    .await
}

pub(crate) fn app(status: &Value) -> &Value {
    &status["containerStatuses"][0]
}

pub(crate) fn is_ready(status: &Value) -> bool {
    status["containerStatuses"].as_array().is_some_and(|all| all.iter().all(|c| c["ready"] == true))
}

/// What the Pod has said in the end, successful or not.
async fn said(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    becomes(cluster, pod, "it ends", |s| s["phase"] == "Succeeded" || s["phase"] == "Failed")
        .await?;
    cluster.kubectl(&["logs", pod]).await
}

/// Waits until the Pod's only container waits for that reason, and says so.
async fn waits(cluster: &Cluster, pod: &str, reason: &str, words: &[&str]) -> Outcome {
    let status = becomes(cluster, pod, reason, |s| app(s)["state"]["waiting"]["reason"] == reason);
    let status = status.await?;
    let message = app(&status)["state"]["waiting"]["message"].as_str().unwrap_or_default();
    expect(message, words).with_context(|| pod.to_owned())
}

pub(crate) async fn events(cluster: &Cluster, pod: &str, wanted: &[&str]) -> Outcome {
    eventually(SOON, "the events are there", async || {
        let about = format!("--field-selector=involvedObject.name={pod}");
        expect(&cluster.kubectl(&["get", "events", &about]).await?, wanted)
    })
    .await
}

async fn exec(cluster: &Cluster, pod: &str, script: &str) -> anyhow::Result<String> {
    cluster.kubectl(&["exec", pod, "-c", "app", "--", "sh", "-c", script]).await
}

pub(crate) async fn hooks_and_probes_execute(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let run = |script: &str| json!({"exec": {"command": ["sh", "-c", script]}});
    let mut spec = one(json!({
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "lifecycle": {"postStart": run("echo started >> /v/said"), "preStop": run("echo stopping >> /v/said")},
        "readinessProbe": {"exec": {"command": ["cat", "/v/ready"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["sh", "-c", "[ ! -e /v/ill ] || { rm /v/ill; echo I am ill; exit 1; }"]},
            "periodSeconds": 1, "failureThreshold": 1},
    }));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    apply(&cluster, "steps", spec).await?;
    let slow =
        json!({"exec": {"command": ["sleep", "5"]}, "periodSeconds": 1, "timeoutSeconds": 1});
    apply(&cluster, "slow", one(json!({"readinessProbe": slow}))).await?;
    let hook = json!({"postStart": {"exec": {"command": ["/no/such"]}}});
    apply(&cluster, "bad-hook", one(json!({"lifecycle": hook}))).await?;

    events(
        &cluster,
        "steps",
        &["Readiness probe failed: cat: can't open '/v/ready': No such file or directory"],
    )
    .await?;
    becomes(&cluster, "steps", "it runs, unready", |s| {
        app(s)["state"]["running"].is_object() && app(s)["ready"] == false
    })
    .await?;
    exec(&cluster, "steps", "touch /v/ready").await?;
    becomes(&cluster, "steps", "it is ready", is_ready).await?;
    // The metrics of containers take the way of all others.
    eventually(SOON * 2, "kubectl top knows the container", async || {
        let top = cluster.kubectl(&["top", "pod", "steps", "--containers"]).await?;
        expect(&top, &["steps", "app", "Mi"])
    })
    .await?;
    exec(&cluster, "steps", "touch /v/ill").await?;
    becomes(&cluster, "steps", "it is restarted", |s| app(s)["restartCount"] == 1 && is_ready(s))
        .await?;
    let told = [
        "Liveness probe failed: I am ill",
        "Container app failed liveness probe, will be restarted",
    ];
    events(&cluster, "steps", &told).await?;
    let said = exec(&cluster, "steps", "cat /v/said").await?;
    anyhow::ensure!(said == "started\nstopping\nstarted\n", "{said}");

    events(&cluster, "slow", &["Readiness probe failed: command \"sleep 5\" timed out"]).await?;
    events(&cluster, "bad-hook", &["FailedPostStartHook", "no such file or directory"]).await?;
    becomes(&cluster, "bad-hook", "it is restarted", |s| {
        app(s)["restartCount"].as_u64() >= Some(1)
    })
    .await?;
    Ok(())
}

pub(crate) async fn namespaces_are_shared_as_asked(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let sleeps = |name: &str, seconds: &str| json!({"name": name, "image": "box:v1", "command": ["sleep", seconds]});
    let shared = json!({"shareProcessNamespace": true, "containers": [sleeps("app", "1111"), sleeps("other", "2222")]});
    apply(&cluster, "shared", shared).await?;
    let apart = json!({"containers": [sleeps("app", "3333"), sleeps("other", "4444")]});
    apply(&cluster, "apart", apart).await?;
    let on = |field: &str| {
        let mut spec = one(json!({}));
        spec[field] = json!(true);
        spec
    };
    apply(&cluster, "pids", on("hostPID")).await?;
    apply(&cluster, "network", on("hostNetwork")).await?;
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let serve = "mkdir /w; echo by host port > /w/index.html; httpd -f -p 80 -h /w";
    let ports = json!([{"containerPort": 80, "hostPort": port}]);
    apply(&cluster, "ports", one(json!({"command": ["sh", "-c", serve], "ports": ports}))).await?;
    let mut named = one(json!({}));
    named["securityContext"] =
        json!({"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 30000"}]});
    named["dnsPolicy"] = json!("None");
    named["dnsConfig"] = json!({"nameservers": ["192.0.2.53"], "searches": ["example.org"], "options": [{"name": "ndots", "value": "3"}]});
    named["hostAliases"] =
        json!([{"ip": "192.0.2.7", "hostnames": ["seven.example.org", "seven"]}]);
    apply(&cluster, "named", named).await?;
    let mut forbidden = one(json!({}));
    forbidden["securityContext"] =
        json!({"sysctls": [{"name": "kernel.msgmax", "value": "65536"}]});
    apply(&cluster, "forbidden", forbidden).await?;

    for pod in ["shared", "apart", "pids", "network", "ports", "named"] {
        becomes(&cluster, pod, "it is ready", is_ready).await?;
    }
    let seen = exec(
        &cluster,
        "shared",
        "ps; cat /sys/fs/cgroup/memory/cgroup.procs /sys/fs/cgroup/cgroup.procs; kill -0 1",
    )
    .await;
    expect(&format!("{seen:?}"), &["sleep 1111", "sleep 2222"])?;
    let seen = exec(&cluster, "apart", "ps").await?;
    anyhow::ensure!(seen.contains("sleep 3333") && !seen.contains("sleep 4444"), "{seen}");
    expect(&exec(&cluster, "pids", "ps").await?, &["coracle"])?;
    let status = cluster.get(&["pod", "network"]).await?["status"].clone();
    anyhow::ensure!(status["podIP"] == status["hostIP"], "{status:#}");
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    anyhow::ensure!(exec(&cluster, "network", "hostname").await? == machine);
    let host = status["hostIP"].as_str().context("no hostIP")?.parse()?;
    for ip in [host, std::net::Ipv4Addr::LOCALHOST.into()] {
        eventually(SOON, "the machine's port leads to the Pod", async || {
            expect(&http::get(SocketAddr::new(ip, port), "/").await?.body, &["by host port"])
        })
        .await?;
    }
    let seen = exec(
        &cluster,
        "named",
        "cat /proc/sys/net/ipv4/ip_local_port_range /etc/resolv.conf /etc/hosts",
    )
    .await?;
    expect(
        &seen,
        &[
            "20000\t30000",
            "nameserver 192.0.2.53",
            "search example.org",
            "options ndots:3",
            "192.0.2.7\tseven.example.org\tseven",
        ],
    )?;
    let status =
        becomes(&cluster, "forbidden", "it is refused", |s| s["phase"] == "Failed").await?;
    anyhow::ensure!(status["reason"] == "SysctlForbidden", "{status:#}");
    expect(
        status["message"].as_str().unwrap_or_default(),
        &["Pod was rejected: forbidden sysctl: \"kernel.msgmax\" not allowlisted"],
    )?;
    events(&cluster, "forbidden", &["SysctlForbidden"]).await
}

pub(crate) async fn a_status_tells_what_a_container_was_started_as(
    context: Arc<Context>,
) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let script = "trap 'exit 7' USR1; trap '' TERM; while :; do sleep 0.1; done";
    let ill = json!(["sh", "-c", "[ ! -e /v/ill ]"]);
    let mut spec = one(json!({
        "command": ["sh", "-c", script],
        "lifecycle": {"stopSignal": "SIGUSR1"},
        "livenessProbe": {"exec": {"command": ill}, "periodSeconds": 1, "failureThreshold": 1},
        "volumeMounts": [{"name": "v", "mountPath": "/v"},
            {"name": "v", "mountPath": "/r", "readOnly": true, "recursiveReadOnly": "Enabled"}],
    }));
    spec["os"] = json!({"name": "linux"});
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["terminationGracePeriodSeconds"] = json!(20);
    spec["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 3000,
        "supplementalGroups": [4000], "fsGroup": 5000});
    apply(&cluster, "told", spec).await?;
    let status = becomes(&cluster, "told", "it is ready", is_ready).await?;
    let user =
        json!({"linux": {"uid": 1000, "gid": 3000, "supplementalGroups": [3000, 4000, 5000]}});
    anyhow::ensure!(app(&status)["user"] == user, "{status:#}");
    anyhow::ensure!(app(&status)["stopSignal"] == "SIGUSR1", "{status:#}");
    let mounts = app(&status)["volumeMounts"].to_string();
    expect(&mounts, &[r#""recursiveReadOnly":"Enabled""#, "/var/run/secrets", "Disabled"])?;
    // It would not end for any other.
    exec(&cluster, "told", "touch /v/ill").await?;
    let again = |status: &Value| app(status)["lastState"]["terminated"]["exitCode"] == 7;
    let status = becomes(&cluster, "told", "it ended by its own signal", again).await?;
    anyhow::ensure!(app(&status)["user"] == user, "{status:#}");
    let delete = ["delete", "pod", "told", "--grace-period=1"];
    cluster.kubectl(&delete).await.map(drop)
}

pub(crate) async fn a_last_line_without_an_end_gets_none(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    apply(&cluster, "cut", once("printf 'one\\ntwo'", json!({}))).await?;
    becomes(&cluster, "cut", "it has ended", |s| s["phase"] == "Succeeded").await?;
    for options in [&[][..], &["-f"], &["--tail=1"]] {
        let said = cluster.kubectl(&[&["logs", "cut"], options].concat()).await?;
        let expected = if options == ["--tail=1"] { "two" } else { "one\ntwo" };
        anyhow::ensure!(said == expected, "{options:?}: {said:?}");
    }
    Ok(())
}

pub(crate) async fn the_name_server_knows_what_the_specification_says(
    context: Arc<Context>,
) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    for (name, cluster_ip) in [("db", json!("None")), ("web", json!(null))] {
        let mut spec = json!({"selector": {"app": "db-0"},
            "ports": [{"name": "main", "port": 80, "targetPort": 5432}]});
        if !cluster_ip.is_null() {
            spec["clusterIP"] = cluster_ip;
        }
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name}, "spec": spec});
        cluster.apply(&service.to_string()).await?;
    }
    let mut spec = one(json!({}));
    spec["hostname"] = json!("first");
    spec["subdomain"] = json!("db");
    apply(&cluster, "db-0", spec.clone()).await?;
    spec["setHostnameAsFQDN"] = json!(true);
    apply(&cluster, "whole", spec).await?;
    let status = becomes(&cluster, "db-0", "it is ready", is_ready).await?;
    let ip = status["podIP"].as_str().context("no podIP")?.to_owned();
    let vip = cluster.service("default", "web").await?.ip();

    let full = "first.db.default.svc.cluster.local";
    let said =
        exec(&cluster, "db-0", "hostname; hostname -f; cat /etc/hostname /etc/hosts").await?;
    expect(&said, &[&format!("first\n{full}\nfirst\n"), &format!("\n{ip}\t{full}\tfirst\n")])?;
    becomes(&cluster, "whole", "it is ready", is_ready).await?;
    let said = exec(&cluster, "whole", "hostname; cat /etc/hostname; env; cat /etc/hosts").await?;
    expect(&said, &[&format!("{full}\n{full}\n"), &format!("HOSTNAME={full}\n")])?;
    expect(&said, &[&format!("\t{full}\tfirst\n")])?;

    for (kind, name, expected) in [
        ("-type=a", full, format!("Name:\t{full}\nAddress: {ip}")),
        ("-type=srv", "_main._tcp.db.default.svc.cluster.local", format!("0 100 5432 {full}")),
        (
            "-type=srv",
            "_main._tcp.web.default.svc.cluster.local",
            "0 100 80 web.default.svc.cluster.local".to_owned(),
        ),
        // It makes the question of the address only where it is not told which.
        ("", &ip, format!("name = {full}")),
        ("", &vip.to_string(), "name = web.default.svc.cluster.local".to_owned()),
        ("-type=txt", "dns-version.cluster.local", "\"1.1.0\"".to_owned()),
    ] {
        eventually(SOON, "the name server knows it", async || {
            let asked = exec(&cluster, "db-0", &format!("nslookup {kind} {name}")).await?;
            expect(&asked, &[&expected])
        })
        .await?;
    }
    Ok(())
}

pub(crate) async fn rights_are_given_and_taken(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let profiles = cluster.data().join("agent/seccomp/mine");
    std::fs::create_dir_all(&profiles)?;
    let denies = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]});
    std::fs::write(profiles.join("good.json"), denies.to_string())?;
    std::fs::write(profiles.join("bad.json"), r#"{"defaultAction": "SCMP_ACT_SOMETHING"}"#)?;
    let localhost = |name: &str| json!({"seccompProfile": {"type": "Localhost", "localhostProfile": format!("mine/{name}.json")}});
    let mut user = once(
        "id; touch /v/mine && stat -c '%u:%g' /v/mine",
        json!({"runAsUser": 1000, "runAsGroup": 3000}),
    );
    user["securityContext"] = json!({"supplementalGroups": [4000], "fsGroup": 2000});
    user["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    user["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    let capabilities =
        "grep CapEff /proc/self/status; chown 1 /tmp; grep NoNewPrivs /proc/self/status";
    let all = [
        ("user", user),
        (
            "read-only",
            once("touch /x; touch /dev/shm/x && echo shm", json!({"readOnlyRootFilesystem": true})),
        ),
        (
            "none",
            once(
                capabilities,
                json!({"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": false}),
            ),
        ),
        (
            "more",
            once(
                "ip link set lo mtu 9000 && ip link show lo",
                json!({"capabilities": {"add": ["NET_ADMIN"]}}),
            ),
        ),
        (
            "usual",
            once(
                "ip link set lo mtu 9000; mount -t tmpfs none /tmp; ls /proc/acpi /dev",
                json!({}),
            ),
        ),
        (
            "privileged",
            once(
                "mount -t tmpfs none /tmp && ls /dev/kmsg && touch /sys/fs/cgroup/x; grep Seccomp: /proc/self/status",
                json!({"privileged": true}),
            ),
        ),
        ("denied", once("mkdir /tmp/x; touch /tmp/y && echo fine", localhost("good"))),
    ];
    for (name, spec) in all {
        apply(&cluster, name, spec).await?;
    }
    for (name, words) in [
        ("user", &["uid=1000(app) gid=3000", "2000(extra)", "4000", "1000:2000"][..]),
        ("read-only", &["/x: Read-only file system", "shm"]),
        ("none", &["CapEff:\t0000000000000000", "Operation not permitted", "NoNewPrivs:\t1"]),
        ("more", &["mtu 9000"]),
        ("usual", &["Operation not permitted", "permission denied"]),
        ("privileged", &["/dev/kmsg", "Seccomp:\t0"]),
        ("denied", &["mkdir: can't create directory '/tmp/x': Operation not permitted", "fine"]),
    ] {
        expect(&said(&cluster, name).await?, words).with_context(|| name.to_owned())?;
    }

    // What cannot be is told in the words that people look for.
    let ghost = available(containers::busybox())?.context("busybox is there")?;
    let ghost = ghost.config(json!({"Cmd": ["sh"], "User": "ghost"}));
    cluster.push(&layout(&cluster, "ghost", &ghost)?, "ghost:v1").await?;
    let of =
        |name: &str, security: Value| (name.to_owned(), one(json!({"securityContext": security})));
    let of_image = |name: &str, image: &str| (name.to_owned(), one(json!({"image": image})));
    let strange = available(containers::busybox())?.context("busybox is there")?;
    cluster
        .push(&layout(&cluster, "strange", &strange.platform("linux", "s390x"))?, "strange:v1")
        .await?;
    let missing = ["mine/missing.json", "No such file"];
    for ((name, spec), reason, words) in [
        (
            of("root", json!({"runAsNonRoot": true})),
            "CreateContainerConfigError",
            &[
                "container has runAsNonRoot and image will run as root (pod: \"root_default(",
                "container: app)",
            ][..],
        ),
        (
            of("zero", json!({"runAsNonRoot": true, "runAsUser": 0})),
            "CreateContainerConfigError",
            &["container's runAsUser breaks non-root policy"],
        ),
        (of("no-profile", localhost("missing")), "CreateContainerError", &missing),
        (of("bad-profile", localhost("bad")), "CreateContainerError", &["SCMP_ACT_SOMETHING"]),
        (of_image("ghost", "ghost:v1"), "CreateContainerError", &["ghost"]),
        (of_image("strange", "strange:v1"), "ImagePullBackOff", &["strange:v1", "s390x"]),
    ] {
        apply(&cluster, &name, spec).await?;
        waits(&cluster, &name, reason, words).await?;
        events(&cluster, &name, &["Failed", words[0]]).await?;
    }
    Ok(())
}

/// A 32-bit call is taken or refused as its 64-bit counterpart: getpid is 20 there, mount 21.
#[cfg(target_arch = "x86_64")]
const CALLS_OF_32_BITS: &str = r#"
#include <stdio.h>
static long call(long number) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(0L), "c"(0L), "d"(0L) : "memory");
    return result;
}
int main(void) {
    printf("getpid %d mount %ld\n", call(20) == 1, call(21));
    return 0;
}
"#;

#[cfg(target_arch = "x86_64")]
pub(crate) async fn programs_of_32_bits_run(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let Some(image) = available(containers::program(CALLS_OF_32_BITS))? else { return Ok(()) };
    cluster.push(&layout(&cluster, "old", &image)?, "old:v1").await?;
    let mut spec = one(json!({"image": "old:v1"}));
    spec["restartPolicy"] = json!("Never");
    apply(&cluster, "old", spec).await?;
    expect(&said(&cluster, "old").await?, &["getpid 1 mount -1"])
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) async fn programs_of_32_bits_run(_: Arc<Context>) -> Outcome {
    Ok(())
}

/// A volume of the image's has what the image has there and can be written, whatever the rest of the root can.
pub(crate) async fn volumes_of_images_are_writable(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let layer = Layer::default()
        .owned_folder("data", 0o750, (1000, 1000))?
        .file("data/given", 0o644, "by the image")?
        // It leads out of the image, where nothing may be mounted from.
        .symlink("linked", "/../../etc")?;
    let volumes =
        json!({"/data": {}, "fresh/deep/": {}, "/mounted": {}, "/linked": {}, "/../out": {}});
    let image = available(containers::busybox())?.context("busybox is there")?;
    // Folders that a layer has something in, and says nothing of, stay what they are.
    let above = Layer::default().file("data/above", 0o644, "")?.file("root/above", 0o644, "")?;
    let image =
        image.config(json!({"Cmd": ["sh"], "Volumes": volumes})).layer(layer)?.layer(above)?;
    cluster.push(&layout(&cluster, "volumes", &image)?, "volumes:v1").await?;
    let look = "cat /data/given; echo; echo more > /data/more && cat /data/more; stat -c %u:%a /data /root /tmp; \
        touch /fresh/deep/x && echo fresh; touch /x; cat /mounted/x; ls /linked; cat /proc/mounts";
    let mut spec = once(look, json!({"readOnlyRootFilesystem": true}));
    spec["containers"][0]["image"] = json!("volumes:v1");
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/mounted"}]);
    spec["volumes"] = json!([{"name": "v", "configMap": {"name": "c"}}]);
    cluster.kubectl(&["create", "configmap", "c", "--from-literal=x=mounted"]).await?;
    apply(&cluster, "volumes", spec).await?;
    let said = said(&cluster, "volumes").await?;
    expect(
        &said,
        &[
            "by the image\nmore\n1000:750\n0:700\n0:1777\nfresh\n",
            "/x: Read-only file system",
            "mounted",
            "group",
            "passwd",
        ],
    )?;
    anyhow::ensure!(!said.contains("shadow"), "the machine's own folder: {said}");
    Ok(())
}

/// A program that is not there is an attempt that failed, with the code and the reason that container runtimes give it.
pub(crate) async fn a_missing_program_is_a_start_error(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    let missing = json!({"command": ["no-such-program"]});
    let mut never = one(missing.clone());
    never["restartPolicy"] = json!("Never");
    apply(&cluster, "never", never).await?;
    apply(&cluster, "always", one(missing)).await?;
    let why = "exec: \"no-such-program\": executable file not found in $PATH";
    let is_start_error = |how: &Value| {
        anyhow::ensure!(how["reason"] == "StartError" && how["exitCode"] == 128, "{how:#}");
        expect(how["message"].as_str().unwrap_or_default(), &["OCI runtime create failed", why])
    };
    let status = becomes(&cluster, "never", "it fails", |s| s["phase"] == "Failed").await?;
    is_start_error(&app(&status)["state"]["terminated"])?;
    let loops = |s: &Value| app(s)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let status =
        becomes(&cluster, "always", "it is tried again, more and more slowly", loops).await?;
    is_start_error(&app(&status)["lastState"]["terminated"])?;
    events(&cluster, "always", &["Failed", why, "Back-off restarting failed container app"])
        .await?;
    expect(&cluster.kubectl(&["get", "pod", "never"]).await?, &["StartError"])
}

/// The image of the second container comes late, when the first, a component, has been running: it is a container. The Pod's
/// sandbox is made anew, and what ran is stopped as at any other end, its hook and its grace included.
pub(crate) async fn a_container_that_is_found_late_changes_the_sandbox(
    context: Arc<Context>,
) -> Outcome {
    if context.user != User::Root {
        return Ok(());
    }
    let cluster = context.up().await?;
    cluster.push(&tools::component("probe-http"), "web:v1").await?;
    let web = json!({"name": "app", "image": "web:v1", "ports": [{"containerPort": 8080}],
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}}});
    let late = json!({"name": "late", "image": "late:v1"});
    apply(
        &cluster,
        "mixed",
        json!({"containers": [web, late], "terminationGracePeriodSeconds": 20}),
    )
    .await?;
    becomes(&cluster, "mixed", "the component runs, the other waits", |s| {
        let all = s["containerStatuses"].as_array();
        all.is_some_and(|all| all.iter().any(|c| c["name"] == "app" && c["ready"] == true))
    })
    .await?;
    if !push_script(&cluster, "late:v1", STAYS).await? {
        return Ok(());
    }
    let status = becomes(&cluster, "mixed", "both run", is_ready).await?;
    let all = status["containerStatuses"].as_array().cloned().unwrap_or_default();
    let web = all.iter().find(|c| c["name"] == "app").context("no status")?;
    let last = &web["lastState"]["terminated"];
    anyhow::ensure!(web["restartCount"] == 1 && last["exitCode"] == 0, "{web:#}");
    let told = ["SandboxChanged", "it will be killed and re-created", "Stopping container app"];
    events(&cluster, "mixed", &told).await
}

/// Who insists on a runtime gets that or a clear no; where no container can run, that is said before or after.
pub(crate) async fn a_runtime_that_is_insisted_on_is_the_one(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    if !push_script(&cluster, "box:v1", STAYS).await? {
        return Ok(());
    }
    let of = |class: &str, image: &str| {
        let mut spec = one(json!({"image": image}));
        spec["runtimeClassName"] = json!(class);
        spec
    };
    apply(&cluster, "as-wasm", of("wasm", "box:v1")).await?;
    apply(&cluster, "as-oci", of("oci", "hello:v1")).await?;
    apply(&cluster, "open", one(json!({}))).await?;
    if context.user == User::Root {
        waits(
            &cluster,
            "as-wasm",
            "CreateContainerError",
            &["is a container image", "insists on Wasm"],
        )
        .await?;
        waits(
            &cluster,
            "as-oci",
            "CreateContainerError",
            &["is a Wasm image", "insists on containers"],
        )
        .await?;
        return becomes(&cluster, "open", "it runs", is_ready).await.map(drop);
    }
    for pod in ["as-wasm", "open"] {
        waits(
            &cluster,
            pod,
            "CreateContainerError",
            &["is a container image", "agent must run as root"],
        )
        .await?;
    }
    let status = becomes(&cluster, "as-oci", "no node is found", |s| {
        s["conditions"][0]["reason"] == "Unschedulable"
    })
    .await?;
    let message = status["conditions"][0]["message"].as_str().unwrap_or_default();
    expect(message, &["0/1 nodes are available", "didn't match Pod's node affinity/selector"])?;
    events(&cluster, "as-oci", &["FailedScheduling"]).await
}

/// Whoever fills the disk through the container's own files goes, as whoever fills it through a volume.
pub(crate) async fn what_it_writes_counts_as_its_storage(context: Arc<Context>) -> Outcome {
    let Some(cluster) = boxes(&context).await? else { return Ok(()) };
    for (name, mib) in [("frugal", 4), ("lavish", 10)] {
        let fill = format!("dd if=/dev/zero of=/filled bs=1M count={mib}; sleep 600");
        let mut spec = once(&fill, json!({}));
        spec["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "6Mi"}});
        apply(&cluster, name, spec).await?;
    }
    let status = becomes(&cluster, "lavish", "it is evicted", |s| s["phase"] == "Failed").await?;
    let message = "Container app exceeded its local ephemeral storage limit \"6Mi\". ";
    anyhow::ensure!(status["reason"] == "Evicted" && status["message"] == message, "{status:#}");
    becomes(&cluster, "frugal", "the other stays", |s| s["phase"] == "Running").await.map(drop)
}

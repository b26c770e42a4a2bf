//! Servers and clients on sockets, behind Services and without.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Runtime, User, eventually};

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect};

/// A Pod of `probe-net` with these arguments, and a Service `NAME` for a server's port.
pub(crate) fn pod(name: &str, args: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
         spec:\n  restartPolicy: Never\n  containers:\n  - name: main\n    image: net:v1\n    \
         command: [probe-net, {args}]\n{more}"
    )
}

fn service(name: &str, protocol: &str, port: u16) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
         selector: {{app: {name}}}\n  ports:\n  \
         - {{port: 8007, targetPort: {port}, protocol: {protocol}}}\n"
    )
}

pub(crate) const READY: &str = "    readinessProbe: {tcpSocket: {port: 7007}, periodSeconds: 1}\n";

async fn ip(cluster: &Cluster, pod: &str) -> anyhow::Result<IpAddr> {
    let pod = cluster.get(&["pod", pod]).await?;
    Ok(pod["status"]["podIP"].as_str().context("no podIP")?.parse()?)
}

async fn finished(cluster: &Cluster, pod: &str) -> anyhow::Result<String> {
    eventually(SOON, "the client has ended", async || {
        let phase = cluster.get(&["pod", pod]).await?["status"]["phase"].clone();
        anyhow::ensure!(phase == "Succeeded" || phase == "Failed", "{pod} is {phase}");
        Ok(())
    })
    .await?;
    cluster.kubectl(&["logs", pod]).await
}

pub(crate) fn echo(address: SocketAddr, text: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

pub(crate) async fn a_tcp_server_is_behind_a_service(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-net", "net:v1"), ("hello-v1", "hello:v1")]).await?;
    // Another Pod's server has the same port: on the node, not in the Pod.
    let web = pod("web", "x", "    ports: [{containerPort: 7007}]\n").replace("net:v1", "hello:v1");
    let web = web.replace("    command: [probe-net, x]\n", "");
    cluster.apply(&web).await?;
    let server = pod("echo", "tcp-echo, '0.0.0.0:7007'", READY);
    cluster.apply(&(server + &service("echo", "TCP", 7007))).await?;
    cluster
        .kubectl(&["wait", "--for=condition=Ready", "pod/echo", "pod/web", "--timeout=60s"])
        .await?;
    let pod_ip = ip(&cluster, "echo").await?;
    // Other than a container, a component has no namespace of its own: the wildcard address is its Pod's.
    let at = if context.runtime == Runtime::Wasm { pod_ip } else { Ipv4Addr::UNSPECIFIED.into() };
    expect(&cluster.kubectl(&["logs", "echo"]).await?, &[&format!("listening on {at}:7007")])?;
    let address = cluster.service("default", "echo").await?;
    eventually(SOON, "the Service answers", async || {
        anyhow::ensure!(echo(address, "ahoy")? == "ahoy");
        Ok(())
    })
    .await?;
    anyhow::ensure!(echo(SocketAddr::new(pod_ip, 7007), "ahoy")? == "ahoy");

    // A guest calls it, by the Service's address and by the Pod's.
    for (name, to) in
        [("by-service", format!("{}:8007", address.ip())), ("by-pod", format!("{pod_ip}:7007"))]
    {
        cluster.apply(&pod(name, &format!("tcp, '{to}', hello"), "")).await?;
        let said = finished(&cluster, name).await?;
        let own = ip(&cluster, name).await?;
        expect(&said, &[&format!("{own}:"), &format!("called {to}: hello")])?;
        expect(&cluster.kubectl(&["logs", "echo"]).await?, &[&format!("connection from {own}:")])?;
    }
    // Names lead there too.
    cluster.apply(&pod("names", "resolve, echo.default.svc.cluster.local", "")).await?;
    expect(&finished(&cluster, "names").await?, &[&format!(" is {}", address.ip())])?;
    // Localhost is the Pod itself, in which nobody listens.
    cluster.apply(&pod("lonely", "tcp, '127.0.0.1:7007', x", "")).await?;
    // Refused, or reset where the host listens on that port for other Pods; another Pod's echo never answers.
    let said = finished(&cluster, "lonely").await?;
    anyhow::ensure!(!said.contains("127.0.0.1:7007: x"), "{said}");
    anyhow::ensure!(
        !cluster
            .kubectl(&["logs", "echo"])
            .await?
            .contains(&ip(&cluster, "lonely").await?.to_string())
    );
    Ok(())
}

pub(crate) async fn a_udp_server_answers(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-net", "net:v1")]).await?;
    let server = pod("echo", "udp-echo, '0.0.0.0:7008'", "");
    cluster.apply(&(server + &service("echo", "UDP", 7008))).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/echo", "--timeout=60s"]).await?;
    let pod_ip = ip(&cluster, "echo").await?;
    let mut addresses = vec![SocketAddr::new(pod_ip, 7008)];
    if context.user == User::Root {
        // Where the kernel translates addresses, Services carry datagrams.
        let service = cluster.get(&["service", "echo"]).await?;
        let vip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?.to_owned();
        addresses.push(SocketAddr::new(vip.parse()?, 8007));
    }
    for address in addresses {
        eventually(SOON, "the server answers", async || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
            socket.connect(address)?;
            socket.send(b"ahoy")?;
            let mut answer = [0; 16];
            let count = socket.recv(&mut answer)?;
            anyhow::ensure!(&answer[..count] == b"ahoy");
            Ok(())
        })
        .await
        .with_context(|| address.to_string())?;
    }
    cluster.apply(&pod("client", &format!("udp, '{pod_ip}:7008', hello"), "")).await?;
    expect(&finished(&cluster, "client").await?, &["answered: hello"])
}

pub(crate) async fn pods_of_a_headless_service_have_names(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-net", "net:v1")]).await?;
    let server = |name: &str, own: &str| {
        let pod = pod(name, "tcp-echo, '0.0.0.0:7007'", READY);
        let pod = pod.replace(&format!("app: {name}"), "app: db");
        pod.replace("  restartPolicy", &format!("  {own}\n  restartPolicy"))
    };
    let services = "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: \
        {clusterIP: None, selector: {app: db}}\n---\napiVersion: v1\nkind: Service\nmetadata: \
        {name: other}\nspec: {type: ExternalName, externalName: first.db.default.svc.cluster.local}\n";
    let first = server("db-0", "hostname: first\n  subdomain: db");
    let second = server("db-1", "hostname: second\n  subdomain: elsewhere");
    cluster.apply(&format!("{first}---\n{second}{services}")).await?;
    let wait = ["wait", "--for=condition=Ready", "pod/db-0", "pod/db-1", "--timeout=60s"];
    cluster.kubectl(&wait).await?;
    let slices = ["endpointslices", "-l", "kubernetes.io/service-name=db"];
    eventually(SOON, "both are endpoints, one by name", async || {
        let endpoints = cluster.get(&slices).await?["items"][0]["endpoints"].clone();
        let mut names: Vec<_> = endpoints.as_array().into_iter().flatten().collect();
        names.sort_by_key(|endpoint| endpoint["targetRef"]["name"].to_string());
        let names: Vec<_> = names.into_iter().map(|e| e["hostname"].as_str()).collect();
        anyhow::ensure!(names == [Some("first"), None], "{endpoints:#}");
        Ok(())
    })
    .await?;
    let (first, second) = (ip(&cluster, "db-0").await?, ip(&cluster, "db-1").await?);
    let dashed = second.to_string().replace('.', "-");
    for (client, name, expected) in [
        ("short", "first.db", Some(first)),
        ("with-namespace", "first.db.default", Some(first)),
        ("full", "first.db.default.svc.cluster.local", Some(first)),
        ("address", &format!("{dashed}.db.default.svc.cluster.local"), Some(second)),
        ("by-pod", &format!("{dashed}.default.pod.cluster.local"), Some(second)),
        ("alias", "other", Some(first)),
        ("no-endpoint", "second.db.default.svc.cluster.local", None),
    ] {
        cluster.apply(&pod(client, &format!("resolve, {name}"), "")).await?;
        let said = finished(&cluster, client).await?;
        match expected {
            Some(ip) => anyhow::ensure!(said == format!("{name} is {ip}\n"), "{name}: {said}"),
            None => expect(&said, &["failed: "])?,
        }
    }
    Ok(())
}

pub(crate) async fn what_is_not_granted_is_named(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-net", "net:v1")]).await?;
    let manifest = pod("denied", "tcp, '10.0.0.1:80', x", "");
    let annotated =
        manifest.replace("labels:", "annotations: {coracle.dev/grants: 'http,clocks'}, labels:");
    cluster.apply(&annotated).await?;
    let way = "add \"sockets\" to the annotation coracle.dev/grants";
    expect(&finished(&cluster, "denied").await?, &["access-denied", way])?;
    eventually(SOON, "an event says how to grant it", async || {
        let events = cluster.kubectl(&["get", "events", "-o", "wide"]).await?;
        expect(&events, &["NotGranted", way])
    })
    .await
}

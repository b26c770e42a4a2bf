//! Ingress, from outside: by host and path, with certificates, while what is behind it changes.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use coracle_test_cluster::load::Load;
use coracle_test_cluster::{Cluster, Part, User, eventually, http};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::context::{ClusterExt as _, Context, Outcome, SOON, expect, hello, manifest};

/// Where an Ingress is served, once its status tells: HTTP and HTTPS.
pub(crate) async fn address(
    cluster: &Cluster,
    name: &str,
) -> anyhow::Result<(SocketAddr, SocketAddr)> {
    eventually(SOON, "the Ingress has an address", async || {
        let ingress = cluster.get(&["ingress", name]).await?;
        let point = &ingress["status"]["loadBalancer"]["ingress"][0];
        let ip: IpAddr = point["ip"].as_str().context("no address")?.parse()?;
        let port = |i: usize| {
            let port = point["ports"][i]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            port.map(|port| SocketAddr::new(ip, port)).context("no port")
        };
        Ok((port(0)?, port(1)?))
    })
    .await
}

/// An Ingress of everything to a Service.
pub(crate) fn all_to(service: &str) -> String {
    format!(
        r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {service}}}
spec:
  defaultBackend: {{service: {{name: {service}, port: {{number: 80}}}}}}
"#
    )
}

/// One request with this host; the status and what `x-version` says.
async fn ask(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", host).body(Full::<Bytes>::default())?;
    told(sender.send_request(request).await?)
}

fn told<B>(answer: hyper::Response<B>) -> anyhow::Result<(u16, String)> {
    let version = answer.headers().get("x-version").map(|version| version.to_str());
    Ok((answer.status().as_u16(), version.transpose()?.unwrap_or_default().to_owned()))
}

pub(crate) async fn the_manifest_leads_to_its_services(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.apply(&manifest("tests/suite/manifests/ingress.yaml")?).await?;
    let (http, _) = address(&cluster, "my-ingress").await?;
    // Its Services are not there yet.
    anyhow::ensure!(ask(http, "api.example.com", "/users").await?.0 == 503);
    cluster.deploy_hello("user-service", "hello:v1", 2).await?;
    cluster.deploy_hello("order-service", "hello:v2", 1).await?;
    for (host, path, expected) in [
        ("api.example.com", "/users", "v1"),
        ("API.example.com:80", "/users/1?x=y", "v1"),
        ("api.example.com", "/orders", "v2"),
        ("api.example.com", "/usersx", ""),
        ("api.example.com", "/", ""),
        ("example.com", "/users", ""),
    ] {
        eventually(SOON, "requests go where they should", async || {
            // The guests know these paths no better, but say who they are.
            let (status, version) = ask(http, host, path).await?;
            anyhow::ensure!(
                version == expected && status == 404,
                "{host}{path}: {status} {version}"
            );
            Ok(())
        })
        .await?;
    }
    let table = cluster.kubectl(&["get", "ingress"]).await?;
    expect(&table, &["CLASS", "HOSTS", "ADDRESS", "PORTS", "coracle", "api.example.com"])?;
    expect(&table, &[&http.ip().to_string()])?;
    expect(
        &cluster.kubectl(&["describe", "ingress", "my-ingress"]).await?,
        &["/users", "user-service:80", "/orders"],
    )?;
    expect(&cluster.kubectl(&["get", "ingressclass"]).await?, &["coracle.dev/ingress"])?;
    cluster.kubectl(&["delete", "ingress", "my-ingress"]).await?;
    eventually(SOON, "nothing is served any more", async || {
        let (status, _) = ask(http, "api.example.com", "/users").await?;
        anyhow::ensure!(status == 404, "{status}");
        Ok(())
    })
    .await
}

/// A Service that stands for another name leads to whoever has that.
pub(crate) async fn an_ingress_leads_to_what_a_service_stands_for(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.deploy_hello("one", "hello:v1", 1).await?;
    cluster.deploy_hello("two", "hello:v2", 1).await?;
    let alias = |name: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: alias}}\nspec: {{type: ExternalName, externalName: {name}}}\n"
        )
    };
    cluster.apply(&(all_to("alias") + &alias("one.default.svc.cluster.local"))).await?;
    let (http, _) = address(&cluster, "alias").await?;
    let answers = async |status: u16, version: &str| {
        eventually(SOON, "requests go where the name leads", async || {
            let told = ask(http, "any.example.com", "/").await?;
            anyhow::ensure!(told == (status, version.to_owned()), "{told:?}");
            Ok(())
        })
        .await
    };
    answers(200, "v1").await?;
    cluster.apply(&alias("two.default.svc.cluster.local")).await?;
    answers(200, "v2").await?;
    // What the machine has for itself alone is nobody's to lead to.
    cluster.apply(&alias("localhost")).await?;
    answers(503, "").await
}

/// A certificate for the host, in files of the cluster's user, and itself.
fn certificate(
    cluster: &Cluster,
    name: &str,
) -> anyhow::Result<(PathBuf, PathBuf, CertificateDer<'static>)> {
    let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()])?;
    let chain = cluster.file(&format!("{name}.crt"), made.cert.pem().as_bytes())?;
    let key = cluster.file(&format!("{name}.key"), made.signing_key.serialize_pem().as_bytes())?;
    Ok((chain, key, made.cert.der().clone()))
}

fn connector(trusted: &[&CertificateDer<'static>]) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add((*certificate).clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn secure(address: SocketAddr, tls: &TlsConnector) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    Ok(tls.connect(ServerName::try_from("shop.example.com")?, stream).await?)
}

/// One request over HTTP/2 and TLS.
async fn ask_secure(address: SocketAddr, tls: &TlsConnector) -> anyhow::Result<(u16, String)> {
    let stream = TokioIo::new(secure(address, tls).await?);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("https://shop.example.com/health");
    told(sender.send_request(request.body(Full::<Bytes>::default())?).await?)
}

/// The Secret of `name`.crt and `name`.key, made or replaced.
async fn put_secret(cluster: &Cluster, chain: &str, key: &str) -> Outcome {
    let made = ["create", "secret", "tls", "shop", "--cert", chain, "--key", key];
    let secret =
        cluster.kubectl(&[&made[..], &["--dry-run=client", "-o", "yaml"]].concat()).await?;
    cluster.apply(&secret).await?;
    Ok(())
}

pub(crate) async fn certificates_change_under_load(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    cluster
        .apply(
            r#"
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: shop}
spec:
  tls: [{hosts: [shop.example.com], secretName: shop}]
  rules:
  - host: shop.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
"#,
        )
        .await?;
    let (http, https) = address(&cluster, "shop").await?;
    eventually(SOON, "an event tells that there is no certificate", async || {
        let events = cluster.kubectl(&["events", "--for", "ingress/shop"]).await?;
        expect(&events, &["IngressProblem", "Secret \"shop\"", "does not exist"])
    })
    .await?;
    let (one, two) = (certificate(&cluster, "one")?, certificate(&cluster, "two")?);
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    put_secret(&cluster, &path(&one.0), &path(&one.1)).await?;
    let first = connector(&[&one.2])?;
    eventually(SOON, "the certificate is served", async || {
        let (status, version) = ask_secure(https, &first).await?;
        anyhow::ensure!(status == 200 && version == "v1", "{status} {version}");
        Ok(())
    })
    .await?;
    let (status, _) = ask(http, "shop.example.com", "/health").await?;
    anyhow::ensure!(status == 308, "plain HTTP is redirected: {status}");

    let either = Arc::new(connector(&[&one.2, &two.2])?);
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (tls, stop, asked) = (either.clone(), stop.clone(), asked.clone());
            tokio::spawn(async move {
                while !stop.load(Relaxed) {
                    let (status, _) = ask_secure(https, &tls).await?;
                    anyhow::ensure!(status == 200, "{status}");
                    asked.fetch_add(1, Relaxed);
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    put_secret(&cluster, &path(&two.0), &path(&two.1)).await?;
    let second = connector(&[&two.2])?;
    eventually(SOON, "the other certificate is served", async || {
        ask_secure(https, &second).await.map(drop)
    })
    .await?;
    // By somebody who has no session of before to go on with.
    let first = connector(&[&one.2])?;
    anyhow::ensure!(ask_secure(https, &first).await.is_err(), "the old one is served no more");
    eventually(SOON, "there were requests enough to tell", async || {
        anyhow::ensure!(asked.load(Relaxed) > 100);
        Ok(())
    })
    .await?;
    stop.store(true, Relaxed);
    for client in clients {
        client.await??;
    }
    Ok(())
}

pub(crate) async fn a_rolling_update_behind_an_ingress_drops_nothing(
    context: Arc<Context>,
) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1"), ("hello-v2", "hello:v2")]).await?;
    cluster.deploy_hello("web", "hello:v1", 3).await?;
    cluster.apply(&all_to("web")).await?;
    let (http, _) = address(&cluster, "web").await?;
    let load = Load::start(http, "/health", 4);
    for image in ["hello:v2", "hello:v1"] {
        cluster.kubectl(&["set", "image", "deployment/web", &format!("app={image}")]).await?;
        cluster.rolled_out("web").await?;
    }
    let report = load.stop().await;
    anyhow::ensure!(report.versions.len() == 2, "both versions answered: {report:?}");
    report.nothing_dropped()
}

pub(crate) async fn ingresses_outlive_the_agent(context: Arc<Context>) -> Outcome {
    let cluster = context.split().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    cluster.deploy_hello("web", "hello:v1", 2).await?;
    cluster.apply(&all_to("web")).await?;
    let (at, _) = address(&cluster, "web").await?;
    let load = Load::start(at, "/health", 4);
    cluster.kill9(Part::Agent).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    cluster.start(Part::Agent).await?;
    // The agent that came back is the one that changes what is served.
    cluster.apply(&all_to("web").replace("number: 80", "number: 81")).await?;
    eventually(SOON, "what is served has changed", async || {
        let reply = http::get(at, "/health").await?;
        anyhow::ensure!(reply.status == 503 && reply.body.contains("no such port"), "{reply:?}");
        Ok(())
    })
    .await?;
    // The load has seen the change, too: everything before it was answered.
    let report = load.stop().await;
    let refused = |failure: &String| failure.contains("503") && failure.contains("no such port");
    let other: Vec<_> = report.failures.iter().filter(|failure| !refused(failure)).collect();
    anyhow::ensure!(other.is_empty() && report.requests > 100, "{other:?} of {}", report.requests);
    let (again, _) = address(&cluster, "web").await?;
    anyhow::ensure!(again == at, "it is the same process: {again}, {at}");
    Ok(())
}

/// Where Pods have a namespace, an Ingress's requests to this machine's begin in it, and cross no link; a restart of what is in
/// there changes nothing.
pub(crate) async fn requests_begin_where_the_pod_is(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("hello-v1", "hello:v1")]).await?;
    let logged = hello("web", "hello:v1", 1).replace(
        "metadata: {labels: {app: web}}",
        "metadata: {labels: {app: web}, annotations: {coracle.dev/access-log: \"true\"}}",
    );
    cluster.apply(&logged).await?;
    cluster.rolled_out("web").await?;
    cluster.apply(&all_to("web")).await?;
    let (at, _) = address(&cluster, "web").await?;
    let reply = http::get(at, "/version").await?;
    anyhow::ensure!(reply.status == 200, "{reply:?}");
    let peer = eventually(SOON, "the request is logged", async || {
        let log = cluster.kubectl(&["logs", "-l", "app=web", "--tail=-1"]).await?;
        let line = log.lines().rfind(|line| line.contains("/version")).context("no such line")?;
        let line: Value = serde_json::from_str(line)?;
        let peer: SocketAddr = line["peer"].as_str().context("no peer")?.parse()?;
        Ok(peer.ip())
    })
    .await?;
    let pods = cluster.get(&["pods", "-l", "app=web"]).await?;
    let pod: IpAddr = pods["items"][0]["status"]["podIP"].as_str().context("an IP")?.parse()?;
    let (IpAddr::V4(peer), IpAddr::V4(pod)) = (peer, pod) else { anyhow::bail!("{peer}, {pod}") };
    // An ordinary user's Pods are on loopback, and so is the proxy. Otherwise the namespace has the second address of the node's
    // range, the machine the first.
    let expected = match context.user {
        User::Ordinary => 1,
        User::Root => 2,
    };
    anyhow::ensure!(peer.octets()[3] == expected && peer != pod, "{peer} asked {pod}");

    cluster.kill9(Part::Host).await?;
    eventually(SOON, "the Pod is back", async || {
        let reply = http::get(at, "/health").await?;
        anyhow::ensure!(reply.status == 200, "{reply:?}");
        Ok(())
    })
    .await
}

pub(crate) async fn grpc_passes_through(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-grpc", "grpc:v1")]).await?;
    cluster
        .apply(
            r#"
apiVersion: v1
kind: Pod
metadata: {name: grpc, labels: {app: grpc}}
spec:
  containers:
  - name: app
    image: grpc:v1
    ports: [{containerPort: 8080, name: grpc}]
    readinessProbe: {grpc: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: grpc}
spec:
  selector: {app: grpc}
  ports: [{port: 80, targetPort: grpc, appProtocol: kubernetes.io/h2c}]
"#,
        )
        .await?;
    cluster.apply(&all_to("grpc")).await?;
    let (http, _) = address(&cluster, "grpc").await?;
    for (service, expected) in [("", 1), ("down", 2)] {
        eventually(SOON, "a call is answered, with trailers", async || {
            let stream = TokioIo::new(TcpStream::connect(http).await?);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await?;
            tokio::spawn(connection);
            // Field 1, a string, in a frame: not compressed, its length.
            let mut message = vec![0, 0, 0, 0, 0];
            if !service.is_empty() {
                message.extend([10, service.len() as u8]);
                message.extend(service.bytes());
                message[4] = (message.len() - 5) as u8;
            }
            let call = hyper::Request::post("http://grpc.example.com/grpc.health.v1.Health/Check")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Full::new(Bytes::from(message)))?;
            let answer = sender.send_request(call).await?;
            anyhow::ensure!(answer.status() == 200, "{}", answer.status());
            let body = answer.into_body().collect().await?;
            let trailers = body.trailers().cloned().unwrap_or_default();
            anyhow::ensure!(trailers.get("grpc-status").is_some_and(|s| s == "0"), "{trailers:?}");
            let body = body.to_bytes();
            anyhow::ensure!(body[..] == [0, 0, 0, 0, 2, 8, expected], "{service}: {body:?}");
            Ok(())
        })
        .await?;
    }
    let told: Value = cluster.get(&["ingress", "grpc"]).await?;
    anyhow::ensure!(told["spec"]["ingressClassName"] == "coracle", "{told:#}");
    Ok(())
}

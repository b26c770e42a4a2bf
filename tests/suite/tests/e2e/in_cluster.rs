//! Calls over TLS out of Pods: to the cluster's own API, as client libraries make them, and to servers with a CA of
//! their own.

use std::net::SocketAddr;
use std::sync::Arc;

use coracle_test_cluster::{Cluster, eventually, http};

use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, expect};

/// What client libraries look for in a container.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The probe in a Pod, with more of its metadata, spec and container; and its Service.
async fn caller(
    cluster: &Cluster,
    name: &str,
    (metadata, spec, container): (&str, &str, &str),
) -> anyhow::Result<SocketAddr> {
    let manifest = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}{metadata}}}
spec:
  {spec}
  containers:
  - name: main
    image: probe:v1
    ports: [{{containerPort: 8080}}]
    {container}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    );
    cluster.apply(&manifest).await?;
    let pod = format!("pod/{name}");
    cluster.kubectl(&["wait", "--for=condition=Ready", &pod, PATIENCE]).await?;
    let address = cluster.service("default", name).await?;
    eventually(SOON, "its Service answers", async || {
        anyhow::ensure!(http::get(address, "/").await?.status == 200);
        Ok(())
    })
    .await?;
    Ok(address)
}

/// What a guest gets from there.
async fn fetch(guest: SocketAddr, options: &str, url: &str) -> anyhow::Result<String> {
    Ok(http::get(guest, &format!("/fetch?{options}url={url}")).await?.body)
}

pub(crate) async fn a_pod_calls_the_api(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    cluster.kubectl(&["create", "serviceaccount", "robot"]).await?;
    let role = ["create", "role", "reader", "--verb=get,list", "--resource=pods"];
    cluster.kubectl(&role).await?;
    let binding =
        ["create", "rolebinding", "robot", "--role=reader", "--serviceaccount=default:robot"];
    cluster.kubectl(&binding).await?;
    let robot = "serviceAccountName: robot";
    let together = caller(&cluster, "caller", ("", robot, "")).await?;
    let isolation = ", annotations: {coracle.dev/isolation: pod}";
    let apart = caller(&cluster, "apart", (isolation, robot, "")).await?;

    let service = cluster.get(&["service", "kubernetes"]).await?;
    let vip = service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let token = format!("token={ACCOUNT}/token&");
    let pods = "api/v1/namespaces/default/pods";
    let listed = ["200\n", r#""kind":"PodList""#, r#""name":"caller""#];
    // By every name that it has, and by the address that is in the environment.
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc.cluster.local"];
    for host in names.into_iter().chain([&vip[..], &format!("{vip}:443")]) {
        for guest in [together, apart] {
            expect(&fetch(guest, &token, &format!("https://{host}/{pods}")).await?, &listed)?;
        }
    }
    // What the role does not say, and what somebody without a name asks.
    let api = "https://kubernetes.default.svc";
    for what in ["default/secrets", "kube-system/pods"] {
        let said = fetch(together, &token, &format!("{api}/api/v1/namespaces/{what}")).await?;
        expect(&said, &["403\n", "system:serviceaccount:default:robot", "Forbidden"])?;
    }
    let said = fetch(together, "", &format!("{api}/{pods}")).await?;
    anyhow::ensure!(said.starts_with("401\n") || said.starts_with("403\n"), "{said}");
    Ok(())
}

pub(crate) async fn certificates_are_believed_where_asked(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    cluster.push_all(&[("probe-http", "probe:v1")]).await?;
    // Nothing of the ServiceAccount's, but the cluster's CA where the Pod wants to have it.
    let spec = "automountServiceAccountToken: false
  volumes: [{name: ca, configMap: {name: kube-root-ca.crt}}]";
    let mount = "volumeMounts: [{name: ca, mountPath: /etc/own}]";
    let url = "https://kubernetes.default.svc/version";
    for (name, env, believed) in [
        ("file", "env: [{name: SSL_CERT_FILE, value: /etc/own/ca.crt}]", true),
        ("folder", "env: [{name: SSL_CERT_DIR, value: '/nowhere:/etc/own'}]", true),
        ("neither", "env: [{name: OTHER, value: /etc/own/ca.crt}]", false),
        ("wrong", "env: [{name: SSL_CERT_FILE, value: /etc/own/gone.crt}]", false),
    ] {
        let guest = caller(&cluster, name, ("", spec, &format!("{env}\n    {mount}"))).await?;
        let said = fetch(guest, "", url).await?;
        anyhow::ensure!(said.contains("TlsCertificateError") != believed, "{name}: {said}");
    }
    let said = cluster.kubectl(&["logs", "wrong"]).await?;
    expect(&said, &["TLS: SSL_CERT_FILE: /etc/own/gone.crt: No such file", "UnknownIssuer"])
}

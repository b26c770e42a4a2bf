//! How machines join, and what keeps others out.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::access::as_stranger;
use crate::context::{ClusterExt as _, Context, Outcome, PATIENCE, SOON, command_pod, expect};

/// The tokens that a cluster lists, as lines without the head.
async fn tokens(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let list = cluster.coracle(&["token", "list"]).await?.ok()?;
    let mut lines = list.lines();
    expect(lines.next().context("no head")?, &["ID", "TTL", "EXPIRES", "DESCRIPTION"])?;
    Ok(lines.map(str::to_owned).collect())
}

fn id_and_secret(token: &str) -> anyhow::Result<(&str, &str)> {
    let mut parts = token.rsplit('.');
    let secret = parts.next().context("no secret")?;
    Ok((parts.next().context("no ID")?, secret))
}

/// Several at once, each until it ends; what does not hold is said on the machine that shows it.
pub(crate) async fn tokens_let_machines_join(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&[]).await? else { return Ok(()) };
    let rack = cluster.token(&["--description", "rack 7", "--ttl", "90m"])?;
    let other = cluster.token(&[])?;
    let (id, secret) = id_and_secret(&rack)?;
    let (other_id, _) = id_and_secret(&other)?;
    let list = tokens(&cluster).await?;
    anyhow::ensure!(list.len() == 2, "{list:?}");
    let line = list.iter().find(|line| line.starts_with(id)).context("it is not listed")?;
    expect(line, &["1h ", "rack 7"])?;
    // Nobody but who was given it has it.
    let secrets = cluster.kubectl(&["get", "secrets", "-n", "kube-system", "-o", "yaml"]).await?;
    expect(&secrets, &[&format!("bootstrap-token-{id}"), "token-hash"])?;
    let store = std::fs::read(cluster.data().join("store.redb"))?;
    anyhow::ensure!(store.windows(id.len()).any(|part| part == id.as_bytes()), "another store");
    for secret in [secret.to_owned(), base64(secret)] {
        anyhow::ensure!(!secrets.contains(&secret), "the secret is shown");
        let stored = store.windows(secret.len()).any(|part| part == secret.as_bytes());
        anyhow::ensure!(!stored, "the secret is stored");
    }

    cluster.add_machine("one", &[])?;
    let another = Cluster::fleet(cluster.user()).await?;
    let foreign = another.token(&[])?;
    let wrong = rack.replace(secret, &secret.chars().rev().collect::<String>());
    let short = cluster.token(&["--ttl", "1s"])?;
    let (short_id, _) = id_and_secret(&short)?;
    eventually(SOON, "what has expired is removed", async || {
        let name = format!("bootstrap-token-{short_id}");
        let secrets = cluster.kubectl(&["get", "secrets", "-n", "kube-system"]).await?;
        anyhow::ensure!(!secrets.contains(&name), "{secrets}");
        Ok(())
    })
    .await?;
    for (token, parts) in [
        ("no.token", &["no join token"][..]),
        ("coracle1.00.00", &["no longer take"]),
        (&wrong, &[id, "copied whole"]),
        (&short, &[short_id, "has expired"]),
        (&foreign, &["another cluster"]),
    ] {
        let said = cluster.refused_node("one", &["--token", token]).await?;
        expect(&said, &[parts, &["coracle token create"]].concat())?;
        let (_, secret) = id_and_secret(token)?;
        anyhow::ensure!(secret.len() < 32 || !said.contains(secret), "{said}");
    }
    another.stop().await?;

    // One that is deleted lets nobody join; who has joined stays.
    cluster.coracle(&["token", "delete", id]).await?.ok()?;
    let said = cluster.refused_node("one", &["--token", &rack]).await?;
    expect(&said, &[id, "deleted"])?;
    let said = cluster.coracle(&["token", "delete", id]).await?.refused()?;
    expect(&said, &[id, "coracle token list"])?;
    cluster.start_node("one").await?;
    cluster.coracle(&["token", "delete", &other]).await?.ok()?;
    let list = tokens(&cluster).await?;
    anyhow::ensure!(!list.iter().any(|line| line.starts_with(other_id)), "{list:?}");
    cluster.kill9_node("one")?;
    cluster.start_node("one").await?;
    let logs = cluster.errors(Part::Server);
    for token in [&rack, &other, &wrong, &short] {
        let (_, secret) = id_and_secret(token)?;
        anyhow::ensure!(!logs.contains(secret), "a secret is in the server's log");
    }
    Ok(())
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

/// A cluster in one process needs none, and no lasting one of an older version stays.
pub(crate) async fn up_leaves_no_token(context: Arc<Context>) -> Outcome {
    let cluster = context.prepared()?;
    let lasting = cluster.data().join("token");
    std::fs::write(&lasting, "coracle1.00.00\n")?;
    cluster.hand_over(&lasting)?;
    cluster.start(Part::Up).await?;
    anyhow::ensure!(!lasting.exists(), "the lasting token is still there");
    anyhow::ensure!(tokens(&cluster).await?.is_empty(), "there are tokens");
    // Nor does it need one when it returns.
    cluster.end(Part::Up, Signal::SIGINT).await?;
    cluster.start(Part::Up).await?;
    anyhow::ensure!(tokens(&cluster).await?.is_empty(), "there are tokens");
    Ok(())
}

/// A certificate request of somebody's, and the key, as files.
fn request(
    cluster: &Cluster,
    name: &str,
    subject: &[(rcgen::DnType, &str)],
    dns: &[&str],
) -> anyhow::Result<(String, PathBuf)> {
    let key = rcgen::KeyPair::generate()?;
    let names: Vec<String> = dns.iter().map(|&name| name.to_owned()).collect();
    let mut params = rcgen::CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (what, value) in subject {
        params.distinguished_name.push(what.clone(), *value);
    }
    let pem = params.serialize_request(&key)?.pem()?;
    let key = cluster.file(&format!("{name}.key"), key.serialize_pem().as_bytes())?;
    Ok((base64(&pem), key))
}

fn csr(name: &str, signer: &str, usage: &str, request: &str) -> String {
    format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {name}}}, spec: {{request: {request}, signerName: {signer}, usages: [digital signature, {usage}]}}}}"
    )
}

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";

/// People get certificates as Kubernetes' documentation says.
pub(crate) async fn certificates_are_asked_for_and_approved(context: Arc<Context>) -> Outcome {
    let cluster = context.up().await?;
    let kubectl = async |args: &[&str]| cluster.kubectl(args).await;
    let subject =
        |user, group| [(rcgen::DnType::OrganizationName, group), (rcgen::DnType::CommonName, user)];
    let (jane, key) = request(&cluster, "jane", &subject("jane", "dev"), &[])?;
    cluster.apply(&csr("jane", CLIENT, "client auth", &jane)).await?;
    expect(&kubectl(&["get", "csr"]).await?, &["jane", CLIENT, "kubernetes-admin", "Pending"])?;
    kubectl(&["certificate", "approve", "jane"]).await?;
    let pem = eventually(SOON, "the certificate is there", async || {
        expect(&kubectl(&["get", "csr", "jane"]).await?, &["Approved,Issued"])?;
        kubectl(&["get", "csr", "jane", "-o", "jsonpath={.status.certificate}"]).await
    })
    .await?;
    use base64::Engine as _;
    let pem = base64::engine::general_purpose::STANDARD.decode(pem)?;
    let certificate = cluster.file("jane.crt", &pem)?;
    let [certificate, key] = [&certificate, &key].map(|path| path.to_string_lossy().into_owned());
    let flags = ["--client-certificate", &certificate, "--client-key", &key];
    let whoami = as_stranger(&cluster, &flags, &["auth", "whoami"]).await?.ok()?;
    expect(&whoami, &["jane", "[dev system:authenticated]"])?;

    // Who may ask may neither approve nor issue.
    let may_ask = "--resource=certificatesigningrequests.certificates.k8s.io,certificatesigningrequests.certificates.k8s.io/approval,certificatesigningrequests.certificates.k8s.io/status";
    kubectl(&["create", "clusterrole", "asker", "--verb=*", may_ask]).await?;
    kubectl(&["create", "clusterrolebinding", "asker", "--clusterrole=asker", "--user=jane"])
        .await?;
    let (own, _) = request(&cluster, "own", &subject("root", "dev"), &[])?;
    let own = cluster.file("own.yaml", csr("own", CLIENT, "client auth", &own).as_bytes())?;
    let own = own.to_string_lossy().into_owned();
    eventually(SOON, "she may ask", async || {
        as_stranger(&cluster, &flags, &["create", "-f", &own]).await?.ok()
    })
    .await?;
    let asked = cluster.get(&["csr", "own"]).await?;
    anyhow::ensure!(asked["spec"]["username"] == "jane", "{asked:#}");
    let refused =
        as_stranger(&cluster, &flags, &["certificate", "approve", "own"]).await?.refused()?;
    expect(&refused, &["user not permitted to approve requests with signerName", CLIENT])?;
    kubectl(&["certificate", "deny", "own"]).await?;
    expect(&kubectl(&["get", "csr", "own"]).await?, &["Denied"])?;
    let again = cluster.kubectl_with(&["certificate", "approve", "own"], "").await?.refused()?;
    expect(&again, &["own", "already Denied"])?;

    // What is not for anybody, and what is no request.
    let (root, _) = request(&cluster, "root", &subject("root", "system:masters"), &[])?;
    for (manifest, wanted) in [
        (csr("root", CLIENT, "client auth", &root), "system:masters group is not allowed"),
        (csr("none", CLIENT, "client auth", "eA=="), "spec.request"),
        (csr("none", "nobody", "client auth", &jane), "spec.signerName"),
        (csr("none", CLIENT, "everything", &jane), "spec.usages[1]"),
    ] {
        let refused = cluster.kubectl_with(&["apply", "-f", "-"], &manifest).await?.refused()?;
        expect(&refused, &[wanted])?;
    }
    // One that is approved but cannot be signed says so; others' signers are left alone.
    cluster.apply(&csr("serves", CLIENT, "server auth", &jane)).await?;
    cluster.apply(&csr("others", "example.com/signer", "client auth", &jane)).await?;
    kubectl(&["certificate", "approve", "serves", "others"]).await?;
    eventually(SOON, "it failed", async || {
        expect(&kubectl(&["get", "csr", "serves"]).await?, &["Approved,Failed"])
    })
    .await?;
    let others = kubectl(&["get", "csr", "others", "--no-headers"]).await?;
    anyhow::ensure!(others.trim_end().ends_with("Approved"), "{others}");
    Ok(())
}

/// The parts of a node's identity: certificate and key, as files.
fn identity(cluster: &Cluster, node: &str) -> anyhow::Result<[String; 2]> {
    let pem = std::fs::read_to_string(cluster.node_data(node).join("agent/client.pem"))?;
    let at = pem.find("-----BEGIN PRIVATE KEY").context("no key")?;
    let files = [(format!("{node}.crt"), &pem[..at]), (format!("{node}.key"), &pem[at..])];
    let [certificate, key] = files.map(|(name, part)| cluster.file(&name, part.as_bytes()));
    Ok([certificate?, key?].map(|path| path.to_string_lossy().into_owned()))
}

/// Certificates of seconds: all are renewed, and nobody notices.
pub(crate) async fn certificates_are_renewed(context: Arc<Context>) -> Outcome {
    let args = ["--cluster-signing-duration", "12s"];
    let Some(cluster) = context.fleet_with(&args, &["one"]).await? else { return Ok(()) };
    cluster.push_all(&[("hello-command", "hello-command:v1"), ("hello-v1", "hello:v1")]).await?;
    let folder = cluster.node_data("one").join("agent");
    let files = [
        folder.join("client.pem"),
        folder.join("serving.pem"),
        cluster.data().join("pki/apiserver.crt"),
        cluster.data().join("pki/kubelet-client.crt"),
    ];
    let read = || files.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>();
    let pid = cluster.node_pid("one")?;
    cluster.deploy_hello("web", "hello:v1", 1).await?;
    let before = cluster.get(&["pods", "-l", "app=web"]).await?;
    let talk = ["--lines", "2", "--sleep", "40", "--lines", "3"];
    cluster.apply(&command_pod("talker", "Never", &talk)).await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "pod/talker", PATIENCE]).await?;
    let following = cluster.kubectl(&["logs", "-f", "talker"]);
    let renewing = async {
        for round in 0..2 {
            let old = read()?;
            eventually(2 * SOON, "all certificates are other ones", async || {
                let now = read()?;
                let same: Vec<_> = files
                    .iter()
                    .zip(old.iter().zip(&now))
                    .filter_map(|(file, (old, now))| (old == now).then_some(file))
                    .collect();
                anyhow::ensure!(same.is_empty(), "still as they were: {same:?}");
                Ok(())
            })
            .await?;
            // By new connections and, for the node's watch, the old one.
            cluster.deploy_hello(&format!("later-{round}"), "hello:v1", 1).await?;
            let logs = ["logs", "talker", "--tail=1"];
            expect(&cluster.kubectl(&logs).await?, &["line"])?;
        }
        anyhow::Ok(())
    };
    let (followed, renewed) = tokio::join!(following, renewing);
    renewed?;
    let followed = followed?;
    anyhow::ensure!(followed.ends_with("line 1\nline 2\nline 3\n"), "{followed}");
    anyhow::ensure!(pid == cluster.node_pid("one")?, "the agent is another one");
    let after = cluster.get(&["pods", "-l", "app=web"]).await?;
    let uid = |pods: &Value| pods["items"][0]["metadata"]["uid"].clone();
    anyhow::ensure!(uid(&before) == uid(&after), "the Pod is another one");
    let restarts = &after["items"][0]["status"]["containerStatuses"][0]["restartCount"];
    anyhow::ensure!(*restarts == 0, "{restarts} restarts");
    for file in &files {
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file)?.permissions());
        anyhow::ensure!(mode & 0o777 == 0o600, "{} is {mode:o}", file.display());
    }

    // Who was away for longer than that is nobody, unless it joins again: it is the node that it was.
    cluster.kill9_node("one")?;
    let node = cluster.get(&["node", "one"]).await?;
    eventually(SOON, "its certificate has expired", async || {
        let said = cluster.kubectl(&["get", "--raw", "/healthz"]).await?;
        expect(&said, &["ok"])?;
        let [certificate, key] = identity(&cluster, "one")?;
        let flags = ["--client-certificate", &certificate, "--client-key", &key];
        as_stranger(&cluster, &flags, &["get", "nodes"]).await?.refused()
    })
    .await?;
    let said = cluster.refused_node("one", &[]).await?;
    expect(&said, &["client.pem", "is valid from", "clock", "coracle token create"])?;
    cluster.start_node_with("one", &["--token", &cluster.token(&[])?]).await?;
    let again = cluster.get(&["node", "one"]).await?;
    anyhow::ensure!(node["metadata"]["uid"] == again["metadata"]["uid"], "another Node");
    cluster.kubectl(&["wait", "--for=condition=Ready", "node/one", PATIENCE]).await?;
    Ok(())
}

/// Two machines cannot have one name; a machine that comes back has its own.
pub(crate) async fn a_taken_name_is_refused(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&["one"]).await? else { return Ok(()) };
    cluster.add_machine("two", &[])?;
    let said = cluster.refused_node("two", &["--name", "one"]).await?;
    expect(&said, &["there is a Node \"one\" already", "--name", "kubectl delete node one"])?;
    expect(&cluster.kubectl(&["get", "csr"]).await?, &["Denied"])?;
    // Nothing of that stays in the way of another name.
    cluster.start_node("two").await?;
    // With its folder it comes back; without it, it has to be deleted first.
    cluster.kill9_node("one")?;
    cluster.start_node("one").await?;
    cluster.kill9_machine("one")?;
    std::fs::remove_dir_all(cluster.node_data("one"))?;
    let said = cluster.refused_node("one", &[]).await?;
    expect(&said, &["kubectl delete node one"])?;
    cluster.kubectl(&["delete", "node", "one"]).await?;
    cluster.start_node("one").await?;
    cluster.kubectl(&["wait", "--for=condition=Ready", "node", "--all", PATIENCE]).await?;
    // A folder that is another node's is not taken by mistake.
    cluster.kill9_node("two")?;
    let said = cluster.refused_node("two", &["--name", "three"]).await?;
    expect(&said, &["client.pem", "another node", "--data"])?;
    // An agent of another time than the server's.
    let newer = "/coracle/v1/join?version=999.0.0";
    let said = cluster.kubectl_with(&["get", "--raw", newer], "").await?.refused()?;
    expect(&said, &["999.0.0", "upgrade the server first"])
}

/// What a node may: its own, and what its Pods refer to. With the certificate of one, as somebody who has its machine would.
pub(crate) async fn nodes_keep_to_themselves(context: Arc<Context>) -> Outcome {
    let Some(cluster) = context.fleet(&["one", "two"]).await? else { return Ok(()) };
    for (node, name) in [("one", "mine"), ("two", "theirs")] {
        cluster.apply(&format!(
            r#"
apiVersion: v1
kind: Secret
metadata: {{name: {name}}}
stringData: {{key: value}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {name}}}
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  nodeName: {node}
  serviceAccountName: {name}
  containers: [{{name: main, image: "nowhere.invalid/none", envFrom: [{{secretRef: {{name: {name}}}}}]}}]
"#
        ))
        .await?;
    }
    cluster.apply("{apiVersion: v1, kind: Secret, metadata: {name: nobodys}}").await?;
    let [certificate, key] = identity(&cluster, "one")?;
    let flags = ["--client-certificate", &certificate, "--client-key", &key];
    let node = async |args: &[&str]| as_stranger(&cluster, &flags, args).await;
    eventually(SOON, "its Pod is its own", async || node(&["get", "secret", "mine"]).await?.ok())
        .await?;
    let file = |name: &str, content: &str| -> anyhow::Result<String> {
        Ok(cluster.file(name, content.as_bytes())?.to_string_lossy().into_owned())
    };
    let pod = file(
        "pod.yaml",
        "{apiVersion: v1, kind: Pod, metadata: {name: more}, spec: {nodeName: one, containers: [{name: c, image: i}]}}",
    )?;
    let other = file("node.yaml", "{apiVersion: v1, kind: Node, metadata: {name: three}}")?;
    let lease = file(
        "lease.yaml",
        "{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: three, namespace: kube-node-lease}}",
    )?;
    let organization = (rcgen::DnType::OrganizationName, "system:nodes");
    let (theirs, _) = request(
        &cluster,
        "two",
        &[organization, (rcgen::DnType::CommonName, "system:node:two")],
        &[],
    )?;
    let signer = "kubernetes.io/kube-apiserver-client-kubelet";
    let theirs = file("csr.yaml", &csr("stolen", signer, "client auth", &theirs))?;
    for args in [
        &["get", "pod", "mine"][..],
        &["get", "nodes"],
        &["label", "node", "one", "rack=7"],
        &["create", "token", "mine", "--bound-object-kind=Pod", "--bound-object-name=mine"],
    ] {
        node(args).await?.ok()?;
    }
    let status = r#"--patch={"metadata": {"labels": {"app": "web"}}}"#;
    for (args, wanted) in [
        (&["get", "secret", "theirs"][..], "no relationship"),
        (&["get", "secret", "nobodys"], "no relationship"),
        (&["get", "secrets"], "no relationship"),
        (&["get", "secrets", "-A"], "no relationship"),
        (&["get", "pod", "theirs"], "no relationship"),
        (&["get", "pods"], "spec.nodeName=one"),
        (&["create", "token", "theirs"], "no relationship"),
        (&["create", "token", "mine"], "not bound to a pod"),
        (&["create", "-f", &pod], "cannot create resource \"pods\""),
        (&["create", "-f", &other], "is not allowed to modify node \"three\""),
        (&["create", "-f", &lease], "node lease"),
        (&["create", "-f", &theirs], "certificates of its own"),
        (&["delete", "pod", "theirs"], "no relationship"),
        (&["delete", "node", "two"], "no relationship"),
        (&["label", "node", "two", "rack=7"], "no relationship"),
        (&["label", "node", "one", "node-restriction.kubernetes.io/x=y"], "modify labels"),
        (&["label", "node", "one", "node-role.kubernetes.io/control-plane="], "modify labels"),
        (&["taint", "node", "one", "a=b:NoSchedule"], "modify taints"),
        (&["patch", "pod", "mine", "--subresource=status", status], "cannot update labels"),
        (&["get", "--raw", "/api/v1/nodes/two/proxy/pods"], "no relationship"),
        (&["exec", "theirs", "--", "id"], "orbidden"),
    ] {
        let said = node(args).await?.refused()?;
        expect(&said, &["orbidden", wanted]).with_context(|| format!("{args:?}"))?;
    }
    // It was the Node authorizer that said no, not the absence of what was asked for.
    cluster.kubectl(&["get", "secret", "theirs", "nobodys"]).await?;
    Ok(())
}

//! How machines join, and what keeps others out.

use std::sync::Arc;

use anyhow::Context as _;
use coracle_test_cluster::{Cluster, Part, eventually};
use nix::sys::signal::Signal;

use crate::context::{Context, Outcome, SOON, expect};

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

//! `coracle token`: what lets machines join. Tokens are Secrets of the cluster, so that this works from wherever its
//! administrator is.

use anyhow::Context;
use coracle_api::bootstrap_token::{self, JoinToken, NAMESPACE, Stored};
use jiff::{SignedDuration, SpanRound, Timestamp, Unit};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams};

use crate::client::{Connection, explain};
use crate::println;
use crate::status::table;

/// What about tokens.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Print a new token with which machines can join: coracle agent --server URL --token TOKEN
    Create {
        #[command(flatten)]
        connection: Connection,
        /// How long it can be used, such as 24h, 90m or 30s; machines that have joined stay
        #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
        ttl: SignedDuration,
        /// What it is for, as `coracle token list` shows it
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// List the tokens that can be used; their secrets are known to nobody but those who were given them
    List {
        #[command(flatten)]
        connection: Connection,
    },
    /// Make tokens unusable; machines that have joined stay
    Delete {
        #[command(flatten)]
        connection: Connection,
        /// IDs of tokens, as `coracle token list` shows them, or whole tokens
        #[arg(required = true, value_name = "ID", value_parser = parse_id)]
        ids: Vec<String>,
    },
}

/// A time that passes, such as `24h`.
pub(crate) fn parse_duration(text: &str) -> Result<SignedDuration, String> {
    let duration: Option<SignedDuration> = text.parse().ok();
    duration
        .filter(SignedDuration::is_positive)
        .ok_or_else(|| "a duration is such as 24h, 90m or 30s".to_owned())
}

fn parse_id(text: &str) -> Result<String, String> {
    if let Ok(token) = JoinToken::parse(text) {
        return Ok(token.id);
    }
    match bootstrap_token::is_id(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("a token's ID is six letters and digits, as `coracle token list` shows it".into())
        }
    }
}

pub(crate) async fn main(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { connection, ttl, description } => {
            create(&connection, ttl, description).await
        }
        Command::List { connection } => list(&connection).await,
        Command::Delete { connection, ids } => delete(&connection, &ids).await,
    }
}

fn secrets(client: kube::Client) -> Api<Secret> {
    Api::namespaced(client, NAMESPACE)
}

async fn create(
    connection: &Connection,
    ttl: SignedDuration,
    description: String,
) -> anyhow::Result<()> {
    let (client, config) = connection.connect().await?;
    let ca = config.root_cert.as_ref().and_then(|all| all.first());
    let ca = ca.context(
        "the kubeconfig names no certificate authority, which the token has to; use the one that the server wrote",
    )?;
    let expires = Timestamp::now().checked_add(ttl).context("--ttl is too long")?;
    let token = coracle_server::auth::new_join_token(ca);
    let stored = Stored {
        id: token.id.clone(),
        hash: coracle_server::auth::join_token_hash(&token),
        expires,
        description,
    };
    let secret: Secret = serde_json::from_value(stored.secret())?;
    secrets(client).create(&PostParams::default(), &secret).await.map_err(explain)?;
    println(format_args!("{}", token.text()));
    Ok(())
}

async fn list(connection: &Connection) -> anyhow::Result<()> {
    let of_type = ListParams::default().fields(&format!("type={}", bootstrap_token::SECRET_TYPE));
    let secrets = secrets(connection.client().await?).list(&of_type).await.map_err(explain)?;
    let now = Timestamp::now();
    let mut rows = vec![["ID", "TTL", "EXPIRES", "DESCRIPTION"].map(str::to_owned)];
    for secret in secrets {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let Some(token) = bootstrap_token::id_of(&name)
            .and_then(|id| Stored::read(id, &serde_json::to_value(&secret).ok()?))
        else {
            continue;
        };
        let Some(left) = left(now, token.expires) else { continue };
        rows.push([token.id, left, format!("{:.0}", token.expires), token.description]);
    }
    print_table(&rows);
    Ok(())
}

fn print_table(rows: &[[String; 4]]) {
    println(format_args!("{}", table(rows).trim_end()));
}

/// How long a token can still be used, if it can.
fn left(now: Timestamp, expires: Timestamp) -> Option<String> {
    let left = expires.duration_since(now);
    let unit = if left.as_hours() > 0 { Unit::Minute } else { Unit::Second };
    let span = expires.since(now).ok()?.round(SpanRound::new().largest(Unit::Hour).smallest(unit));
    left.is_positive().then(|| span.map_or_else(|_| left.to_string(), |span| format!("{span:#}")))
}

async fn delete(connection: &Connection, ids: &[String]) -> anyhow::Result<()> {
    let secrets = secrets(connection.client().await?);
    for id in ids {
        let deleted =
            secrets.delete(&bootstrap_token::secret_name(id), &DeleteParams::default()).await;
        match deleted {
            Ok(_) => println(format_args!("token \"{id}\" deleted")),
            Err(kube::Error::Api(status)) if status.code == 404 => anyhow::bail!(
                "there is no token \"{id}\"; `coracle token list` shows those that there are"
            ),
            Err(error) => return Err(explain(error)),
        }
    }
    Ok(())
}

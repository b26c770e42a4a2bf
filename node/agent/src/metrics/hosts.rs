//! `/metrics/host`: what every Wasm host tells, as one document. One host's is passed on as it is; of several, the
//! samples of one family are brought together, as the format wants it, each with the label `host`.

use std::fmt::Write;

use axum::response::Response;
use futures::future::join_all;

use super::{OPEN_METRICS, typed};
use crate::pod::worker::Workers;

/// The answer. A host that does not answer is missing in it.
pub async fn of_hosts(workers: &Workers) -> Response {
    let mut hosts = workers.hosts().all();
    // Pods with containers have a Wasm host only if they mix both.
    hosts.retain(|host| host.client().socket().exists());
    let answers = join_all(hosts.iter().map(|host| host.client().metrics())).await;
    let mut documents: Vec<(usize, String)> = Vec::new();
    for (number, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(text) => documents.push((number, text)),
            Err(error) => tracing::debug!(%error, "a host tells no metrics"),
        }
    }
    let text = match documents.as_mut_slice() {
        [] => "# EOF\n".to_owned(),
        [(_, text)] => std::mem::take(text),
        many => {
            let name = |number: usize| {
                let socket = hosts[number].client().socket();
                socket.file_stem().map(|stem| stem.to_string_lossy().into_owned())
            };
            let named = many.iter().map(|(number, text)| (name(*number), text.as_str()));
            merge(named.map(|(name, text)| (name.unwrap_or_default(), text)).collect())
        }
    };
    typed(OPEN_METRICS, text)
}

/// Documents of the same program: the same families, but not all of them in each.
pub(super) fn merge(documents: Vec<(String, &str)>) -> String {
    struct Family<'a> {
        name: &'a str,
        /// Whose lines say what it is.
        of: usize,
        text: String,
    }
    let mut families: Vec<Family<'_>> = Vec::new();
    for (number, (host, document)) in documents.into_iter().enumerate() {
        let mut now = None;
        for line in document.lines() {
            if let Some(head) = line.strip_prefix("# ") {
                let Some((_, rest)) = head.split_once(' ') else { continue };
                let name = rest.split(' ').next().unwrap_or_default();
                let known = families.iter().position(|family| family.name == name);
                let at = known.unwrap_or_else(|| {
                    families.push(Family { name, of: number, text: String::new() });
                    families.len() - 1
                });
                if families[at].of == number {
                    families[at].text.push_str(line);
                    families[at].text.push('\n');
                }
                now = Some(at);
                continue;
            }
            let Some(at) = now else { continue };
            let text = &mut families[at].text;
            // Writing to a String cannot fail.
            let _ = match line.split_once('{') {
                Some((name, rest)) => writeln!(text, "{name}{{host=\"{host}\",{rest}"),
                None => match line.split_once(' ') {
                    Some((name, value)) => writeln!(text, "{name}{{host=\"{host}\"}} {value}"),
                    None => continue,
                },
            };
        }
    }
    let mut all: String = families.into_iter().map(|family| family.text).collect();
    all.push_str("# EOF\n");
    all
}

//! What imports mean in a Pod, for people.

use crate::instance;

/// What an import gives a component, and what has to be granted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// In a few words.
    pub what: &'static str,
    /// The word of `coracle.dev/grants` that it needs; None where it needs none.
    pub grant: Option<&'static str>,
    /// Whether it is offered here.
    pub offered: bool,
}

/// By interface or, with a trailing `/`, by package; the first that fits counts.
const MEANINGS: &[(&str, &str, Option<&str>)] = &[
    ("wasi:http/outgoing-handler", "HTTP requests to others", Some("http")),
    ("wasi:http/client", "HTTP requests to others", Some("http")),
    ("wasi:http/", "HTTP messages", None),
    ("wasi:sockets/ip-name-lookup", "looking up names", Some("names")),
    (
        "wasi:sockets/",
        "TCP and UDP: listening on the Pod's address, and calling others",
        Some("sockets"),
    ),
    ("wasi:clocks/", "the time of day and the passing of time", Some("clocks")),
    ("wasi:filesystem/", "files: the container's volumeMounts, and no others", None),
    ("wasi:cli/environment", "env and args of the container", None),
    ("wasi:cli/stdin", "standard input, which is empty", None),
    ("wasi:cli/std", "the Pod's log", None),
    ("wasi:cli/exit", "ending with an exit code", None),
    ("wasi:cli/terminal", "whether there is a terminal: there is none", None),
    ("wasi:random/", "random numbers", None),
    ("wasi:io/", "waiting, and streams of bytes", None),
    ("wasi:config/", "the container's env, by name", None),
    ("wasi:logging/", "the Pod's log", None),
];

/// What an import means.
pub fn meaning(import: &str) -> Meaning {
    let offered = instance::offers(import);
    let name = import.split('@').next().unwrap_or_default();
    let found = MEANINGS.iter().find(|(prefix, ..)| name.starts_with(prefix));
    match found {
        Some((_, what, grant)) if offered => Meaning { what, grant: *grant, offered },
        _ if offered => Meaning { what: "", grant: None, offered },
        Some(_) => Meaning { what: "not offered in this version", grant: None, offered },
        None => Meaning { what: "not offered by Coracle", grant: None, offered },
    }
}

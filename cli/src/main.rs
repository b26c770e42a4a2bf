//! The `coracle` binary: the one place that names concrete parts and wires them.
//!
//! A command is a file: [`up`], [`server`], [`agent`] and [`host`] start parts; [`push`], [`inspect`], [`run`], [`status`]
//! and [`token`] are clients of a running cluster. What they share is in [`folder`] (the data folder), [`authentication`] (who is known), [`client`]
//! (finding the cluster), [`apply`] (manifests) and [`watchers`] (what a person waits for).

mod agent;
mod apply;
mod authentication;
mod client;
mod folder;
mod host;
mod inspect;
mod push;
mod run;
mod server;
mod status;
mod token;
mod up;
mod watchers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A control plane's objects come and go in all sizes and on all threads for months: glibc's allocator took a quarter of the
/// server's time for them, most of it to put fragments together.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A cluster orchestrator that speaks the Kubernetes API and runs WebAssembly first.
#[derive(Parser)]
#[command(name = "coracle", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a whole cluster, control plane and node, in one process
    Up(Box<up::Args>),
    /// Start a control plane
    Server(Box<server::ServerArgs>),
    /// Make this machine a node of a cluster
    Agent(agent::Args),
    /// Make, list and delete the tokens with which machines join
    #[command(subcommand)]
    Token(token::Command),
    /// Push a .wasm file to the cluster's registry
    Push(push::Args),
    /// Show what a .wasm file or an image is, what it imports, and what that means in a Pod
    Inspect(inspect::Args),
    /// Run a .wasm file or an image, and print where it answers
    Run(run::Args),
    /// Show the cluster at a glance, and what is not well
    Status(status::Args),
    /// Run a sandbox host (started by the agent)
    #[command(subcommand, hide = true)]
    Host(host::Command),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // One TLS provider for every library in the process.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Command::Host(command) = cli.command {
        return finish(host::main(command));
    }
    tracing_subscriber::fmt()
        .with_env_filter(log_filter())
        .with_writer(std::io::stderr)
        .compact()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(error.into())),
    };
    let result = runtime.block_on(async {
        match cli.command {
            Command::Up(args) => up::main(*args).await,
            Command::Server(args) => server::main(*args).await,
            Command::Agent(args) => agent::main(args).await,
            Command::Token(command) => token::main(command).await,
            Command::Push(args) => push::main(args).await,
            Command::Inspect(args) => inspect::main(args).await,
            Command::Run(args) => run::main(args).await,
            Command::Status(args) => status::main(args).await,
            Command::Host(_) => Ok(()),
        }
    });
    // What still runs in the background has nothing to say any more.
    runtime.shutdown_background();
    finish(result)
}

/// An error is one line that says what to do; a command's own exit code passes through.
fn finish(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<run::Exited>() {
            Some(exited) => ExitCode::from(exited.code),
            None => {
                eprintln(format_args!("coracle: {}", in_one_line(&error)));
                ExitCode::FAILURE
            }
        },
    }
}

/// An error and its causes, each said once: many errors already quote what caused them.
fn in_one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text.replace('\n', " ")
}

/// What is logged: `$CORACLE_LOG`, or warnings. The API client's own words on a server that is away are left out, since
/// the agent says that itself, once; and so are those of the container library on each controller that a machine does not have.
fn log_filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_env("CORACLE_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new("warn,kube_client=off,libcgroups=error")
    })
}

/// A line for people. A closed standard output is no error of ours.
fn println(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A line for people, beside the output.
fn eprintln(text: std::fmt::Arguments<'_>) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}

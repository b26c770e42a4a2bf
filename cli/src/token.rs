//! `coracle token`: what lets machines join.

use std::path::PathBuf;

use crate::folder::Folder;
use crate::println;

/// What about tokens.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Print a token with which a machine can join: coracle agent --server URL --token TOKEN
    Create {
        /// Data folder of the server
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

/// Prints it.
pub(crate) fn main(command: Command) -> anyhow::Result<()> {
    let Command::Create { data } = command;
    println(format_args!("{}", Folder::existing(data).join_token()?));
    Ok(())
}

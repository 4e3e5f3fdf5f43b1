//! `ledger …`: one file per verb.

mod anchors;

pub use anchors::standing;

use crate::cli::LedgerCommand;
use crate::config::Context;

/// Does what the command says.
pub async fn run(context: &Context, command: LedgerCommand) -> anyhow::Result<()> {
    match command {
        LedgerCommand::Anchors(args) => anchors::run(context, args).await,
    }
}

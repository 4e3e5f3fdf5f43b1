//! `admin halt|resume|ban|unban`: what the operator of a coordinator orders the whole cell (CLI-06).

use serde_json::json;
use wc_proto::api::{Order, Request};
use wc_types::directive::{REASON_BYTES_MAX, REASON_CHARS_MIN};

use crate::cli::OrderCommand;
use crate::client::Node;
use crate::config::Context;
use crate::exit::Usage;
use crate::say;

/// Does what the command says.
pub async fn run(context: &Context, command: OrderCommand) -> anyhow::Result<()> {
    let (order, done) = match command {
        OrderCommand::Halt { reason } => {
            let reason = reason.trim().to_owned();
            if reason.chars().count() < REASON_CHARS_MIN || reason.len() > REASON_BYTES_MAX {
                let message = format!(
                    "a reason has at least {REASON_CHARS_MIN} characters and at most {REASON_BYTES_MAX} bytes"
                );
                let hint = "say what was seen and where: everybody whose work stops reads it".to_owned();
                return Err(Usage { message, hint }.into());
            }
            (
                Order::Halt { reason },
                "halted: nothing new is given out until `worldcompute admin resume`".to_owned(),
            )
        }
        OrderCommand::Resume => (Order::Resume, "resumed: work is given out again".to_owned()),
        OrderCommand::Ban { peer, reason } => {
            (Order::Ban { node: peer, reason }, format!("banned {peer}: its leases go to others"))
        }
        OrderCommand::Unban { peer } => (Order::Unban { node: peer }, format!("{peer} may join again")),
    };
    Node::connect(&context.dir).await?.tell(Request::Order(order)).await?;
    if context.json {
        return Ok(say::json(&json!({ "done": done }))?);
    }
    say::talk(done);
    Ok(())
}

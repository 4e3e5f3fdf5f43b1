//! One file per noun; here is what they share: a runtime, a log, and the way to a noun's file.

mod admin;
mod cluster;
mod credits;
mod demo;
mod diagnose;
mod direct;
mod doctor;
mod donor;
mod fetch;
mod follow;
mod job;
mod ledger;
mod map;
mod receipt;
mod relay;
mod replay;
mod run;

use std::collections::BTreeMap;
use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{AdminCommand, Cli, Command, DonorCommand, NodeCommand, RelayCommand};
use crate::config::Context;
use crate::exit::Usage;
use crate::node::Recorder;

/// What a node logs unless told otherwise.
const NODE_LOG: &str = "warn,worldcompute=info,wc_node=info,wc_mesh=info,wc_api=info,wc_store=info,wc_sandbox=info,libp2p_kad=error";
/// What other commands log unless told otherwise.
const CLIENT_LOG: &str = "warn";

/// Does what the command line says.
///
/// # Errors
/// Whatever kept it from being done.
pub fn run(cli: Cli, variables: &BTreeMap<String, String>) -> anyhow::Result<()> {
    let context = Context::resolve(&cli.global, variables)?;
    let is_node = matches!(
        cli.command,
        Command::Node(NodeCommand::Run(_))
            | Command::Donor(DonorCommand::Join(_))
            | Command::Relay(RelayCommand::Run(_))
    );
    let recorder = log(&context, variables, if is_node { NODE_LOG } else { CLIENT_LOG })?;
    let runtime = if is_node {
        tokio::runtime::Builder::new_multi_thread().enable_all().build()?
    } else {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?
    };
    let result = runtime.block_on(dispatch(&context, cli.command, recorder));
    // What still blocks (a read of standard input, a slow name server) must not keep a finished command alive.
    runtime.shutdown_background();
    result
}

async fn dispatch(context: &Context, command: Command, recorder: Recorder) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(context, &args).await,
        Command::Node(NodeCommand::Run(args)) => run::run(context, &args, run::Manner::Plain, recorder).await,
        Command::Node(NodeCommand::Stop) => run::stop(context).await,
        Command::Donor(DonorCommand::Join(args)) => {
            run::run(context, &args, run::Manner::Friendly, recorder).await
        }
        Command::Donor(command) => donor::run(context, &command).await,
        Command::Job(command) => job::run(context, command).await,
        Command::Map(args) => map::run(context, &args).await,
        Command::Cluster(command) => cluster::run(context, &command).await,
        Command::Relay(RelayCommand::Run(args)) => {
            run::run(context, &(*args).into(), run::Manner::Relay, recorder).await
        }
        Command::Relay(RelayCommand::Status) => relay::status(context).await,
        Command::Doctor(args) => doctor::run(context, &args).await,
        Command::Admin(AdminCommand::FirewallDiagnose(args)) => diagnose::run(context, &args, recorder).await,
        Command::Admin(AdminCommand::Order(command)) => admin::run(context, command).await,
        Command::Receipt(command) => receipt::run(context, &command).await,
        Command::Ledger(command) => ledger::run(context, &command).await,
    }
}

/// Starts the log; the recorder can hear more of it than is shown.
fn log(context: &Context, variables: &BTreeMap<String, String>, default: &str) -> anyhow::Result<Recorder> {
    let filter = context.log.as_deref().or_else(|| variables.get("RUST_LOG").map(String::as_str));
    let filter = EnvFilter::builder().parse(filter.unwrap_or(default)).map_err(|error| Usage {
        message: format!("the log filter does not read: {error}"),
        hint: "such as `info`, `debug` or `wc_mesh=debug,info`".to_owned(),
    })?;
    let (recorder, recording) = Recorder::new();
    let shown = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .with_filter(filter);
    tracing_subscriber::registry().with(recording).with(shown).init();
    Ok(recorder)
}

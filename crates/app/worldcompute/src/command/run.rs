//! `node run`, `node stop`, `donor join`, `relay run`.

use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};
use wc_proto::api::Request;

use crate::amount::show_size;
use crate::cli::NodeArgs;
use crate::client::Node;
use crate::command::relay;
use crate::config::{AnchorSettings, Context, Settings};
use crate::node::{self, NodeConfig, Recorder};
use crate::say;

/// How much is said to the person who starts the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// The log is enough.
    Plain,
    /// What is lent, to whom, and how to stop it.
    Friendly,
    /// It relays and does nothing else.
    Relay,
}

/// Runs the node of the data directory until it is told to stop.
pub async fn run(
    context: &Context,
    args: &NodeArgs,
    manner: Manner,
    recorder: Recorder,
) -> anyhow::Result<()> {
    let settings = context.settings(args)?;
    let (reach, transport) = (settings.reach(), settings.transport(&context.dir)?);
    let anchoring = settings.anchoring.as_ref().map(AnchorSettings::read).transpose()?;
    let listen = settings.listen.iter().flatten().chain(&settings.join);
    node::check_addresses(listen.chain(&settings.bootstrap).chain(&reach.external))?;
    match manner {
        Manner::Plain => {}
        Manner::Friendly => greet(context, &settings),
        Manner::Relay => relay::greet(context, &settings),
    }
    let relays_only = manner == Manner::Relay;
    let config = NodeConfig {
        reach,
        joins_cell: !relays_only,
        transport,
        bootstrap: settings.bootstrap,
        wss_listen: settings.wss_listen,
        data_dir: context.dir.path().to_owned(),
        network: settings.network,
        listen: settings.listen,
        join: settings.join,
        cells_max: usize::from(settings.cells),
        island_after: settings.island_after,
        coordinate: settings.coordinate,
        trusted: settings.trusted,
        keep_results: settings.keep_results,
        accept_direct: settings.accept_direct && !relays_only,
        cosigner: settings.cosigner,
        slots: settings.slots,
        consents: settings.consents,
        witness: settings.witness,
        log_listen: settings.log_listen,
        storage_cap: settings.storage_cap,
        owner_key: settings.owner_key,
        anchoring,
        recorder,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let until_stdin_closes = args.until_stdin_closes;
    let shutdown = async move {
        tokio::select! {
            _ = interrupt.recv() => tracing::info!("stopping: interrupted"),
            _ = terminate.recv() => tracing::info!("stopping: terminated"),
            () = stdin_closed(), if until_stdin_closes => {
                tracing::info!("stopping: whoever started this node is gone");
            }
        }
    };
    node::run(config, shutdown).await
}

/// Stops the node of the data directory.
pub async fn stop(context: &Context) -> anyhow::Result<()> {
    Node::connect(&context.dir).await?.tell(Request::Stop).await?;
    say::talk(format!("the node in {} stops", context.dir.path().display()));
    Ok(())
}

async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut ignored = [0; 256];
    while let Ok(1..) = stdin.read(&mut ignored).await {}
}

fn greet(context: &Context, settings: &Settings) {
    let classes: Vec<&str> = settings.consents.iter().map(|class| class.name()).collect();
    let slots = settings.slots.map_or_else(
        || "one guest for each core but one".to_owned(),
        |slots| if slots == 1 { "one guest".to_owned() } else { format!("{slots} guests") },
    );
    let classes = if classes.is_empty() { "nothing".to_owned() } else { classes.join(", ") };
    say::talk(format!("Lending this machine to the network `{}`. Thank you!", settings.network));
    say::talk(format!("  at the same time:  {slots}"));
    say::talk(format!("  you consent to:    {classes}"));
    say::talk(format!("  room for blobs:    {}", show_size(settings.storage_cap.0)));
    say::talk(format!("  data directory:    {}", context.dir.path().display()));
    say::talk("Ctrl-C stops. In another terminal: worldcompute donor status | pause | resume | leave");
}

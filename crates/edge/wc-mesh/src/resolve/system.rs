//! The name servers that this machine is configured to ask.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;

use super::{Answer, Question};

/// How long the system's configuration counts as known: a laptop that changes networks gets another.
const CONFIGURATION_AGE_MAX: Duration = Duration::from_secs(30);

/// Asks the system's name servers.
pub(super) struct System {
    servers: Vec<SocketAddr>,
    timeout: Duration,
    resolver: Mutex<Option<(Instant, TokioResolver)>>,
}

impl System {
    pub(super) fn new(servers: Vec<SocketAddr>, timeout: Duration) -> Self {
        Self { servers, timeout, resolver: Mutex::new(None) }
    }

    pub(super) async fn ask(&self, name: &str, question: Question) -> Result<Vec<Answer>, String> {
        let resolver = self.resolver().map_err(|error| error.to_string())?;
        // Without the dot the search list of the system is tried as well.
        let name = if name.contains('.') { format!("{name}.") } else { name.to_owned() };
        let asked = tokio::time::timeout(self.timeout, async {
            Ok::<_, NetError>(match question {
                Question::Addresses => {
                    resolver.lookup_ip(name).await?.iter().map(Answer::Address).collect::<Vec<_>>()
                }
                Question::Texts => {
                    let lookup = resolver.txt_lookup(name).await?;
                    lookup.answers().iter().filter_map(|record| answer_of(&record.data)).collect()
                }
            })
        });
        match asked.await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(error)) if error.is_nx_domain() => Err("it says that there is no such name".to_owned()),
            Ok(Err(error)) if error.is_no_records_found() => Err("it has no answer".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} ms: timed out", self.timeout.as_millis())),
        }
    }

    fn resolver(&self) -> Result<TokioResolver, NetError> {
        let mut known = self.resolver.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, resolver)) = &*known
            && at.elapsed() < CONFIGURATION_AGE_MAX
        {
            return Ok(resolver.clone());
        }
        let builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.to_vec())
            });
            let config = ResolverConfig::from_name_servers(servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let resolver = builder.build()?;
        *known = Some((Instant::now(), resolver.clone()));
        Ok(resolver)
    }
}

/// Returns what a record says, if it is of a kind that we ask for.
pub(super) fn answer_of(data: &RData) -> Option<Answer> {
    match data {
        RData::A(ip) => Some(Answer::Address(ip.0.into())),
        RData::AAAA(ip) => Some(Answer::Address(ip.0.into())),
        RData::TXT(text) => {
            let bytes: Vec<u8> = text.txt_data.iter().flat_map(|piece| piece.iter().copied()).collect();
            String::from_utf8(bytes).ok().map(Answer::Text)
        }
        _ => None,
    }
}

//! A machine as its cell knows it, and the owner's word that it is theirs.

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, NodeId};
use crate::manifest::WorkClass;
use crate::sign::Signed;
use crate::time::Timestamp;
use crate::unit::{Bytes, Millis};

/// How far a machine's own evidence goes (ATT-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TrustTier {
    /// No evidence, or a guest runs on the bare host: public data, R ≥ 5.
    T0,
    /// TPM 2.0 quote.
    T1,
    /// TPM 2.0 quote, Secure Boot and a long record.
    T2,
    /// Encrypted memory (SEV-SNP or TDX).
    T3,
    /// Attested confidential GPU.
    T4,
}

/// Class of hardware, by the table of CRD-07.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CaliberClass {
    /// Embedded boards and phones.
    C0,
    /// Processors without a usable GPU.
    C1,
    /// Consumer GPU.
    C2,
    /// Workstation GPU.
    C3,
    /// Data-centre GPU.
    C4,
}

/// What a machine can run guests in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SandboxKind {
    /// WebAssembly in a worker process on the host.
    WasmHost,
}

/// What a machine offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Cores of the machine.
    pub cpu_cores: u32,
    /// Memory of the machine.
    pub memory: Bytes,
    /// Guests it runs at the same time.
    pub slots: u16,
    /// Most memory it gives one guest.
    pub guest_memory_max: Bytes,
    /// Room for blobs.
    pub storage_cap: Bytes,
    /// How it runs guests.
    pub sandbox: SandboxKind,
    /// Engine and version that decide a guest's exact bytes and fuel; replicas of one task run on equal engines.
    pub engine: String,
    /// Class of hardware.
    pub caliber: CaliberClass,
}

/// Where a machine is, for disjoint placement. Declared by the node and cross-checked by what others observe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locality {
    /// Autonomous system, 0 if unknown.
    pub asn: u32,
    /// First 24 bits of the IPv4 address that peers see, as a number; 0 if unknown.
    pub prefix_24: u32,
}

/// How bytes travel between a cell's coordinator and a machine, from best to worst (NET-34).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Within one machine or one network: they share a /24 of IPv4 or a /48 of IPv6.
    Lan,
    /// Straight, over other networks.
    Direct,
    /// Through somebody's relay, which pays for every byte twice.
    Relayed,
}

impl Reach {
    /// Every way, the best first.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Direct, Self::Relayed];

    /// Returns the name that people see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// The path of a machine's session as its coordinator last saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// How it leads there.
    pub reach: Reach,
    /// A round trip on it, measured soon after it came up.
    #[serde(rename = "rtt_ms")]
    pub rtt: Option<Millis>,
    /// Whether somebody opens the TLS on the way, with the permission of one of the two owners (NET-22).
    pub inspected: bool,
}

/// An owner's word that a machine is theirs. Signed by the owner's key, which is not on the wire otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// Who owns the machine and receives its credit.
    pub owner: AccountId,
    /// The machine.
    pub node: NodeId,
    /// When the owner said so.
    pub issued_at: Timestamp,
}

/// A machine's request to join a cell. Signed by the node's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The owner's word.
    pub delegation: Signed<Delegation>,
    /// What it offers.
    pub capabilities: Capabilities,
    /// Where it is.
    pub locality: Locality,
    /// Classes of work its owner consents to. Empty: none.
    pub consents: Vec<WorkClass>,
    /// Version of the agent.
    pub agent_version: String,
    /// When it asked.
    pub at: Timestamp,
}

/// Most bytes of an engine name or an agent version.
pub const VERSION_BYTES_MAX: usize = 64;

impl Enrolment {
    /// Returns the machine.
    pub fn node(&self) -> NodeId {
        self.delegation.node
    }

    /// Returns its owner.
    pub fn owner(&self) -> AccountId {
        self.delegation.owner
    }

    /// Returns the first rule that this enrolment breaks.
    ///
    /// # Errors
    /// A sentence for the machine's owner: signature of the delegation not by the owner, sizes out of range.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.delegation.signer() != self.delegation.owner.0 {
            return Err("the delegation is not signed by the owner that it names");
        }
        let capabilities = &self.capabilities;
        if capabilities.slots == 0 || capabilities.slots > 1024 {
            return Err("slots must be 1 to 1024");
        }
        if capabilities.cpu_cores == 0 || capabilities.memory.0 == 0 {
            return Err("cores and memory must not be zero");
        }
        if capabilities.engine.len() > VERSION_BYTES_MAX || self.agent_version.len() > VERSION_BYTES_MAX {
            return Err("engine and agent version must be at most 64 bytes");
        }
        if self.consents.len() > WorkClass::ALL.len() {
            return Err("each class may be named once");
        }
        Ok(())
    }
}

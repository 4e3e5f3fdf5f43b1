//! What several unit tests of this crate need.

use wc_types::manifest::{Confidentiality, Manifest, Placement, PriorityClass, WorkClass};
use wc_types::{AccountId, Signed, SigningKey, Timestamp};

/// A manifest without stages, which no cell would take.
pub(crate) fn manifest() -> Signed<Manifest> {
    let manifest = Manifest {
        schema_version: 1,
        name: "job".into(),
        submitter: AccountId([0; 32]),
        submitted_at: Timestamp(0),
        priority_class: PriorityClass::PublicGood,
        confidentiality: Confidentiality::Public,
        class: WorkClass::General,
        deadline: None,
        max_total: None,
        placement: Placement::Lan,
        allowed_endpoints: Vec::new(),
        stages: Vec::new(),
    };
    Signed::seal(manifest, &SigningKey::from_seed(&[7; 32]))
}

//! Ids as people paste them and peers send them.

use std::fmt::Display;
use std::str::FromStr;

use wc_types::{AccountId, CellId, JobId, NodeId};

/// Reads the bytes as every kind of id; what is accepted must print as it was read.
pub fn target(data: &[u8]) {
    if let Some(node) = NodeId::from_peer_id_bytes(data) {
        assert_eq!(node.to_peer_id_bytes(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    survives::<AccountId>(text);
    survives::<NodeId>(text);
    survives::<CellId>(text);
    survives::<JobId>(text);
}

/// Valid ids of every kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let key = NodeId([7; 32]);
    let texts = [
        key.to_string(),
        AccountId([0; 32]).to_string(),
        CellId([9; 32]).to_string(),
        JobId([255; 32]).to_string(),
    ];
    texts.into_iter().map(String::into_bytes).chain([key.to_peer_id_bytes().to_vec()]).collect()
}

fn survives<Id: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str)
where
    Id::Err: std::fmt::Debug + Display,
{
    match text.parse::<Id>() {
        Ok(id) => {
            let printed = id.to_string();
            assert_eq!(printed.parse::<Id>().expect("what we print, we read"), id);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

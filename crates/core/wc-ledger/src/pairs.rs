//! Maps as sorted lists of pairs: keys that are bytes have no place as keys of a DAG-CBOR map.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
    map: &BTreeMap<K, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(map)
}

pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
where
    K: Deserialize<'de> + Ord,
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let pairs = Vec::<(K, V)>::deserialize(deserializer)?;
    if !pairs.is_sorted_by(|(earlier, _), (later, _)| earlier < later) {
        return Err(D::Error::custom("keys are not in strictly ascending order"));
    }
    Ok(pairs.into_iter().collect())
}

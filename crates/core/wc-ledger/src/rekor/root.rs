//! Which logs are believed, under which keys, and from when to when.
//!
//! The file format is the `tlogs` part of Sigstore's `trusted_root.json`, so that the published file can be used as it
//! is; the other parts are not read. Logs rotate (a new one about twice a year in v2), so it is a set of keys with times.

use data_encoding::HEXLOWER;
use serde::Deserialize;
use wc_types::Timestamp;
use wc_types::cid::sha256;

use super::key::{ED25519_PREFIX, ED25519_SPKI_BYTES, P256_PREFIX, P256_SPKI_BYTES};
use super::{KeyAlgorithm, LogKey, RekorError, read_base64, read_hash, read_json};

/// Logs in one trusted root. The published one names two.
const LOGS_MAX: usize = 64;
const WHAT: &str = "the trusted root";

/// A log that is believed without being told, until a trusted root is given.
struct Pin {
    base_url: &'static str,
    spki: &'static [u8],
    key_id: [u8; 32],
    valid_from_s: i64,
}

/// The logs that this binary trusts by itself.
///
/// # Source
/// `https://rekor.sigstore.dev/api/v1/log/publicKey` for v1, whose id is the SHA-256 of the key; both stand in
/// Sigstore's published `trusted_root.json`.
#[cfg(not(feature = "unpinned"))]
const PINS: &[Pin] = &[
    Pin {
        base_url: "https://rekor.sigstore.dev",
        spki: &hex::<P256_SPKI_BYTES>(
            b"3059301306072a8648ce3d020106082a8648ce3d03010703420004d86d98fb6b5a6dd4d5e41706881231d1af5f005c\
              2b9016e62d21ad92ce0bdea5fac98634cee7c19e10bc52bfe2cb9e468563fff40fdb6362e10b7d0cf7e458b7",
        ),
        key_id: hex(b"c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d"),
        valid_from_s: 1_610_452_407,
    },
    Pin {
        base_url: "https://log2025-1.rekor.sigstore.dev",
        spki: &hex::<ED25519_SPKI_BYTES>(
            b"302a300506032b6570032100b7cae5a759271b08df6dc5c060f600927d1788bcf5c7c3b8b7462412189edb8e",
        ),
        key_id: hex(b"cf1199155bddd051268d1f16ac5c0c75c009f6fb5a63f4177f8e18d7051e3fa0"),
        valid_from_s: 1_758_585_600,
    },
];
/// A build that trusts no log unless it is named.
#[cfg(feature = "unpinned")]
const PINS: &[Pin] = &[];

#[cfg(feature = "production")]
const _: () = assert!(
    pins_hold(PINS),
    "a production build needs a trusted root: pin at least one transparency log, with its whole key"
);

/// Reads hexadecimal at compile time; anything else does not compile.
#[cfg_attr(all(feature = "unpinned", not(test)), allow(dead_code))]
const fn hex<const N: usize>(text: &[u8]) -> [u8; N] {
    const fn digit(byte: u8) -> u8 {
        match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    assert!(text.len() == 2 * N, "the length of the digits does not fit");
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = digit(text[2 * at]) << 4 | digit(text[2 * at + 1]);
        at += 1;
    }
    bytes
}

/// Returns whether the set is not empty and every key is whole: a known prefix, its length, and not zero.
#[cfg_attr(not(any(feature = "production", test)), allow(dead_code))]
const fn pins_hold(pins: &[Pin]) -> bool {
    const fn is_whole(spki: &[u8], prefix: &[u8], length: usize) -> bool {
        if spki.len() != length {
            return false;
        }
        let mut at = 0;
        let mut zero = true;
        while at < length {
            if at < prefix.len() && spki[at] != prefix[at] {
                return false;
            }
            // The first byte of a point says only that it is not compressed.
            zero = zero && (at <= prefix.len() || spki[at] == 0);
            at += 1;
        }
        !zero
    }
    let mut at = 0;
    while at < pins.len() {
        let spki = pins[at].spki;
        if !is_whole(spki, &P256_PREFIX, P256_SPKI_BYTES)
            && !is_whole(spki, &ED25519_PREFIX, ED25519_SPKI_BYTES)
        {
            return false;
        }
        at += 1;
    }
    !pins.is_empty()
}

/// One log and the time in which its key counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedLog {
    /// Where it is.
    pub base_url: String,
    /// Its key.
    pub key: LogKey,
    /// Its id, as entries name it.
    pub key_id: [u8; 32],
    /// The first moment at which the key counts.
    pub start: Timestamp,
    /// The last moment at which it does, if there is one.
    pub end: Option<Timestamp>,
}

impl TrustedLog {
    /// Returns whether the key counts at `at`. Both ends belong to the time.
    pub fn valid_at(&self, at: Timestamp) -> bool {
        self.start <= at && self.end.is_none_or(|end| at <= end)
    }
}

/// The logs that are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustedRoot {
    logs: Vec<TrustedLog>,
    passed_over: Vec<String>,
}

#[derive(Deserialize)]
struct RootJson {
    #[serde(default)]
    tlogs: Vec<LogJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogJson {
    base_url: String,
    #[serde(default)]
    hash_algorithm: Option<String>,
    public_key: KeyJson,
    log_id: Option<LogIdJson>,
    checkpoint_key_id: Option<LogIdJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyJson {
    raw_bytes: String,
    key_details: String,
    valid_for: Option<ValidForJson>,
}

#[derive(Deserialize)]
struct ValidForJson {
    start: Option<String>,
    end: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogIdJson {
    key_id: String,
}

impl TrustedRoot {
    /// Returns the logs that this binary trusts by itself. Empty only in a build with the feature `unpinned`.
    pub fn pinned() -> Self {
        let logs = PINS.iter().map(|pin| TrustedLog {
            base_url: pin.base_url.to_owned(),
            key: LogKey::from_spki(pin.spki).expect("a pinned key is a key"),
            key_id: pin.key_id,
            start: Timestamp(pin.valid_from_s * 1_000_000),
            end: None,
        });
        Self { logs: logs.collect(), passed_over: Vec::new() }
    }

    /// Reads a trusted root. Logs with keys of other kinds are passed over and named.
    ///
    /// # Errors
    /// [`RekorError::Malformed`] when a log is described wrongly, [`RekorError::EmptyRoot`] when none is left.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RekorError> {
        let root: RootJson = read_json(WHAT, bytes)?;
        let fault = |reason: String| RekorError::malformed(WHAT, reason);
        if root.tlogs.len() > LOGS_MAX {
            return Err(fault(format!("it names more than {LOGS_MAX} logs")));
        }
        let (mut logs, mut passed_over) = (Vec::new(), Vec::new());
        for log in root.tlogs {
            let url = log.base_url;
            let known = [KeyAlgorithm::EcdsaP256Sha256, KeyAlgorithm::Ed25519];
            let Some(algorithm) =
                known.into_iter().find(|known| known.key_details() == log.public_key.key_details)
            else {
                passed_over.push(format!("{url}: {}", log.public_key.key_details));
                continue;
            };
            if log.hash_algorithm.is_some_and(|name| name != "SHA2_256") {
                return Err(fault(format!("the tree of {url} is not of SHA-256")));
            }
            let key = LogKey::from_spki(&read_base64(WHAT, &log.public_key.raw_bytes)?)?;
            if key.algorithm() != algorithm {
                return Err(fault(format!("the key of {url} is not what its details say")));
            }
            let id = log.checkpoint_key_id.or(log.log_id);
            let id = id.ok_or_else(|| fault(format!("{url} has no id")))?;
            let key_id = read_hash(WHAT, &id.key_id)?;
            // The id of a P-256 key is its own hash. That of an Ed25519 key also hashes the log's name, which only a
            // checkpoint tells; it is compared there.
            if algorithm == KeyAlgorithm::EcdsaP256Sha256 && key_id != sha256(key.spki()) {
                return Err(fault(format!("the id of {url} is not that of its key")));
            }
            let times = log.public_key.valid_for.unwrap_or(ValidForJson { start: None, end: None });
            let moment = |text: &str| {
                read_moment(text).ok_or_else(|| fault(format!("{url} has no moment in RFC 3339: {text:?}")))
            };
            let start = times
                .start
                .ok_or_else(|| fault(format!("it does not say from when the key of {url} counts")))?;
            logs.push(TrustedLog {
                key,
                key_id,
                start: moment(&start)?,
                end: times.end.as_deref().map(moment).transpose()?,
                base_url: url,
            });
        }
        if logs.is_empty() { Err(RekorError::EmptyRoot) } else { Ok(Self { logs, passed_over }) }
    }

    /// Returns the logs.
    pub fn logs(&self) -> &[TrustedLog] {
        &self.logs
    }

    /// Returns the logs whose keys are of a kind that we do not check, each with that kind.
    pub fn passed_over(&self) -> &[String] {
        &self.passed_over
    }

    /// Returns the log with this id whose key counts at `at`.
    pub(super) fn find(&self, key_id: &[u8; 32], at: Timestamp) -> Result<&TrustedLog, RekorError> {
        let mut named = self.logs.iter().filter(|log| log.key_id == *key_id).peekable();
        let Some(first) = named.peek().copied() else {
            return Err(RekorError::UnknownLog { log_id: HEXLOWER.encode(key_id) });
        };
        named
            .find(|log| log.valid_at(at))
            .ok_or_else(|| RekorError::KeyNotValid { log: first.base_url.clone(), at: at.to_string() })
    }
}

/// Reads a moment of RFC 3339 in UTC, with up to nine digits of a second's fraction.
fn read_moment(text: &str) -> Option<Timestamp> {
    let number = |digits: &str| -> Option<i64> {
        digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let text = text.strip_suffix('Z')?;
    let (text, micros) = match text.split_once('.') {
        Some((text, fraction)) if (1..=9).contains(&fraction.len()) => {
            let nanos = number(&format!("{fraction:0<9}"))?;
            (text, nanos / 1000)
        }
        Some(_) => return None,
        None => (text, 0),
    };
    let shape = text.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    });
    if text.len() != 19 || !shape {
        return None;
    }
    let part = |from: usize, to: usize| number(&text[from..to]);
    let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
    let (hour, minute, second) = (part(11, 13)?, part(14, 16)?, part(17, 19)?);
    let in_range =
        (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    if !in_range {
        return None;
    }
    // Days from the civil calendar, counted in eras of 400 years from 0000-03-01.
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    let moment = Timestamp((days * 86_400 + hour * 3600 + minute * 60 + second) * 1_000_000 + micros);
    // A day that its month does not have would come back as another.
    moment.to_string().starts_with(text).then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2021-01-12T11:53:27Z", 1_610_452_407_000_000),
            ("2025-09-23T00:00:00.000Z", 1_758_585_600_000_000),
            ("2024-02-29T23:59:59.123456789Z", 1_709_251_199_123_456),
        ] {
            assert_eq!(read_moment(text), Some(Timestamp(micros)), "{text}");
        }
        for text in [
            "",
            "Z",
            "2021-01-12",
            "2021-01-12T11:53:27",
            "2021-01-12T11:53:27+00:00",
            "2021-13-12T11:53:27Z",
            "2023-02-29T00:00:00Z",
            "2021-01-12T11:53:60Z",
            "2021-01-12T24:00:00Z",
            "2021-01-12T11:53:27.Z",
            "2021-01-12T11:53:27.1234567890Z",
            "2021-01-1\u{661}T11:53:2Z",
            "+021-01-12T11:53:27Z",
        ] {
            assert_eq!(read_moment(text), None, "{text}");
        }
    }

    #[test]
    fn a_set_of_pins_that_is_empty_or_zero_does_not_hold() {
        const fn pin(spki: &'static [u8]) -> Pin {
            Pin { base_url: "https://log.example", spki, key_id: [1; 32], valid_from_s: 0 }
        }
        const ZERO: [u8; ED25519_SPKI_BYTES] =
            hex(b"302a300506032b65700321000000000000000000000000000000000000000000000000000000000000000000");
        const WHOLE: [u8; ED25519_SPKI_BYTES] =
            hex(b"302a300506032b65700321000000000000000000000000000000000000000000000000000000000000000001");
        assert!(!pins_hold(&[]));
        assert!(!pins_hold(&[pin(&ZERO)]));
        assert!(!pins_hold(&[pin(&WHOLE), pin(&ZERO)]));
        assert!(!pins_hold(&[pin(&WHOLE[1..])]));
        assert!(pins_hold(&[pin(&WHOLE)]));
    }

    #[cfg(not(feature = "unpinned"))]
    #[test]
    fn the_pinned_root_is_the_production_log_of_rekor() {
        let root = TrustedRoot::pinned();
        assert!(pins_hold(PINS));
        let v1 = &root.logs()[0];
        assert_eq!(v1.key.spki().len(), 91);
        assert_eq!(v1.key.algorithm(), KeyAlgorithm::EcdsaP256Sha256);
        assert_eq!(sha256(v1.key.spki()), v1.key_id, "the id of a v1 log is the hash of its key");
        assert_eq!(
            data_encoding::BASE64.encode(v1.key.spki()),
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwrkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55Gh\
             WP/9A/bY2LhC30M9+RYtw=="
        );
        assert_eq!(v1.start.to_string(), "2021-01-12T11:53:27.000000Z");
        assert_eq!(root.logs()[1].start.to_string(), "2025-09-23T00:00:00.000000Z");
    }
}

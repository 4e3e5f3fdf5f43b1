//! The body of an entry: a digest, a signature over what has that digest, and the key that made it.

use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Serialize};

use super::{LogKey, RekorError, read_base64, read_hash, read_json};

const WHAT: &str = "the body of the entry";
const PEM_KEY: &str = "PUBLIC KEY";
const PEM_CERTIFICATE: &str = "CERTIFICATE";
/// Characters of base64 in a line of PEM.
const PEM_LINE: usize = 64;

/// Which protocol a log speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST /api/v1/log/entries`, `hashedrekord` 0.0.1.
    V1,
    /// `POST /api/v2/log/entries`, `hashedrekord` 0.0.2.
    V2,
}

impl Api {
    /// Returns the name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1 => "rekor-v1",
            Self::V2 => "rekor-v2",
        }
    }

    /// Returns the version of a `hashedrekord` in it.
    pub fn version(self) -> &'static str {
        match self {
            Self::V1 => "0.0.1",
            Self::V2 => "0.0.2",
        }
    }

    /// Returns the protocol of an entry.
    ///
    /// # Errors
    /// [`RekorError::OtherKind`].
    pub fn of(kind: &str, version: &str) -> Result<Self, RekorError> {
        let known =
            [Self::V1, Self::V2].into_iter().find(|api| kind == "hashedrekord" && api.version() == version);
        known.ok_or_else(|| RekorError::OtherKind { kind: kind.to_owned(), version: version.to_owned() })
    }
}

/// Who signed what is in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signer {
    /// A key, as SPKI in DER.
    Key(Vec<u8>),
    /// A certificate, in DER. Anchors never have one.
    Certificate(Vec<u8>),
}

/// What a body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedRekord {
    /// The protocol that it is written for.
    pub api: Api,
    /// SHA-256 of what was signed.
    pub digest: [u8; 32],
    /// The signature.
    pub signature: Vec<u8>,
    /// Who made it.
    pub signer: Signer,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Envelope<S> {
    api_version: String,
    kind: String,
    spec: S,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KindOnly {
    api_version: String,
    kind: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecV1 {
    data: DataV1,
    signature: SignatureV1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataV1 {
    hash: HashV1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HashV1 {
    algorithm: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SignatureV1 {
    content: String,
    public_key: ContentV1,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentV1 {
    content: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpecV2 {
    #[serde(rename = "hashedRekordV002")]
    record: RecordV2,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordV2 {
    data: DataV2,
    signature: SignatureV2,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DataV2 {
    algorithm: String,
    digest: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SignatureV2 {
    content: String,
    verifier: VerifierV2,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct VerifierV2 {
    key_details: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    public_key: Option<RawV2>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    x509_certificate: Option<RawV2>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawV2 {
    raw_bytes: String,
}

#[derive(Serialize)]
struct RequestV2 {
    #[serde(rename = "hashedRekordRequestV002")]
    record: RequestRecordV2,
}

#[derive(Serialize)]
struct RequestRecordV2 {
    digest: String,
    signature: SignatureV2,
}

impl HashedRekord {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RekorError::OtherKind`], or [`RekorError::Malformed`] for any field that its kind does not have.
    pub fn parse(body: &[u8]) -> Result<Self, RekorError> {
        let kind: KindOnly = read_json(WHAT, body)?;
        match Api::of(&kind.kind, &kind.api_version)? {
            Api::V1 => Self::parse_v1(&read_json::<Envelope<SpecV1>>(WHAT, body)?.spec),
            Api::V2 => Self::parse_v2(read_json::<Envelope<SpecV2>>(WHAT, body)?.spec.record),
        }
    }

    fn parse_v1(spec: &SpecV1) -> Result<Self, RekorError> {
        if spec.data.hash.algorithm != "sha256" {
            return Err(RekorError::NotOurs { what: "a digest of SHA-256" });
        }
        let digest =
            HEXLOWER.decode(spec.data.hash.value.as_bytes()).ok().and_then(|hash| hash.try_into().ok());
        let digest =
            digest.ok_or_else(|| RekorError::malformed(WHAT, "the digest is not 64 hexadecimal digits"))?;
        let pem = read_base64(WHAT, &spec.signature.public_key.content)?;
        let pem = std::str::from_utf8(&pem).map_err(|_| RekorError::malformed(WHAT, "the key is not PEM"))?;
        let signer = match (read_pem(pem, PEM_KEY), read_pem(pem, PEM_CERTIFICATE)) {
            (Some(key), _) => Signer::Key(key),
            (None, Some(certificate)) => Signer::Certificate(certificate),
            (None, None) => return Err(RekorError::malformed(WHAT, "the key is not PEM")),
        };
        let signature = read_base64(WHAT, &spec.signature.content)?;
        Ok(Self { api: Api::V1, digest, signature, signer })
    }

    fn parse_v2(record: RecordV2) -> Result<Self, RekorError> {
        if record.data.algorithm != "SHA2_256" {
            return Err(RekorError::NotOurs { what: "a digest of SHA-256" });
        }
        let digest = read_hash(WHAT, &record.data.digest)?;
        let verifier = record.signature.verifier;
        let signer = match (verifier.public_key, verifier.x509_certificate) {
            (Some(key), None) => Signer::Key(read_base64(WHAT, &key.raw_bytes)?),
            (None, Some(certificate)) => Signer::Certificate(read_base64(WHAT, &certificate.raw_bytes)?),
            _ => return Err(RekorError::malformed(WHAT, "it names not exactly one key or certificate")),
        };
        if let Signer::Key(key) = &signer
            && LogKey::from_spki(key).is_ok_and(|key| key.algorithm().key_details() != verifier.key_details)
        {
            return Err(RekorError::malformed(WHAT, "the key is not what its details say"));
        }
        let signature = read_base64(WHAT, &record.signature.content)?;
        Ok(Self { api: Api::V2, digest, signature, signer })
    }
}

/// Returns the request that asks a log to take an entry: `key` signed, with `signature`, what has this digest.
pub fn request_json(api: Api, digest: &[u8; 32], signature: &[u8], key: &LogKey) -> Vec<u8> {
    let content = BASE64.encode(signature);
    let bytes = match api {
        Api::V1 => serde_json::to_vec(&Envelope {
            api_version: api.version().to_owned(),
            kind: "hashedrekord".to_owned(),
            spec: SpecV1 {
                data: DataV1 {
                    hash: HashV1 { algorithm: "sha256".to_owned(), value: HEXLOWER.encode(digest) },
                },
                signature: SignatureV1 {
                    content,
                    public_key: ContentV1 {
                        content: BASE64.encode(write_pem(key.spki(), PEM_KEY).as_bytes()),
                    },
                },
            },
        }),
        Api::V2 => serde_json::to_vec(&RequestV2 {
            record: RequestRecordV2 {
                digest: BASE64.encode(digest),
                signature: SignatureV2 {
                    content,
                    verifier: VerifierV2 {
                        key_details: key.algorithm().key_details().to_owned(),
                        public_key: Some(RawV2 { raw_bytes: BASE64.encode(key.spki()) }),
                        x509_certificate: None,
                    },
                },
            },
        }),
    };
    bytes.expect("strings always become JSON")
}

fn write_pem(der: &[u8], label: &str) -> String {
    let text = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(PEM_LINE) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}

fn read_pem(pem: &str, label: &str) -> Option<Vec<u8>> {
    let inner = pem.strip_prefix(&format!("-----BEGIN {label}-----\n"))?;
    let inner = inner.trim_end_matches('\n').strip_suffix(&format!("-----END {label}-----"))?;
    let text: String = inner.split('\n').collect();
    crate::note::decode_base64(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_survives_itself() {
        for length in [1usize, 47, 48, 49, 91, 96] {
            let der = vec![7; length];
            let pem = write_pem(&der, PEM_KEY);
            assert!(pem.lines().all(|line| line.len() <= PEM_LINE));
            assert_eq!(read_pem(&pem, PEM_KEY), Some(der));
            assert_eq!(read_pem(&pem, PEM_CERTIFICATE), None);
        }
        assert_eq!(read_pem("-----BEGIN PUBLIC KEY-----\nAAAA\n", PEM_KEY), None);
    }

    #[test]
    fn other_kinds_are_named() {
        let body = br#"{"apiVersion":"0.0.2","kind":"intoto","spec":{}}"#;
        let error = HashedRekord::parse(body).expect_err("another kind");
        assert_eq!(error.to_string(), "the entry is intoto 0.0.2, not a hashedrekord 0.0.1 or 0.0.2");
    }
}

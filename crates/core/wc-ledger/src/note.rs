//! Signed notes: a text that people can read, and signatures that programs can check.
//!
//! ```text
//! worldcompute.org/cell/cell_…       ┐
//! 20852163                           ├ text; what is signed, up to and with its last newline
//! CsUYapGGPo4dkMgIAUqom/Xajj7h2f…    ┘
//!                                      a blank line; the last one in the note
//! — worldcompute.org/cell/cell_… Az3grlgtzPICa5OS…   key name, base64 of key id and signature
//! ```
//!
//! # Source
//! C2SP `signed-note`, Ed25519 signatures (type byte 0x01); Go `golang.org/x/mod/sumdb/note`.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER};
use wc_types::cid::sha256;
use wc_types::sign::verify_bytes;
use wc_types::{Class, Code, SigningKey};

/// Longest note that is read, in bytes.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Most signatures on a note; the specification demands that at least these are accepted.
pub const SIGNATURES_MAX: usize = 16;
/// The signature type of plain Ed25519.
const TYPE_ED25519: u8 = 0x01;
/// What a signature line begins with: an em dash and a space.
const SIGNATURE_PREFIX: &str = "\u{2014} ";

/// A note, a key or a signature on a note is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Longer than [`NOTE_BYTES_MAX`].
    #[error("note of {bytes} bytes is longer than {NOTE_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Not text, blank line and signature lines.
    #[error("note is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More than [`SIGNATURES_MAX`] signatures.
    #[error("note has more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// The name of a key is empty or holds a space or a plus.
    #[error("{name:?} cannot be the name of a key: it must not be empty nor hold spaces or `+`")]
    KeyName {
        /// The name.
        name: String,
    },
    /// The text of a verifier key is not one.
    #[error("not a verifier key: {reason}")]
    Key {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The key that was asked for has not signed.
    #[error("note is not signed by {name}")]
    Unsigned {
        /// Name of the key.
        name: String,
    },
    /// The key that was asked for is named, but the signature is not its own.
    #[error("signature of {name} does not belong to this note")]
    BadSignature {
        /// Name of the key.
        name: String,
    },
}

impl NoteError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::TooLarge { .. } => Code::new("WC-LEDGER-030", Class::Peer),
            Self::Malformed { .. } => Code::new("WC-LEDGER-031", Class::Peer),
            Self::TooManySignatures => Code::new("WC-LEDGER-032", Class::Peer),
            Self::KeyName { .. } => Code::new("WC-LEDGER-033", Class::Caller),
            Self::Key { .. } => Code::new("WC-LEDGER-034", Class::Caller),
            Self::Unsigned { .. } => Code::new("WC-LEDGER-035", Class::Peer),
            Self::BadSignature { .. } => Code::new("WC-LEDGER-036", Class::Peer),
        }
    }
}

/// Returns the bytes whose base64 is exactly `text`. The library also reads several padded texts behind one another,
/// which would give the same bytes many texts, and a receipt many forms.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
    BASE64.decode(text.as_bytes()).ok().filter(|bytes| BASE64.encode(bytes) == text)
}

/// A public key under the name by which notes know it. Shown as `name+hex(key id)+base64(type ‖ key)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// Names an Ed25519 public key.
    ///
    /// # Errors
    /// [`NoteError::KeyName`].
    pub fn new(name: impl Into<String>, public: [u8; 32]) -> Result<Self, NoteError> {
        let name = name.into();
        if is_key_name(&name) { Ok(Self { name, public }) } else { Err(NoteError::KeyName { name }) }
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key id: the first four bytes of SHA-256 over name, newline, type byte and key.
    pub fn id(&self) -> [u8; 4] {
        let mut preimage = Vec::with_capacity(self.name.len() + 34);
        preimage.extend_from_slice(self.name.as_bytes());
        preimage.extend_from_slice(&[b'\n', TYPE_ED25519]);
        preimage.extend_from_slice(&self.public);
        let [a, b, c, d, ..] = sha256(&preimage);
        [a, b, c, d]
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = [TYPE_ED25519; 33];
        key[1..].copy_from_slice(&self.public);
        write!(f, "{}+{}+{}", self.name, HEXLOWER.encode(&self.id()), BASE64.encode(&key))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let fault = |reason| NoteError::Key { reason };
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(fault("expected name+id+key"));
        };
        let key = decode_base64(key).ok_or(fault("the key is not base64"))?;
        let [TYPE_ED25519, public @ ..] = key.as_slice() else {
            return Err(fault("the key is not of the Ed25519 type"));
        };
        let public = public.try_into().map_err(|_| fault("an Ed25519 key has 32 bytes"))?;
        let key = Self::new(name, public)?;
        if HEXLOWER.encode(&key.id()) == id { Ok(key) } else { Err(fault("the id is not that of the key")) }
    }
}

/// One signature line. Whose it is and whether it is right is not known yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// Name of the key that the line claims.
    pub name: String,
    /// Id of that key.
    pub key_id: [u8; 4],
    /// The signature; its length depends on the algorithm.
    pub signature: Vec<u8>,
}

impl FromStr for NoteSignature {
    type Err = NoteError;

    /// Reads one line, without its newline.
    fn from_str(line: &str) -> Result<Self, NoteError> {
        let fault = |reason| NoteError::Malformed { reason };
        let line =
            line.strip_prefix(SIGNATURE_PREFIX).ok_or(fault("a signature line begins with an em dash"))?;
        let (name, blob) =
            line.split_once(' ').ok_or(fault("a signature line has a name and a signature"))?;
        if !is_key_name(name) {
            return Err(NoteError::KeyName { name: name.to_owned() });
        }
        let blob = decode_base64(blob).ok_or(fault("a signature is not base64"))?;
        let Some((key_id, signature @ [_, ..])) = blob.split_first_chunk::<4>() else {
            return Err(fault("a signature is shorter than five bytes"));
        };
        Ok(Self { name: name.to_owned(), key_id: *key_id, signature: signature.to_vec() })
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let blob = [self.key_id.as_slice(), &self.signature].concat();
        write!(f, "{SIGNATURE_PREFIX}{} {}", self.name, BASE64.encode(&blob))
    }
}

/// A text with signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// Signs `text`, which ends in a newline, with `key` under `name`.
    ///
    /// # Errors
    /// [`NoteError`] if the text cannot be in a note or the name cannot be that of a key.
    pub fn sign(
        text: impl Into<String>,
        name: impl Into<String>,
        key: &SigningKey,
    ) -> Result<Self, NoteError> {
        let text = text.into();
        let signature = key.sign_bytes(text.as_bytes());
        Self::with_signature(text, name, &key.public(), signature)
    }

    /// Puts a note together with a signature that was made elsewhere: by several machines together, for one.
    ///
    /// # Errors
    /// [`NoteError`] if the text cannot be in a note or the name cannot be that of a key. Whether the signature is right is
    /// for [`verify`](Self::verify) to say.
    pub fn with_signature(
        text: impl Into<String>,
        name: impl Into<String>,
        public: &[u8; 32],
        signature: [u8; 64],
    ) -> Result<Self, NoteError> {
        let text = text.into();
        check_text(&text)?;
        let verifier = VerifierKey::new(name, *public)?;
        let signature =
            NoteSignature { key_id: verifier.id(), signature: signature.to_vec(), name: verifier.name };
        let note = Self { text, signatures: vec![signature] };
        match note.to_string().len() {
            bytes if bytes > NOTE_BYTES_MAX => Err(NoteError::TooLarge { bytes }),
            _ => Ok(note),
        }
    }

    /// Reads a note, without believing it: [`text`](Self::text) is meant for nobody before [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`NoteError`] unless the bytes are exactly what [`Display`](fmt::Display) would write.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        let fault = |reason| NoteError::Malformed { reason };
        if note.len() > NOTE_BYTES_MAX {
            return Err(NoteError::TooLarge { bytes: note.len() });
        }
        let blank = note.rfind("\n\n").ok_or(fault("there is no blank line before the signatures"))?;
        let (text, lines) = (&note[..=blank], &note[blank + 2..]);
        check_text(text)?;
        let lines = lines.strip_suffix('\n').ok_or(fault("the last line does not end"))?;
        let mut signatures = Vec::new();
        for line in lines.split('\n') {
            if signatures.len() == SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(line.parse()?);
        }
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Returns the note with one more signature line, whose truth is not checked here.
    ///
    /// # Errors
    /// [`NoteError`] if it would have too many, or not read back.
    pub fn with(&self, line: NoteSignature) -> Result<Self, NoteError> {
        let mut note = self.clone();
        note.signatures.push(line);
        Self::parse(&note.to_string())
    }

    /// Returns the note with only those signature lines that `keep` keeps; at least one must stay for it to be a note.
    #[must_use]
    pub fn retaining(&self, keep: impl FnMut(&NoteSignature) -> bool) -> Self {
        let mut note = self.clone();
        note.signatures.retain(keep);
        note
    }

    /// Returns the text, with its last newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the signature lines.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// Checks that `key` has signed. Lines of other keys are ignored, as the specification demands; a line that claims
    /// to be of `key` and is not condemns the note.
    ///
    /// # Errors
    /// [`NoteError::Unsigned`] or [`NoteError::BadSignature`].
    pub fn verify(&self, key: &VerifierKey) -> Result<(), NoteError> {
        let id = key.id();
        let mut signed = false;
        for line in self.signatures.iter().filter(|line| line.name == key.name && line.key_id == id) {
            let bad = || NoteError::BadSignature { name: key.name.clone() };
            let signature = line.signature.as_slice().try_into().map_err(|_| bad())?;
            verify_bytes(&key.public, self.text.as_bytes(), signature).map_err(|_| bad())?;
            signed = true;
        }
        if signed { Ok(()) } else { Err(NoteError::Unsigned { name: key.name.clone() }) }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.chars().any(|letter| letter.is_whitespace() || letter < ' ' || letter == '+')
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if !text.ends_with('\n') {
        return Err(NoteError::Malformed { reason: "the text does not end in a newline" });
    }
    if text.bytes().any(|byte| byte < b' ' && byte != b'\n') {
        return Err(NoteError::Malformed { reason: "the text holds control characters" });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! Checkpoints: the cell's signed word on how long its log is and what its root is.
//!
//! # Source
//! C2SP `tlog-checkpoint`. Origin and key name are the same: `worldcompute.org/cell/` and the cell's id.

use data_encoding::BASE64;
use wc_types::{CellId, Class, Code, SigningKey};

use crate::merkle::Hash;
use crate::note::{Note, NoteError, VerifierKey, decode_base64};
use crate::threshold::handover::ChainFault;

/// What the origin of every cell begins with.
const ORIGIN_PREFIX: &str = "worldcompute.org/cell/";

/// A checkpoint is not one, or not of the log that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The note around it.
    #[error("checkpoint is not a note of its log")]
    Note(#[from] NoteError),
    /// The text is not origin, size, root.
    #[error("checkpoint is malformed: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The chain from the founding key to the key that should have signed does not hold.
    #[error("signers of the checkpoint")]
    Signers(#[from] ChainFault),
    /// It is of another log.
    #[error("checkpoint is of the log {actual:?}, not {expected:?}")]
    OtherOrigin {
        /// Origin of the log that was asked for.
        expected: String,
        /// Origin that it names.
        actual: String,
    },
}

impl CheckpointError {
    /// Returns the stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Note(error) => error.code(),
            Self::Signers(fault) => fault.code(),
            Self::Malformed { .. } => Code::new("WC-LEDGER-040", Class::Peer),
            Self::OtherOrigin { .. } => Code::new("WC-LEDGER-041", Class::Peer),
        }
    }
}

/// Returns the origin of a cell's log, which is also the name of the key that signs its checkpoints.
pub fn origin(cell: &CellId) -> String {
    format!("{ORIGIN_PREFIX}{cell}")
}

/// Returns the key that checkpoints of `cell` verify under.
///
/// - `public`: the Ed25519 key of the cell's coordinator
pub fn cell_key(cell: &CellId, public: [u8; 32]) -> VerifierKey {
    VerifierKey::new(origin(cell), public).expect("the text of a cell id has neither spaces nor `+`")
}

/// The size and root of a log at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Identity of the log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root over them.
    pub root: Hash,
    /// Further lines, which mean nothing to us; we write none.
    pub extensions: Vec<String>,
}

impl Checkpoint {
    /// Returns the checkpoint of a cell's log.
    pub fn new(cell: &CellId, size: u64, root: Hash) -> Self {
        Self { origin: origin(cell), size, root, extensions: Vec::new() }
    }

    /// Returns the text of the note.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(&self.root));
        for line in &self.extensions {
            text.push_str(line);
            text.push('\n');
        }
        text
    }

    /// Reads the text of a note.
    ///
    /// # Errors
    /// [`CheckpointError::Malformed`] unless it is exactly what [`to_text`](Self::to_text) would write.
    pub fn parse_text(text: &str) -> Result<Self, CheckpointError> {
        let fault = |reason| CheckpointError::Malformed { reason };
        let mut lines = text.strip_suffix('\n').ok_or(fault("the last line does not end"))?.split('\n');
        let mut line = |reason| lines.next().filter(|line| !line.is_empty()).ok_or(fault(reason));
        let origin = line("there is no origin")?.to_owned();
        let size = line("there is no tree size")?;
        let root = line("there is no root hash")?;
        let canonical =
            size == "0" || (!size.starts_with('0') && size.bytes().all(|digit| digit.is_ascii_digit()));
        let size = if canonical { size.parse().ok() } else { None };
        let size = size.ok_or(fault("the tree size is not a decimal number of 64 bits"))?;
        let root = decode_base64(root).and_then(|root| root.try_into().ok());
        let root = root.ok_or(fault("the root hash is not 32 bytes in base64"))?;
        let extensions: Vec<String> = lines.map(str::to_owned).collect();
        if extensions.iter().any(String::is_empty) {
            return Err(fault("an extension line is empty"));
        }
        Ok(Self { origin, size, root, extensions })
    }

    /// Signs the checkpoint under its origin as the key's name.
    ///
    /// # Errors
    /// [`NoteError`] if the origin cannot be the name of a key or the text cannot be in a note; never for a checkpoint
    /// made by [`new`](Self::new).
    pub fn sign(&self, key: &SigningKey) -> Result<Note, NoteError> {
        Note::sign(self.to_text(), self.origin.clone(), key)
    }

    /// Checks a note against `key` and returns the checkpoint in it, whose origin is the key's name.
    ///
    /// # Errors
    /// [`CheckpointError`].
    pub fn open(note: &Note, key: &VerifierKey) -> Result<Self, CheckpointError> {
        note.verify(key)?;
        let checkpoint = Self::parse_text(note.text())?;
        if checkpoint.origin != key.name() {
            return Err(CheckpointError::OtherOrigin {
                expected: key.name().to_owned(),
                actual: checkpoint.origin,
            });
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CELL: CellId = CellId([5; 32]);

    fn key() -> SigningKey {
        SigningKey::from_seed(&[8; 32])
    }

    /// # Source
    /// The example of the specification.
    #[test]
    fn the_example_of_the_specification_is_read_and_written_back() {
        let text = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n";
        let note = format!(
            "{text}\n\u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
        );
        let note = Note::parse(&note).expect("parses");
        let checkpoint = Checkpoint::parse_text(note.text()).expect("parses");
        assert_eq!(
            (checkpoint.origin.as_str(), checkpoint.size),
            ("example.com/behind-the-sofa", 20_852_163)
        );
        assert_eq!(checkpoint.to_text(), text);
        assert_eq!(note.signatures()[0].name, checkpoint.origin);
    }

    #[test]
    fn a_signed_checkpoint_opens_under_the_key_of_its_cell_only() {
        let checkpoint = Checkpoint::new(&CELL, 7, [3; 32]);
        let note = checkpoint.sign(&key()).expect("signs");
        assert_eq!(Checkpoint::open(&note, &cell_key(&CELL, key().public())), Ok(checkpoint.clone()));
        let stranger = cell_key(&CELL, SigningKey::from_seed(&[9; 32]).public());
        assert!(Checkpoint::open(&note, &stranger).is_err());
        let elsewhere = cell_key(&CellId([6; 32]), key().public());
        assert!(Checkpoint::open(&note, &elsewhere).is_err());
        // The right key signs, under its right name, the checkpoint of another log.
        let foreign = Checkpoint::new(&CellId([6; 32]), 7, [3; 32]);
        let note = Note::sign(foreign.to_text(), origin(&CELL), &key()).expect("signs");
        let refused = Checkpoint::open(&note, &cell_key(&CELL, key().public())).expect_err("refused");
        assert_eq!(refused.code().name, "WC-LEDGER-041");
    }

    #[test]
    fn a_malformed_checkpoint_is_refused() {
        let root = BASE64.encode(&[3; 32]);
        let refused = [
            String::new(),
            "\n".to_owned(),
            "o\n".to_owned(),
            "o\n1\n".to_owned(),
            format!("\n1\n{root}\n"),
            format!("o\n1\n{root}"),
            format!("o\n\n{root}\n"),
            format!("o\n01\n{root}\n"),
            format!("o\n00\n{root}\n"),
            format!("o\n+1\n{root}\n"),
            format!("o\n-1\n{root}\n"),
            format!("o\n1 \n{root}\n"),
            format!("o\n0x1\n{root}\n"),
            format!("o\n18446744073709551616\n{root}\n"),
            format!("o\n1\n{}\n", BASE64.encode(&[3; 31])),
            format!("o\n1\n{}\n", BASE64.encode(&[3; 33])),
            format!("o\n1\n{}\n", root.trim_end_matches('=')),
            format!("o\n1\n{}\n", root.replace("M=", "N=")),
            format!("o\n1\n{root}\n\n"),
            format!("o\n1\n{root}\nextension\n\nmore\n"),
        ];
        for text in refused {
            assert!(Checkpoint::parse_text(&text).is_err(), "{text:?}");
        }
        assert!(Checkpoint::parse_text(&format!("o\n0\n{root}\nextension\n")).is_ok());
        assert!(Checkpoint::parse_text(&format!("o\n18446744073709551615\n{root}\n")).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_back_byte_for_byte(text in "[a-z]{0,3}\n[0-9+]{0,3}\n(AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=)?\n([a-z]{0,2}\n){0,3}") {
            if let Ok(checkpoint) = Checkpoint::parse_text(&text) {
                prop_assert_eq!(checkpoint.to_text(), text);
            }
        }
    }
}

//! What a machine may be given, by what it can prove and how it did.

use wc_types::node::{SandboxKind, TrustTier};
use wc_types::{Millis, PartsPerMillion};

const DAY: u64 = 24 * 3_600_000;

/// Least score of every tier above T0 (VER-08).
const T1_SCORE: PartsPerMillion = PartsPerMillion(400_000);
/// Least score of T2 (VER-08).
const T2_SCORE: PartsPerMillion = PartsPerMillion(700_000);
/// Least score of T3 (VER-08).
const T3_SCORE: PartsPerMillion = PartsPerMillion(950_000);
/// Least age of T1 (VER-08).
const T1_AGE: Millis = Millis(7 * DAY);
/// Least age of T2 (VER-08).
const T2_AGE: Millis = Millis(30 * DAY);

/// The best that a machine can prove about where its guests run, from least to most (ATT-15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// Nothing, whatever the machine can prove: somebody whom an owner allows opens the TLS on its way to us (NET-22).
    /// What the nodes say to each other stays secret and unchanged inside, but a third party knows who works for whom
    /// and when, and decides whether they go on.
    InspectedPath,
    /// An agent that signs with its own key, and nothing that hardware says. Also any guest that runs as a process of
    /// the bare host, WebAssembly included, whatever the host can prove: nothing stands between it and the owner
    /// (E-83).
    SoftAgent,
    /// A TPM 2.0 quote over a guest in its own machine.
    Tpm,
    /// The same with Secure Boot. It does not encrypt memory, so it never makes T3 (E-58).
    TpmSecureBoot,
    /// SEV-SNP or TDX.
    EncryptedMemory,
    /// An attested confidential GPU.
    ConfidentialGpu,
}

impl Evidence {
    /// Returns the most that can be proven about guests in this kind of sandbox.
    pub fn of_sandbox(sandbox: SandboxKind) -> Self {
        match sandbox {
            SandboxKind::WasmHost => Self::SoftAgent,
        }
    }

    /// Returns what is left of the evidence of a machine whose path to us is inspected, or not (NET-22).
    #[must_use]
    pub fn over(self, inspected: bool) -> Self {
        if inspected { Self::InspectedPath } else { self }
    }

    /// Returns what the evidence is worth in the score (VER-06): one for hardware, a half for a signing agent, nothing
    /// over a path that is inspected.
    pub fn attestation(self) -> PartsPerMillion {
        match self {
            Self::InspectedPath => PartsPerMillion(0),
            Self::SoftAgent => PartsPerMillion(500_000),
            Self::Tpm | Self::TpmSecureBoot | Self::EncryptedMemory | Self::ConfidentialGpu => {
                PartsPerMillion::ONE
            }
        }
    }
}

/// Returns the tier of a machine.
///
/// # Source
/// VER-08 and ATT-15, read together: evidence says which tier is possible, score and age which of those is reached.
/// E-58: T3 needs encrypted memory. E-83: WebAssembly on the bare host is T0. NET-22: so is whatever is reached over an
/// inspected path.
pub fn tier(score: PartsPerMillion, age: Millis, evidence: Evidence) -> TrustTier {
    if score < T1_SCORE || evidence <= Evidence::SoftAgent {
        return TrustTier::T0;
    }
    if evidence == Evidence::ConfidentialGpu {
        return TrustTier::T4;
    }
    if evidence == Evidence::EncryptedMemory && score >= T3_SCORE {
        return TrustTier::T3;
    }
    if evidence >= Evidence::TpmSecureBoot && score >= T2_SCORE && age >= T2_AGE {
        return TrustTier::T2;
    }
    if age >= T1_AGE { TrustTier::T1 } else { TrustTier::T0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Evidence; 6] = [
        Evidence::InspectedPath,
        Evidence::SoftAgent,
        Evidence::Tpm,
        Evidence::TpmSecureBoot,
        Evidence::EncryptedMemory,
        Evidence::ConfidentialGpu,
    ];

    #[test]
    fn thresholds_are_those_of_the_table() {
        use Evidence::{ConfidentialGpu, EncryptedMemory, SoftAgent, Tpm, TpmSecureBoot};
        use TrustTier::{T0, T1, T2, T3, T4};
        let table = [
            (SoftAgent, 1_000_000, 365, T0),
            (Tpm, 399_999, 365, T0),
            (Tpm, 400_000, 6, T0),
            (Tpm, 400_000, 7, T1),
            (Tpm, 1_000_000, 365, T1),
            (TpmSecureBoot, 699_999, 30, T1),
            (TpmSecureBoot, 700_000, 29, T1),
            (TpmSecureBoot, 700_000, 30, T2),
            (TpmSecureBoot, 1_000_000, 365, T2),
            (EncryptedMemory, 949_999, 30, T2),
            (EncryptedMemory, 950_000, 30, T3),
            (EncryptedMemory, 500_000, 3, T0),
            (ConfidentialGpu, 400_000, 0, T4),
            (ConfidentialGpu, 399_999, 365, T0),
        ];
        for (evidence, score, days, expected) in table {
            let actual = tier(PartsPerMillion(score), Millis(days * DAY), evidence);
            assert_eq!(actual, expected, "{evidence:?}, {score} ppm, {days} days");
        }
    }

    #[test]
    fn webassembly_on_the_bare_host_is_t0_however_clean_its_record() {
        let evidence = Evidence::of_sandbox(SandboxKind::WasmHost);
        assert_eq!(evidence.attestation(), PartsPerMillion(500_000));
        assert_eq!(tier(PartsPerMillion::ONE, Millis(u64::MAX), evidence), TrustTier::T0);
    }

    #[test]
    fn an_inspected_path_takes_every_tier_and_the_evidence_out_of_the_score() {
        let record = crate::TrustRecord::new(wc_types::Timestamp(0));
        for evidence in ALL {
            let inspected = evidence.over(true);
            assert_eq!(
                tier(PartsPerMillion::ONE, Millis(u64::MAX), inspected),
                TrustTier::T0,
                "{evidence:?}"
            );
            assert_eq!(evidence.over(false), evidence);
            let score = |evidence: Evidence| record.score(evidence.attestation(), wc_types::Timestamp(0));
            assert!(evidence == inspected || score(inspected) < score(evidence), "{evidence:?}");
        }
    }

    proptest! {
        #[test]
        fn more_of_anything_never_lowers_the_tier(
            a in (0u32..=1_000_000, 0u64..60, 0usize..6),
            b in (0u32..=1_000_000, 0u64..60, 0usize..6),
        ) {
            let of = |(score, days, evidence): (u32, u64, usize)| {
                tier(PartsPerMillion(score), Millis(days * DAY), ALL[evidence])
            };
            let low = (a.0.min(b.0), a.1.min(b.1), a.2.min(b.2));
            let high = (a.0.max(b.0), a.1.max(b.1), a.2.max(b.2));
            prop_assert!(of(low) <= of(high));
        }
    }
}

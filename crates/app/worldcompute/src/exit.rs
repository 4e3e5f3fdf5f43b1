//! Exit codes, and how an error looks (API-42, API-43). Nowhere else.

use std::process::ExitCode;

use wc_types::{Class, Code, Refusal};

use crate::client::Failure;
use crate::node::DirectError;

/// Done.
pub const OK: u8 = 0;
/// Not done: the reason is on standard error.
pub const ERROR: u8 = 1;
/// Not understood: the command line is wrong. clap exits with the same code by itself.
pub const USAGE: u8 = 2;

/// Nothing is wrong with what was given, and it is not enough for what was asked.
pub const UNPROVED: u8 = 3;
/// Checked, and not what it must be: `donor credits --verify` and `ledger replay` say FAIL.
pub const UNVERIFIED: u8 = 4;

/// Every transport to the other node was tried and none got through (NET-16).
pub const UNREACHABLE: u8 = 65;

/// An error that no part of the system has named.
const UNNAMED: Code = Code::new("WC-CLI-001", Class::Ours);

/// The command line reads, but says something that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Usage {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub hint: String,
}

/// What was given is sound as far as it goes, but does not prove what was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Unproved {
    /// What is not proved.
    pub message: String,
    /// What would prove it.
    pub hint: String,
}

/// Something was checked and is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(|refusal| refusal.message.as_str()).collect::<Vec<_>>().join("; "))]
pub struct Unverified(pub Vec<Refusal>);

/// Prints the error, if there is one, and returns the exit code.
pub fn finish(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::from(OK) };
    if let Some(io) = error.downcast_ref::<std::io::Error>()
        && io.kind() == std::io::ErrorKind::BrokenPipe
    {
        // Whoever read our output has seen enough.
        return ExitCode::from(OK);
    }
    eprint!("{}", render(&refusals(&error)));
    ExitCode::from(match () {
        () if error.is::<Usage>() => USAGE,
        () if error.is::<Unproved>() => UNPROVED,
        () if error.is::<Unverified>() => UNVERIFIED,
        () if error.downcast_ref().is_some_and(DirectError::is_unreachable) => UNREACHABLE,
        () => ERROR,
    })
}

/// Returns every refusal inside an error; the contexts around it become part of the sentence.
pub fn refusals(error: &anyhow::Error) -> Vec<Refusal> {
    let mut contexts = Vec::new();
    for cause in error.chain() {
        let found = if let Some(failure) = cause.downcast_ref::<Failure>() {
            failure.0.clone()
        } else if let Some(unverified) = cause.downcast_ref::<Unverified>() {
            unverified.0.clone()
        } else if let Some(refusal) = cause.downcast_ref::<Refusal>() {
            vec![refusal.clone()]
        } else if let Some(error) = cause.downcast_ref::<wc_api::ApiError>() {
            vec![error.to_refusal()]
        } else if let Some(error) = cause.downcast_ref::<wc_host::KeyError>() {
            vec![error.to_refusal()]
        } else if let Some(unproved) = cause.downcast_ref::<Unproved>() {
            let code = Code::new("WC-CLI-003", Class::Caller);
            vec![Refusal::new(code, unproved.message.clone()).hint(unproved.hint.clone())]
        } else if let Some(refusal) =
            cause.downcast_ref::<wc_node::NodeError>().and_then(wc_node::NodeError::to_refusal)
        {
            vec![refusal]
        } else if let Some(refusal) = cause.downcast_ref().and_then(DirectError::to_refusal) {
            vec![refusal]
        } else if let Some(usage) = cause.downcast_ref::<Usage>() {
            let code = Code::new("WC-CLI-002", Class::Caller);
            vec![Refusal::new(code, usage.message.clone()).hint(usage.hint.clone())]
        } else {
            contexts.push(cause.to_string());
            continue;
        };
        return found.into_iter().map(|refusal| in_context(&contexts, refusal)).collect();
    }
    vec![Refusal::new(UNNAMED, contexts.join(": "))]
}

fn in_context(contexts: &[String], mut refusal: Refusal) -> Refusal {
    if !contexts.is_empty() {
        refusal.message = format!("{}: {}", contexts.join(": "), refusal.message);
    }
    refusal
}

/// Writes refusals as people see them.
pub fn render(refusals: &[Refusal]) -> String {
    let mut text = String::new();
    for refusal in refusals {
        text += &format!("Error: {} [{}]\n", refusal.message.trim_end_matches('.'), refusal.code);
        if let Some(field) = &refusal.field {
            text += &format!("  field: {field}\n");
        }
        if let Some(hint) = &refusal.hint {
            text += &format!("  hint: {hint}\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn a_refusal_shows_sentence_field_hint_and_code() {
        let refusal = Refusal::new(Code::new("WC-POLICY-003", Class::Caller), "too many replicas")
            .field("spec.replicas")
            .hint("ask for 3");
        let error = Err::<(), _>(refusal).context("could not submit").expect_err("refused");
        assert_eq!(
            render(&refusals(&error)),
            "Error: could not submit: too many replicas [WC-POLICY-003]\n  field: spec.replicas\n  hint: ask for 3\n"
        );
    }

    #[test]
    fn an_unnamed_error_still_has_a_code() {
        let error = anyhow::anyhow!("disk on fire").context("could not write");
        assert_eq!(render(&refusals(&error)), "Error: could not write: disk on fire [WC-CLI-001]\n");
    }
}

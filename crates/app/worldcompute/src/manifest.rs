//! The authoring form of a job: YAML, JSON or TOML with one schema, checked completely before anything is sent.
//!
//! ```text
//! text ──document──► tree ──form──► Draft ──upload──► blobs in the node's store ──► signed Manifest
//!                      │       │
//!                      └───────┴──► every fault, with field, rule, line and column
//! ```

mod draft;
mod form;
mod order;
mod upload;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use wc_types::{AccountId, Refusal, Timestamp};

pub use draft::{Draft, InputDraft, InputFrom, Source, StageDraft};
pub use form::{EACH_NAME_DEFAULT, list_files};
pub use upload::upload;

use crate::document::{self, DOCUMENT_BYTES_MAX, Format};
use crate::fields::{self, Faults, syntax_refusal};

/// Reads the job in a file. Paths in it are relative to the file's directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Draft, Vec<Refusal>> {
    let name = path.display().to_string();
    let unreadable = |reason: String| {
        vec![Refusal::new(fields::FILE, format!("the job file {name} cannot be read: {reason}"))]
    };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(DOCUMENT_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".to_owned()))?;
    let base = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let format = Format::of(path.extension().and_then(|extension| extension.to_str()), &text);
    read(&text, format, base, &name)
}

/// Reads the job in a text; `name` is how errors call it.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read(text: &str, format: Format, base: &Path, name: &str) -> Result<Draft, Vec<Refusal>> {
    let root =
        document::parse(text, format).map_err(|error| vec![syntax_refusal(name, format.name(), &error)])?;
    let mut faults = Faults::default();
    let draft = form::draft(&root, base, &mut faults);
    if let Some(draft) = &draft {
        for broken in draft.check() {
            let path = draft.authored(&broken.field);
            if !faults.concern(&path) {
                faults.add(fields::OUT_OF_RANGE, &*path, broken.constraint, root.nearest(&path));
            }
        }
    }
    match draft {
        Some(draft) if faults.is_empty() => Ok(draft),
        _ => Err(faults.into_refusals(name)),
    }
}

/// Returns what is wrong with a draft that did not come from a document; `name` is how errors call it.
pub fn check(draft: &Draft, name: &str) -> Vec<Refusal> {
    let refusal = |broken: wc_types::manifest::FieldError| {
        Refusal::new(fields::OUT_OF_RANGE, format!("{name}: {broken}")).field(broken.field)
    };
    draft.check().into_iter().map(refusal).collect()
}

impl Draft {
    /// Returns every rule of the manifest that this draft breaks, whatever its blobs will be.
    fn check(&self) -> Vec<wc_types::manifest::FieldError> {
        self.manifest(&self.placeholders(), AccountId([0; 32]), Timestamp(1)).check()
    }
}

#[cfg(test)]
mod tests;

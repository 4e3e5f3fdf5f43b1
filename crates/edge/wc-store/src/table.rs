//! A small ordered map on disk, for data that the journal can rebuild.
//!
//! A put reaches the disk with the next journal commit, not before: after a power loss the caller replays. Keys are
//! 1 to 4,096 bytes.

use std::sync::Arc;

use fjall::Keyspace;

use crate::store::{Shared, StoreError};

/// A named ordered map; see [`Store::table`](crate::Store::table). Clones share everything.
#[derive(Clone)]
pub struct Table {
    keyspace: Keyspace,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.keyspace.name()).finish_non_exhaustive()
    }
}

/// One change to a [`Table`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets `key` to `value`.
    Put {
        /// The key.
        key: Vec<u8>,
        /// The value.
        value: Vec<u8>,
    },
    /// Removes `key`.
    Remove {
        /// The key.
        key: Vec<u8>,
    },
}

impl Table {
    pub(crate) fn new(shared: Arc<Shared>, keyspace: Keyspace) -> Self {
        Self { keyspace, shared }
    }

    /// Sets `key` to `value`.
    ///
    /// # Errors
    /// Engine errors; they stop the store.
    pub fn put(&self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = self.shared.db.batch();
        batch.insert(&self.keyspace, key, value);
        self.shared.write(batch, "write to a table")
    }

    /// Removes `key`; a key that is absent is no error.
    ///
    /// # Errors
    /// Engine errors; they stop the store.
    pub fn remove(&self, key: &[u8]) -> Result<(), StoreError> {
        let mut batch = self.shared.db.batch();
        batch.remove(&self.keyspace, key);
        self.shared.write(batch, "write to a table")
    }

    /// Applies all `changes` at once or none of them.
    ///
    /// # Errors
    /// Engine errors; they stop the store.
    pub fn apply(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), StoreError> {
        let mut batch = self.shared.db.batch();
        for change in changes {
            match change {
                Change::Put { key, value } => batch.insert(&self.keyspace, key, value),
                Change::Remove { key } => batch.remove(&self.keyspace, key),
            }
        }
        self.shared.write(batch, "write to a table")
    }

    /// Returns the value of `key`.
    ///
    /// # Errors
    /// [`StoreError::Engine`] when the disk cannot be read.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.keyspace.get(key).map_err(read_failed)?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Walks all entries whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// Each item is an error when the disk cannot be read.
    pub fn range(
        &self,
        prefix: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        self.keyspace.prefix(prefix).map(|entry| {
            let (key, value) = entry.into_inner().map_err(read_failed)?;
            Ok((key.to_vec(), value.to_vec()))
        })
    }

    /// Walks the entries from the key `from` to before the key `end`, in key order.
    ///
    /// # Errors
    /// Each item is an error when the disk cannot be read.
    pub fn between(
        &self,
        from: &[u8],
        end: &[u8],
    ) -> impl DoubleEndedIterator<Item = Result<(Vec<u8>, Vec<u8>), StoreError>> + use<> {
        // The engine panics on a range that ends before it begins.
        let end = end.max(from);
        self.keyspace.range(from.to_vec()..end.to_vec()).map(|entry| {
            let (key, value) = entry.into_inner().map_err(read_failed)?;
            Ok((key.to_vec(), value.to_vec()))
        })
    }

    /// Removes every entry, for a rebuild.
    ///
    /// # Errors
    /// Engine errors; they stop the store.
    pub fn clear(&self) -> Result<(), StoreError> {
        self.shared.health.check()?;
        self.keyspace.clear().map_err(|source| self.shared.engine_failed("clear a table", source))
    }
}

fn read_failed(source: fjall::Error) -> StoreError {
    StoreError::Engine { doing: "read a table", source }
}

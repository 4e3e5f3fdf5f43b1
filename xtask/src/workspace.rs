//! What cargo knows about our packages: names, folders, targets and declared dependencies.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// The packages of this repository, by name.
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Every member, by name.
    pub packages: BTreeMap<String, Package>,
}

/// One member of the workspace.
#[derive(Deserialize)]
pub struct Package {
    /// The name in its manifest.
    pub name: String,
    manifest_path: PathBuf,
    /// What it declares to depend on, ours and others', of every kind.
    pub dependencies: Vec<Dependency>,
    /// What cargo builds from it.
    pub targets: Vec<Target>,
    /// Its features, and what each switches on.
    features: BTreeMap<String, Vec<String>>,
}

/// One declared dependency.
#[derive(Deserialize)]
pub struct Dependency {
    /// The real package name, also where it is renamed.
    pub name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
    /// The features that it switches on.
    features: Vec<String>,
    /// The folder, if it is a path dependency.
    path: Option<PathBuf>,
}

/// One thing that cargo builds.
#[derive(Deserialize)]
pub struct Target {
    /// `lib`, `bin`, `test`, `bench`, `example`, `custom-build` or `proc-macro`.
    pub kind: Vec<String>,
    /// The file that starts it.
    pub src_path: PathBuf,
}

impl Workspace {
    /// Asks cargo about the workspace that this program was built from.
    pub fn load() -> Result<Self> {
        #[derive(Deserialize)]
        struct Metadata {
            packages: Vec<Package>,
            workspace_root: PathBuf,
        }
        let root = root()?;
        let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
        let text = process::output_of(process::program(&root, "cargo", &arguments))?;
        let metadata: Metadata = serde_json::from_str(&text).context("cannot read `cargo metadata`")?;
        let packages = metadata.packages.into_iter().map(|package| (package.name.clone(), package)).collect();
        Ok(Self { root: metadata.workspace_root, packages })
    }

    /// Returns `path` as seen from the root, for messages.
    pub fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).display().to_string()
    }

    /// Returns the folder of `package` as seen from the root, such as `crates/base/wc-types`.
    pub fn folder(&self, package: &Package) -> String {
        self.shown(package.folder())
    }

    /// Returns the features of `package` that nothing but tests beside the code switches on: neither its default nor
    /// another package's normal dependency.
    pub fn features_for_tests(&self, package: &Package) -> BTreeSet<String> {
        let dependencies = self.packages.values().flat_map(|other| &other.dependencies);
        let asked =
            dependencies.filter(|dependency| dependency.name == package.name && dependency.kind.is_none());
        let mut queue: Vec<&str> =
            asked.flat_map(|dependency| &dependency.features).map(String::as_str).collect();
        queue.push("default");
        let mut switched_on = BTreeSet::new();
        while let Some(feature) = queue.pop() {
            if switched_on.insert(feature) {
                queue.extend(package.features.get(feature).into_iter().flatten().map(String::as_str));
            }
        }
        package.features.keys().filter(|name| !switched_on.contains(name.as_str())).cloned().collect()
    }

    /// Returns the names of our packages that `package` can name, directly or through others of ours.
    pub fn ours_below(&self, package: &str) -> BTreeSet<String> {
        let mut below = BTreeSet::new();
        let mut queue = vec![package.to_owned()];
        while let Some(name) = queue.pop() {
            for dependency in self.packages.get(&name).into_iter().flat_map(|package| &package.dependencies) {
                if self.packages.contains_key(&dependency.name) && below.insert(dependency.name.clone()) {
                    queue.push(dependency.name.clone());
                }
            }
        }
        below
    }
}

impl Package {
    /// Returns the folder of its manifest.
    pub fn folder(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }
}

impl Dependency {
    /// Says whether it lives in this repository.
    pub fn is_ours(&self) -> bool {
        self.path.is_some()
    }
}

/// Returns the repository root: the folder above this crate's manifest.
pub fn root() -> Result<PathBuf> {
    // Cargo sets the variable when it runs us; a binary started by hand looks from where it stands.
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => std::env::current_dir().context("the current folder cannot be read")?,
    };
    start
        .ancestors()
        .find(|folder| folder.join("Cargo.toml").is_file() && folder.join("xtask").is_dir())
        .context("run this inside the repository, as `cargo xtask …`")?
        .canonicalize()
        .context("the repository folder cannot be resolved")
}

/// Returns every file below `folder` whose extension is `extension`, sorted; build outputs and hidden folders stay out.
pub fn files_below(folder: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![folder.to_path_buf()];
    while let Some(folder) = queue.pop() {
        if !folder.is_dir() {
            continue;
        }
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                queue.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

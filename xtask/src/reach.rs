//! Public items that nothing reachable from the binary or its tests' real paths uses.
//!
//! The compiler warns about unused private code; a `pub` item of a library stays silent for ever. Here every crate is
//! read with `syn` and mentions are followed from `fn main` of the programs and from the tests in `tests/`, benches
//! and fuzz targets. Unit tests beside the code do not count: code that only its own test uses is dead.

mod graph;
mod item;
mod mention;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::layers::Layer;
use crate::workspace::{Package, Workspace, files_below};
use graph::Graph;
use item::{Contents, Entry, Kind, Node};

/// `cargo xtask reach`
pub fn command(_arguments: &[String]) -> Result<()> {
    check()
}

/// Fails with every public item that is out of reach and every source file that no `mod` declares.
pub fn check() -> Result<()> {
    let workspace = Workspace::load()?;
    let mut graph = Graph::default();
    let mut undeclared = Vec::new();
    for package in workspace.packages.values() {
        graph.add_crate(&package.name, workspace.ours_below(&package.name));
        undeclared.extend(read_package(&workspace, package, &mut graph)?);
    }
    read_fuzz_targets(&workspace, &mut graph)?;

    for file in &undeclared {
        eprintln!("{file}: no `mod` declares this file, so it is not compiled");
    }
    let lost = graph.unreachable();
    for item in &lost {
        let owner = item.node.owners.first().map(|owner| format!("{owner}::")).unwrap_or_default();
        let (kind, name) = (item.node.kind.word(), item.node.names.first().map_or("", String::as_str));
        eprintln!("{}:{}: {kind} {owner}{name} ({})", item.file, item.node.line, item.krate);
    }
    let (items, public) = graph.size();
    if !lost.is_empty() || !undeclared.is_empty() {
        bail!(
            "{} public item(s) out of reach, {} undeclared file(s): use them on a real path, make them private, or \
             delete them",
            lost.len(),
            undeclared.len()
        );
    }
    eprintln!("reach: {items} items, {public} public, all in reach");
    Ok(())
}

/// Reads every target of `package` into `graph`; returns the files that no target comes to.
fn read_package(workspace: &Workspace, package: &Package, graph: &mut Graph) -> Result<Vec<String>> {
    let layer = Layer::of(&workspace.folder(package));
    let mut seen = BTreeSet::new();
    let test_features = &workspace.features_for_tests(package);
    for target in &package.targets {
        let kind = target.kind.first().map_or("lib", String::as_str);
        let counts = match (kind, layer) {
            // Integration tests and examples of one crate are like its unit tests: they prove no use.
            ("test" | "example", Some(Layer::Tests)) | ("bench" | "custom-build", _) => Counts::Everything,
            ("test" | "example", _) => Counts::Nothing,
            ("bin", Some(Layer::App | Layer::Xtask)) => Counts::Program,
            (_, Some(Layer::Tests)) => Counts::Everything,
            _ => Counts::Reached,
        };
        let (krate, seen) = (package.name.as_str(), &mut seen);
        let mut reader = Reader { workspace, krate, counts, test_features, seen, graph };
        reader.read(&target.src_path, false, true)?;
    }
    // A package may stand in the folder of another; its files are its own.
    let nested: Vec<&Path> = workspace
        .packages
        .values()
        .map(|other| other.folder())
        .filter(|other| *other != package.folder() && other.starts_with(package.folder()))
        .collect();
    let mut files = files_below(package.folder(), "rs")?;
    files.retain(|file| !nested.iter().any(|other| file.starts_with(other)));
    let missing = files.into_iter().filter(|file| !seen.contains(file)).map(|file| workspace.shown(&file));
    Ok(missing.collect())
}

/// The fuzz targets are a workspace of their own; everything in it is an entry.
fn read_fuzz_targets(workspace: &Workspace, graph: &mut Graph) -> Result<()> {
    let name = "fuzz";
    graph.add_crate(name, workspace.packages.keys().cloned().collect());
    let mut seen = BTreeSet::new();
    for file in files_below(&workspace.root.join(name), "rs")? {
        let counts = Counts::Everything;
        let (test_features, seen) = (&BTreeSet::new(), &mut seen);
        Reader { workspace, krate: name, counts, test_features, seen, graph }.read(&file, false, true)?;
    }
    Ok(())
}

/// What in a target is reachable to begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counts {
    /// Nothing, and what it uses stays unused: it only proves that its files are declared.
    Nothing,
    /// Nothing, but others may come to it.
    Reached,
    /// `fn main`.
    Program,
    /// Every entry: `fn main`, tests, macro calls that make them.
    Everything,
}

/// Walks from one file along its `mod` declarations.
struct Reader<'a> {
    workspace: &'a Workspace,
    krate: &'a str,
    counts: Counts,
    test_features: &'a BTreeSet<String>,
    seen: &'a mut BTreeSet<PathBuf>,
    graph: &'a mut Graph,
}

impl Reader<'_> {
    fn read(&mut self, file: &Path, test_only: bool, starts_target: bool) -> Result<()> {
        if !self.seen.insert(file.to_path_buf()) {
            return Ok(());
        }
        let shown = self.workspace.shown(file);
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        let contents = Contents::read(&text, test_only, self.test_features);
        let contents = contents.with_context(|| format!("cannot parse {shown}"))?;
        for node in contents.nodes {
            if let Some(root) = root_of(self.counts, &node) {
                self.graph.add(self.krate, &shown, node, root);
            }
        }
        for module in contents.modules {
            let found = module_file(file, starts_target, &module).into_iter().find(|path| path.is_file());
            match found {
                Some(path) => self.read(&path, test_only || module.test_only, false)?,
                None => bail!("{shown}: no file for `mod {}`", module.path.join("::")),
            }
        }
        Ok(())
    }
}

/// Says whether a node is a root, or `None` if it is no part of the graph.
fn root_of(counts: Counts, node: &Node) -> Option<bool> {
    match counts {
        Counts::Nothing => None,
        Counts::Reached => graph::is_product(node).then_some(false),
        Counts::Program => graph::is_product(node).then_some(node.entry == Entry::Program),
        Counts::Everything => Some(node.entry != Entry::No || node.kind == Kind::MacroCall),
    }
}

/// Returns where the file of a `mod` declaration may be.
fn module_file(declared_in: &Path, starts_target: bool, module: &item::Module) -> Vec<PathBuf> {
    let folder = declared_in.parent().unwrap_or(Path::new("."));
    let stem = declared_in.file_stem().unwrap_or_default();
    let own_folder = if starts_target || stem == "mod" { folder.to_path_buf() } else { folder.join(stem) };
    let Some((name, around)) = module.path.split_last() else { return Vec::new() };
    if let Some(file) = &module.file {
        let base = if around.is_empty() { folder.to_path_buf() } else { own_folder };
        return vec![around.iter().fold(base, |path, part| path.join(part)).join(file)];
    }
    let base = around.iter().fold(own_folder, |path, part| path.join(part));
    vec![base.join(format!("{name}.rs")), base.join(name).join("mod.rs")]
}

#[cfg(test)]
mod tests;

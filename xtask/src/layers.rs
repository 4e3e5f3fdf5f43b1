//! Who may depend on whom: the rules of `ARCHITECTURE.md`, read from `cargo metadata`.
//!
//! The folder of a crate decides its layer. The graph is a committed file, `docs/layers.txt`, so that a new edge shows
//! up in review as a diff and needs a sentence of defence.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

const FILE: &str = "docs/layers.txt";

/// Dependencies heavy enough to enter through one crate only, as name prefixes: a change to a decision must compile and
/// test in seconds.
const HEAVY: &[(&str, &str)] = &[
    ("candle", "wc-infer"),
    ("fjall", "wc-store"),
    ("kube", "wc-bridge"),
    ("libp2p", "wc-mesh"),
    ("wasmtime", "wc-sandbox"),
];

/// Where a package stands, by its folder.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Layer {
    /// `crates/base`: nouns and sentences.
    Base,
    /// `crates/core`: decides, without IO.
    Core,
    /// `crates/edge`: touches one part of the world.
    Edge,
    /// `crates/app`: introduces core to edge.
    App,
    /// `tests` and `benches`: may use everything of ours.
    Tests,
    /// `xtask`: uses nothing of ours.
    Xtask,
}

impl Layer {
    /// Returns the layer of a package folder as seen from the root.
    pub fn of(folder: &str) -> Option<Self> {
        let mut parts = folder.split('/');
        match (parts.next()?, parts.next()) {
            ("crates", Some("base")) => Some(Self::Base),
            ("crates", Some("core")) => Some(Self::Core),
            ("crates", Some("edge")) => Some(Self::Edge),
            ("crates", Some("app")) => Some(Self::App),
            ("tests" | "benches", _) => Some(Self::Tests),
            ("xtask", None) => Some(Self::Xtask),
            _ => None,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Base => "base   nouns, and what may be said between processes",
            Self::Core => "core   decides, without IO",
            Self::Edge => "edge   touches one part of the world each",
            Self::App => "app    introduces core to edge",
            Self::Tests => "tests",
            Self::Xtask => "xtask",
        }
    }
}

/// The packages of ours and what each declares to depend on.
#[derive(Default)]
struct Graph(BTreeMap<String, Node>);

struct Node {
    folder: String,
    ours: BTreeMap<String, BTreeSet<Kind>>,
    heavy: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Normal,
    Build,
    Dev,
}

/// `cargo xtask layers [--write]`
pub fn command(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => check(),
        [flag] if flag == "--write" => write(),
        _ => bail!("usage: cargo xtask layers [--write]"),
    }
}

/// Checks the rules and that the committed graph is the present one.
pub fn check() -> Result<()> {
    let workspace = Workspace::load()?;
    let graph = Graph::of(&workspace);
    let text = graph.text();
    print!("{text}");
    let mut complaints = graph.violations();
    let committed = std::fs::read_to_string(workspace.root.join(FILE)).unwrap_or_default();
    if committed != text {
        complaints.extend(difference(&committed, &text));
        complaints.push(format!(
            "{FILE} is not this graph: run `cargo xtask layers --write`, commit the file, and say in the commit why \
             each new edge is needed"
        ));
    }
    report(complaints)
}

/// Writes the graph to its file; the rules still have to hold.
pub fn write() -> Result<()> {
    let workspace = Workspace::load()?;
    let graph = Graph::of(&workspace);
    report(graph.violations())?;
    let path = workspace.root.join(FILE);
    std::fs::write(&path, graph.text()).with_context(|| format!("cannot write {FILE}"))?;
    eprintln!("wrote {FILE}");
    Ok(())
}

fn report(complaints: Vec<String>) -> Result<()> {
    for complaint in &complaints {
        eprintln!("layers: {complaint}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => bail!("{count} complaint(s) about the layers"),
    }
}

impl Graph {
    fn of(workspace: &Workspace) -> Self {
        let nodes = workspace.packages.values().map(|package| {
            let mut node =
                Node { folder: workspace.folder(package), ours: BTreeMap::new(), heavy: BTreeSet::new() };
            for dependency in &package.dependencies {
                // A crate may switch on its own features for its tests.
                if dependency.name == package.name {
                    continue;
                }
                if dependency.is_ours() {
                    let kind = match dependency.kind.as_deref() {
                        None => Kind::Normal,
                        Some("build") => Kind::Build,
                        Some(_) => Kind::Dev,
                    };
                    node.ours.entry(dependency.name.clone()).or_default().insert(kind);
                } else if heavy_owner(&dependency.name).is_some() {
                    node.heavy.insert(dependency.name.clone());
                }
            }
            (package.name.clone(), node)
        });
        Self(nodes.collect())
    }

    fn layer(&self, name: &str) -> Option<Layer> {
        Layer::of(&self.0.get(name)?.folder)
    }

    /// Returns one sentence for each broken rule: the edge, the rule, and what would be right.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, node) in &self.0 {
            let Some(layer) = Layer::of(&node.folder) else {
                found.push(format!(
                    "{name} lies in {}: packages live in crates/base, core, edge or app, or are tests, benches, xtask",
                    node.folder
                ));
                continue;
            };
            let folder_name = node.folder.rsplit('/').next().unwrap_or_default();
            if node.folder.starts_with("crates/") && folder_name != name {
                found
                    .push(format!("{name} lies in a folder named {folder_name}: the two names are the same"));
            }
            for (other, kinds) in &node.ours {
                if let Some(rule) = self.refusal(name, layer, other) {
                    found.push(format!("{name} -> {other}{}: {rule}", shown(kinds)));
                }
            }
            for heavy in &node.heavy {
                if let Some(owner) = heavy_owner(heavy)
                    && owner != name
                    && layer != Layer::Tests
                {
                    found.push(format!(
                        "{name} -> {heavy}: this heavy dependency enters through {owner} only; ask {owner} for what \
                         you need"
                    ));
                }
            }
        }
        found
    }

    /// Returns the rule that forbids the edge, or `None` where it is allowed.
    fn refusal(&self, from: &str, layer: Layer, to: &str) -> Option<&'static str> {
        let Some(target) = self.layer(to) else {
            return Some("that is a path outside the workspace");
        };
        // The measuring programs start the same real nodes as the tests do, with the tests' harness.
        let harness = layer == Layer::Tests && to == "wc-tests";
        if matches!(target, Layer::Tests | Layer::Xtask) && !harness {
            return Some("nothing depends on tests, benches or xtask");
        }
        if to == "worldcompute" && layer != Layer::Tests {
            return Some("worldcompute is the binary: nothing below it may know it");
        }
        if to == "wc-node" && from != "worldcompute" && layer != Layer::Tests {
            return Some("only worldcompute and tests depend on wc-node");
        }
        match (from, layer) {
            (_, Layer::Tests) | ("worldcompute", _) => None,
            (_, Layer::Xtask) => Some("xtask checks our crates and uses none of them"),
            ("wc-types", _) => Some("wc-types is the bottom: it depends on none of ours"),
            (_, Layer::Base) => (to != "wc-types").then_some("a base crate depends on wc-types only"),
            ("wc-cell", _) => (to != "wc-types" && target != Layer::Core)
                .then_some("wc-cell composes core crates over wc-types: no wc-proto, no edge"),
            (_, Layer::Core) => (to != "wc-types")
                .then_some("a core crate depends on wc-types only; wc-cell is where core crates meet"),
            (_, Layer::Edge) => (target != Layer::Base).then_some(
                "an edge crate depends on wc-types and wc-proto only; wc-node is where it meets others",
            ),
            (_, Layer::App) => {
                (target == Layer::App).then_some("wc-node introduces core to edge: core, edge and base")
            }
        }
    }

    /// Returns the graph as committed in `docs/layers.txt`.
    fn text(&self) -> String {
        let mut text = String::from(
            "Who depends on whom. Written by `cargo xtask layers --write`, checked by `cargo xtask layers`.\n",
        );
        let mut sections: BTreeMap<Option<Layer>, String> = BTreeMap::new();
        let width = self.0.keys().map(String::len).max().unwrap_or(0);
        for (name, node) in &self.0 {
            let section = sections.entry(Layer::of(&node.folder)).or_default();
            let edges: Vec<String> =
                node.ours.iter().map(|(other, kinds)| format!("{other}{}", shown(kinds))).collect();
            let line = format!("  {name:width$}  {}", edges.join(" "));
            let _ = writeln!(section, "{}", line.trim_end());
        }
        for (layer, section) in sections {
            let title = layer.map_or("outside the layers", Layer::title);
            let _ = write!(text, "\n{title}\n{section}");
        }
        let mut heavy = String::new();
        let width = self.0.values().flat_map(|node| &node.heavy).map(String::len).max().unwrap_or(0);
        for (name, node) in &self.0 {
            for dependency in &node.heavy {
                let _ = writeln!(heavy, "  {dependency:width$}  {name}");
            }
        }
        if !heavy.is_empty() {
            let _ = write!(text, "\nheavy dependencies, and where each enters\n{heavy}");
        }
        text
    }
}

fn heavy_owner(dependency: &str) -> Option<&'static str> {
    HEAVY
        .iter()
        .find(|(prefix, _)| {
            dependency.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
        .map(|(_, owner)| *owner)
}

fn shown(kinds: &BTreeSet<Kind>) -> &'static str {
    match kinds.first() {
        Some(Kind::Dev) => "(dev)",
        Some(Kind::Build) => "(build)",
        _ => "",
    }
}

/// Returns the lines that only one of the two texts has, marked `-` and `+`.
fn difference(committed: &str, present: &str) -> Vec<String> {
    let old: BTreeSet<&str> = committed.lines().collect();
    let new: BTreeSet<&str> = present.lines().collect();
    let removed = committed.lines().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let added = present.lines().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    removed.chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(packages: &[(&str, &str)], edges: &[(&str, &str, Kind)], heavy: &[(&str, &str)]) -> Graph {
        let mut graph = Graph::default();
        for (folder, name) in packages {
            let node =
                Node { folder: format!("{folder}/{name}"), ours: BTreeMap::new(), heavy: BTreeSet::new() };
            graph.0.insert((*name).to_owned(), node);
        }
        for (from, to, kind) in edges {
            let node = graph.0.get_mut(*from).expect("the edge starts at a listed package");
            node.ours.entry((*to).to_owned()).or_default().insert(*kind);
        }
        for (from, to) in heavy {
            let node = graph.0.get_mut(*from).expect("the edge starts at a listed package");
            node.heavy.insert((*to).to_owned());
        }
        graph
    }

    const PACKAGES: &[(&str, &str)] = &[
        ("crates/base", "wc-types"),
        ("crates/base", "wc-proto"),
        ("crates/core", "wc-quorum"),
        ("crates/core", "wc-cell"),
        ("crates/edge", "wc-mesh"),
        ("crates/edge", "wc-store"),
        ("crates/app", "wc-node"),
        ("crates/app", "worldcompute"),
        ("tests", "wc-tests"),
    ];

    #[test]
    fn the_graph_of_the_design_breaks_no_rule() {
        let edges = [
            ("wc-proto", "wc-types", Kind::Normal),
            ("wc-quorum", "wc-types", Kind::Normal),
            ("wc-cell", "wc-quorum", Kind::Normal),
            ("wc-mesh", "wc-proto", Kind::Normal),
            ("wc-node", "wc-cell", Kind::Normal),
            ("wc-node", "wc-mesh", Kind::Normal),
            ("worldcompute", "wc-node", Kind::Normal),
            ("worldcompute", "wc-store", Kind::Normal),
            ("wc-tests", "wc-node", Kind::Normal),
            ("wc-tests", "worldcompute", Kind::Dev),
        ];
        assert_eq!(
            graph(PACKAGES, &edges, &[("wc-mesh", "libp2p-stream")]).violations(),
            Vec::<String>::new()
        );
    }

    #[test]
    fn each_forbidden_edge_is_named_with_its_rule() {
        let forbidden = [
            ("wc-types", "wc-proto", "bottom"),
            ("wc-proto", "wc-cell", "base crate"),
            ("wc-quorum", "wc-proto", "core crate"),
            ("wc-quorum", "wc-cell", "core crate"),
            ("wc-cell", "wc-proto", "wc-cell composes"),
            ("wc-cell", "wc-mesh", "wc-cell composes"),
            ("wc-mesh", "wc-store", "edge crate"),
            ("wc-mesh", "wc-cell", "edge crate"),
            ("wc-mesh", "wc-node", "only worldcompute and tests"),
            ("wc-node", "worldcompute", "nothing below"),
            ("wc-node", "wc-tests", "nothing depends on tests"),
        ];
        for (from, to, rule) in forbidden {
            for kind in [Kind::Normal, Kind::Dev] {
                let found = graph(PACKAGES, &[(from, to, kind)], &[]).violations();
                assert_eq!(found.len(), 1, "{from} -> {to}: {found:?}");
                assert!(
                    found[0].starts_with(&format!("{from} -> {to}")) && found[0].contains(rule),
                    "{found:?}"
                );
            }
        }
    }

    #[test]
    fn a_heavy_dependency_enters_through_its_crate_only() {
        let found = graph(PACKAGES, &[], &[("wc-node", "wasmtime-wasi"), ("wc-store", "fjall")]).violations();
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("wc-node -> wasmtime-wasi") && found[0].contains("wc-sandbox"),
            "{found:?}"
        );
        assert_eq!(heavy_owner("kubelet"), None);
    }

    #[test]
    fn a_package_outside_the_layers_is_refused() {
        let found = graph(&[("crates/misc", "wc-odd")], &[], &[]).violations();
        assert!(found[0].contains("wc-odd lies in crates/misc/wc-odd"), "{found:?}");
        let found = graph(&[("crates/core", "wc-types")], &[], &[]);
        assert_eq!(Layer::of("crates/core/wc-types"), Some(Layer::Core));
        assert_eq!(found.violations(), Vec::<String>::new());
    }

    #[test]
    fn the_text_says_which_edges_are_only_for_tests() {
        let text = graph(PACKAGES, &[("wc-mesh", "wc-types", Kind::Dev)], &[("wc-mesh", "libp2p")]).text();
        assert!(text.contains("  wc-mesh       wc-types(dev)\n"), "{text}");
        assert!(text.contains("  libp2p  wc-mesh\n"), "{text}");
    }

    #[test]
    fn a_changed_line_shows_both_ways() {
        assert_eq!(difference("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
    }
}

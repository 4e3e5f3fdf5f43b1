//! Follows mentions from the entries and returns what they never come to.
//!
//! Every doubt is decided for the item: a mention means each item of that name in the crate and in the crates below it,
//! whatever their types. So what is reported is dead, while something dead may hide behind a name that is in use.

use std::collections::{BTreeMap, BTreeSet};

use super::item::{Entry, Kind, Node};

/// All items of the repository.
#[derive(Default)]
pub struct Graph {
    items: Vec<Item>,
    /// Which crates a crate can name, itself included.
    below: BTreeMap<String, BTreeSet<String>>,
}

/// One item with its place.
pub struct Item {
    /// The package.
    pub krate: String,
    /// The file as shown in messages.
    pub file: String,
    /// The item itself.
    pub node: Node,
    root: bool,
}

impl Graph {
    /// Adds a crate and the crates below it that its code can name.
    pub fn add_crate(&mut self, name: &str, below: BTreeSet<String>) {
        let below = below.into_iter().chain([name.to_owned()]).collect();
        self.below.insert(name.to_owned(), below);
    }

    /// Adds one item; a `root` is reachable to begin with.
    pub fn add(&mut self, krate: &str, file: &str, node: Node, root: bool) {
        self.items.push(Item { krate: krate.to_owned(), file: file.to_owned(), node, root });
    }

    /// Returns the public items that no root comes to, in order of appearance.
    pub fn unreachable(&self) -> Vec<&Item> {
        let reached = self.reached();
        let lost = |(_, item): &(usize, &Item)| {
            item.node.public && !matches!(item.node.kind, Kind::Alias | Kind::MacroCall | Kind::TraitImpl)
        };
        let all = self.items.iter().enumerate();
        all.filter(|(index, _)| !reached[*index]).filter(lost).map(|(_, item)| item).collect()
    }

    /// Returns how many items there are, and how many of them are public.
    pub fn size(&self) -> (usize, usize) {
        (self.items.len(), self.items.iter().filter(|item| item.node.public).count())
    }

    fn reached(&self) -> Vec<bool> {
        let mut search = Search::new(self);
        for (index, item) in self.items.iter().enumerate() {
            if item.root || item.node.kind == Kind::TraitImpl && search.stands_alone(item) {
                search.reach(index);
            }
        }
        while let Some(index) = search.queue.pop() {
            search.follow(index);
        }
        search.reached
    }
}

/// The state of one walk over the graph.
struct Search<'a> {
    graph: &'a Graph,
    /// Items by crate and name.
    named: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    /// Types and traits by crate and name, with what belongs to them.
    members: BTreeMap<(&'a str, &'a str), Vec<usize>>,
    mentioned: Vec<bool>,
    reached: Vec<bool>,
    queue: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut named: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        let mut members: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        for (index, item) in graph.items.iter().enumerate() {
            for name in &item.node.names {
                named.entry((&item.krate, name)).or_default().push(index);
            }
            for krate in graph.below.get(&item.krate).into_iter().flatten() {
                for owner in item.node.owners.iter().chain(&item.node.implements) {
                    members.entry((krate, owner)).or_default().push(index);
                }
            }
        }
        let count = graph.items.len();
        Self {
            graph,
            named,
            members,
            mentioned: vec![false; count],
            reached: vec![false; count],
            queue: Vec::new(),
        }
    }

    fn reach(&mut self, index: usize) {
        if !std::mem::replace(&mut self.reached[index], true) {
            self.queue.push(index);
        }
    }

    /// Marks what a reached item leads to.
    fn follow(&mut self, index: usize) {
        let graph = self.graph;
        let item = &graph.items[index];
        for krate in graph.below.get(&item.krate).into_iter().flatten() {
            for name in &item.node.mentions.free {
                self.mention(krate, name, |kind| !matches!(kind, Kind::Method | Kind::TraitMethod));
            }
            for name in &item.node.mentions.member {
                self.mention(krate, name, |_| true);
            }
        }
        // What belongs to it may have waited for it.
        for name in &item.node.names {
            let members =
                self.members.get(&(item.krate.as_str(), name.as_str())).cloned().unwrap_or_default();
            for member in members {
                self.try_reach(member);
            }
        }
        // A called trait method means that its trait is in use, even where only a `use` names it.
        if item.node.kind == Kind::TraitMethod {
            for owner in &item.node.owners {
                self.mention(&item.krate, owner, |kind| kind == Kind::Trait);
            }
        }
    }

    fn mention(&mut self, krate: &str, name: &str, fits: impl Fn(Kind) -> bool) {
        let items = self.named.get(&(krate, name)).cloned().unwrap_or_default();
        for index in items {
            if fits(self.graph.items[index].node.kind) {
                self.mentioned[index] = true;
                self.try_reach(index);
            }
        }
    }

    fn try_reach(&mut self, index: usize) {
        let item = &self.graph.items[index];
        let ready = match item.node.kind {
            Kind::Method => self.mentioned[index] && self.is_known_live(item, &item.node.owners),
            Kind::TraitImpl => self.impl_is_live(item),
            _ => self.mentioned[index],
        };
        if ready {
            self.reach(index);
        }
    }

    /// An impl is live when the type is; where the type is not ours, when the trait or a type in its brackets is.
    fn impl_is_live(&self, item: &Item) -> bool {
        if self.is_ours(item, &item.node.owners) {
            self.is_known_live(item, &item.node.owners)
        } else {
            self.is_known_live(item, &item.node.implements)
        }
    }

    /// Neither its type nor its trait is ours: the compiler found a use for it that we cannot see.
    fn stands_alone(&self, item: &Item) -> bool {
        !self.is_ours(item, &item.node.owners) && !self.is_ours(item, &item.node.implements)
    }

    fn is_ours(&self, item: &Item, names: &[String]) -> bool {
        names.iter().any(|name| !self.definitions(item, name).is_empty())
    }

    /// Says whether any of our items with one of these names is reached; names that are not ours count as live.
    fn is_known_live(&self, item: &Item, names: &[String]) -> bool {
        !self.is_ours(item, names)
            || names.iter().any(|name| self.definitions(item, name).iter().any(|index| self.reached[*index]))
    }

    /// Returns the types, traits and their other names that `name` may mean in the crate of `item`.
    fn definitions(&self, item: &Item, name: &str) -> Vec<usize> {
        let defines = |index: &usize| {
            let kind = self.graph.items[*index].node.kind;
            matches!(kind, Kind::Type | Kind::Trait | Kind::MacroCall | Kind::Alias)
        };
        let crates = self.graph.below.get(&item.krate).into_iter().flatten();
        let found = crates.filter_map(|krate| self.named.get(&(krate.as_str(), name)));
        found.flatten().copied().filter(defines).collect()
    }
}

/// Says whether an item of a product crate may be walked at all: code for unit tests proves no use.
pub fn is_product(node: &Node) -> bool {
    node.entry != Entry::Test
}

//! The items of one source file: what each is called, where it stands and what it mentions.

use std::collections::BTreeSet;

use proc_macro2::Span;
use quote::ToTokens;
use syn::punctuated::Punctuated;
use syn::{Attribute, ImplItem, Item, Meta, Token, TraitItem, UseTree, Visibility};

use super::mention::Mentions;

/// What an item is, as far as reachability needs to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A free function.
    Function,
    /// A struct, enum, union or type alias.
    Type,
    /// A trait; its methods are items of their own.
    Trait,
    /// A constant or static.
    Value,
    /// A `macro_rules!` macro.
    Macro,
    /// A function or constant of an inherent `impl`.
    Method,
    /// A method of one of our traits.
    TraitMethod,
    /// A whole `impl Trait for Type`.
    TraitImpl,
    /// Items made by a macro call: named by everything that the call mentions.
    MacroCall,
    /// `use a::b as c`: another name, nothing of its own.
    Alias,
}

impl Kind {
    /// Returns the word for messages.
    pub fn word(self) -> &'static str {
        match self {
            Self::Function => "fn",
            Self::Type => "type",
            Self::Trait => "trait",
            Self::Value => "const",
            Self::Macro => "macro",
            Self::Method | Self::TraitMethod => "method",
            Self::TraitImpl => "impl",
            Self::MacroCall => "macro call",
            Self::Alias => "use",
        }
    }
}

/// One item.
#[derive(Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// What a mention has to say to mean it; none for a trait impl.
    pub names: Vec<String>,
    /// Names of the types (and, for an impl, traits) that it belongs to; empty for a free item.
    pub owners: Vec<String>,
    /// The trait that a [`Kind::TraitImpl`] implements, and the types in its angle brackets.
    pub implements: Vec<String>,
    /// Whether other crates may name it.
    pub public: bool,
    /// Whether it is a starting point: `main`, or a test.
    pub entry: Entry,
    /// The line that it starts on.
    pub line: usize,
    /// What it mentions.
    pub mentions: Mentions,
}

/// In what way an item may start an execution.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It is called by others only.
    No,
    /// It is `fn main`, or exported by a fixed symbol name.
    Program,
    /// It is a `#[test]`, or stands in code that is compiled for unit tests only.
    Test,
}

/// What one file holds.
#[derive(Debug)]
pub struct Contents {
    /// The items in order.
    pub nodes: Vec<Node>,
    /// The files that it declares.
    pub modules: Vec<Module>,
    /// Features that only tests switch on.
    test_features: BTreeSet<String>,
}

/// A `mod name;` declaration.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// Names of the inline modules around it, outermost first, then its own.
    pub path: Vec<String>,
    /// The value of `#[path = "…"]`.
    pub file: Option<String>,
    /// Whether the declaration is compiled for unit tests only.
    pub test_only: bool,
}

impl Contents {
    /// Reads a file. Everything in it is test code if `test_only`, and so is what needs one of `test_features`.
    pub fn read(text: &str, test_only: bool, test_features: &BTreeSet<String>) -> syn::Result<Self> {
        let file = syn::parse_file(text)?;
        let test_features = test_features.clone();
        let mut contents = Self { nodes: Vec::new(), modules: Vec::new(), test_features };
        contents.read_items(&file.items, &mut Vec::new(), test_only);
        Ok(contents)
    }

    fn read_items(&mut self, items: &[Item], path: &mut Vec<String>, test_only: bool) {
        let first = self.nodes.len();
        let mut opened = Mentions::default();
        for item in items {
            let test_only = test_only || self.is_for_tests(attributes_of(item));
            match item {
                Item::Mod(module) => {
                    path.push(plain(&module.ident));
                    match &module.content {
                        Some((_, items)) => self.read_items(items, path, test_only),
                        None => self.modules.push(Module {
                            path: path.clone(),
                            file: path_attribute(&module.attrs),
                            test_only,
                        }),
                    }
                    path.pop();
                }
                Item::Use(item) => self.read_use(&item.tree, &mut opened, test_only),
                other => self.read_item(other, test_only),
            }
        }
        // `use Verdict::*` lets every item here name the variants of `Verdict` without naming `Verdict`.
        for node in &mut self.nodes[first..] {
            node.mentions.extend(opened.clone());
        }
    }

    fn read_item(&mut self, item: &Item, test_only: bool) {
        match item {
            Item::Fn(item) => {
                let is_test = item.attrs.iter().any(|attribute| {
                    attribute.path().segments.last().is_some_and(|last| last.ident == "test")
                });
                let exported = item.attrs.iter().any(|attribute| {
                    attribute.path().is_ident("no_mangle")
                        || attribute.path().is_ident("unsafe") && {
                            attribute.to_token_stream().to_string().contains("no_mangle")
                        }
                });
                let entry = match () {
                    () if is_test => Entry::Test,
                    () if item.sig.ident == "main" || exported => Entry::Program,
                    () => Entry::No,
                };
                self.push(
                    Kind::Function,
                    &item.sig.ident,
                    Some(&item.vis),
                    item.to_token_stream(),
                    test_only,
                );
                if entry != Entry::No
                    && !test_only
                    && let Some(node) = self.nodes.last_mut()
                {
                    node.entry = entry;
                }
            }
            Item::Struct(item) => {
                self.push(Kind::Type, &item.ident, Some(&item.vis), item.to_token_stream(), test_only);
            }
            Item::Enum(item) => {
                self.push(Kind::Type, &item.ident, Some(&item.vis), item.to_token_stream(), test_only);
            }
            Item::Union(item) => {
                self.push(Kind::Type, &item.ident, Some(&item.vis), item.to_token_stream(), test_only);
            }
            Item::Type(item) => {
                self.push(Kind::Type, &item.ident, Some(&item.vis), item.to_token_stream(), test_only);
            }
            Item::Const(item) => {
                self.push(Kind::Value, &item.ident, Some(&item.vis), item.to_token_stream(), test_only);
            }
            Item::Static(item) => {
                self.push(Kind::Value, &item.ident, Some(&item.vis), item.to_token_stream(), test_only);
            }
            Item::Trait(item) => self.read_trait(item, test_only),
            Item::Impl(item) => self.read_impl(item, test_only),
            Item::Macro(item) => match &item.ident {
                Some(ident) => {
                    self.push(Kind::Macro, ident, None, item.to_token_stream(), test_only);
                    if let Some(node) = self.nodes.last_mut() {
                        node.public =
                            item.attrs.iter().any(|attribute| attribute.path().is_ident("macro_export"));
                    }
                }
                None => {
                    let mentions = Mentions::of(item.to_token_stream());
                    let called = item.mac.path.segments.last().map(|segment| plain(&segment.ident));
                    let definable = |name: &&String| {
                        syn::parse_str::<syn::Ident>(name).is_ok() && Some(*name) != called.as_ref()
                    };
                    let names = mentions.free.iter().filter(definable).cloned().collect();
                    let span =
                        item.mac.path.segments.first().map_or_else(Span::call_site, |s| s.ident.span());
                    self.node(Kind::MacroCall, names, Vec::new(), mentions, span, test_only);
                }
            },
            _ => {}
        }
    }

    fn read_trait(&mut self, item: &syn::ItemTrait, test_only: bool) {
        let mut own = item.clone();
        own.items.retain(|inner| !matches!(inner, TraitItem::Fn(_)));
        self.push(Kind::Trait, &item.ident, Some(&item.vis), own.to_token_stream(), test_only);
        for inner in &item.items {
            let TraitItem::Fn(method) = inner else { continue };
            let (names, owners) = (vec![plain(&method.sig.ident)], vec![plain(&item.ident)]);
            let mentions = Mentions::of(method.to_token_stream());
            let span = method.sig.ident.span();
            self.node(Kind::TraitMethod, names, owners, mentions, span, test_only);
            if let Some(node) = self.nodes.last_mut() {
                node.public = is_public(&item.vis);
            }
        }
    }

    fn read_impl(&mut self, item: &syn::ItemImpl, test_only: bool) {
        let owners: Vec<String> = Mentions::of(item.self_ty.to_token_stream()).free.into_iter().collect();
        if let Some((path, _)) = &item.trait_ {
            let implements = Mentions::of(path.to_token_stream()).free.into_iter().collect();
            let mentions = Mentions::of(item.to_token_stream());
            let span = item.impl_token.span;
            self.node(Kind::TraitImpl, Vec::new(), owners, mentions, span, test_only);
            if let Some(node) = self.nodes.last_mut() {
                node.implements = implements;
            }
            return;
        }
        let head = Mentions::of(item.generics.to_token_stream());
        for inner in &item.items {
            let (ident, visibility, attributes, tokens) = match inner {
                ImplItem::Fn(inner) => (&inner.sig.ident, &inner.vis, &inner.attrs, inner.to_token_stream()),
                ImplItem::Const(inner) => (&inner.ident, &inner.vis, &inner.attrs, inner.to_token_stream()),
                _ => continue,
            };
            let test_only = test_only || self.is_for_tests(attributes);
            let mut mentions = Mentions::of(tokens);
            mentions.extend(head.clone());
            self.node(Kind::Method, vec![plain(ident)], owners.clone(), mentions, ident.span(), test_only);
            if let Some(node) = self.nodes.last_mut() {
                node.public = is_public(visibility);
            }
        }
    }

    /// Says whether a `cfg` keeps it out of every product build.
    fn is_for_tests(&self, attributes: &[Attribute]) -> bool {
        attributes.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && attribute.parse_args::<Meta>().is_ok_and(|predicate| self.needs_tests(&predicate))
        })
    }

    fn needs_tests(&self, predicate: &Meta) -> bool {
        let parts = |list: &syn::MetaList| {
            list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated).unwrap_or_default()
        };
        match predicate {
            Meta::Path(path) => path.is_ident("test"),
            Meta::NameValue(pair) if pair.path.is_ident("feature") => {
                string_of(&pair.value).is_some_and(|feature| self.test_features.contains(&feature))
            }
            Meta::List(list) if list.path.is_ident("all") => {
                parts(list).iter().any(|part| self.needs_tests(part))
            }
            Meta::List(list) if list.path.is_ident("any") => {
                parts(list).iter().all(|part| self.needs_tests(part))
            }
            Meta::NameValue(_) | Meta::List(_) => false,
        }
    }

    /// A `use` is no use: only another name, or an enum opened with `*`, carries a mention further.
    fn read_use(&mut self, tree: &UseTree, opened: &mut Mentions, test_only: bool) {
        match tree {
            UseTree::Path(path) => {
                if matches!(*path.tree, UseTree::Glob(_)) && starts_upper(&path.ident) {
                    opened.free.insert(plain(&path.ident));
                }
                let variants: Vec<String> =
                    if starts_upper(&path.ident) { leaves(&path.tree) } else { Vec::new() };
                for variant in variants {
                    let mut mentions = Mentions::default();
                    mentions.free.insert(plain(&path.ident));
                    let span = path.ident.span();
                    self.node(Kind::Alias, vec![variant], Vec::new(), mentions, span, test_only);
                }
                self.read_use(&path.tree, opened, test_only);
            }
            UseTree::Rename(rename) => {
                let mut mentions = Mentions::default();
                mentions.free.insert(plain(&rename.ident));
                let names = vec![plain(&rename.rename)];
                self.node(Kind::Alias, names, Vec::new(), mentions, rename.rename.span(), test_only);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, opened, test_only);
                }
            }
            UseTree::Name(_) | UseTree::Glob(_) => {}
        }
    }

    fn push(
        &mut self,
        kind: Kind,
        ident: &syn::Ident,
        visibility: Option<&Visibility>,
        tokens: proc_macro2::TokenStream,
        test_only: bool,
    ) {
        self.node(kind, vec![plain(ident)], Vec::new(), Mentions::of(tokens), ident.span(), test_only);
        if let Some(node) = self.nodes.last_mut() {
            node.public = visibility.is_some_and(is_public);
        }
    }

    fn node(
        &mut self,
        kind: Kind,
        names: Vec<String>,
        owners: Vec<String>,
        mentions: Mentions,
        span: Span,
        test_only: bool,
    ) {
        self.nodes.push(Node {
            kind,
            names,
            owners,
            implements: Vec::new(),
            public: false,
            entry: if test_only { Entry::Test } else { Entry::No },
            line: span.start().line,
            mentions,
        });
    }
}

fn leaves(tree: &UseTree) -> Vec<String> {
    match tree {
        UseTree::Name(name) if name.ident == "self" => Vec::new(),
        UseTree::Name(name) => vec![plain(&name.ident)],
        UseTree::Rename(rename) => vec![plain(&rename.rename)],
        UseTree::Group(group) => group.items.iter().flat_map(leaves).collect(),
        UseTree::Path(_) | UseTree::Glob(_) => Vec::new(),
    }
}

fn starts_upper(ident: &syn::Ident) -> bool {
    plain(ident).starts_with(char::is_uppercase)
}

fn plain(ident: &syn::Ident) -> String {
    let name = ident.to_string();
    name.strip_prefix("r#").map(str::to_owned).unwrap_or(name)
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => string_of(&pair.value),
        _ => None,
    })
}

fn string_of(expression: &syn::Expr) -> Option<String> {
    match expression {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

fn attributes_of(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

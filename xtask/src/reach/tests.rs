//! The check on small crates held in memory.

use super::*;

/// Returns the names that are out of reach in crates given as `(name, crates below, source, what counts)`.
fn lost(crates: &[(&str, &[&str], &str, Counts)]) -> Vec<String> {
    let mut graph = Graph::default();
    for (name, below, source, counts) in crates {
        graph.add_crate(name, below.iter().map(|below| (*below).to_owned()).collect());
        for node in
            Contents::read(source, false, &["attack".to_owned()].into()).expect("the sample is Rust").nodes
        {
            if let Some(root) = root_of(*counts, &node) {
                graph.add(name, "sample.rs", node, root);
            }
        }
    }
    graph.unreachable().iter().map(|item| item.node.names.join(" ")).collect()
}

/// Returns what is out of reach in a library that one program uses.
#[track_caller]
fn check(library: &str, program: &str, expected: &[&str]) {
    let found = lost(&[
        ("wc-library", &[], library, Counts::Reached),
        ("program", &["wc-library"], program, Counts::Program),
    ]);
    assert_eq!(found, expected);
}

#[test]
fn a_function_is_in_reach_when_main_comes_to_it_through_others() {
    check(
        "pub fn first() { second() } fn second() { third() } pub fn third() {}",
        "fn main() { first() }",
        &[],
    );
    check(
        "pub fn first() {} pub fn lonely() { helper() } pub fn helper() {}",
        "fn main() { first() }",
        &["lonely", "helper"],
    );
}

#[test]
fn its_own_unit_test_keeps_nothing_alive() {
    let library = "pub fn tested() {} #[cfg(test)] mod tests { #[test] fn it_works() { super::tested() } }";
    check(library, "fn main() {}", &["tested"]);
}

#[test]
fn what_only_test_builds_contain_is_not_asked_for() {
    let library = r#"
        #[cfg(feature = "attack")] pub fn attack() { aid() } #[cfg(any(test, feature = "attack"))] pub fn fake() {}
        #[cfg(feature = "fast")] pub fn fast() {} #[cfg(any(test, unix))] pub fn real() {} pub fn aid() {}"#;
    check(library, "fn main() {}", &["fast", "real", "aid"]);
}

#[test]
fn the_tests_of_the_whole_keep_what_they_use_alive() {
    let found = lost(&[
        ("wc-library", &[], "pub fn used() {} pub fn unused() {}", Counts::Reached),
        (
            "wc-tests",
            &["wc-library"],
            "#[test] fn a_sentence() { used() } fn spare() { unused() }",
            Counts::Everything,
        ),
        ("wc-crate-tests", &["wc-library"], "#[test] fn other() { unused() }", Counts::Nothing),
    ]);
    assert_eq!(found, ["unused"]);
}

#[test]
fn a_method_needs_a_call_and_a_living_type() {
    let library = "
        pub struct Live; impl Live { pub fn open(&self) {} pub fn size(&self) {} }
        pub struct Dead; impl Dead { pub fn open(&self) -> Dead { Dead } }";
    check(
        library,
        "fn main() { let size = 1; Live.open(); show(Live { size }.size) }",
        &["size", "Dead", "open"],
    );
}

#[test]
fn a_recursive_family_does_not_keep_itself_alive() {
    check(
        "pub struct Ring; impl Ring { pub fn turn(&self) { Ring.turn() } }",
        "fn main() {}",
        &["Ring", "turn"],
    );
}

#[test]
fn impls_of_foreign_traits_live_with_their_type() {
    let library = "
        pub struct Shown; pub fn words() {} pub fn silence() {}
        impl std::fmt::Display for Shown { fn fmt(&self) { words() } }
        pub struct Hidden; impl Drop for Hidden { fn drop(&mut self) { silence() } }";
    check(library, "fn main() { print(Shown) }", &["silence", "Hidden"]);
}

#[test]
fn a_conversion_into_a_foreign_type_lives_with_what_it_converts() {
    let library = "pub struct Dead; impl From<Dead> for std::io::Error { fn from(it: Dead) -> Self { told() } } pub fn told() {}";
    check(library, "fn main() {}", &["Dead", "told"]);
    check(library, "fn main() { Dead }", &[]);
}

#[test]
fn a_trait_known_only_by_its_method_is_in_use() {
    let library = "
        pub trait Doubled { fn doubled(&self) -> u8; } impl Doubled for u8 { fn doubled(&self) -> u8 { twice() } }
        pub fn twice() {} pub trait Unused { fn never(&self) {} }";
    check(library, "use wc_library::Doubled as _; fn main() { 1.doubled() }", &["Unused", "never"]);
}

#[test]
fn another_name_leads_to_the_same_item() {
    check("pub struct Long; pub use Long as Short;", "fn main() { Short }", &[]);
    check("pub enum Verdict { Accepted }", "use wc_library::Verdict::Accepted; fn main() { Accepted }", &[]);
    check("pub enum Verdict { Accepted }", "use wc_library::Verdict::*; fn main() { Accepted }", &[]);
    check("pub struct Long; pub use Long as Short;", "fn main() {}", &["Long"]);
}

#[test]
fn a_re_export_or_a_comment_is_no_use() {
    check(
        "pub mod a { /** See [`Gone`]. */ pub fn kept() {} pub struct Gone; } pub use a::Gone;",
        "fn main() { kept() }",
        &["Gone"],
    );
}

#[test]
fn names_in_attributes_formats_and_macros_are_mentions() {
    let library = r#"
        #[derive(Serialize)] pub struct Record { #[serde(default = "eleven")] n: u8 }
        pub fn eleven() -> u8 { 11 } pub const LIMIT: u8 = 3;
        #[macro_export] macro_rules! build { () => { $crate::built() } } pub fn built() {}"#;
    check(library, r#"fn main() { Record; println!("{LIMIT}"); build!() }"#, &[]);
    check(library, "fn main() {}", &["Record", "eleven", "LIMIT", "build", "built"]);
}

#[test]
fn a_type_made_by_a_macro_keeps_its_methods_under_watch() {
    let library = "
        macro_rules! id { ($name:ident) => { pub struct $name; } } id!(JobId);
        impl JobId { pub fn short(&self) {} pub fn long(&self) {} }";
    check(library, "fn main() { JobId.short() }", &["long"]);
    check(library, "fn main() { other.short() }", &["short", "long"]);
}

#[test]
fn a_name_means_nothing_in_crates_that_cannot_be_named() {
    let found = lost(&[
        ("wc-left", &[], "pub fn open() {}", Counts::Reached),
        ("wc-right", &[], "pub fn open() {}", Counts::Reached),
        ("program", &["wc-left"], "fn main() { open() }", Counts::Program),
    ]);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_declared_module_is_looked_for_where_the_compiler_looks() {
    let module = |path: &[&str], file: Option<&str>| item::Module {
        path: path.iter().map(|part| (*part).to_owned()).collect(),
        file: file.map(str::to_owned),
        test_only: false,
    };
    let first = |declared_in: &str, starts: bool, module: item::Module| {
        module_file(Path::new(declared_in), starts, &module).first().map(|path| path.display().to_string())
    };
    assert_eq!(first("src/lib.rs", true, module(&["flow"], None)).as_deref(), Some("src/flow.rs"));
    assert_eq!(first("src/flow.rs", false, module(&["run"], None)).as_deref(), Some("src/flow/run.rs"));
    assert_eq!(first("src/lib.rs", true, module(&["a", "b"], None)).as_deref(), Some("src/a/b.rs"));
    assert_eq!(first("src/flow.rs", false, module(&["x"], Some("y.rs"))).as_deref(), Some("src/y.rs"));
}

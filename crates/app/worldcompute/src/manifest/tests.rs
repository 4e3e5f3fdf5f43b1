//! Job files, right and wrong.

use std::fs;
use std::path::{Path, PathBuf};

use wc_types::manifest::{Placement, PreemptClass, WorkClass};
use wc_types::{Bytes, MicroNcu, Millis, Refusal};

use super::draft::{Draft, InputFrom, Source};
use super::{load, read};
use crate::document::Format;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples")
}

/// A directory with a module and three inputs.
fn base() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("m.wasm"), b"\0asm").expect("writes");
    fs::write(dir.path().join("empty.wasm"), b"").expect("writes");
    fs::create_dir(dir.path().join("in")).expect("makes");
    for name in ["b.txt", "a.txt", "c.csv", ".hidden"] {
        fs::write(dir.path().join("in").join(name), name).expect("writes");
    }
    dir
}

fn job(spec: &str) -> String {
    let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
    format!("apiVersion: worldcompute/v1\nkind: Job\nmetadata: {{name: test}}\nspec:\n{spec}")
}

fn parse(spec: &str) -> Result<Draft, Vec<Refusal>> {
    let base = base();
    read(&job(spec), Format::Yaml, base.path(), "job.yaml")
}

fn good(spec: &str) -> Draft {
    parse(spec).unwrap_or_else(|refusals| panic!("{spec}\n{}", crate::exit::render(&refusals)))
}

/// Asserts that a spec has exactly one fault: in this field, with this code, whose text and hint hold these words.
fn bad(spec: &str, field: &str, code: &str, words: &str) {
    let refusals = parse(spec).expect_err(spec);
    let text = crate::exit::render(&refusals);
    assert_eq!(refusals.len(), 1, "{spec}\n{text}");
    assert_eq!(refusals[0].field.as_deref(), Some(field), "{spec}\n{text}");
    assert_eq!(refusals[0].code, code, "{spec}\n{text}");
    assert!(text.contains(words), "{spec}\n{text}\nlacks: {words}");
    assert!(refusals[0].message.contains("job.yaml, line "), "{text}");
}

#[test]
fn the_examples_are_sound() {
    let hello = load(&examples().join("hello.yaml")).expect("reads");
    assert_eq!((hello.stages.len(), hello.stages[0].tasks, hello.stages[0].replicas), (1, 1, 3));
    let array = load(&examples().join("array.toml")).expect("reads");
    assert_eq!((array.stages[0].tasks, array.class), (64, WorkClass::Rendering));
    assert_eq!(array.stages[0].command, ["--set", "julia", "--size", "1024"]);
    let two = load(&examples().join("two-stage.json")).expect("reads");
    let names: Vec<&str> = two.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["count", "merge"], "producers first");
    assert_eq!(two.stages[1].inputs[0].from, InputFrom::Stage(0));
    assert_eq!(two.stages[0].resources.cpu_millicores, 500);
}

#[test]
fn defaults_are_those_of_the_contract() {
    let draft = good("module: m.wasm");
    let stage = &draft.stages[0];
    assert_eq!((draft.class, draft.placement), (WorkClass::General, Placement::Lan));
    assert_eq!((stage.replicas, stage.retries_max, stage.tasks), (3, 3, 1));
    assert_eq!(stage.resources.wall_clock, Millis(3_600_000));
    assert_eq!(stage.preempt, PreemptClass::Yieldable);
}

#[test]
fn every_key_of_a_stage_is_understood() {
    let draft = good(
        "job_class: public-good-ml\npriority_class: donor-redemption\nplacement: disjoint\n\
         confidentiality: public\ndeadline: 2027-01-31T18:00:00Z\nmax_total_ncu: 2.5\nallowed_endpoints: []\n\
         module: m.wasm\ncommand: [run, 5, true]\nenv: {LEVEL: 3, MODE: fast}\ncount: 7\nreplicas: 5\n\
         max_wall_time: 1h30m\nretries: 0\ncheckpointing: enabled\n\
         inputs:\n  - path: in/a.txt\n  - {cid: bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku, \
         bytes: 0, mount: /in/other}\noutputs: [plain, {path: /out/big, max: 2GiB}]\n\
         resources: {cpu: 1500m, memory: 1GiB, scratch: 10MiB, stdout: 1KiB, fuel: 1000}",
    );
    let stage = &draft.stages[0];
    assert_eq!((draft.class, draft.placement), (WorkClass::PublicGoodMl, Placement::Disjoint));
    assert_eq!(draft.max_total, Some(MicroNcu(2_500_000)));
    assert_eq!(draft.deadline.map(|at| at.0), Some(1_801_418_400_000_000));
    assert_eq!(stage.command, ["run", "5", "true"]);
    assert_eq!(stage.env.get("LEVEL").map(String::as_str), Some("3"));
    assert_eq!((stage.tasks, stage.replicas, stage.retries_max), (7, 5, 0));
    assert_eq!(stage.resources.wall_clock, Millis(5_400_000));
    assert_eq!(stage.preempt, PreemptClass::Checkpointable);
    assert_eq!((stage.inputs[0].name.as_str(), stage.inputs[1].name.as_str()), ("a.txt", "other"));
    assert_eq!((stage.outputs[0].name.as_str(), stage.outputs[1].bytes_max), ("plain", Bytes(2 << 30)));
    assert_eq!((stage.resources.cpu_millicores, stage.resources.memory), (1500, Bytes(1 << 30)));
}

#[test]
fn an_each_input_is_one_task_for_each_file_in_order() {
    for (each, expected) in [
        ("in/", &["a.txt", "b.txt", "c.csv"][..]),
        ("in/*.txt", &["a.txt", "b.txt"]),
        ("in/?.c*", &["c.csv"]),
        ("[in/c.csv, in/a.txt]", &["c.csv", "a.txt"]),
    ] {
        let draft = good(&format!("module: m.wasm\ninputs: [{{each: {each}}}]"));
        let InputFrom::Each(files) = &draft.stages[0].inputs[0].from else { panic!("not each") };
        let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected);
        assert_eq!(draft.stages[0].tasks as usize, expected.len());
        assert_eq!(draft.stages[0].inputs[0].name, "input");
    }
}

#[test]
fn stages_come_in_any_order_and_needs_is_an_input() {
    let draft = good(
        "stages:\n- {name: last, module: m.wasm, needs: [first], inputs: [{stage: middle, name: m}]}\n\
         - {name: middle, module: m.wasm, inputs: [{stage: first}]}\n- {name: first, module: m.wasm, tasks: 4}",
    );
    let names: Vec<&str> = draft.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["first", "middle", "last"]);
    let inputs: Vec<_> = draft.stages[2].inputs.iter().map(|i| (i.name.as_str(), i.from.clone())).collect();
    assert_eq!(inputs, [("m", InputFrom::Stage(1)), ("first", InputFrom::Stage(0))]);
    assert_eq!(draft.stages[2].origin, "spec.stages[0]", "faults are told where the author wrote");
}

#[test]
fn a_module_may_be_named_by_content() {
    const CID: &str = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku";
    for text in [CID.to_owned(), format!("wasm+cid:{CID}"), format!("{{cid: {CID}}}")] {
        let draft = good(&format!("module: '{}'", text).replace("'{", "{").replace("}'", "}"));
        assert!(matches!(draft.stages[0].module, Source::Blob { bytes: None, .. }), "{text}");
    }
    let draft = good(&format!("image: wasm+cid:{CID}"));
    assert!(matches!(draft.stages[0].module, Source::Blob { .. }));
}

#[test]
fn what_is_missing_is_named() {
    bad("replicas: 3", "spec.module", "WC-FORM-003", "hint: name a WebAssembly module");
    bad("stages: [{module: m.wasm}]", "spec.stages[0].name", "WC-FORM-003", "`name` must be given");
    bad("stages: [{name: a}]", "spec.stages[0].module", "WC-FORM-003", "must be given");
    bad("module: m.wasm\ninputs: [{name: x}]", "spec.inputs[0]", "WC-FORM-003", "exactly one of path, cid");
    bad("module: m.wasm\noutputs: [{max: 1MiB}]", "spec.outputs[0].name", "WC-FORM-003", "must be given");
    bad("module: {bytes: 5}", "spec.module.cid", "WC-FORM-003", "must be given");
    let all = read("", Format::Yaml, Path::new("."), "job.yaml").expect_err("empty");
    assert_eq!(all[0].code, "WC-FORM-004");
    let all = read("{}", Format::Json, Path::new("."), "job.json").expect_err("nothing there");
    let fields: Vec<_> = all.iter().filter_map(|refusal| refusal.field.as_deref()).collect();
    assert_eq!(fields, ["apiVersion", "kind", "metadata", "spec"]);
}

#[test]
fn what_is_unknown_is_named_with_its_neighbour() {
    bad("module: m.wasm\nreplica: 3", "spec.replica", "WC-FORM-002", "hint: did you mean `replicas`?");
    bad(
        "module: m.wasm\nmaxWallTime: 3m",
        "spec.maxWallTime",
        "WC-FORM-002",
        "did you mean `max_wall_time`?",
    );
    bad("module: m.wasm\nxyzzy: 3", "spec.xyzzy", "WC-FORM-002", "hint: known here: ");
    bad("module: m.wasm\nresources: {memroy: 1MiB}", "spec.resources.memroy", "WC-FORM-002", "`memory`");
    bad("module: m.wasm\ninputs: [{paht: x}]\n".trim(), "spec.inputs[0].paht", "WC-FORM-002", "`path`");
    bad("module: m.wasm\noutputs: [{name: x, maxx: 1}]", "spec.outputs[0].maxx", "WC-FORM-002", "`max`");
    bad("stages: [{name: a, module: m.wasm, stage: b}]", "spec.stages[0].stage", "WC-FORM-002", "known here");
}

#[test]
fn what_has_the_wrong_type_is_named() {
    bad("module: m.wasm\nreplicas: three", "spec.replicas", "WC-FORM-004", "is the text `three`");
    bad("module: m.wasm\nreplicas: '3'", "spec.replicas", "WC-FORM-004", "must be a whole number");
    bad("module: m.wasm\nreplicas: 2.5", "spec.replicas", "WC-FORM-004", "`2.5`");
    bad("module: m.wasm\ncommand: run", "spec.command", "WC-FORM-004", "must be a list");
    bad("module: m.wasm\ncommand: [[a]]", "spec.command[0]", "WC-FORM-004", "must be text, but is a list");
    bad("module: m.wasm\nenv: [A]", "spec.env", "WC-FORM-004", "must be a map");
    bad("module: m.wasm\nenv: {A: [1]}", "spec.env.A", "WC-FORM-004", "must be text");
    bad("module: m.wasm\nresources: 5", "spec.resources", "WC-FORM-004", "must be a map");
    bad("module: [m.wasm]", "spec.module", "WC-FORM-004", "must be a file or a CID");
    bad("module: m.wasm\ninputs: [a.txt]", "spec.inputs[0]", "WC-FORM-004", "must be a map");
    bad("module: m.wasm\njob_class: 5", "spec.job_class", "WC-FORM-004", "must be text");
    bad("module: m.wasm\nmax_wall_time: [1]", "spec.max_wall_time", "WC-FORM-004", "text or a number");
    bad("stages: {a: 1}", "spec.stages", "WC-FORM-004", "must be a list");
}

#[test]
fn what_is_out_of_range_is_named() {
    bad("module: m.wasm\nreplicas: 0", "spec.replicas", "WC-FORM-005", "must be 1 to 20, but is 0");
    bad("module: m.wasm\nreplicas: 21", "spec.replicas", "WC-FORM-005", "must be 1 to 20, but is 21");
    bad("module: m.wasm\nreplicas: -1", "spec.replicas", "WC-FORM-005", "but is -1");
    bad("module: m.wasm\nretries: 11", "spec.retries", "WC-FORM-005", "0 to 10");
    bad("module: m.wasm\ntasks: 10000001", "spec.tasks", "WC-FORM-005", "1 to 10000000");
    bad("module: m.wasm\njob_class: mining", "spec.job_class", "WC-FORM-005", "must be one of scientific");
    bad("module: m.wasm\nplacement: lann", "spec.placement", "WC-FORM-005", "did you mean `lan`?");
    bad("module: m.wasm\nmax_wall_time: 8d", "spec.max_wall_time", "WC-FORM-005", "1 second to 7 days");
    bad("module: m.wasm\nmax_wall_time: 300", "spec.max_wall_time", "WC-FORM-005", "such as 90s");
    bad(
        "module: m.wasm\nresources: {memory: 1TiB}",
        "spec.resources.memory",
        "WC-FORM-005",
        "1 MiB to 4 GiB",
    );
    bad("module: m.wasm\nresources: {caliber: C7}", "spec.resources.caliber", "WC-FORM-005", "C4");
    bad("module: m.wasm\nresources: {memory: big}", "spec.resources.memory", "WC-FORM-005", "256MiB");
    bad("module: m.wasm\nresources: {cpu: 0}", "spec.resources.cpu", "WC-FORM-005", "thousandths of a core");
    bad("module: m.wasm\nresources: {gpu: 1}", "spec.resources.gpu", "WC-FORM-005", "this release");
    bad("module: m.wasm\ndeadline: tomorrow", "spec.deadline", "WC-FORM-005", "2027-01-31");
    bad("module: m.wasm\nenv: {WC_X: 1}", "spec.env", "WC-FORM-005", "reserved `WC_`");
    bad("module: m.wasm\noutputs: [../x]", "spec.outputs[0].name", "WC-FORM-005", "1 to 128 characters");
    bad(
        "module: m.wasm\noutputs: [{path: /tmp/x}]",
        "spec.outputs[0].path",
        "WC-FORM-005",
        "begin with /out/",
    );
    bad("module: m.wasm\nimage: x", "spec.image", "WC-FORM-005", "beside `module`");
    bad("image: oci+cid:bafy", "spec.image", "WC-FORM-005", "wasm32-wasip1");
    bad("module: https://example.org/m.wasm", "spec.module", "WC-FORM-005", "a CID");
    bad("module: m.wasm\ntasks: 2\ncount: 2", "spec.count", "WC-FORM-005", "same as `tasks`");
    bad(
        "module: m.wasm\npreempt: restartable\ncheckpointing: enabled",
        "spec.checkpointing",
        "WC-FORM-005",
        "contra",
    );
    bad(
        "module: m.wasm\ntasks: 9\ninputs: [{each: in/}]",
        "spec.inputs[0].each",
        "WC-FORM-005",
        "names 3 files for 9 tasks",
    );
    bad(
        "module: m.wasm\ninputs: [{path: in/a.txt}, {path: m.wasm, name: a.txt}]",
        "spec.inputs[1].name",
        "WC-FORM-005",
        "unique",
    );
    bad(
        "module: m.wasm\ninputs: [{path: in/a.txt, bytes: 5}]",
        "spec.inputs[0].bytes",
        "WC-FORM-005",
        "`cid`",
    );
    bad(
        "module: m.wasm\ninputs: [{path: in/a.txt, each: in/}]",
        "spec.inputs[0]",
        "WC-FORM-005",
        "exactly one",
    );
    bad("stages: []", "spec.stages", "WC-FORM-005", "1 to 64 stages");
    bad(
        "replicas: 3\nstages: [{name: a, module: m.wasm}]",
        "spec.replicas",
        "WC-FORM-005",
        "belongs to a stage",
    );
    bad(
        "stages: [{name: a, module: m.wasm}, {name: a, module: m.wasm}]",
        "spec.stages[1].name",
        "WC-FORM-005",
        "unique",
    );
}

#[test]
fn a_cid_that_is_none_is_named() {
    let v0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG";
    bad(&format!("module: {v0}"), "spec.module", "WC-FORM-005", "CIDv0");
    bad("module: wasm+cid:nonsense", "spec.module", "WC-FORM-005", "must be a CIDv1");
    bad("module: {cid: bafy, bytes: 5}", "spec.module.cid", "WC-FORM-005", "must be a CIDv1");
    bad("module: m.wasm\ninputs: [{name: x, cid: bafy}]", "spec.inputs[0].cid", "WC-FORM-005", "CIDv1");
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    bad("module: gone.wasm", "spec.module", "WC-FORM-007", "gone.wasm");
    bad("module: in", "spec.module", "WC-FORM-007", "must be a file");
    bad("module: empty.wasm", "spec.module", "WC-FORM-007", "must not be empty");
    bad(
        "module: m.wasm\ninputs: [{path: in/z.txt}]",
        "spec.inputs[0].path",
        "WC-FORM-007",
        "relative to the job file",
    );
    bad("module: m.wasm\ninputs: [{each: in/*.zip}]", "spec.inputs[0].each", "WC-FORM-007", "names no file");
    let missing = load(Path::new("/does/not/exist.yaml")).expect_err("missing");
    assert_eq!(missing[0].code, "WC-FORM-007");
}

#[test]
fn a_cycle_names_its_stages() {
    let cycle = "stages:\n- {name: a, module: m.wasm, needs: [c]}\n- {name: b, module: m.wasm, needs: [a]}\n\
                 - {name: c, module: m.wasm, inputs: [{stage: b}]}\n- {name: d, module: m.wasm}";
    bad(cycle, "spec.stages", "WC-FORM-006", "wait for each other: a -> c -> b -> a");
    bad("stages: [{name: a, module: m.wasm, needs: [a]}]", "spec.stages", "WC-FORM-006", "a -> a");
    bad(
        "stages: [{name: count, module: m.wasm}, {name: b, module: m.wasm, inputs: [{stage: cuont}]}]",
        "spec.stages[1].inputs[0]",
        "WC-FORM-005",
        "did you mean `count`?",
    );
}

#[test]
fn every_fault_is_reported_with_its_place() {
    let base = base();
    let text = "apiVersion: worldcompute/v2\nkind: Job\nmetadata:\n  name: 'a b'\nspec:\n  module: gone.wasm\n  \
                replicas: 99\n  resources:\n    memory: 1\n  surprise: 1\n";
    let refusals = read(text, Format::Yaml, base.path(), "job.yaml").expect_err("wrong");
    let found: Vec<(&str, bool)> = refusals
        .iter()
        .zip([1, 4, 6, 7, 9, 10])
        .map(|(refusal, line)| {
            let field = refusal.field.as_deref().unwrap_or_default();
            (field, refusal.message.contains(&format!("job.yaml, line {line}, column ")))
        })
        .collect();
    assert_eq!(
        found,
        [
            ("apiVersion", true),
            ("metadata.name", true),
            ("spec.module", true),
            ("spec.replicas", true),
            ("spec.resources.memory", true),
            ("spec.surprise", true),
        ],
        "{}",
        crate::exit::render(&refusals)
    );
}

#[test]
fn the_three_formats_give_the_same_draft_and_the_same_faults() {
    let base = base();
    let good = [
        (job("module: m.wasm\ncommand: [a]\nreplicas: 5"), Format::Yaml),
        (
            r#"{"apiVersion":"worldcompute/v1","kind":"Job","metadata":{"name":"test"},
                "spec":{"module":"m.wasm","command":["a"],"replicas":5}}"#
                .to_owned(),
            Format::Json,
        ),
        (
            "apiVersion='worldcompute/v1'\nkind='Job'\nmetadata.name='test'\n[spec]\nmodule='m.wasm'\n\
             command=['a']\nreplicas=5\n"
                .to_owned(),
            Format::Toml,
        ),
    ];
    let drafts = good.clone().map(|(text, format)| read(&text, format, base.path(), "job").expect("reads"));
    assert_eq!(drafts[0], drafts[1]);
    assert_eq!(drafts[0], drafts[2]);
    for (text, format) in good {
        let text = text.replace("replicas", "replicsa");
        let refusals = read(&text, format, base.path(), "job").expect_err("wrong");
        assert_eq!(refusals[0].field.as_deref(), Some("spec.replicsa"));
        assert_eq!(refusals[0].hint.as_deref(), Some("did you mean `replicas`?"));
        let broken = read(&text[..text.len() / 2], format, base.path(), "job").expect_err("half a document");
        assert!(!broken.is_empty());
    }
}

#[test]
fn no_text_makes_the_reader_panic() {
    let base = base();
    let text = job("module: m.wasm\nstages: [{name: a, needs: [b], inputs: [{each: in/}]}]\nreplicas: 3");
    for format in [Format::Yaml, Format::Json, Format::Toml] {
        for end in 0..text.len() {
            let _ = read(&text[..end], format, base.path(), "job");
            let mut bytes = text.clone().into_bytes();
            bytes[end] = b"[]{}:-\"'&*!\n\t\0"[end % 14];
            if let Ok(text) = String::from_utf8(bytes) {
                let _ = read(&text, format, base.path(), "job");
            }
        }
    }
}

/// Job files of strangers: changed in a few places, cut, or made only to be hard to read.
#[test]
fn mangled_job_files_are_refused_in_words_or_read() {
    let base = base();
    let mut texts: Vec<(String, Format)> = Vec::new();
    for entry in fs::read_dir(examples()).expect("examples").flatten() {
        let path = entry.path();
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_owned);
        if let (Some("yaml" | "yml" | "json" | "toml"), Ok(text)) =
            (extension.as_deref(), fs::read_to_string(&path))
        {
            let format = Format::of(extension.as_deref(), &text);
            texts.push((text, format));
        }
    }
    texts.push((job("module: m.wasm\ncount: 3\ninputs: {a: in/a.txt}"), Format::Yaml));
    let mut dice = 0x5eed_u64;
    let mut below = |bound: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        (dice % bound.max(1) as u64) as usize
    };
    let pieces = [
        "{", "}", "[", "]", ":", "- ", "\n", "\"", "&a ", "*a", "0x", "1e999", "~", "\u{0}", "=", "🦀", "  ",
    ];
    for round in 0..3_000 {
        let (text, format) = &texts[round % texts.len()];
        let mut letters: Vec<char> = text.chars().collect();
        for _ in 0..=below(4) {
            let at = below(letters.len());
            match below(3) {
                0 => letters.truncate(at),
                1 => drop(letters.splice(at..at, pieces[below(pieces.len())].chars())),
                _ if letters.is_empty() => {}
                _ => letters[at] = pieces[below(pieces.len())].chars().next().expect("not empty"),
            }
        }
        let text: String = letters.into_iter().collect();
        if let Err(refusals) = read(&text, *format, base.path(), "job") {
            assert!(
                !refusals.is_empty() && refusals.iter().all(|refusal| !refusal.message.is_empty()),
                "{text}"
            );
        }
    }
    let aliases = "a: &a [x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n\
                   c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n\
                   e: &e [*d, *d, *d, *d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e, *e, *e, *e, *e, *e]\n\
                   g: &g [*f, *f, *f, *f, *f, *f, *f, *f, *f]\nh: &h [*g, *g, *g, *g, *g, *g, *g, *g, *g]\n";
    for deep in ["[".repeat(100_000), "{\"a\":".repeat(50_000), "- ".repeat(50_000), aliases.to_owned()] {
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            assert!(read(&deep, format, base.path(), "job").is_err());
        }
    }
}

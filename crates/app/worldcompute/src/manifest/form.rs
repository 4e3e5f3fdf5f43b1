//! The schema: which keys a job file has and what they mean.
//!
//! ```yaml
//! apiVersion: worldcompute/v1
//! kind: Job
//! metadata: {name: census}
//! spec:                          # one stage: its keys stand here
//!   job_class: scientific        # or: spec.stages, a list of maps with the stage's keys and a name each
//!   placement: lan
//!   module: kmer.wasm            # a path, a CID, wasm+cid:<CID>, or {cid, bytes}
//!   command: [count]
//!   inputs: [{name: chunk, each: chunks/}]
//!   outputs: [{name: counts, max: 16MiB}]
//!   replicas: 3
//!   max_wall_time: 5m
//!   resources: {cpu: 1, memory: 64MiB, scratch: 1MiB}
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use wc_types::cid::Cid;
use wc_types::manifest::{
    CaliberWish, Confidentiality, Output, Placement, PreemptClass, PriorityClass, REPLICAS_MAX, RETRIES_MAX,
    Resources, STAGES_MAX, TASKS_MAX, WorkClass,
};
use wc_types::node::CaliberClass;
use wc_types::{Bytes, Fuel, Timestamp};

use super::draft::{Draft, InputDraft, InputFrom, Source, StageDraft};
use super::order::order;
use crate::amount;
use crate::document::{Node, Value};
use crate::fields::{self, Faults, Fields, MISSING, MISTYPED, OUT_OF_RANGE, nearest, scalar};

/// The one version of the authoring form.
pub const API_VERSION: &str = "worldcompute/v1";
/// The one kind of document.
pub const KIND: &str = "Job";
/// Room for one output whose size the author does not bound.
const OUTPUT_BYTES_DEFAULT: Bytes = Bytes(64 << 20);
/// Name of the stage of a job that has only one.
const STAGE_NAME_DEFAULT: &str = "main";
/// Name under `/in` of an `each` input that has none.
pub const EACH_NAME_DEFAULT: &str = "input";

/// Keys of `spec` that concern the whole job.
const JOB_KEYS: [&str; 8] = [
    "job_class",
    "priority_class",
    "placement",
    "confidentiality",
    "deadline",
    "max_total_ncu",
    "allowed_endpoints",
    "stages",
];
/// Keys of a stage; in a job of one stage they stand in `spec`.
const STAGE_KEYS: [&str; 15] = [
    "module",
    "image",
    "command",
    "env",
    "inputs",
    "outputs",
    "tasks",
    "count",
    "replicas",
    "max_wall_time",
    "resources",
    "retries",
    "preempt",
    "checkpointing",
    "needs",
];

const PRIORITY_CLASSES: [(&str, PriorityClass); 4] = [
    ("public-good", PriorityClass::PublicGood),
    ("donor-redemption", PriorityClass::DonorRedemption),
    ("paid-sponsored", PriorityClass::PaidSponsored),
    ("self-improvement", PriorityClass::SelfImprovement),
];
const PLACEMENTS: [(&str, Placement); 3] =
    [("lan", Placement::Lan), ("disjoint", Placement::Disjoint), ("machines", Placement::Machines)];
const CONFIDENTIALITIES: [(&str, Confidentiality); 3] = [
    ("public", Confidentiality::Public),
    ("confidential-medium", Confidentiality::ConfidentialMedium),
    ("confidential-high", Confidentiality::ConfidentialHigh),
];
const PREEMPTS: [(&str, PreemptClass); 3] = [
    ("yieldable", PreemptClass::Yieldable),
    ("checkpointable", PreemptClass::Checkpointable),
    ("restartable", PreemptClass::Restartable),
];
const CALIBERS: [(&str, CaliberClass); 5] = [
    ("C0", CaliberClass::C0),
    ("C1", CaliberClass::C1),
    ("C2", CaliberClass::C2),
    ("C3", CaliberClass::C3),
    ("C4", CaliberClass::C4),
];
const CHECKPOINTINGS: [(&str, PreemptClass); 2] =
    [("enabled", PreemptClass::Checkpointable), ("disabled", PreemptClass::Yieldable)];

/// Reads a job. What is wrong goes to `faults`; a draft that comes with faults is fit for further checks only.
pub fn draft(root: &Node, base: &Path, faults: &mut Faults) -> Option<Draft> {
    let top = Fields::open(root, "", &["apiVersion", "kind", "metadata", "spec"], faults)?;
    constant(&top, "apiVersion", API_VERSION, faults);
    constant(&top, "kind", KIND, faults);
    let name = top
        .demand("metadata", faults)
        .and_then(|node| Fields::open(node, "metadata", &["name"], faults))
        .and_then(|metadata| {
            metadata.demand("name", faults)?;
            metadata.text("name", faults)
        });
    let spec_node = top.demand("spec", faults)?;
    let known: Vec<&str> = JOB_KEYS.iter().chain(&STAGE_KEYS).copied().collect();
    let spec = Fields::open(spec_node, "spec", &known, faults)?;

    let classes: Vec<(&str, WorkClass)> = WorkClass::ALL.iter().map(|class| (class.name(), *class)).collect();
    let class = spec.choice("job_class", &classes, faults).unwrap_or(WorkClass::General);
    let priority_class =
        spec.choice("priority_class", &PRIORITY_CLASSES, faults).unwrap_or(PriorityClass::PublicGood);
    let placement = spec.choice("placement", &PLACEMENTS, faults).unwrap_or(Placement::Lan);
    let confidentiality =
        spec.choice("confidentiality", &CONFIDENTIALITIES, faults).unwrap_or(Confidentiality::Public);
    let deadline = spec.amount("deadline", moment, faults);
    let max_total = spec.amount("max_total_ncu", amount::ncu, faults);
    let allowed_endpoints = spec.words("allowed_endpoints", faults);
    let stages = match spec.find("stages") {
        None => vec![stage(&spec, STAGE_NAME_DEFAULT, base, faults)],
        Some(_) => stages(&spec, base, faults),
    };
    Some(Draft {
        // A missing name is a fault already; the rest can still be checked.
        name: name.unwrap_or("missing").to_owned(),
        class,
        priority_class,
        confidentiality,
        placement,
        deadline,
        max_total,
        allowed_endpoints,
        stages: in_order(stages, &spec, faults)?,
    })
}

fn constant(fields: &Fields<'_>, key: &str, expected: &str, faults: &mut Faults) {
    let Some(node) = fields.demand(key, faults) else {
        faults.hint(format!("{key}: {expected}"));
        return;
    };
    if node.value != Value::Text(expected.to_owned()) {
        let actual = scalar(node).unwrap_or_else(|| node.kind().to_owned());
        faults.add(OUT_OF_RANGE, key, format!("must be `{expected}`, but is `{actual}`"), node);
    }
}

fn moment(text: &str) -> Result<Timestamp, String> {
    text.trim()
        .parse::<jiff::Timestamp>()
        .map(|moment| Timestamp(moment.as_microsecond()))
        .map_err(|_| "must be a moment such as 2027-01-31T18:00:00Z".to_owned())
}

/// A stage that still names the stages that it reads.
struct StageForm<'a> {
    draft: StageDraft,
    /// Position of an input, the name of the stage that it reads, and where that is written.
    reads: Vec<(usize, String, String, &'a Node)>,
}

fn stages<'a>(spec: &Fields<'a>, base: &Path, faults: &mut Faults) -> Vec<StageForm<'a>> {
    for key in STAGE_KEYS {
        if let Some(node) = spec.find(key) {
            faults.add(OUT_OF_RANGE, spec.path_of(key), "belongs to a stage when `stages` is given", node);
            faults.hint("move it into the stages that it is meant for");
        }
    }
    let is_list = spec.find("stages").is_some_and(|node| matches!(node.value, Value::List(_)));
    let items = spec.list("stages", faults);
    if !is_list {
        return Vec::new();
    }
    if items.is_empty() || items.len() > STAGES_MAX {
        let node = spec.find("stages").unwrap_or(spec.node());
        faults.add(OUT_OF_RANGE, "spec.stages", format!("must have 1 to {STAGES_MAX} stages"), node);
        return Vec::new();
    }
    let known: Vec<&str> = ["name"].iter().chain(&STAGE_KEYS).copied().collect();
    let mut forms = Vec::new();
    for (path, item) in items {
        let Some(fields) = Fields::open(item, &path, &known, faults) else { continue };
        let name =
            fields.demand("name", faults).and_then(|_| fields.text("name", faults)).unwrap_or_default();
        forms.push(stage(&fields, name, base, faults));
    }
    forms
}

fn stage<'a>(fields: &Fields<'a>, name: &str, base: &Path, faults: &mut Faults) -> StageForm<'a> {
    let mut draft = StageDraft::new(name, Source::Bytes(Vec::new()));
    draft.origin = fields.path().to_owned();
    if let Some(module) = module(fields, base, faults) {
        draft.module = module;
    }
    draft.command = fields.words("command", faults);
    draft.env = env(fields, faults);
    draft.replicas = fields.whole("replicas", 1..=REPLICAS_MAX, faults).unwrap_or(draft.replicas);
    draft.retries_max = fields.whole("retries", 0..=RETRIES_MAX, faults).unwrap_or(draft.retries_max);
    draft.resources = resources(fields, faults);
    let preempt = fields.choice("preempt", &PREEMPTS, faults);
    let checkpointing = fields.choice("checkpointing", &CHECKPOINTINGS, faults);
    if let (Some(preempt), Some(checkpointing)) = (preempt, checkpointing)
        && preempt != checkpointing
    {
        let node = fields.find("checkpointing").unwrap_or(fields.node());
        faults.add(OUT_OF_RANGE, fields.path_of("checkpointing"), "contradicts `preempt`", node);
        faults.hint("give one of them");
    }
    draft.preempt = preempt.or(checkpointing).unwrap_or(draft.preempt);

    let mut reads = Vec::new();
    for (path, item) in fields.list("inputs", faults) {
        let Some((input, read)) = input(&path, item, base, faults) else { continue };
        if let Some((stage, node)) = read {
            reads.push((draft.inputs.len(), stage, path, node));
        }
        draft.inputs.push(input);
    }
    for (path, item) in fields.list("needs", faults) {
        let Some(stage) = scalar(item) else {
            faults.add(MISTYPED, path, format!("must be the name of a stage, but is {}", item.kind()), item);
            continue;
        };
        // What a stage needs and does not read under a name of its own, it finds under the other's name.
        if reads.iter().all(|(_, name, _, _)| *name != stage) {
            reads.push((draft.inputs.len(), stage.clone(), path, item));
            draft.inputs.push(InputDraft { name: stage, from: InputFrom::Stage(0) });
        }
    }
    for (path, item) in fields.list("outputs", faults) {
        draft.outputs.extend(output(&path, item, faults));
    }
    draft.tasks = tasks(fields, &draft, faults);
    StageForm { draft, reads }
}

fn module(fields: &Fields<'_>, base: &Path, faults: &mut Faults) -> Option<Source> {
    let (key, node) = match (fields.find("module"), fields.find("image")) {
        (Some(module), None) => ("module", module),
        (None, Some(image)) => ("image", image),
        (Some(_), Some(image)) => {
            faults.add(OUT_OF_RANGE, fields.path_of("image"), "cannot stand beside `module`", image);
            return None;
        }
        (None, None) => {
            faults.add(MISSING, fields.path_of("module"), "must be given", fields.node());
            faults.hint("name a WebAssembly module: a file, or wasm+cid:<CID>");
            return None;
        }
    };
    let path = fields.path_of(key);
    if key == "image" && !matches!(&node.value, Value::Text(text) if text.starts_with("wasm+cid:")) {
        faults.add(OUT_OF_RANGE, path, "cannot be run by this release: it runs WebAssembly modules", node);
        faults.hint("compile the program for wasm32-wasip1 and name it in `module`");
        return None;
    }
    match &node.value {
        Value::Text(text) => match text.strip_prefix("wasm+cid:") {
            Some(cid) => cid_source(&path, cid, node, faults),
            None if looks_like_cid(text) && !base.join(text).exists() => {
                cid_source(&path, text, node, faults)
            }
            None if text.contains("+cid:") || text.contains("://") => {
                faults.add(OUT_OF_RANGE, path, "must be a file, a CID or wasm+cid:<CID>", node);
                None
            }
            None => file_source(&path, text, node, base, faults),
        },
        Value::Map(_) => {
            let map = Fields::open(node, &path, &["cid", "bytes"], faults)?;
            map.demand("cid", faults)?;
            cid_map(&map, faults)
        }
        _ => {
            faults.add(MISTYPED, path, format!("must be a file or a CID, but is {}", node.kind()), node);
            None
        }
    }
}

/// CIDv1 in base32 of SHA-256 has 59 letters and begins with `b`; a CIDv0 begins with `Qm` and is refused by name.
fn looks_like_cid(text: &str) -> bool {
    (text.starts_with("ba") && text.len() >= 50 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        || (text.starts_with("Qm") && text.len() == 46)
}

fn cid_source(path: &str, text: &str, node: &Node, faults: &mut Faults) -> Option<Source> {
    cid(path, text, node, faults).map(|cid| Source::Blob { cid, bytes: None })
}

fn cid(path: &str, text: &str, node: &Node, faults: &mut Faults) -> Option<Cid> {
    let rule = match Cid::try_from(text) {
        Ok(cid) if cid.to_bytes().first() != Some(&1) => "must be a CIDv1, but is a CIDv0",
        Ok(cid) if wc_types::cid::cid_digest(&cid).is_none() => "must be a CIDv1 with SHA-256",
        Ok(cid) => return Some(cid),
        Err(_) => "must be a CIDv1, but does not read as one",
    };
    faults.add(OUT_OF_RANGE, path, format!("{rule}: `{text}`"), node);
    None
}

fn cid_map(map: &Fields<'_>, faults: &mut Faults) -> Option<Source> {
    let text = map.text("cid", faults)?;
    let node = map.find("cid").unwrap_or(map.node());
    let bytes = map.amount("bytes", amount::size, faults);
    let cid = cid(&map.path_of("cid"), text, node, faults)?;
    Some(Source::Blob { cid, bytes })
}

fn file_source(path: &str, text: &str, node: &Node, base: &Path, faults: &mut Faults) -> Option<Source> {
    let file = base.join(text);
    let rule = match fs::metadata(&file) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => return Some(Source::File(file)),
        Ok(metadata) if metadata.is_file() => format!("must not be empty: {}", file.display()),
        Ok(_) => format!("must be a file: {}", file.display()),
        Err(error) => format!("cannot be read: {}: {error}", file.display()),
    };
    faults.add(fields::FILE, path, rule, node);
    faults.hint("paths are relative to the job file");
    None
}

fn env(fields: &Fields<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(node) = fields.find("env") else { return env };
    let path = fields.path_of("env");
    let Value::Map(entries) = &node.value else {
        faults.add(MISTYPED, path, format!("must be a map of names to text, but is {}", node.kind()), node);
        return env;
    };
    for (key, value) in entries {
        match scalar(value) {
            Some(text) => {
                env.insert(key.text.clone(), text);
            }
            None => {
                let rule = format!("must be text, but is {}", value.kind());
                faults.add(MISTYPED, format!("{path}.{}", key.text), rule, value);
            }
        }
    }
    env
}

fn resources(fields: &Fields<'_>, faults: &mut Faults) -> Resources {
    let mut resources = Resources::default();
    if let Some(length) = fields.amount("max_wall_time", amount::duration, faults) {
        resources.wall_clock = length;
    }
    let Some(node) = fields.find("resources") else { return resources };
    let path = fields.path_of("resources");
    let known = ["cpu", "memory", "scratch", "stdout", "fuel", "gpu", "caliber", "lower_caliber"];
    let Some(map) = Fields::open(node, &path, &known, faults) else { return resources };
    if let Some(gpu) = map.find("gpu") {
        faults.add(OUT_OF_RANGE, map.path_of("gpu"), "cannot be had in this release", gpu);
        faults.hint("leave it out");
    }
    let cpu = map.amount("cpu", amount::millicores, faults);
    let memory = map.amount("memory", amount::size, faults);
    let scratch = map.amount("scratch", amount::size, faults);
    let stdout = map.amount("stdout", amount::size, faults);
    resources.cpu_millicores = cpu.unwrap_or(resources.cpu_millicores);
    resources.memory = memory.unwrap_or(resources.memory);
    resources.scratch = scratch.unwrap_or(resources.scratch);
    resources.stdout = stdout.unwrap_or(resources.stdout);
    resources.fuel = map.whole("fuel", 1..=u64::MAX, faults).map(Fuel);
    let lower_accepted = map.flag("lower_caliber", faults).unwrap_or(false);
    let class = map.choice("caliber", &CALIBERS, faults);
    resources.caliber = class.map(|class| CaliberWish { class, lower_accepted });
    resources
}

/// An input, and the stage that it reads, if it does.
type InputForm<'a> = (InputDraft, Option<(String, &'a Node)>);

fn input<'a>(path: &str, item: &'a Node, base: &Path, faults: &mut Faults) -> Option<InputForm<'a>> {
    const SOURCES: [&str; 4] = ["path", "cid", "each", "stage"];
    let known = ["name", "mount", "path", "cid", "bytes", "each", "stage"];
    let map = Fields::open(item, path, &known, faults)?;
    let given: Vec<&str> = SOURCES.into_iter().filter(|key| map.find(key).is_some()).collect();
    let [source] = given[..] else {
        // A key that was misspelled has been named already.
        if given.is_empty() && faults.concern(path) {
            return None;
        }
        let rule = format!("must have exactly one of {}", SOURCES.join(", "));
        faults.add(if given.is_empty() { MISSING } else { OUT_OF_RANGE }, path, rule, item);
        return None;
    };
    let node = map.find(source).unwrap_or(item);
    if let Some(bytes) = map.find("bytes")
        && source != "cid"
    {
        faults.add(OUT_OF_RANGE, map.path_of("bytes"), "only goes with `cid`", bytes);
    }
    let mut read = None;
    let (from, name_default) = match source {
        "path" => {
            let text = map.text("path", faults)?;
            let name = Path::new(text).file_name().and_then(|name| name.to_str()).map(str::to_owned);
            (InputFrom::All(file_source(&map.path_of("path"), text, node, base, faults)?), name)
        }
        "cid" => (InputFrom::All(cid_map(&map, faults)?), None),
        "each" => {
            let files = each(&map.path_of("each"), node, base, faults)?;
            (InputFrom::Each(files), Some(EACH_NAME_DEFAULT.to_owned()))
        }
        _ => {
            let stage = map.text("stage", faults)?.to_owned();
            read = Some((stage.clone(), node));
            (InputFrom::Stage(0), Some(stage))
        }
    };
    let name = name_under(&map, "/in/", faults).or(name_default);
    let Some(name) = name else {
        faults.add(MISSING, map.path_of("name"), "must be given: the file's name under /in", item);
        return None;
    };
    Some((InputDraft { name, from }, read))
}

/// Reads `name`, or `mount`/`path` as the same name behind `/in/` or `/out/`.
fn name_under(map: &Fields<'_>, root: &str, faults: &mut Faults) -> Option<String> {
    if let Some(name) = map.text("name", faults) {
        return Some(name.to_owned());
    }
    let key = if root == "/in/" { "mount" } else { "path" };
    let text = map.text(key, faults)?;
    let name = text.strip_prefix(root);
    if name.is_none() {
        let node = map.find(key).unwrap_or(map.node());
        faults.add(OUT_OF_RANGE, map.path_of(key), format!("must begin with {root}"), node);
    }
    name.map(str::to_owned)
}

/// Returns the files of an `each` input: those of a directory, those that match a pattern, or those of a list.
fn each(path: &str, node: &Node, base: &Path, faults: &mut Faults) -> Option<Vec<(String, Source)>> {
    let mut named = Vec::new();
    let texts: Vec<(String, String, &Node)> = match &node.value {
        Value::Text(text) => vec![(path.to_owned(), text.clone(), node)],
        Value::List(items) => items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((format!("{path}[{index}]"), scalar(item)?, item)))
            .collect(),
        _ => Vec::new(),
    };
    if texts.is_empty() {
        faults.add(
            MISTYPED,
            path,
            "must be a directory, a pattern such as data/*.txt, or a list of files",
            node,
        );
        return None;
    }
    for (field, text, at) in texts {
        match list_files(&base.join(&text)) {
            Ok(files) => named.extend(files),
            Err(reason) => {
                faults.add(fields::FILE, field, reason, at);
                faults.hint("paths are relative to the job file");
                return None;
            }
        }
    }
    if named.len() > TASKS_MAX as usize {
        faults.add(OUT_OF_RANGE, path, format!("names more than {TASKS_MAX} files"), node);
        return None;
    }
    Some(named.into_iter().map(|(name, file)| (name, Source::File(file))).collect())
}

/// Returns the files that a path stands for, sorted by name: itself, those in it, or those that match its last part.
///
/// # Errors
/// A sentence when there are none, or one has a name that is not text.
pub fn list_files(path: &Path) -> Result<Vec<(String, PathBuf)>, String> {
    let show = path.display();
    let pattern = path.file_name().and_then(|name| name.to_str()).filter(|name| name.contains(['*', '?']));
    let (dir, pattern) = match pattern {
        Some(pattern) => (path.parent().unwrap_or(Path::new(".")), Some(pattern)),
        None if path.is_dir() => (path, None),
        None => {
            let metadata = fs::metadata(path).map_err(|error| format!("cannot be read: {show}: {error}"))?;
            if !metadata.is_file() {
                return Err(format!("must be a file or a directory: {show}"));
            }
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| format!("has a name that is not text: {show}"))?;
            return Ok(vec![(name.to_owned(), path.to_owned())]);
        }
    };
    let mut files = Vec::new();
    let unreadable = |error: std::io::Error| format!("cannot be read: {}: {error}", dir.display());
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let Some(name) = file.file_name().and_then(|name| name.to_str()) else {
            return Err(format!("holds a file whose name is not text: {}", file.display()));
        };
        let is_meant = !name.starts_with('.') && pattern.is_none_or(|pattern| matches_pattern(pattern, name));
        if is_meant && file.is_file() {
            files.push((name.to_owned(), file));
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(format!("names no file: {show}"));
    }
    Ok(files)
}

/// Whether `name` matches a pattern of `*` (any text) and `?` (one character).
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where to go on when what followed the last star does not match.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((star_p, star_n)) => {
                    p = star_p + 1;
                    n = star_n + 1;
                    star = Some((star_p, n));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

fn output(path: &str, item: &Node, faults: &mut Faults) -> Option<Output> {
    if let Value::Text(name) = &item.value {
        return Some(Output { name: name.clone(), bytes_max: OUTPUT_BYTES_DEFAULT });
    }
    let map = Fields::open(item, path, &["name", "path", "max"], faults)?;
    let bytes_max = map.amount("max", amount::size, faults).unwrap_or(OUTPUT_BYTES_DEFAULT);
    let Some(name) = name_under(&map, "/out/", faults) else {
        if map.find("name").is_none() && map.find("path").is_none() {
            faults.add(MISSING, map.path_of("name"), "must be given: the file's name under /out", item);
        }
        return None;
    };
    Some(Output { name, bytes_max })
}

/// The number of tasks: what the author says, or the number of files that the stage goes over.
fn tasks(fields: &Fields<'_>, draft: &StageDraft, faults: &mut Faults) -> u32 {
    let tasks = fields.whole("tasks", 1..=TASKS_MAX, faults);
    let count = fields.whole("count", 1..=TASKS_MAX, faults);
    if let (Some(_), Some(_)) = (tasks, count) {
        let node = fields.find("count").unwrap_or(fields.node());
        faults.add(OUT_OF_RANGE, fields.path_of("count"), "means the same as `tasks`", node);
        faults.hint("give one of them");
    }
    let mut said = tasks.or(count);
    for (index, input) in draft.inputs.iter().enumerate() {
        let InputFrom::Each(files) = &input.from else { continue };
        let files = u32::try_from(files.len()).unwrap_or(u32::MAX);
        match said {
            Some(said) if said != files => {
                let path = format!("{}[{index}].each", fields.path_of("inputs"));
                let node = fields.find("inputs").unwrap_or(fields.node());
                faults.add(OUT_OF_RANGE, path, format!("names {files} files for {said} tasks"), node);
                faults.hint("leave `tasks` out, or make the numbers equal");
            }
            _ => said = Some(files),
        }
    }
    said.unwrap_or(1)
}

/// Turns names of stages into their numbers, producers first.
fn in_order(
    mut forms: Vec<StageForm<'_>>,
    spec: &Fields<'_>,
    faults: &mut Faults,
) -> Option<Vec<StageDraft>> {
    let names: Vec<String> = forms.iter().map(|form| form.draft.name.clone()).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut dependencies = Vec::with_capacity(forms.len());
    let mut sound = true;
    for form in &forms {
        let mut needed = Vec::new();
        for (_, name, path, node) in &form.reads {
            match known.iter().position(|known| known == name) {
                Some(stage) => needed.push(stage),
                None => {
                    sound = false;
                    faults.add(
                        OUT_OF_RANGE,
                        path,
                        format!("names the stage `{name}`, which does not exist"),
                        node,
                    );
                    match nearest(name, &known) {
                        Some(near) => faults.hint(format!("did you mean `{near}`?")),
                        None => faults.hint(format!("stages: {}", known.join(", "))),
                    }
                }
            }
        }
        dependencies.push(needed);
    }
    if !sound {
        return None;
    }
    let ordered = match order(&dependencies) {
        Ok(ordered) => ordered,
        Err(cycle) => {
            let mut names: Vec<&str> = cycle.0.iter().map(|stage| known[*stage]).collect();
            names.extend(names.first().copied());
            let node = spec.find("stages").unwrap_or(spec.node());
            let rule = format!("wait for each other: {}", names.join(" -> "));
            faults.add(fields::CYCLE, "spec.stages", rule, node);
            return None;
        }
    };
    let place = |stage: usize| ordered.iter().position(|other| *other == stage).unwrap_or(0);
    for (form, needed) in forms.iter_mut().zip(&dependencies) {
        for ((input, ..), stage) in form.reads.iter().zip(needed) {
            let stage = u16::try_from(place(*stage)).unwrap_or(u16::MAX);
            form.draft.inputs[*input].from = InputFrom::Stage(stage);
        }
    }
    let mut drafts: Vec<Option<StageDraft>> = forms.into_iter().map(|form| Some(form.draft)).collect();
    Some(ordered.into_iter().filter_map(|stage| drafts[stage].take()).collect())
}

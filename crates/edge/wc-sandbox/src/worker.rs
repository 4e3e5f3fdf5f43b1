//! The process a guest lives in: locks itself up, loads one guest, runs its tasks one after the other.
//!
//! The agent re-executes its own binary with [`WORKER_ARGUMENT`]; descriptor 0 is the socket to the agent, descriptor 1 the
//! worker's directory. Nothing here trusts the guest, and nothing in the agent trusts this process.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendFlags, recvmsg, sendmsg,
};
use rustix::process::Resource;
use serde_bytes::ByteBuf;
use wasmtime::component::{Component, Linker as ComponentLinker};
use wasmtime::{Engine, InstancePre, Linker, Module, ResourceLimiter, Store, Trap};
use wasmtime_wasi::p1::{self, WasiP1Ctx};
use wasmtime_wasi::p2::bindings::{Command, CommandPre};
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};

use crate::capture::{Capture, WhenFull};
use crate::defence::Defence;
use crate::limits::Metering;
use crate::lockdown::{self, Side};
use crate::profile::{self, Profile, SeededBytes, SteppingClock};
use crate::steady::{Inodes, steady_files};
use crate::wire::{
    Bind, Compile, Done, End, FromWorker, Hello, Inbox, MESSAGE_BYTES_MAX, Run, TO_WORKER_BYTES_MAX,
    ToWorker, cut_text, encode, micros,
};

/// First argument of a process that is to be a worker.
pub const WORKER_ARGUMENT: &str = "sandbox-worker";

/// Private memory a worker needs beside its guest's: engine, linker, captured streams, code.
pub(crate) const OWN_DATA_BYTES: u64 = 192 << 20;

/// Bytes of a page of linear memory.
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// Bytes asked of the socket at once.
const RECEIVE_BYTES: usize = 64 << 10;

/// Runs a sandbox worker until its agent closes the socket.
///
/// A binary that hosts sandboxes calls this first thing in `main`, before any thread exists, when its first argument is
/// [`WORKER_ARGUMENT`]. It never returns.
pub fn worker_main() -> ! {
    let code = match Worker::start() {
        Ok(None) => 0, // the first process made the second and is done
        Ok(Some(mut worker)) => match worker.serve() {
            Ok(()) => 0,
            Err(error) => {
                let reason = cut_text(error.to_string(), MESSAGE_BYTES_MAX);
                let _ = worker.socket.send(&FromWorker::Fatal { reason });
                1
            }
        },
        Err(error) => {
            eprintln!("sandbox worker: {error}");
            1
        }
    };
    std::process::exit(code)
}

/// The socket to the agent, blocking.
struct Socket {
    fd: OwnedFd,
    inbox: Inbox,
    descriptors: Vec<OwnedFd>,
}

impl Socket {
    /// Returns the next frame, or `None` when the agent is gone.
    fn receive(&mut self) -> io::Result<Option<ToWorker>> {
        loop {
            if let Some(frame) = self.inbox.next(TO_WORKER_BYTES_MAX).map_err(io::Error::other)? {
                return Ok(Some(frame));
            }
            let mut bytes = [0u8; RECEIVE_BYTES];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.fd,
                &mut [IoSliceMut::new(&mut bytes)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            let received = match received {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if received.bytes == 0 {
                return Ok(None);
            }
            self.inbox.push(&bytes[..received.bytes]);
        }
    }

    fn send(&mut self, frame: &FromWorker) -> io::Result<()> {
        let bytes = encode(frame).map_err(io::Error::other)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let mut ancillary = SendAncillaryBuffer::default();
            match sendmsg(&self.fd, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(sent) => rest = &rest[sent..],
            }
        }
        Ok(())
    }

    fn take_descriptor(&mut self) -> io::Result<File> {
        if self.descriptors.is_empty() {
            return Err(io::Error::other("a frame came without its file descriptor"));
        }
        Ok(self.descriptors.remove(0).into())
    }
}

/// A locked process with an engine and perhaps a guest.
struct Worker {
    socket: Socket,
    engine: Engine,
    core: Linker<State>,
    component: ComponentLinker<State>,
    runtime: tokio::runtime::Runtime,
    metering: Metering,
    guest: Option<Guest>,
}

/// The guest of this worker.
struct Guest {
    program: Program,
    uses_files: bool,
    memory_bytes_max: u64,
    /// Whether a memory is declared larger than the limit: then no instance can ever be made.
    born_too_large: bool,
}

enum Program {
    /// A WASI preview 1 command, or a module of the raw convention.
    Core { pre: InstancePre<State>, raw: bool },
    /// A WASI preview 2 command.
    Component(CommandPre<State>),
}

/// What the host keeps for one task.
pub(crate) struct State {
    pub wasi: WasiP1Ctx,
    pub inodes: Inodes,
    memory: MemoryMeter,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.wasi.ctx()
    }
}

/// Bounds linear memory and tables of one task, and remembers the most it had.
struct MemoryMeter {
    bytes: u64,
    bytes_max: u64,
    denied: bool,
}

impl MemoryMeter {
    fn grow(&mut self, from: u64, to: u64) -> bool {
        let bytes = self.bytes.saturating_add(to.saturating_sub(from));
        if bytes > self.bytes_max {
            self.denied = true;
            return false;
        }
        self.bytes = bytes;
        true
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, from: usize, to: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(from as u64, to as u64))
    }

    fn table_growing(&mut self, from: usize, to: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(from as u64 * 8, to as u64 * 8))
    }

    fn instances(&self) -> usize {
        64
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}

impl Worker {
    /// Locks this process up; `None` in the first of the two processes.
    fn start() -> io::Result<Option<Self>> {
        lockdown::close_inherited()?;
        let fd = io::stdin().as_fd().try_clone_to_owned()?;
        let dir = io::stdout().as_fd().try_clone_to_owned()?;
        let null = File::options().read(true).write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        drop(null);
        rustix::process::fchdir(&dir)?;
        drop(dir);

        let mut socket = Socket { fd, inbox: Inbox::default(), descriptors: Vec::new() };
        let setup = match socket.receive()? {
            Some(ToWorker::Setup(setup)) => setup,
            Some(_) => return Err(io::Error::other("the first frame is not Setup")),
            None => return Ok(None),
        };

        let mut defences = Vec::new();
        let new_pids = lockdown::enter_namespaces(&setup, &mut defences);
        if new_pids {
            match lockdown::fork_beside()? {
                Side::Before { pid } => {
                    socket.send(&FromWorker::Launched { pid })?;
                    return Ok(None);
                }
                Side::After => {}
            }
        } else {
            socket.send(&FromWorker::Launched { pid: rustix::process::getpid().as_raw_nonzero().get() })?;
        }
        lockdown::enter_root(&setup, &mut defences);
        lockdown::limit_resources(&setup, &mut defences);
        lockdown::drop_capabilities(&mut defences);
        lockdown::restrict_files(&mut defences);
        lockdown::tie_to_agent(&mut defences);
        defences.push(match std::env::vars_os().next() {
            None => Defence::active("empty environment", ""),
            Some(_) => Defence::unavailable("empty environment", "the agent passed variables on"),
        });

        let worker = Self::assemble(socket, setup.profile).map_err(io::Error::other)?;
        lockdown::filter_system_calls(&mut defences);
        let mut worker = worker;
        let engine_fingerprint = profile::fingerprint(&worker.engine, setup.profile);
        worker.socket.send(&FromWorker::Hello(Hello { engine_fingerprint, defences }))?;
        Ok(Some(worker))
    }

    fn assemble(socket: Socket, profile: Profile) -> wasmtime::Result<Self> {
        let engine = profile::engine(profile)?;
        let mut core = Linker::new(&engine);
        p1::add_to_linker_async(&mut core, |state: &mut State| &mut state.wasi)?;
        steady_files(&mut core)?;
        let mut component = ComponentLinker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut component)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(Self { socket, engine, core, component, runtime, metering: profile.metering, guest: None })
    }

    fn serve(&mut self) -> io::Result<()> {
        while let Some(frame) = self.socket.receive()? {
            match frame {
                ToWorker::Bind(bind) => {
                    let artifact = self.socket.take_descriptor()?;
                    let answer = match self.bind(&bind, artifact) {
                        Ok(guest) => {
                            let uses_files = guest.uses_files;
                            self.guest = Some(guest);
                            FromWorker::Bound { uses_files }
                        }
                        Err(error) => FromWorker::Refused { reason: message_of(&error) },
                    };
                    self.socket.send(&answer)?;
                }
                #[cfg(feature = "attack")]
                ToWorker::Run(run) if run.args.first().is_some_and(|arg| arg == crate::attack::MISBEHAVE) => {
                    self.misbehave(&run)?;
                }
                ToWorker::Run(run) => {
                    let done = self.run(run)?;
                    let wait = done.files;
                    self.socket.send(&FromWorker::Done(done))?;
                    if wait {
                        match self.socket.receive()? {
                            // Tasks that were sent ahead stay queued in the agent, which sends Next first.
                            Some(ToWorker::Next) => {}
                            Some(_) => return Err(io::Error::other("expected Next")),
                            None => return Ok(()),
                        }
                    }
                }
                ToWorker::Next => {}
                ToWorker::Compile(compile) => {
                    let (source, artifact) = (self.socket.take_descriptor()?, self.socket.take_descriptor()?);
                    let answer = match self.compile(&compile, source, artifact) {
                        Ok(component) => FromWorker::Compiled { component },
                        Err(error) => FromWorker::Refused { reason: message_of(&error) },
                    };
                    self.socket.send(&answer)?;
                }
                ToWorker::Setup(_) => return Err(io::Error::other("a second Setup")),
                #[cfg(feature = "attack")]
                ToWorker::Attack(attack) => {
                    let attempts = crate::attack::perform(&attack);
                    self.socket.send(&FromWorker::Attacked(attempts))?;
                }
            }
        }
        Ok(())
    }

    /// Does what a worker would do once a guest has taken it over; the second argument says which.
    #[cfg(feature = "attack")]
    fn misbehave(&mut self, run: &Run) -> io::Result<()> {
        let done = |seq, stdout: Vec<u8>, files| {
            FromWorker::Done(Done {
                seq,
                end: End::Exited { code: 0 },
                fuel: 0,
                cpu_micros: 0,
                wall_micros: 0,
                memory_bytes_peak: 0,
                stdout: ByteBuf::from(stdout),
                stderr: ByteBuf::new(),
                stderr_bytes_cut: 0,
                files,
            })
        };
        let raw = |bytes: &[u8], fd: &OwnedFd| {
            sendmsg(fd, &[IoSlice::new(bytes)], &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)
                .map(drop)
        };
        match run.args.get(1).map(String::as_str) {
            Some("oversized") => raw(&u32::MAX.to_le_bytes(), &self.socket.fd)?,
            Some("garbage") => raw(&[8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], &self.socket.fd)?,
            Some("wrong turn") => self.socket.send(&done(run.seq + 1, vec![], false))?,
            Some("too much output") => {
                self.socket.send(&done(run.seq, vec![b'x'; run.stdout_bytes_max as usize + 1], false))?
            }
            Some("link") => {
                rustix::fs::symlinkat("/etc/passwd", rustix::fs::CWD, "out/passwd")?;
                self.socket.send(&done(run.seq, vec![], true))?;
            }
            Some("die") => std::process::abort(),
            _ => return Err(io::Error::other("no such misbehaviour")),
        }
        Ok(())
    }

    fn compile(&mut self, compile: &Compile, mut source: File, mut artifact: File) -> wasmtime::Result<bool> {
        lockdown::lower_limit(Resource::Data, compile.memory_bytes_max.saturating_add(OWN_DATA_BYTES))?;
        lockdown::lower_limit(Resource::Fsize, compile.artifact_bytes_max)?;
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes)?;
        let component = is_component(&bytes);
        let code = match component {
            true => self.engine.precompile_component(&bytes)?,
            false => self.engine.precompile_module(&bytes)?,
        };
        artifact.write_all(&code)?;
        Ok(component)
    }

    fn bind(&mut self, bind: &Bind, mut artifact: File) -> wasmtime::Result<Guest> {
        lockdown::lower_limit(Resource::Data, bind.memory_bytes_max.saturating_add(OWN_DATA_BYTES))?;
        lockdown::lower_limit(Resource::Fsize, bind.file_bytes_max)?;
        let engine = &self.engine;
        let (program, uses_files, resources) = if bind.component {
            let mut code = Vec::new();
            artifact.read_to_end(&mut code)?;
            // JUSTIFICATION: loading precompiled code is what makes a cached module start in microseconds.
            // SAFETY: the artifact was written by a worker of ours that compiled exactly this module; had that compiler been
            // taken over by the module, the code still only runs here, in this locked process that serves this module alone.
            let component = unsafe { Component::deserialize(engine, &code)? };
            let uses_files = component
                .component_type()
                .imports(engine)
                .any(|(name, _)| name.starts_with("wasi:filesystem/"));
            let resources = component.resources_required();
            let program = CommandPre::new(self.component.instantiate_pre(&component)?)?;
            (Program::Component(program), uses_files, resources)
        } else {
            // JUSTIFICATION: loading precompiled code is what makes a cached module start in microseconds.
            // SAFETY: as for components above.
            let module = unsafe { Module::deserialize_open_file(engine, artifact)? };
            let uses_files = module.imports().any(|import| {
                import.module() == "wasi_snapshot_preview1" && import.name().starts_with("path_")
            });
            let raw = module.imports().len() == 0 && module.get_export("output_len").is_some();
            if module.get_export("_start").is_none() {
                wasmtime::bail!("the module exports no `_start`");
            }
            let resources = module.resources_required();
            (Program::Core { pre: self.core.instantiate_pre(&module)?, raw }, uses_files, Some(resources))
        };
        let largest_pages = resources.and_then(|resources| resources.max_initial_memory_size).unwrap_or(0);
        let born_too_large = largest_pages.saturating_mul(WASM_PAGE_BYTES) > bind.memory_bytes_max;
        Ok(Guest { program, uses_files, memory_bytes_max: bind.memory_bytes_max, born_too_large })
    }

    fn run(&mut self, run: Run) -> io::Result<Done> {
        let guest = self.guest.as_ref().ok_or_else(|| io::Error::other("Run before Bind"))?;
        let cpu_before = thread_cpu_nanos();
        let started = Instant::now();
        let stdout = Capture::new(run.stdout_bytes_max, WhenFull::Stop);
        let stderr = Capture::new(run.stderr_bytes_max, WhenFull::KeepTail);

        let memory = MemoryMeter { bytes: 0, bytes_max: guest.memory_bytes_max, denied: false };
        let wasi = wasi_of(&run, guest.uses_files, &stdout, &stderr).map_err(io::Error::other)?;
        let mut store = Store::new(&self.engine, State { wasi, inodes: Inodes::default(), memory });
        store.limiter(|state| &mut state.memory);
        let metered = self.metering == Metering::Fuel;
        if metered {
            store.set_fuel(run.fuel_max).map_err(io::Error::other)?;
        }
        // The kernel may refuse such a memory before the meter is asked, and how it says so is no guest's business.
        let born_too_large = guest.born_too_large;
        let result = match born_too_large {
            true => Err(wasmtime::format_err!("a memory is declared larger than the limit")),
            false => self.runtime.block_on(call(&guest.program, &mut store, &stdout)),
        };
        let fuel = if metered { run.fuel_max - store.get_fuel().unwrap_or(0) } else { 0 };
        let memory = &store.data().memory;
        let (memory_bytes_peak, denied) = (memory.bytes, memory.denied || born_too_large);
        let end = if stdout.is_full() {
            End::StdoutFull
        } else {
            match result {
                Ok(code) => End::Exited { code },
                Err(error) => end_of(&error, denied),
            }
        };
        drop(store);

        let files = guest.uses_files && {
            clear_dir("scratch")?;
            !is_empty_dir("out")? || !is_empty_dir("checkpoint")?
        };
        let (stdout, _) = stdout.take();
        let (stderr, stderr_bytes_cut) = stderr.take();
        Ok(Done {
            seq: run.seq,
            end,
            fuel,
            cpu_micros: thread_cpu_nanos().saturating_sub(cpu_before) / 1000,
            wall_micros: micros(started.elapsed()),
            memory_bytes_peak,
            stdout: ByteBuf::from(stdout),
            stderr: ByteBuf::from(stderr),
            stderr_bytes_cut,
            files,
        })
    }
}

/// Returns whether `bytes` begin like a component rather than a core module.
pub(crate) fn is_component(bytes: &[u8]) -> bool {
    bytes.get(..8).is_some_and(|head| head.starts_with(b"\0asm") && head[6] == 1)
}

fn wasi_of(run: &Run, uses_files: bool, stdout: &Capture, stderr: &Capture) -> wasmtime::Result<WasiP1Ctx> {
    let mut seeds = SeededBytes::new(&run.seed, "insecure seed");
    let mut builder = WasiCtxBuilder::new();
    builder
        .allow_blocking_current_thread(true)
        .args(&run.args)
        .envs(&run.env)
        .stdout(stdout.clone())
        .stderr(stderr.clone())
        .secure_random(SeededBytes::new(&run.seed, "random"))
        .insecure_random(SeededBytes::new(&run.seed, "insecure random"))
        .insecure_random_seed(seeds.next_u128())
        .wall_clock(SteppingClock::default())
        .monotonic_clock(SteppingClock::default())
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false);
    if !run.stdin.is_empty() {
        builder.stdin(wasmtime_wasi::p2::pipe::MemoryInputPipe::new(run.stdin.to_vec()));
    }
    if uses_files {
        builder
            .preopened_dir("in", "/in", FsPerms::ReadOnly)?
            .preopened_dir("out", "/out", FsPerms::ReadWrite)?
            .preopened_dir("scratch", "/scratch", FsPerms::ReadWrite)?
            .preopened_dir("checkpoint", "/checkpoint", FsPerms::ReadWrite)?;
    }
    Ok(builder.build_p1())
}

async fn call(program: &Program, store: &mut Store<State>, stdout: &Capture) -> wasmtime::Result<i32> {
    match program {
        Program::Core { pre, raw } => {
            let instance = pre.instantiate_async(&mut *store).await?;
            let start = instance.get_typed_func::<(), ()>(&mut *store, "_start")?;
            start.call_async(&mut *store, ()).await?;
            if *raw {
                let output_len = instance.get_typed_func::<(), i32>(&mut *store, "output_len")?;
                let length = output_len.call_async(&mut *store, ()).await?;
                let memory = instance.get_memory(&mut *store, "memory").ok_or_else(|| {
                    wasmtime::format_err!("the module exports `output_len` but no `memory`")
                })?;
                let output = memory.data(&*store).get(..length as u32 as usize).ok_or_else(|| {
                    wasmtime::format_err!("`output_len` is {length}, beyond the end of memory")
                })?;
                stdout.append(output);
            }
            Ok(0)
        }
        Program::Component(pre) => {
            let command: Command = pre.instantiate_async(&mut *store).await?;
            let result = command.wasi_cli_run().call_run(&mut *store).await?;
            Ok(if result.is_ok() { 0 } else { 1 })
        }
    }
}

fn end_of(error: &wasmtime::Error, memory_denied: bool) -> End {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return End::Exited { code: exit.0 };
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => End::FuelExhausted,
        _ if memory_denied => End::OutOfMemory,
        Some(trap) => End::Trapped { kind: trap.to_string(), message: message_of(error) },
        None => End::Trapped { kind: "host call failed".into(), message: message_of(error) },
    }
}

/// Returns the error with its causes, as long as a frame may carry.
fn message_of(error: &wasmtime::Error) -> String {
    cut_text(format!("{error:#}"), MESSAGE_BYTES_MAX)
}

fn thread_cpu_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

fn is_empty_dir(path: &str) -> io::Result<bool> {
    Ok(std::fs::read_dir(path)?.next().is_none())
}

fn clear_dir(path: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => std::fs::remove_dir_all(entry.path())?,
            false => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

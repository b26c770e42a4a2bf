//! Engines: one per class of guest, each with a pool of instance slots.
//!
//! A pool reserves address space for all its slots at once, so a slot's size decides how many fit.
//! There are three classes, and code is compiled for one of them:
//!
//! - *small*: most guests. Thousands of slots, whose memories can grow to 256 MiB.
//! - *large*: whatever does not fit there. Interpreters compiled to Wasm (JavaScript, Python) bring tables of ten thousands of
//!   elements and dozens of core instances; other guests have a Pod with a higher memory limit.
//! - *async*: guests of WASI 0.3 and everybody else who uses the component model's `async`. That needs `concurrency_support`,
//!   which halves the speed of everything else.
//!
//! What a slot has no room for is refused when the component is compiled: its limits are also limits on what a stranger's
//! component may ask for. Exhausting a pool is an error in wasmtime; a semaphore in front of each makes it a wait.

use std::fs;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Config, Enabled, Engine, OptLevel, PoolingAllocationConfig};

use crate::inspect::Inspection;
use crate::instance::{self, State};
use crate::slots::Slots;

/// Guests are looked at this often: the unit of CPU accounting.
pub(crate) const TICK: Duration = Duration::from_millis(1);

const MIB: u64 = 1 << 20;

/// Which class a guest runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ClassKind {
    Small,
    Large,
    Async,
}

impl ClassKind {
    pub(crate) const ALL: [ClassKind; 3] = [ClassKind::Small, ClassKind::Large, ClassKind::Async];

    /// As in the names of compiled code.
    pub(crate) fn name(self) -> &'static str {
        self.slot().name
    }

    /// The class of this name.
    pub(crate) fn named(name: &str) -> Option<ClassKind> {
        ClassKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Bytes that a guest's memory can grow to there.
    pub(crate) fn memory(self) -> u64 {
        self.slot().memory
    }

    /// Whether a component may fit, as far as its structure tells; compiling it is the proof.
    pub(crate) fn may_fit(self, found: &Inspection) -> bool {
        let slot = self.slot();
        found.memories <= slot.memories
            && found.tables <= slot.tables
            && found.core_instances <= slot.core_instances
            && found.memory_bytes <= slot.memory
            && found.table_elements <= slot.table_elements as u64
    }

    fn slot(self) -> &'static Slot {
        match self {
            ClassKind::Small => &SMALL,
            ClassKind::Large => &LARGE,
            ClassKind::Async => &ASYNC,
        }
    }
}

/// What a class offers each instance.
struct Slot {
    name: &'static str,
    /// WASI 0.3: the component model's `async`.
    concurrency: bool,
    /// Bytes that one linear memory can grow to.
    memory: u64,
    /// Inaccessible bytes behind each memory. 0: nothing is left to faults, all is checked by the compiled code, and a slot
    /// that grew stays grown: two `mprotect`s less for a request whose guest allocates, which is most of them.
    guard: u64,
    table_elements: usize,
    memories: u32,
    tables: u32,
    core_instances: u32,
    /// Bytes of the runtime's own records per instance.
    records: usize,
    /// Stacks per instance: a concurrent guest may have several calls under way.
    stacks: u32,
}

const SMALL: Slot = Slot {
    name: "small",
    concurrency: false,
    memory: 256 * MIB,
    guard: 0,
    table_elements: 16 << 10,
    memories: 2,
    tables: 4,
    core_instances: 16,
    records: 1 << 20,
    stacks: 1,
};

/// 4 GiB and a guard behind them: no bounds checks, and room for interpreters compiled to Wasm.
const LARGE: Slot = Slot {
    name: "large",
    concurrency: false,
    memory: 4096 * MIB,
    guard: 32 * MIB,
    table_elements: 128 << 10,
    memories: 4,
    tables: 16,
    core_instances: 100,
    records: 8 << 20,
    stacks: 1,
};

const ASYNC: Slot = Slot { name: "async", concurrency: true, stacks: 2, ..LARGE };

/// An engine, what guests in it may import, and its free slots.
pub(crate) struct Class {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<State>,
    pub(crate) slots: Arc<Slots>,
    slot: &'static Slot,
}

impl Class {
    /// A class with so many slots. `scan`: see [`can_scan_pages`].
    pub(crate) fn new(kind: ClassKind, count: u32, scan: bool) -> wasmtime::Result<Class> {
        let slot = kind.slot();
        let mut pool = PoolingAllocationConfig::new();
        pool.total_component_instances(count)
            .total_core_instances(count.saturating_mul(slot.core_instances))
            .total_memories(count * slot.memories)
            .total_tables(count * slot.tables)
            .total_stacks(count * slot.stacks)
            .total_gc_heaps(count.min(64))
            .max_core_instances_per_component(slot.core_instances)
            .max_memories_per_component(slot.memories)
            .max_tables_per_component(slot.tables)
            .max_component_instance_size(slot.records)
            .max_core_instance_size(slot.records)
            .max_tables_per_module(slot.tables)
            .max_memories_per_module(slot.memories)
            .table_elements(slot.table_elements)
            .max_memory_size(slot.memory as usize)
            // Resetting pages is what limits requests per second: memset what is small, and where
            // the kernel can tell which pages are dirty, reset only those.
            .linear_memory_keep_resident(256 << 10)
            .table_keep_resident(64 << 10)
            .async_stack_keep_resident(64 << 10)
            .pagemap_scan(if scan { Enabled::Yes } else { Enabled::No });
        let mut config = config(slot);
        config.allocation_strategy(wasmtime::InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        Ok(Class {
            linker: instance::linker(&engine, slot.concurrency)?,
            engine,
            slots: Slots::new(count as usize),
            slot,
        })
    }

    /// As in metrics.
    pub(crate) fn name(&self) -> &'static str {
        self.slot.name
    }

    /// Whether a component's memories and tables fit into a slot.
    pub(crate) fn fits(&self, needs: &wasmtime::ResourcesRequired) -> bool {
        let slot = self.slot;
        needs.num_memories <= slot.memories
            && needs.num_tables <= slot.tables
            && needs.max_initial_memory_size.unwrap_or(0) <= slot.memory
            && needs.max_initial_table_size.unwrap_or(0) <= slot.table_elements as u64
    }

    fn idle(&self) -> bool {
        self.slots.free() == self.slots.total()
    }
}

/// What compiled code depends on. The pool is no part of it.
fn config(slot: &Slot) -> Config {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .concurrency_support(slot.concurrency)
        .wasm_component_model_async(slot.concurrency)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_reservation(slot.memory)
        .memory_guard_size(slot.guard)
        .signals_based_traps(slot.guard > 0)
        .memory_may_move(false)
        .native_unwind_info(false);
    config
}

/// The class's name and a hash that changes with anything which makes compiled code incompatible: `small-0123456789abcdef`.
pub(crate) fn hash(kind: ClassKind) -> &'static str {
    static HASHES: [OnceLock<String>; 3] = [const { OnceLock::new() }; 3];
    HASHES[kind as usize].get_or_init(|| {
        let mut hasher = std::collections::hash_map::DefaultHasher::new();
        crate::adapt::REVISION.hash(&mut hasher);
        match Engine::new(&config(kind.slot())) {
            Ok(engine) => engine.precompile_compatibility_hash().hash(&mut hasher),
            // Then no class can be made either, which is where it is told.
            Err(error) => tracing::error!(%error, "no engine on this machine"),
        }
        format!("{}-{:016x}", kind.name(), hasher.finish())
    })
}

/// The classes, and the clock that all their guests are interrupted by.
pub(crate) struct Engines {
    small: Class,
    large: OnceLock<Class>,
    concurrent: OnceLock<Class>,
    making: Mutex<()>,
    clock: OnceLock<Thread>,
    used: AtomicBool,
    parked: AtomicBool,
    /// Slots of each class but the small one.
    others: u32,
    scan: bool,
}

impl Engines {
    /// Makes the small class with so many slots, or fewer if the system has no room for them, and
    /// starts the clock. The others get a tenth of that each.
    pub(crate) fn start(slots: u32) -> anyhow::Result<Arc<Engines>> {
        let scan = can_scan_pages();
        let count = slots.min(slots_by_mappings());
        let engines = Arc::new(Engines {
            small: Class::new(ClassKind::Small, count, scan)?,
            large: OnceLock::new(),
            concurrent: OnceLock::new(),
            making: Mutex::new(()),
            clock: OnceLock::new(),
            used: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            others: (count / 10).max(16),
            scan,
        });
        let ticking = engines.clone();
        let clock = std::thread::Builder::new()
            .name("epoch".into())
            .stack_size(64 << 10)
            .spawn(move || ticking.tick())?;
        let _ = engines.clock.set(clock.thread().clone());
        Ok(engines)
    }

    /// A class; all but the small one are made when first needed.
    pub(crate) fn class(&self, kind: ClassKind) -> wasmtime::Result<&Class> {
        let place = match kind {
            ClassKind::Small => return Ok(&self.small),
            ClassKind::Large => &self.large,
            ClassKind::Async => &self.concurrent,
        };
        if let Some(class) = place.get() {
            return Ok(class);
        }
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if place.get().is_none() {
            let _ = place.set(Class::new(kind, self.others, self.scan)?);
        }
        Ok(place.get().expect("set above"))
    }

    /// The classes that were made.
    pub(crate) fn made(&self) -> impl Iterator<Item = &Class> {
        [Some(&self.small), self.large.get(), self.concurrent.get()].into_iter().flatten()
    }

    /// For people: what runs the guests.
    pub(crate) fn describe(&self) -> String {
        let pages = if self.scan { ", dirty pages by scan" } else { "" };
        let memory = ClassKind::Small.memory() / MIB;
        format!("wasmtime {}, {} slots of {memory} MiB{pages}", version(), self.small.slots.total())
    }

    /// Must be called by whoever took a slot, before the guest runs: the clock may be asleep.
    pub(crate) fn wake_clock(&self) {
        if !self.used.load(SeqCst) {
            self.used.store(true, SeqCst);
        }
        if self.parked.load(SeqCst)
            && let Some(clock) = self.clock.get()
        {
            clock.unpark();
        }
    }

    /// Ticks while there are guests; an idle host uses no CPU.
    fn tick(&self) {
        let idle = || self.made().all(Class::idle);
        let mut ticks = 0_u32;
        loop {
            ticks = ticks.wrapping_add(1);
            if ticks.is_multiple_of(64) && !self.used.swap(false, SeqCst) && idle() {
                self.parked.store(true, SeqCst);
                while !self.used.load(SeqCst) && idle() {
                    std::thread::park();
                }
                self.parked.store(false, SeqCst);
            }
            std::thread::sleep(TICK);
            self.made().for_each(|class| class.engine.increment_epoch());
        }
    }
}

/// Version of wasmtime, as in the workspace's manifest; part of the names of compiled code.
pub(crate) fn version() -> &'static str {
    "48"
}

/// How many small slots the kernel's limit on memory mappings allows: about six for each running instance, and as much again
/// for the fifth of it that the other classes have, whose stacks also take two each from the start.
fn slots_by_mappings() -> u32 {
    let limit = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let limit = limit.and_then(|s| s.trim().parse::<u32>().ok()).unwrap_or(65_530);
    (limit.saturating_sub(5_000) * 10 / 78).max(64)
}

/// Asking the kernel for dirty pages is right only where pages cannot have been swapped out: it
/// does not report those.
fn can_scan_pages() -> bool {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default().lines().count() > 1;
    let may_swap = swaps && !note_swapping();
    !may_swap && PoolingAllocationConfig::is_pagemap_scan_available()
}

/// Whether the cgroup forbids swapping; read once, by the process that is not confined yet.
pub(crate) fn note_swapping() -> bool {
    static FORBIDDEN: LazyLock<bool> = LazyLock::new(cgroup_forbids_swap);
    *FORBIDDEN
}

fn cgroup_forbids_swap() -> bool {
    let Ok(own) = fs::read_to_string("/proc/self/cgroup") else { return false };
    let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) else { return false };
    let file = format!("/sys/fs/cgroup{path}/memory.swap.max");
    fs::read_to_string(file).is_ok_and(|max| max.trim() == "0")
}

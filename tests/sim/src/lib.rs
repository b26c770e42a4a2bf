//! A cluster in one thread: the real controllers and scheduler on a store in memory, nodes that pretend, a user who
//! changes things, and a seeded generator that decides what happens next.
//!
//! What it does to them: every controller has a view of its own that lags behind; wakes are late, lost or
//! repeated; plans of several keys are performed write by write in any order; the process dies at any write and
//! starts anew; nodes fail, leave and return. A lost wake is made up for at the latest when the process restarts.
//!
//! What must hold: at every write the limits of rollouts ([`checks::Limits`]), and that no node is given more than it has;
//! once everything is left alone, the declared state ([`checks::settled`]).
//!
//! One seed is one run, always the same: a failure names the seed, and `CORACLE_SIM_SEED=n cargo test -p coracle-sim`
//! runs it alone. `CORACLE_SIM_SEEDS=n` runs other numbers of them.

pub mod checks;
pub mod nodes;
pub mod process;
pub mod rng;
pub mod store;
pub mod user;

use coracle_api::kinds;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use checks::Limits;
use nodes::FakeNode;
use process::Process;
use rng::Rng;
use store::Store;
use user::User;

/// What a run may contain.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Neither Pods nor nodes fail, and people only roll out: then the limits of rollouts hold strictly.
    pub calm: bool,
    /// The process dies right after this many writes of its own, and never otherwise.
    pub crash_after: Option<u64>,
    /// How many things the user does.
    pub actions: usize,
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// Writes by controllers and scheduler.
    pub writes: u64,
    /// Writes refused because what they were planned on had changed.
    pub conflicts: u64,
    /// How often the process died.
    pub crashes: u64,
}

/// The whole simulation.
#[derive(Debug)]
pub struct World {
    store: Store,
    process: Process,
    nodes: Vec<FakeNode>,
    user: User,
    limits: Limits,
    rng: Rng,
    options: Options,
    report: Report,
}

/// Runs one seed to its end.
///
/// # Errors
/// What did not hold, with the seed.
pub fn run(options: Options) -> Result<Report, String> {
    let mut world = World::new(options);
    world.run().map_err(|why| format!("{options:?}: {why}"))?;
    Ok(world.report)
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let start = Timestamp::from_second(1_900_000_000).unwrap_or_default();
        let mut store = Store::new(start);
        for name in ["default", "kube-node-lease", "apps"] {
            // The store is empty: nothing can be in the way.
            let _ = store.create(&kinds::NAMESPACE, json!({"metadata": {"name": name}}));
        }
        let nodes = (0..rng.range(3, 6)).map(|i| FakeNode::new(i as usize)).collect();
        let process = Process::start(&store, !options.calm);
        let user = User::default();
        let limits = Limits::new(options.calm);
        Self { store, process, nodes, user, limits, rng, options, report: Report::default() }
    }

    fn run(&mut self) -> Result<(), String> {
        for _ in 0..self.options.actions {
            self.user.act(&mut self.store, &mut self.nodes, &mut self.rng, self.options.calm)?;
            for _ in 0..self.rng.range(0, 120) {
                self.step(self.options.crash_after.is_none())?;
            }
        }
        self.user.calm_down(&mut self.store, &mut self.nodes, &mut self.rng)?;
        if self.options.crash_after.is_none() {
            // Makes up for wakes that were lost.
            self.restart();
        }
        self.settle()?;
        checks::settled(&self.store, &self.user, &self.process.hasted)
            .map_err(|why| format!("not as declared in the end: {why}\n{}", self.store.describe()))
    }

    /// One thing happens.
    fn step(&mut self, rough: bool) -> Result<(), String> {
        match self.rng.range(0, 20) {
            0..=11 => {
                self.work(rough)?;
            }
            12..=15 => {
                let at = self.rng.below(self.nodes.len());
                let flaky = rough && !self.options.calm;
                self.nodes[at].step(&mut self.store, &mut self.rng, flaky)?;
            }
            16..=18 => {
                let millis = self.rng.range(1, 400) as i64;
                self.store.now += SignedDuration::from_millis(millis);
            }
            _ if rough && self.options.crash_after.is_none() && self.rng.one_in(20) => {
                self.restart()
            }
            _ => {}
        }
        self.limits.check(&self.store)
    }

    /// The process does one of the things it could do; whether there was any.
    fn work(&mut self, rough: bool) -> Result<bool, String> {
        let before = self.process.writes;
        let busy = self.process.step(&mut self.store, &mut self.rng, rough)?;
        let wrote = self.process.writes > before;
        self.report.writes += self.process.writes - before;
        self.report.conflicts = self.process.conflicts;
        if wrote && self.options.crash_after == Some(self.report.writes) {
            self.restart();
        }
        Ok(busy)
    }

    fn restart(&mut self) {
        let next = Process::start(&self.store, !self.options.calm);
        let last = std::mem::replace(&mut self.process, next);
        (self.process.conflicts, self.process.hasted) = (last.conflicts, last.hasted);
        self.report.crashes += 1;
    }

    /// Leaves everything alone for four minutes, jumping over the times in which nothing happens.
    fn settle(&mut self) -> Result<(), String> {
        let end = self.store.now + SignedDuration::from_mins(4);
        let mut steps = 0;
        while self.store.now < end {
            let mut busy = self.work(false)?;
            if !busy {
                for node in &mut self.nodes {
                    busy |= node.step(&mut self.store, &mut self.rng, false)?;
                }
            }
            self.limits.check(&self.store)?;
            if !busy {
                let due = self.nodes.iter().filter_map(|node| node.due(&self.store)).min();
                let next = [due, self.process.due()].into_iter().flatten().min();
                let least = self.store.now + SignedDuration::from_millis(100);
                self.store.now = next.unwrap_or(end).max(least);
            }
            steps += 1;
            if steps > 200_000 {
                return Err(format!("never comes to rest\n{}", self.process.describe()));
            }
        }
        Ok(())
    }
}

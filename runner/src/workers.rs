//! The threads that execute a run's stages.
//!
//! The state of a run lies behind one lock. Each worker takes the next stage that fits the free resources, executes it with
//! the lock open, takes its result in, settles what became possible, and goes on with the next: between two small stages
//! no other thread has to wake up. The thread that called waits, and passes on stops and time limits.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::Scope,
    time::{Duration, Instant},
};

use natron_artifacts::{Cancel, StageError};

use crate::{
    RunError,
    execute::Run,
    schedule::{Grant, Pool},
    worker::{Executed, Job, JobError, Shared, ThreadPools, execute, panic_message},
};

/// How often the calling thread looks whether the run shall stop or a stage has had its time.
const CANCEL_POLL: Duration = Duration::from_millis(25);

/// Where the workers of a run meet.
pub(crate) struct Hall<'h, 'a> {
    shared: &'h Shared,
    cancel: &'h Cancel,
    /// After a failure, what does not depend on it goes on.
    keep_going: bool,
    most_workers: usize,
    floor: Mutex<Floor<'h, 'a>>,
    /// There is work, or there will never be any more.
    work: Condvar,
    /// The last stage has ended.
    over: Condvar,
}

/// What only one of them touches at a time.
struct Floor<'h, 'a> {
    run: &'h mut Run<'a>,
    pool: Pool,
    /// How to stop each running stage, and when its time is up.
    running: BTreeMap<usize, (Cancel, Option<Instant>)>,
    /// Nothing more starts.
    stopping: bool,
    /// What broke the run off.
    failure: Option<RunError>,
    workers: usize,
    idle: usize,
    is_over: bool,
}

impl<'h, 'a> Hall<'h, 'a> {
    /// A hall for at most `most_workers` threads.
    pub(crate) fn new(
        run: &'h mut Run<'a>,
        shared: &'h Shared,
        pool: Pool,
        most_workers: usize,
        keep_going: bool,
        cancel: &'h Cancel,
    ) -> Self {
        Self {
            shared,
            cancel,
            keep_going,
            most_workers,
            floor: Mutex::new(Floor {
                run,
                pool,
                running: BTreeMap::new(),
                stopping: false,
                failure: None,
                workers: 0,
                idle: 0,
                is_over: false,
            }),
            work: Condvar::new(),
            over: Condvar::new(),
        }
    }

    /// Executes all that can be, and returns when nothing runs any more.
    pub(crate) fn run(self) -> Result<(), RunError> {
        std::thread::scope(|scope| {
            let mut floor = self.floor();
            self.hire(&mut floor, scope);
            while !floor.is_over {
                let waited = self.over.wait_timeout(floor, CANCEL_POLL);
                floor = waited.unwrap_or_else(PoisonError::into_inner).0;
                let is_stopping = floor.stopping || self.cancel.is_set();
                if is_stopping && floor.running.is_empty() {
                    // Nobody waits for stages that would be tried again.
                    floor.is_over = true;
                    self.work.notify_all();
                } else if !is_stopping && floor.run.wake(Instant::now()) {
                    if floor.idle > 0 {
                        self.work.notify_all();
                    } else if floor.workers < self.most_workers {
                        self.hire(&mut floor, scope);
                    }
                }
                for (flag, deadline) in floor.running.values() {
                    if self.cancel.is_set() || deadline.is_some_and(|at| Instant::now() >= at) {
                        flag.set();
                    }
                }
            }
        });
        let floor = self.floor.into_inner();
        let floor = floor.unwrap_or_else(PoisonError::into_inner);
        floor.failure.map_or(Ok(()), Err)
    }

    fn floor(&self) -> MutexGuard<'_, Floor<'h, 'a>> {
        self.floor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hire<'scope>(&'scope self, floor: &mut Floor<'h, 'a>, scope: &'scope Scope<'scope, '_>) {
        let thread = std::thread::Builder::new().name(format!("worker {}", floor.workers));
        // Without another thread the others do the work; without any there is nobody.
        match thread.spawn_scoped(scope, move || self.work(scope)) {
            Ok(_) => floor.workers += 1,
            Err(error) if floor.workers == 0 => {
                floor.failure = Some(RunError::State(error));
                floor.is_over = true;
            }
            Err(_) => {}
        }
    }

    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let _alarm = Alarm(self);
        let mut pools = ThreadPools::default();
        let mut floor = self.floor();
        loop {
            if floor.is_over {
                return;
            }
            if let Some((index, grant, job)) = self.next(&mut floor) {
                // Somebody else looks whether there is more.
                if floor.pool.has_thread() && floor.run.has_ready() {
                    if floor.idle > 0 {
                        self.work.notify_one();
                    } else if floor.workers < self.most_workers {
                        self.hire(&mut floor, scope);
                    }
                }
                drop(floor);
                let executed =
                    catch_unwind(AssertUnwindSafe(|| execute(self.shared, &mut pools, job)));
                let result = executed.unwrap_or_else(|panic| {
                    let message = panic_message(&*panic);
                    Err(JobError::Stage(StageError::Panic { message }))
                });
                floor = self.floor();
                self.ended(&mut floor, index, &grant, result);
            } else if floor.running.is_empty()
                && (floor.stopping || self.cancel.is_set() || !floor.run.has_resting())
            {
                floor.is_over = true;
                self.over.notify_all();
                self.work.notify_all();
            } else {
                floor.idle += 1;
                floor = self
                    .work
                    .wait(floor)
                    .unwrap_or_else(PoisonError::into_inner);
                floor.idle -= 1;
            }
        }
    }

    fn next(&self, floor: &mut Floor<'h, 'a>) -> Option<(usize, Grant, Job<'a>)> {
        if floor.stopping || self.cancel.is_set() {
            return None;
        }
        let (index, grant, job) = floor.run.next(&mut floor.pool)?;
        let deadline = job.instance.timeout.map(|limit| Instant::now() + limit);
        floor.running.insert(index, (job.cancel.clone(), deadline));
        Some((index, grant, job))
    }

    fn ended(
        &self,
        floor: &mut Floor<'h, 'a>,
        index: usize,
        grant: &Grant,
        result: Result<Executed, JobError>,
    ) {
        floor.pool.give_back(grant);
        let timed_out = floor
            .running
            .remove(&index)
            .is_some_and(|(flag, deadline)| {
                flag.is_set() && deadline.is_some_and(|at| Instant::now() >= at)
            });
        let timed_out = timed_out && !self.cancel.is_set();
        match floor.run.take_in(index, result, timed_out) {
            Ok(has_failed) => floor.stopping |= has_failed && !self.keep_going,
            Err(error) => {
                floor.failure.get_or_insert(error);
                floor.stopping = true;
                // What runs now is of no use any more.
                for (flag, _) in floor.running.values() {
                    flag.set();
                }
            }
        }
        // One of those who wait for resources may fit now.
        if floor.idle > 0 && floor.run.has_ready() {
            self.work.notify_one();
        }
    }
}

/// Ends the wait when a worker panics, so that the panic shows instead of silence.
struct Alarm<'s, 'h, 'a>(&'s Hall<'h, 'a>);

impl Drop for Alarm<'_, '_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.floor().is_over = true;
            self.0.over.notify_all();
            self.0.work.notify_all();
        }
    }
}

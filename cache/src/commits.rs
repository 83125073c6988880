//! Commits on their way to the disk, several at a time.
//!
//! Results wait in a queue until a group of them is flushed: the objects' bytes, then their names, then all records in one
//! piece. Whoever wants to know at once flushes the group; the others leave that to a thread of the store, which closes a
//! group soon after its first result came.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use natron_artifacts::{Bytes, Digest};

use crate::{
    Lease, StageKey, Storage, StoreError,
    actions::Actions,
    clock, frame,
    lease::Leases,
    objects::{Objects, Staged},
    writer::Writer,
};

/// A group is closed this long after its first result came,
const GROUP_TIME: Duration = Duration::from_millis(50);
/// or when it has this many results,
const GROUP_RESULTS: usize = 64;
/// or holds this many open files,
const GROUP_FILES: usize = 128;
/// or this many bytes.
const GROUP_BYTES: u64 = 64 << 20;
/// Whoever hands over a result waits while more than this is on its way.
const MOST_BYTES: u64 = 256 << 20;
const MOST_FILES: usize = 2 * GROUP_FILES;

/// A result on its way.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// The result's key; nothing for bytes without a record.
    pub(crate) key: Option<StageKey>,
    /// Objects with files of their own.
    pub(crate) objects: Vec<Staged>,
    /// The record, neither dated nor placed.
    pub(crate) frame: Option<Vec<u8>>,
    /// What may be read before it is on the disk.
    pub(crate) contents: Vec<(Digest, Bytes)>,
    /// Given back when the result is on the disk, or has failed.
    pub(crate) lease: Option<Lease>,
    /// Memory that it takes, once it is in the queue.
    pub(crate) bytes: u64,
}

impl Waiting {
    fn memory(&self) -> u64 {
        let contents: usize = self.contents.iter().map(|(_, bytes)| bytes.len()).sum();
        contents as u64 + self.frame.as_ref().map_or(0, Vec::len) as u64
    }
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<(u64, Waiting)>,
    /// When the first of them came.
    since: Option<Instant>,
    files: usize,
    /// Of everything that is on its way, also of what is being flushed.
    bytes: u64,
    next_ticket: u64,
    /// Failures by ticket, to be told by [`Commits::flush`].
    failed: BTreeMap<u64, (Option<StageKey>, StoreError)>,
    /// Tickets that somebody waits for in [`Commits::commit`], and their failures: nobody else is told these.
    awaited: BTreeMap<u64, Option<StoreError>>,
    /// Contents on their way, and how many results name them.
    contents: BTreeMap<Digest, (Bytes, usize)>,
    is_closing: bool,
}

impl Queue {
    fn is_full(&self) -> bool {
        self.waiting.len() >= GROUP_RESULTS
            || self.files >= GROUP_FILES
            || self.bytes >= GROUP_BYTES
            || self.is_closing
    }

    fn enqueue(&mut self, mut waiting: Waiting) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.files += waiting.objects.len();
        waiting.bytes = waiting.memory();
        self.bytes += waiting.bytes;
        for (digest, bytes) in &waiting.contents {
            let there = self.contents.entry(*digest);
            there.or_insert_with(|| (bytes.clone(), 0)).1 += 1;
        }
        self.waiting.push((ticket, waiting));
        ticket
    }
}

#[derive(Debug)]
pub(crate) struct Commits {
    storage: Arc<dyn Storage>,
    objects: Arc<Objects>,
    actions: Arc<Actions>,
    leases: Arc<Leases>,
    writer: Arc<Writer>,
    checkpoints: PathBuf,
    queue: Mutex<Queue>,
    /// There is something to do for the thread.
    work: Condvar,
    /// Something has left the queue.
    room: Condvar,
    /// Held while a group is flushed: those who wait for it find their own results flushed, too.
    flushing: Mutex<()>,
    thread: Mutex<Option<JoinHandle<()>>>,
    stamps: AtomicU64,
}

impl Commits {
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        objects: Arc<Objects>,
        actions: Arc<Actions>,
        leases: Arc<Leases>,
        writer: Arc<Writer>,
        checkpoints: PathBuf,
    ) -> Self {
        // No two writers have the same stamps: they begin somewhere that follows from the name.
        let start = frame::prefix(&Digest::of(writer.name.as_bytes()));
        let start = u64::from_le_bytes(std::array::from_fn(|i| start[i]));
        Self {
            storage,
            objects,
            actions,
            leases,
            writer,
            checkpoints,
            queue: Mutex::default(),
            work: Condvar::new(),
            room: Condvar::new(),
            flushing: Mutex::default(),
            thread: Mutex::default(),
            stamps: AtomicU64::new(start | 1),
        }
    }

    /// Returns when `waiting` is on the disk, together with whatever else waits.
    pub(crate) fn commit(&self, mut waiting: Waiting) -> Result<(), StoreError> {
        // Each thread flushes its own files, so that large ones do not hold up others.
        for i in 0..waiting.objects.len() {
            if let Err(error) = self.objects.sync(&mut waiting.objects[i]) {
                self.discard(waiting.objects);
                return Err(error);
            }
        }
        let ticket = {
            let mut queue = self.queue();
            let ticket = queue.enqueue(waiting);
            queue.awaited.insert(ticket, None);
            ticket
        };
        self.flush_group();
        let failed = self.queue().awaited.remove(&ticket).flatten();
        failed.map_or(Ok(()), Err)
    }

    /// Returns when `waiting` is handed over. Its failure is told by [`Self::flush`].
    pub(crate) fn commit_later(self: &Arc<Self>, waiting: Waiting) {
        let (bytes, files) = (waiting.memory(), waiting.objects.len());
        let has_thread = self.has_thread();
        let mut queue = self.queue();
        while has_thread
            && queue.bytes > 0
            && (queue.bytes + bytes > MOST_BYTES || queue.files + files > MOST_FILES)
        {
            self.work.notify_one();
            queue = self
                .room
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let is_first = queue.waiting.is_empty();
        let was_full = queue.is_full();
        queue.since.get_or_insert_with(Instant::now);
        queue.enqueue(waiting);
        if !has_thread {
            drop(queue);
            self.flush_group();
        } else if is_first || (queue.is_full() && !was_full) {
            self.work.notify_one();
        }
    }

    /// Brings everything handed over to the disk.
    ///
    /// # Errors
    ///
    /// The first failure since the last time, with its key. What failed is not kept and will not be tried again.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.flush_group();
        let failed = self.queue().failed.pop_first();
        match failed {
            Some((_, (Some(key), error))) => Err(StoreError::NotKept {
                key,
                source: Box::new(error),
            }),
            Some((_, (None, error))) => Err(error),
            None => Ok(()),
        }
    }

    /// The keys of all results that could not be kept and were not told yet.
    pub(crate) fn failures(&self) -> Vec<(StageKey, StoreError)> {
        let failed = std::mem::take(&mut self.queue().failed);
        failed
            .into_values()
            .filter_map(|(key, error)| Some((key?, error)))
            .collect()
    }

    /// Bytes that are on their way.
    pub(crate) fn read(&self, digest: &Digest) -> Option<Bytes> {
        let queue = self.queue();
        queue.contents.get(digest).map(|(bytes, _)| bytes.clone())
    }

    /// Removes the files of objects that will not be published.
    pub(crate) fn discard(&self, objects: Vec<Staged>) {
        for staged in objects {
            self.objects.discard(staged);
        }
    }

    /// Flushes what there is and ends the thread.
    pub(crate) fn close(&self) {
        self.queue().is_closing = true;
        self.work.notify_all();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            // A panic of it has been reported already.
            let _ = thread.join();
        }
        self.flush_group();
    }

    /// Whether there is a thread that flushes; starts it if need be.
    fn has_thread(self: &Arc<Self>) -> bool {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let commits = Arc::clone(self);
            let started = std::thread::Builder::new()
                .name("commits".into())
                .spawn(move || commits.work());
            *thread = started.ok();
        }
        thread.is_some()
    }

    /// What the thread does until the store is closed.
    fn work(&self) {
        let mut queue = self.queue();
        loop {
            let waited = queue.since.map(|since| since.elapsed());
            if !queue.waiting.is_empty()
                && (queue.is_full() || waited.is_none_or(|waited| waited >= GROUP_TIME))
            {
                drop(queue);
                self.flush_group();
                queue = self.queue();
            } else if queue.is_closing {
                return;
            } else if let Some(waited) = waited {
                let rest = GROUP_TIME.saturating_sub(waited);
                let woken = self.work.wait_timeout(queue, rest);
                queue = woken.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                let woken = self.work.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Publishes whatever waits. Failures are kept by ticket.
    fn flush_group(&self) {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut group = {
            let mut queue = self.queue();
            queue.since = None;
            queue.files = 0;
            std::mem::take(&mut queue.waiting)
        };
        if group.is_empty() {
            return;
        }
        let mut failed = BTreeMap::new();
        self.publish_objects(&mut group, &mut failed);
        let committed_ms = clock::unix_ms();
        let mut frames = Vec::new();
        let mut appended = BTreeSet::new();
        for (ticket, waiting) in &mut group {
            if failed.contains_key(ticket) {
                continue;
            }
            if let Some(mut frame) = waiting.frame.take() {
                // The clock may have been set back: what is new counts all the same.
                let newest_ms = self.actions.newest_ms(&frame::key(&frame));
                let at_least = newest_ms.map_or(0, |newest_ms| newest_ms + 1);
                frame::date(&mut frame, committed_ms.max(at_least));
                frames.push(frame);
                appended.insert(*ticket);
            }
        }
        if let Err(error) = self.actions.append(&self.writer.name, frames) {
            for ticket in appended {
                failed.insert(ticket, error.clone());
            }
        }
        // Before the leases go: whoever gets one next has to know that there is something to read.
        self.leases
            .stamp(self.stamps.fetch_add(2, Ordering::Relaxed));
        for (ticket, waiting) in &group {
            if let Some(key) = waiting.key
                && waiting.lease.is_some()
                && !failed.contains_key(ticket)
            {
                self.remove_checkpoints(&key);
            }
        }
        self.finish(group, failed);
    }

    fn publish_objects(
        &self,
        group: &mut [(u64, Waiting)],
        failed: &mut BTreeMap<u64, StoreError>,
    ) {
        let each =
            |group: &mut [(u64, Waiting)],
             failed: &mut BTreeMap<u64, StoreError>,
             action: &mut dyn FnMut(u64, &mut Staged) -> Result<(), StoreError>| {
                for (ticket, waiting) in group {
                    if failed.contains_key(ticket) {
                        continue;
                    }
                    let done = waiting
                        .objects
                        .iter_mut()
                        .try_for_each(|object| action(*ticket, object));
                    if let Err(error) = done {
                        self.discard(std::mem::take(&mut waiting.objects));
                        failed.insert(*ticket, error);
                    }
                }
            };
        each(group, failed, &mut |_, object| self.objects.sync(object));
        let mut shards: BTreeMap<u8, BTreeSet<u64>> = BTreeMap::new();
        each(group, failed, &mut |ticket, object| {
            let shard = self.objects.publish(object)?;
            shards.entry(shard).or_default().insert(ticket);
            Ok(())
        });
        for (shard, tickets) in shards {
            if let Err(error) = self.objects.sync_shard(shard) {
                for ticket in tickets {
                    failed.entry(ticket).or_insert_with(|| error.clone());
                }
            }
        }
    }

    /// Takes a group that is on the disk, or has failed, off the books.
    fn finish(&self, group: Vec<(u64, Waiting)>, failed: BTreeMap<u64, StoreError>) {
        let mut queue = self.queue();
        let mut leases = Vec::new();
        let keys: BTreeMap<u64, Option<StageKey>> = group
            .iter()
            .map(|(ticket, waiting)| (*ticket, waiting.key))
            .collect();
        for (_, waiting) in group {
            queue.bytes -= waiting.bytes;
            for (digest, _) in waiting.contents {
                if let Some((_, uses)) = queue.contents.get_mut(&digest) {
                    *uses -= 1;
                    if *uses == 0 {
                        queue.contents.remove(&digest);
                    }
                }
            }
            leases.push(waiting.lease);
        }
        for (ticket, error) in failed {
            if let Some(awaited) = queue.awaited.get_mut(&ticket) {
                *awaited = Some(error);
            } else {
                queue.failed.insert(ticket, (keys[&ticket], error));
            }
        }
        drop(queue);
        self.room.notify_all();
        // Each gives back one.
        drop(leases);
    }

    /// Checkpoints of a result that is kept are of no use; trouble with them is left to collection.
    fn remove_checkpoints(&self, key: &StageKey) {
        let path = self.checkpoints.join(key.to_string());
        if matches!(self.storage.entry(&path), Ok(Some(_))) {
            let _ = self.storage.remove_directory(&path);
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Which ready stage starts next: those that fit the free resources, the longest remaining path first.

use std::collections::BTreeMap;

use natron_artifacts::{Gpu, Threads};

use crate::{
    Instance,
    gpus::{self, GpuSlot},
};

/// What a run may use at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Threads.
    pub(crate) threads: usize,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// The GPUs.
    pub(crate) gpus: Vec<GpuSlot>,
    /// Named tokens; a name that is not here has one.
    pub(crate) tokens: BTreeMap<String, u32>,
}

/// What a stage wants while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Threads.
    pub(crate) threads: Threads,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Number of GPUs.
    pub(crate) gpus: u32,
    /// Memory that each of the GPUs has, in bytes.
    pub(crate) gpu_memory_bytes: u64,
    /// Whether it runs on the CPU where there are too few GPUs.
    pub(crate) gpu_is_optional: bool,
    /// Named tokens.
    pub(crate) tokens: BTreeMap<String, u32>,
}

impl Wanted {
    /// What `instance` wants in its `attempt`-th attempt, the first being 1.
    pub(crate) fn of(instance: &Instance, attempt: u32) -> Self {
        Self {
            threads: instance.resources.threads,
            memory_bytes: grown(instance.resources.memory_bytes, instance, attempt),
            // What its key does not hold it does not get.
            gpus: match gpus::class(instance) {
                Some(_) => instance.gpus,
                None => 0,
            },
            gpu_memory_bytes: instance.gpu_memory_bytes,
            gpu_is_optional: instance.resources.gpu == Gpu::Auto,
            tokens: instance.tokens.clone(),
        }
    }
}

/// `bytes` of memory, grown for the `attempt`-th attempt of `instance`, the first being 1.
pub(crate) fn grown(bytes: u64, instance: &Instance, attempt: u32) -> u64 {
    let growth = (1..attempt).fold(1.0, |growth, _| growth * instance.memory_growth);
    // What is too large for the type is more than there is.
    (bytes as f64 * growth) as u64
}

/// What one stage holds while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Grant {
    /// Threads.
    pub(crate) threads: usize,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Ordinals of its GPUs; nobody else has one of them.
    pub(crate) gpus: Vec<u32>,
    /// Named tokens.
    pub(crate) tokens: BTreeMap<String, u32>,
}

/// The resources that are free.
#[derive(Debug)]
pub(crate) struct Pool {
    capacity: Capacity,
    threads: usize,
    memory_bytes: u64,
    gpus: Vec<GpuSlot>,
    tokens: BTreeMap<String, u32>,
}

impl Pool {
    /// A pool with everything free.
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            threads: capacity.threads,
            memory_bytes: capacity.memory_bytes,
            gpus: capacity.gpus.clone(),
            tokens: BTreeMap::new(),
            capacity,
        }
    }

    /// Takes what a stage wants, or `None` when it has to wait.
    ///
    /// A stage that wants more threads, memory or tokens than there are runs alone with all there is, rather than never; one
    /// that needs more GPUs than there are never runs, and [`Capacity::has_gpus`] says so beforehand.
    pub(crate) fn take(&mut self, wanted: &Wanted) -> Option<Grant> {
        if !self.has_thread() {
            return None;
        }
        let threads = match wanted.threads {
            Threads::One => 1,
            Threads::Count(n) => (n.max(1) as usize).min(self.capacity.threads),
            Threads::All => self.capacity.threads,
        };
        let memory_bytes = wanted.memory_bytes.min(self.capacity.memory_bytes);
        let tokens: BTreeMap<String, u32> = wanted
            .tokens
            .iter()
            .map(|(name, &n)| (name.clone(), n.min(self.token_capacity(name))))
            .collect();
        let tokens_free = tokens.iter().all(|(name, n)| {
            self.tokens.get(name).copied().unwrap_or(0) + n <= self.token_capacity(name)
        });
        if threads > self.threads || memory_bytes > self.memory_bytes || !tokens_free {
            return None;
        }
        let gpus = self.choose_gpus(wanted)?;
        self.threads -= threads;
        self.memory_bytes -= memory_bytes;
        self.gpus.retain(|gpu| !gpus.contains(&gpu.ordinal));
        for (name, n) in &tokens {
            *self.tokens.entry(name.clone()).or_default() += n;
        }
        Some(Grant {
            threads,
            memory_bytes,
            gpus,
            tokens,
        })
    }

    /// Free GPUs that fit; those with the least memory that is enough, so that the larger ones stay for who needs them.
    fn choose_gpus(&self, wanted: &Wanted) -> Option<Vec<u32>> {
        if wanted.gpus == 0 || (wanted.gpu_is_optional && !self.capacity.has_gpus(wanted)) {
            return Some(Vec::new());
        }
        let mut fitting: Vec<&GpuSlot> = self.gpus.iter().filter(|gpu| fits(gpu, wanted)).collect();
        fitting.sort_by_key(|gpu| (gpu.memory_bytes, gpu.ordinal));
        let chosen = fitting.get(..wanted.gpus as usize)?;
        let mut ordinals: Vec<u32> = chosen.iter().map(|gpu| gpu.ordinal).collect();
        ordinals.sort_unstable();
        Some(ordinals)
    }

    /// Gives a grant back.
    pub(crate) fn give_back(&mut self, grant: &Grant) {
        self.threads += grant.threads;
        self.memory_bytes += grant.memory_bytes;
        let returned = self.capacity.gpus.iter();
        let returned = returned.filter(|gpu| grant.gpus.contains(&gpu.ordinal));
        self.gpus.extend(returned.cloned());
        for (name, n) in &grant.tokens {
            if let Some(held) = self.tokens.get_mut(name) {
                *held -= n;
            }
        }
    }

    /// Whether a thread is free: no stage starts without one.
    pub(crate) fn has_thread(&self) -> bool {
        self.threads > 0
    }

    fn token_capacity(&self, name: &str) -> u32 {
        self.capacity.tokens.get(name).copied().unwrap_or(1)
    }
}

impl Capacity {
    /// Whether there are GPUs enough, free or not.
    pub(crate) fn has_gpus(&self, wanted: &Wanted) -> bool {
        let fitting = self.gpus.iter().filter(|gpu| fits(gpu, wanted)).count();
        fitting >= wanted.gpus as usize
    }
}

/// Whether a GPU has the memory; one of which nothing is known does not have it.
fn fits(gpu: &GpuSlot, wanted: &Wanted) -> bool {
    wanted.gpu_memory_bytes == 0
        || gpu
            .memory_bytes
            .is_some_and(|bytes| bytes >= wanted.gpu_memory_bytes)
}

/// For every node, the seconds of the longest path that begins with it. `consumers[i]` are the nodes that read from `i`;
/// every consumer comes after its producers.
pub(crate) fn remaining_seconds(seconds: &[f64], consumers: &[Vec<usize>]) -> Vec<f64> {
    let mut remaining = seconds.to_vec();
    for i in (0..seconds.len()).rev() {
        let below = consumers[i]
            .iter()
            .map(|&c| remaining[c])
            .fold(0.0, f64::max);
        remaining[i] = seconds[i] + below;
    }
    remaining
}

/// The memory that stages may use together: four fifths of what the system says is available.
pub(crate) fn available_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kibibytes = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kibibytes.map_or(u64::MAX, |k| k * 1024 / 5 * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let gpu = |ordinal, gibibytes: u64| GpuSlot {
            ordinal,
            memory_bytes: Some(gibibytes << 30),
        };
        Pool::new(Capacity {
            threads: 4,
            memory_bytes: 100,
            gpus: vec![gpu(0, 80), gpu(1, 24), gpu(3, 24)],
            tokens: [("license".to_owned(), 2)].into(),
        })
    }

    fn wants(threads: Threads, memory_bytes: u64, gpus: u32) -> Wanted {
        Wanted {
            threads,
            memory_bytes,
            gpus,
            gpu_memory_bytes: 0,
            gpu_is_optional: false,
            tokens: BTreeMap::new(),
        }
    }

    #[test]
    fn grants_never_exceed_the_capacity() {
        let mut pool = pool();
        let a = pool.take(&wants(Threads::Count(3), 60, 0)).unwrap();

        assert_eq!(pool.take(&wants(Threads::Count(2), 0, 0)), None);
        assert_eq!(pool.take(&wants(Threads::One, 50, 0)), None);
        let b = pool.take(&wants(Threads::One, 40, 0)).unwrap();
        assert_eq!(b.threads, 1);
        assert!(!pool.has_thread());
        pool.give_back(&a);
        pool.give_back(&b);
        assert!(pool.take(&wants(Threads::All, 1_000, 0)).is_some());
    }

    #[test]
    fn no_gpu_is_handed_out_twice() {
        let mut pool = pool();
        let one = wants(Threads::One, 0, 1);
        let large = Wanted {
            gpu_memory_bytes: 40 << 30,
            ..one.clone()
        };

        let two = pool.take(&wants(Threads::One, 0, 2)).unwrap();
        assert_eq!(two.gpus, [1, 3], "the large one stays");
        assert_eq!(pool.take(&large).unwrap().gpus, [0]);
        assert_eq!(pool.take(&one), None);
        pool.give_back(&two);
        assert_eq!(pool.take(&large), None);
        assert_eq!(pool.take(&one).unwrap().gpus, [1]);
    }

    #[test]
    fn an_optional_gpu_is_waited_for_only_where_there_is_one() {
        let mut pool = pool();
        let many = Wanted {
            gpu_is_optional: true,
            ..wants(Threads::One, 0, 4)
        };
        let all = Wanted {
            gpus: 3,
            ..many.clone()
        };

        assert_eq!(pool.take(&many).unwrap().gpus, [0_u32; 0]);
        assert!(pool.take(&all).is_some());
        assert_eq!(pool.take(&all), None);
        assert!(!pool.capacity.has_gpus(&wants(Threads::One, 0, 4)));
    }

    #[test]
    fn named_tokens_are_counted() {
        let mut pool = pool();
        let with = |name: &str| Wanted {
            tokens: [(name.to_owned(), 1)].into(),
            ..wants(Threads::One, 0, 0)
        };
        let (one, unknown) = (with("license"), with("port"));

        let first = pool.take(&one).unwrap();
        assert!(pool.take(&one).is_some());
        assert_eq!(pool.take(&one), None);
        pool.give_back(&first);
        assert!(pool.take(&one).is_some());
        assert!(pool.take(&unknown).is_some());
        assert_eq!(pool.take(&unknown), None);
    }

    #[test]
    fn a_path_is_as_long_as_all_that_waits_for_it() {
        let remaining = remaining_seconds(
            &[1.0, 5.0, 2.0, 1.0],
            &[vec![1, 2], vec![3], vec![3], vec![]],
        );

        assert_eq!(remaining, [7.0, 6.0, 3.0, 1.0]);
    }
}

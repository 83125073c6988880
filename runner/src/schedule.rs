//! Which ready stage starts next: those that fit the free resources, the longest remaining path first.

use std::collections::BTreeMap;

use natron_artifacts::{Gpu, Resources, Threads};

/// What a run may use at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Threads.
    pub(crate) threads: usize,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Ordinals of the GPUs.
    pub(crate) gpus: Vec<u32>,
    /// Named tokens; a name that is not here has one.
    pub(crate) tokens: BTreeMap<String, u32>,
}

/// What one stage holds while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Grant {
    /// Threads.
    pub(crate) threads: usize,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Ordinal of its GPU.
    pub(crate) gpu: Option<u32>,
    /// Named tokens.
    pub(crate) tokens: BTreeMap<String, u32>,
}

/// The resources that are free.
#[derive(Debug)]
pub(crate) struct Pool {
    capacity: Capacity,
    threads: usize,
    memory_bytes: u64,
    gpus: Vec<u32>,
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
    /// A stage that wants more than there is runs alone with all there is, rather than never.
    pub(crate) fn take(
        &mut self,
        wanted: &Resources,
        tokens: &BTreeMap<String, u32>,
    ) -> Option<Grant> {
        if !self.has_thread() {
            return None;
        }
        let threads = match wanted.threads {
            Threads::One => 1,
            Threads::Count(n) => (n.max(1) as usize).min(self.capacity.threads),
            Threads::All => self.capacity.threads,
        };
        let memory_bytes = wanted.memory_bytes.min(self.capacity.memory_bytes);
        let gpu = match wanted.gpu {
            Gpu::Never => None,
            Gpu::Auto | Gpu::Required if self.capacity.gpus.is_empty() => None,
            Gpu::Auto | Gpu::Required => Some(*self.gpus.first()?),
        };
        let tokens: BTreeMap<String, u32> = tokens
            .iter()
            .map(|(name, &n)| (name.clone(), n.min(self.token_capacity(name))))
            .collect();
        let tokens_free = tokens.iter().all(|(name, n)| {
            self.tokens.get(name).copied().unwrap_or(0) + n <= self.token_capacity(name)
        });
        if threads > self.threads || memory_bytes > self.memory_bytes || !tokens_free {
            return None;
        }
        self.threads -= threads;
        self.memory_bytes -= memory_bytes;
        self.gpus.retain(|&id| Some(id) != gpu);
        for (name, n) in &tokens {
            *self.tokens.entry(name.clone()).or_default() += n;
        }
        Some(Grant {
            threads,
            memory_bytes,
            gpu,
            tokens,
        })
    }

    /// Gives a grant back.
    pub(crate) fn give_back(&mut self, grant: &Grant) {
        self.threads += grant.threads;
        self.memory_bytes += grant.memory_bytes;
        if let Some(id) = grant.gpu {
            self.gpus.push(id);
            self.gpus.sort_unstable();
        }
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
        Pool::new(Capacity {
            threads: 4,
            memory_bytes: 100,
            gpus: vec![0, 1],
            tokens: [("license".to_owned(), 2)].into(),
        })
    }

    fn wants(threads: Threads, memory_bytes: u64, gpu: Gpu) -> Resources {
        Resources {
            threads,
            memory_bytes,
            gpu,
        }
    }

    #[test]
    fn grants_never_exceed_the_capacity() {
        let mut pool = pool();
        let none = BTreeMap::new();
        let a = pool
            .take(&wants(Threads::Count(3), 60, Gpu::Auto), &none)
            .unwrap();

        assert_eq!(a.gpu, Some(0));
        assert_eq!(
            pool.take(&wants(Threads::Count(2), 0, Gpu::Never), &none),
            None
        );
        assert_eq!(pool.take(&wants(Threads::One, 50, Gpu::Never), &none), None);
        let b = pool
            .take(&wants(Threads::One, 40, Gpu::Required), &none)
            .unwrap();
        assert_eq!((b.threads, b.gpu), (1, Some(1)));
        pool.give_back(&a);
        pool.give_back(&b);
        assert!(
            pool.take(&wants(Threads::All, 1_000, Gpu::Auto), &none)
                .is_some()
        );
    }

    #[test]
    fn named_tokens_are_counted() {
        let mut pool = pool();
        let one: BTreeMap<_, _> = [("license".to_owned(), 1)].into();
        let unknown: BTreeMap<_, _> = [("port".to_owned(), 1)].into();
        let small = wants(Threads::One, 0, Gpu::Never);

        let first = pool.take(&small, &one).unwrap();
        assert!(pool.take(&small, &one).is_some());
        assert_eq!(pool.take(&small, &one), None);
        pool.give_back(&first);
        assert!(pool.take(&small, &one).is_some());
        assert!(pool.take(&small, &unknown).is_some());
        assert_eq!(pool.take(&small, &unknown), None);
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

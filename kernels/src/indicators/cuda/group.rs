//! Which operations one launch computes, in what order, and where in a block's shared memory their values lie.

use std::collections::{BTreeMap, BTreeSet};

use super::code::{Code, Value, Work};

/// Operations that one kernel computes from values that are columns already.
#[derive(Debug)]
pub(super) struct Group {
    /// Rows before a tile that any of them is computed for.
    pub(super) halo: usize,
    pub(super) tile: usize,
    pub(super) n_slots: usize,
    /// What is computed between two barriers: operations whose values are kept or leave the kernel.
    pub(super) phases: Vec<Vec<Item>>,
    /// Where a value that other rows read is kept.
    pub(super) slots: BTreeMap<Value, usize>,
    /// Operations that are columns.
    pub(super) sources: BTreeSet<usize>,
}

/// An operation and how many rows before a tile it is computed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    pub(super) operation: usize,
    pub(super) rows_before: usize,
}

/// What a group computes before it is known how: which operations, from how many rows before the tile, and what is kept.
#[derive(Debug)]
struct Needs {
    rows_before: BTreeMap<usize, usize>,
    sources: BTreeSet<usize>,
    kept: BTreeSet<usize>,
    sinks: BTreeSet<usize>,
}

impl Needs {
    fn of(code: &Code, sinks: &[usize], is_column: &dyn Fn(usize) -> bool) -> Self {
        let mut needs = Self {
            rows_before: BTreeMap::new(),
            sources: BTreeSet::new(),
            kept: BTreeSet::new(),
            sinks: sinks.iter().copied().collect(),
        };
        let mut uses: BTreeMap<usize, usize> = BTreeMap::new();
        let mut open: BTreeSet<usize> = needs.sinks.clone();
        // Operations follow what they read, so the largest number that is left has all its readers behind it.
        while let Some(operation) = open.pop_last() {
            let rows = *needs.rows_before.entry(operation).or_insert(0);
            if needs.sinks.contains(&operation) {
                *uses.entry(operation).or_insert(0) += 1;
            }
            let Work::Rows {
                lookback, is_light, ..
            } = &code.operations[operation].work
            else {
                needs.sources.insert(operation);
                continue;
            };
            if is_column(operation) {
                needs.sources.insert(operation);
                continue;
            }
            if !is_light && uses.get(&operation).is_some_and(|n| *n > 1) {
                needs.kept.insert(operation);
            }
            for (input, back) in code.operations[operation].inputs.iter().zip(lookback) {
                let before = needs.rows_before.entry(input.operation).or_insert(0);
                *before = (*before).max(rows + back);
                *uses.entry(input.operation).or_insert(0) += 1;
                if *back > 0 {
                    needs.kept.insert(input.operation);
                }
                open.insert(input.operation);
            }
        }
        needs
    }

    fn halo(&self) -> usize {
        self.rows_before.values().copied().max().unwrap_or(0)
    }

    /// The kept operations that `operation` is computed from, itself not counted.
    fn kept_inputs(&self, code: &Code, operation: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        if self.sources.contains(&operation) {
            return found;
        }
        let mut open: Vec<usize> = vec![operation];
        while let Some(operation) = open.pop() {
            for input in &code.operations[operation].inputs {
                if self.kept.contains(&input.operation) {
                    found.insert(input.operation);
                } else if !self.sources.contains(&input.operation) {
                    open.push(input.operation);
                }
            }
        }
        found
    }
}

/// The rows before a tile that `sink` needs of anything.
pub(super) fn halo(code: &Code, sink: usize, is_column: &dyn Fn(usize) -> bool) -> usize {
    Needs::of(code, &[sink], is_column).halo()
}

impl Group {
    /// Orders what `sinks` need so that the kept values fit into `shared_bytes`; nothing where they do not.
    pub(super) fn fit(
        code: &Code,
        sinks: &[usize],
        is_column: &dyn Fn(usize) -> bool,
        tiles: &[usize],
        shared_bytes: usize,
    ) -> Option<Self> {
        let needs = Needs::of(code, sinks, is_column);
        let halo = needs.halo();
        for tile in tiles {
            let n_slots = shared_bytes / ((halo + tile) * size_of::<f64>());
            let mut n_batches = 1;
            while n_batches <= sinks.len() {
                let group = Self::ordered(code, sinks, &needs, n_batches, *tile);
                if group.n_slots <= n_slots {
                    return Some(group);
                }
                n_batches *= 2;
            }
        }
        None
    }

    /// The same without regard to memory: for kernels that keep values in columns.
    pub(super) fn wide(
        code: &Code,
        sinks: &[usize],
        is_column: &dyn Fn(usize) -> bool,
        tile: usize,
    ) -> Self {
        let mut needs = Needs::of(code, sinks, is_column);
        needs.rows_before.values_mut().for_each(|rows| *rows = 0);
        // What is a column already is read there; what is not becomes one.
        needs.sources.retain(|operation| is_column(*operation));
        needs
            .kept
            .retain(|operation| !needs.sources.contains(operation));
        Self::ordered(code, sinks, &needs, 1, tile)
    }

    fn ordered(code: &Code, sinks: &[usize], needs: &Needs, n_batches: usize, tile: usize) -> Self {
        // Sinks in batches, one batch after the other; in a batch, what depends on nothing first.
        let per_batch = sinks.len().div_ceil(n_batches);
        let mut keys: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (position, sink) in sinks.iter().enumerate() {
            place(code, needs, *sink, position / per_batch, &mut keys);
        }
        let mut by_key: BTreeMap<(usize, usize), Vec<usize>> = BTreeMap::new();
        for (operation, key) in &keys {
            by_key.entry(*key).or_default().push(*operation);
        }
        let phases: Vec<Vec<usize>> = by_key.into_values().collect();

        let mut last_use: BTreeMap<usize, usize> = BTreeMap::new();
        for (phase, operations) in phases.iter().enumerate() {
            for operation in operations {
                last_use.entry(*operation).or_insert(phase);
                for input in needs.kept_inputs(code, *operation) {
                    last_use.insert(input, phase);
                }
            }
        }
        let is_read: BTreeSet<Value> = needs
            .rows_before
            .keys()
            .filter(|operation| !needs.sources.contains(operation))
            .flat_map(|operation| code.operations[*operation].inputs.iter().copied())
            .collect();
        let (mut slots, mut free, mut n_slots) = (BTreeMap::new(), Vec::new(), 0);
        let mut ends: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (phase, operations) in phases.iter().enumerate() {
            for operation in operations.iter().filter(|o| needs.kept.contains(o)) {
                for output in 0..code.operations[*operation].n_outputs {
                    let value = Value {
                        operation: *operation,
                        output,
                    };
                    if is_read.contains(&value) {
                        let slot = free.pop().unwrap_or_else(|| {
                            n_slots += 1;
                            n_slots - 1
                        });
                        slots.insert(value, slot);
                        ends.entry(last_use[operation]).or_default().push(slot);
                    }
                }
            }
            // Others may still read what ends here until the barrier behind this phase.
            let mut ended = ends.remove(&phase).unwrap_or_default();
            ended.sort_unstable_by(|a, b| b.cmp(a));
            free.extend(ended);
        }
        let item = |operation| Item {
            operation,
            rows_before: if needs.kept.contains(&operation) {
                needs.rows_before[&operation]
            } else {
                0
            },
        };
        Self {
            halo: needs.halo(),
            tile,
            n_slots,
            phases: phases
                .into_iter()
                .map(|phase| phase.into_iter().map(item).collect())
                .collect(),
            slots,
            sources: needs.sources.clone(),
        }
    }

    /// Bytes of shared memory that a block needs.
    pub(super) fn shared_bytes(&self) -> usize {
        self.n_slots * (self.halo + self.tile) * size_of::<f64>()
    }
}

/// Gives an operation that is kept or leaves, and what it is computed from, a batch and a depth in it; an earlier batch's
/// stays.
fn place(
    code: &Code,
    needs: &Needs,
    operation: usize,
    batch: usize,
    keys: &mut BTreeMap<usize, (usize, usize)>,
) -> (usize, usize) {
    if let Some(key) = keys.get(&operation) {
        return *key;
    }
    let mut depth = 0;
    for input in needs.kept_inputs(code, operation) {
        let (of_batch, of_input) = place(code, needs, input, batch, keys);
        if of_batch == batch {
            depth = depth.max(of_input + 1);
        }
    }
    keys.insert(operation, (batch, depth));
    (batch, depth)
}

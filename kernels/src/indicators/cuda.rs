//! Programs on the GPU: the same features as the engine on the CPU, from CUDA source that is generated for the program.
//!
//! A [`Plan`] turns every node into small operations with a twin as a device function, and puts those into launches:
//! * Windows: a block computes a tile of rows. It loads the tile and the rows before it that windows look back at into
//!   shared memory, evaluates operation after operation there, and writes outputs once.
//! * Recurrences: one thread per chunk. How rows are cut into chunks is part of the plan, so the bits do
//!   not depend on the card.
//!
//! Flags are those of the CPU exactly, values agree to 1e-11. Several series can lie one after the other: no row sees another
//! series.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    kernel::Id,
    program::{Input, Program, Work as NodeWork},
};

mod code;
mod emit;
mod group;
pub mod labels;
mod run;
#[cfg(test)]
pub(crate) mod shim;
mod twins;

use code::{Chunks, Code, Value, Work};
use emit::{Pass, Places, Rows};
use group::Group;
pub use run::{Resident, Word, run};

/// How a plan is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Threads of a block that computes windows.
    pub threads: usize,
    /// Rows of a tile; by default as many as fit, 256 to 1024.
    pub tile_rows: Option<usize>,
    /// Shared memory of a block. 48 KiB is what every card gives; the default lets two blocks share a multiprocessor of
    /// the H100's generation and one a card that gives 99 KiB.
    pub shared_bytes: usize,
    /// Whether outputs are 32-bit numbers.
    pub is_single: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            threads: 256,
            tile_rows: None,
            shared_bytes: 98 << 10,
            is_single: false,
        }
    }
}

/// A kernel of the program has no device function: the program can run on the CPU only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{name}` has no GPU version; run it on the CPU (device `cpu`)")]
pub struct NoTwin {
    /// Name of the kernel.
    pub name: &'static str,
}

/// One kernel to be launched.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Launch {
    kernel: String,
    /// Rows of the longest series that a block covers; nothing when one block covers all.
    rows_per_block: Option<usize>,
    /// Size of the grid's third dimension.
    n_parts: usize,
    threads: usize,
    shared_bytes: usize,
}

/// Memory that launches use between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// A number per row.
    Column,
    /// The states of the chunks of a recurrence, for each series.
    States { words: usize, chunk_rows: usize },
}

impl Memory {
    /// In 64-bit words.
    fn words(self, n_rows: usize, longest: usize, n_series: usize) -> usize {
        match self {
            Self::Column => n_rows,
            Self::States { words, chunk_rows } => longest.div_ceil(chunk_rows) * n_series * words,
        }
    }
}

impl Launch {
    /// Size of the grid's first dimension for series of at most `longest` rows.
    fn n_blocks(&self, longest: usize) -> usize {
        self.rows_per_block.map_or(1, |rows| longest.div_ceil(rows))
    }
}

/// A program as CUDA source and the launches that run it.
#[derive(Debug, Clone)]
pub struct Plan {
    source: String,
    launches: Vec<Launch>,
    /// Further columns that are read.
    n_columns: usize,
    n_outputs: usize,
    memory: Vec<Memory>,
    is_single: bool,
}

/// The table of addresses begins with the time and OHLCV.
const BARS: usize = 6;

impl Plan {
    /// Plans a program.
    pub fn new(program: &Program, shape: Shape) -> Result<Self, NoTwin> {
        let (code, outputs) = operations(program)?;
        Ok(Planner::new(&code, program.n_columns(), shape).plan(&outputs))
    }

    /// The CUDA source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The number of kernels that are launched one after the other.
    pub fn n_launches(&self) -> usize {
        self.launches.len()
    }

    /// Bytes that go through the card's memory per row: inputs, columns between launches (written and read) and outputs,
    /// each counted once per launch that touches them is more than this; a lower bound, for comparing with a copy.
    pub fn bytes_per_row(&self) -> usize {
        let output = if self.is_single { 4 } else { 8 };
        (BARS - 1 + self.n_columns) * 8 + self.n_outputs * output
    }
}

/// Whether a kernel of this name and these parameters can run on the GPU at all, by an error that names the first that
/// cannot.
fn operations(program: &Program) -> Result<(Code, Vec<Value>), NoTwin> {
    let mut code = Code::default();
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(program.nodes.len());
    for node in &program.nodes {
        let inputs: Vec<Value> = node
            .inputs
            .iter()
            .map(|input| values[input.node][input.output])
            .collect();
        let missing = |id: Id| NoTwin { name: id.name };
        let made = match &node.work {
            NodeWork::Input(input) => vec![code.input(*input)],
            NodeWork::Window(window) => twins::window(&mut code, window.as_ref(), &inputs)
                .ok_or_else(|| missing(window.id()))?,
            NodeWork::Recurrence(recurrence) => {
                twins::recurrence(&mut code, recurrence.as_ref(), &inputs)
                    .ok_or_else(|| missing(recurrence.id()))?
            }
        };
        assert_eq!(
            made.len(),
            node.n_outputs,
            "a twin has the outputs of its kernel"
        );
        values.push(made);
    }
    let outputs = program.outputs.iter().map(|o| values[o.node][o.output]);
    let outputs = outputs.collect();
    Ok((code, outputs))
}

struct Planner<'a> {
    code: &'a Code,
    shape: Shape,
    n_columns: usize,
    places: Places,
    memory: Vec<Memory>,
    source: String,
    launches: Vec<Launch>,
}

impl<'a> Planner<'a> {
    fn new(code: &'a Code, n_columns: usize, shape: Shape) -> Self {
        let mut places = Places::default();
        for (operation, work) in code.operations.iter().enumerate() {
            let place = match work.work {
                Work::Input(Input::Open) => 1,
                Work::Input(Input::High) => 2,
                Work::Input(Input::Low) => 3,
                Work::Input(Input::Close) => 4,
                Work::Input(Input::Volume) => 5,
                Work::Input(Input::Column(position)) => BARS + position,
                _ => continue,
            };
            let value = Value {
                operation,
                output: 0,
            };
            places.columns.insert(value, place);
        }
        Self {
            code,
            shape,
            n_columns,
            places,
            memory: Vec::new(),
            source: String::new(),
            launches: Vec::new(),
        }
    }

    /// The table holds bars, further columns, outputs, and then the memory that launches use between them.
    fn plan(mut self, outputs: &[Value]) -> Plan {
        let mut wanted: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
        for (position, value) in outputs.iter().enumerate() {
            let place = BARS + self.n_columns + position;
            wanted.entry(*value).or_default().push(place);
        }
        let first_free = BARS + self.n_columns + outputs.len();
        let n_levels = self.code.operations.iter().map(|o| o.level).max();
        for level in 1..=n_levels.unwrap_or(0) {
            let recurrences: Vec<usize> = (0..self.code.operations.len())
                .filter(|k| {
                    let operation = &self.code.operations[*k];
                    operation.level == level && matches!(operation.work, Work::Chunks { .. })
                })
                .collect();
            let mut stored = BTreeSet::new();
            for recurrence in &recurrences {
                for input in &self.code.operations[*recurrence].inputs {
                    if !self.places.columns.contains_key(input) {
                        self.new_column(*input, first_free);
                        stored.insert(*input);
                    }
                }
            }
            let also = wanted
                .extract_if(.., |value, _| stored.contains(value))
                .collect();
            self.rows(&stored, &also, first_free);
            self.recurrences(&recurrences, &mut wanted, first_free);
        }
        self.rows(&BTreeSet::new(), &wanted, first_free);

        let output = if self.shape.is_single {
            "float"
        } else {
            "double"
        };
        Plan {
            source: format!(
                "typedef {output} Output;\n{}{}{}\n{}",
                include_str!("cuda/base.cuh"),
                twins::SOURCE,
                emit::tables(self.code),
                self.source
            ),
            launches: self.launches,
            n_columns: self.n_columns,
            n_outputs: outputs.len(),
            memory: self.memory,
            is_single: self.shape.is_single,
        }
    }

    fn new_column(&mut self, value: Value, first_free: usize) {
        let place = first_free + self.memory.len();
        self.places.columns.insert(value, place);
        self.memory.push(Memory::Column);
    }

    /// Launches that compute values which become columns or outputs.
    fn rows(
        &mut self,
        stored: &BTreeSet<Value>,
        outputs: &BTreeMap<Value, Vec<usize>>,
        first_free: usize,
    ) {
        let values = stored.iter().chain(outputs.keys());
        let sinks: BTreeSet<usize> = values.map(|value| value.operation).collect();
        // Sinks that look back about as far share launches.
        let mut classes: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for sink in sinks {
            let halo = group::halo(self.code, sink, &|k| self.is_column(k, stored));
            let class = [64, 256, 1024].iter().position(|most| halo <= *most);
            classes.entry(class.unwrap_or(3)).or_default().push(sink);
        }
        for sinks in classes.into_values() {
            let mut open = vec![sinks];
            while let Some(sinks) = open.pop() {
                if self.narrow(&sinks, stored, outputs) {
                    continue;
                }
                if sinks.len() == 1 {
                    self.wide(&sinks, stored, outputs, first_free);
                    continue;
                }
                let (first, second) = sinks.split_at(sinks.len() / 2);
                open.push(second.to_vec());
                open.push(first.to_vec());
            }
        }
    }

    /// Whether an operation is read from its column. What takes little is computed again; what is being written is not
    /// there yet.
    fn is_column(&self, operation: usize, stored: &BTreeSet<Value>) -> bool {
        let work = &self.code.operations[operation];
        match work.work {
            Work::Rows { is_light: true, .. }
            | Work::Input(Input::Constant(_) | Input::Day | Input::TimeOfDay) => false,
            Work::Input(_) | Work::Chunks { .. } => true,
            Work::Rows { .. } => (0..work.n_outputs).all(|output| {
                let value = Value { operation, output };
                self.places.columns.contains_key(&value) && !stored.contains(&value)
            }),
        }
    }

    /// One launch for `sinks` with values in shared memory, if they fit.
    fn narrow(
        &mut self,
        sinks: &[usize],
        stored: &BTreeSet<Value>,
        outputs: &BTreeMap<Value, Vec<usize>>,
    ) -> bool {
        let is_column = |operation| self.is_column(operation, stored);
        let (all, one);
        let tiles: &[usize] = match self.shape.tile_rows {
            None => {
                all = [1024, 512, 256];
                &all
            }
            Some(rows) => {
                one = [rows];
                &one
            }
        };
        let group = Group::fit(self.code, sinks, &is_column, tiles, self.shape.shared_bytes);
        let Some(group) = group else {
            return false;
        };
        let kernel = format!("rows_{}", self.launches.len());
        let (stored, outputs) = of_sinks(sinks, stored, outputs);
        let rows = Rows {
            code: self.code,
            group: &group,
            columns: &self.places.columns,
            stored: &stored,
            outputs: &outputs,
            is_wide: false,
        };
        self.source.push_str(&rows.kernel(&kernel));
        self.launches.push(Launch {
            kernel,
            rows_per_block: Some(group.tile),
            n_parts: 1,
            threads: self.shape.threads.min(group.tile),
            shared_bytes: group.shared_bytes(),
        });
        true
    }

    /// Launches for `sinks` that look back too far for shared memory: every value that other rows read becomes a column.
    fn wide(
        &mut self,
        sinks: &[usize],
        stored: &BTreeSet<Value>,
        outputs: &BTreeMap<Value, Vec<usize>>,
        first_free: usize,
    ) {
        let tile = self.shape.tile_rows.unwrap_or(1024);
        let group = Group::wide(
            self.code,
            sinks,
            &|operation| self.is_column(operation, stored),
            tile,
        );
        let (mut stored, outputs) = of_sinks(sinks, stored, outputs);
        for value in group.slots.keys() {
            if !self.places.columns.contains_key(value) {
                self.new_column(*value, first_free);
            }
            stored.insert(*value);
        }
        for phase in &group.phases {
            let kernel = format!("wide_{}", self.launches.len());
            let rows = Rows {
                code: self.code,
                group: &group,
                columns: &self.places.columns,
                stored: &stored,
                outputs: &outputs,
                is_wide: true,
            };
            self.source.push_str(&rows.wide_kernel(&kernel, phase));
            self.launches.push(Launch {
                kernel,
                rows_per_block: Some(tile),
                n_parts: 1,
                threads: self.shape.threads.min(tile),
                shared_bytes: 0,
            });
        }
    }

    /// Launches that run recurrences of one level.
    fn recurrences(
        &mut self,
        operations: &[usize],
        wanted: &mut BTreeMap<Value, Vec<usize>>,
        first_free: usize,
    ) {
        let is_read: BTreeSet<Value> = self
            .code
            .operations
            .iter()
            .flat_map(|operation| operation.inputs.iter().copied())
            .collect();
        for operation in operations {
            let work = &self.code.operations[*operation];
            for output in 0..work.n_outputs {
                let value = Value {
                    operation: *operation,
                    output,
                };
                let is_one = wanted.get(&value).is_some_and(|places| places.len() == 1);
                if is_one {
                    self.places.outputs.extend(wanted.remove_entry(&value));
                }
                if is_read.contains(&value) || wanted.contains_key(&value) {
                    self.new_column(value, first_free);
                }
            }
            let Work::Chunks { chunks, .. } = work.work else {
                continue;
            };
            let words = match chunks {
                Chunks::Restart(_) => continue,
                Chunks::Carry(words) => words,
                Chunks::Suppose { words, .. } => 2 * words,
            };
            self.places
                .states
                .insert(*operation, first_free + self.memory.len());
            self.memory.push(Memory::States {
                words,
                chunk_rows: emit::chunk_rows(chunks),
            });
        }
        let of_kind = |is_kind: fn(Chunks) -> bool| -> Vec<usize> {
            let chunks = |k: usize| match &self.code.operations[k].work {
                Work::Chunks { chunks, .. } => Some(*chunks),
                _ => None,
            };
            let of_kind = operations.iter().copied();
            of_kind
                .filter(|k| chunks(*k).is_some_and(is_kind))
                .collect()
        };
        let restarted = of_kind(|chunks| matches!(chunks, Chunks::Restart(_)));
        let carried = of_kind(|chunks| matches!(chunks, Chunks::Carry(_)));
        let supposed = of_kind(|chunks| matches!(chunks, Chunks::Suppose { .. }));
        for (operations, pass) in [
            (&restarted, Pass::Run),
            (&carried, Pass::Run),
            (&carried, Pass::Carry),
            (&carried, Pass::Resume),
            (&supposed, Pass::Run),
            (&supposed, Pass::Check),
        ] {
            if operations.is_empty() {
                continue;
            }
            let kernel = format!("recurrences_{}", self.launches.len());
            self.source.push_str(&emit::recurrences(
                self.code,
                &self.places,
                &kernel,
                operations,
                pass,
            ));
            let series = operations.iter().map(|operation| {
                let work = &self.code.operations[*operation];
                work.inputs.len() + work.n_outputs
            });
            let n_series = series.max().unwrap_or(0);
            let rows = operations.iter().filter_map(|operation| {
                let Work::Chunks { chunks, .. } = &self.code.operations[*operation].work else {
                    return None;
                };
                Some(emit::chunk_rows(*chunks))
            });
            let is_run = matches!(pass, Pass::Run | Pass::Resume);
            self.launches.push(Launch {
                kernel,
                rows_per_block: rows.min().filter(|_| is_run).map(|rows| rows * 32),
                n_parts: operations.len(),
                threads: if pass == Pass::Carry { 1 } else { 32 },
                shared_bytes: match pass {
                    Pass::Carry => 0,
                    Pass::Check => 32 * 8,
                    // 32 chunks of 17 values, the 17th against bank conflicts.
                    Pass::Run | Pass::Resume => n_series * 32 * 17 * 8,
                },
            });
        }
    }
}

/// What of `stored` and `outputs` the sinks are.
fn of_sinks(
    sinks: &[usize],
    stored: &BTreeSet<Value>,
    outputs: &BTreeMap<Value, Vec<usize>>,
) -> (BTreeSet<Value>, BTreeMap<Value, Vec<usize>>) {
    let is_own = |value: &Value| sinks.contains(&value.operation);
    (
        stored.iter().copied().filter(is_own).collect(),
        outputs
            .iter()
            .filter(|(value, _)| is_own(value))
            .map(|(value, places)| (*value, places.clone()))
            .collect(),
    )
}

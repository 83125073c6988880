//! The CUDA source of a launch.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::program::Input,
    code::{Chunks, Code, Value, Work},
    group::{Group, Item},
};

/// Where values lie in the table of addresses.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Values that are columns of 64-bit numbers.
    pub(super) columns: BTreeMap<Value, usize>,
    /// The outputs of the program that a value is.
    pub(super) outputs: BTreeMap<Value, Vec<usize>>,
    /// The memory for states of a recurrence that is carried.
    pub(super) states: BTreeMap<usize, usize>,
}

/// Operations of one loop at most, so that their values find room in registers.
const PER_LOOP: usize = 12;

fn name(value: Value) -> String {
    format!("v{}_{}", value.operation, value.output)
}

fn number(bits: u64) -> String {
    format!("number(0x{bits:x}ull)")
}

/// Writes the kernels of row groups.
pub(super) struct Rows<'a> {
    pub(super) code: &'a Code,
    pub(super) group: &'a Group,
    /// Values that are columns, or become some.
    pub(super) columns: &'a BTreeMap<Value, usize>,
    /// Those that this group writes.
    pub(super) stored: &'a BTreeSet<Value>,
    /// The outputs of the program that this group writes.
    pub(super) outputs: &'a BTreeMap<Value, Vec<usize>>,
    /// Whether values that other rows read are columns, not slots of shared memory.
    pub(super) is_wide: bool,
}

impl Rows<'_> {
    /// One kernel of all phases.
    pub(super) fn kernel(&self, kernel: &str) -> String {
        let group = self.group;
        let mut text = self.head(kernel, group.phases.iter().flatten());
        text.push_str("    NATRON_SHARED(shared);\n");
        for slot in 0..group.n_slots {
            text.push_str(&format!(
                "    double* const s{slot} = shared + {};\n",
                slot * (group.halo + group.tile)
            ));
        }
        for (position, phase) in group.phases.iter().enumerate() {
            if position > 0 {
                text.push_str("    __syncthreads();\n");
            }
            text.push_str(&self.phase(phase));
        }
        text.push_str("}\n\n");
        text
    }

    /// One kernel of one phase, for values that are kept in columns.
    pub(super) fn wide_kernel(&self, kernel: &str, phase: &[Item]) -> String {
        let mut text = self.head(kernel, phase.iter());
        text.push_str(&self.phase(phase));
        text.push_str("}\n\n");
        text
    }

    fn head<'i>(&self, kernel: &str, items: impl Iterator<Item = &'i Item>) -> String {
        let (halo, tile) = (self.halo(), self.group.tile);
        let mut text = format!(
            "extern \"C\" __global__ void {kernel}(const u64* table, const u64* segments, u64) {{\n    \
             const int HALO = {halo};\n    \
             const Tile tile(segments, {tile});\n    \
             if (tile.n <= 0) return;\n    \
             const i64 rows_before = tile.first - tile.begin;\n    \
             const int from = rows_before < HALO ? HALO - (int)rows_before : 0;\n"
        );
        let (mut columns, mut outputs) = (BTreeSet::new(), BTreeSet::new());
        for item in items {
            self.places_of(item.operation, &mut columns, &mut outputs);
        }
        for column in columns {
            text.push_str(&format!(
                "    double* const c{column} = column(table, {column});\n"
            ));
        }
        for output in outputs {
            text.push_str(&format!(
                "    Output* const o{output} = (Output*)column(table, {output});\n"
            ));
        }
        text
    }

    fn halo(&self) -> usize {
        if self.is_wide { 0 } else { self.group.halo }
    }

    /// The columns that an operation reads or writes, and the outputs that it writes.
    fn places_of(
        &self,
        operation: usize,
        columns: &mut BTreeSet<usize>,
        outputs: &mut BTreeSet<usize>,
    ) {
        for output in 0..self.code.operations[operation].n_outputs {
            let value = Value { operation, output };
            columns.extend(self.columns.get(&value));
            outputs.extend(self.outputs.get(&value).into_iter().flatten());
        }
        if let Work::Input(Input::Day | Input::TimeOfDay) = self.code.operations[operation].work {
            columns.insert(0);
        }
        if !self.group.sources.contains(&operation) {
            for input in &self.code.operations[operation].inputs {
                self.places_of(input.operation, columns, &mut BTreeSet::new());
            }
        }
    }

    fn phase(&self, phase: &[Item]) -> String {
        let mut items = phase.to_vec();
        items.sort_by_key(|item| (std::cmp::Reverse(item.rows_before), item.operation));
        items
            .chunks(PER_LOOP)
            .map(|items| self.row_loop(items))
            .collect()
    }

    fn row_loop(&self, items: &[Item]) -> String {
        // What is computed in this loop, and from which row before the tile on.
        let mut rows_before: BTreeMap<usize, usize> = BTreeMap::new();
        for item in items {
            self.collect(item.operation, item.rows_before, true, &mut rows_before);
        }
        let most = rows_before.values().copied().max().unwrap_or(0);
        let halo = self.halo();
        let mut text = format!(
            "    for (int i = {} + (int)threadIdx.x; i < HALO + tile.n; i += (int)blockDim.x) {{\n        \
             const i64 row = tile.first + (i - HALO);\n",
            halo - most
        );
        for (operation, rows) in &rows_before {
            let guard = (*rows < most).then(|| halo - rows);
            text.push_str(&self.computed(*operation, guard));
        }
        for item in items {
            text.push_str(&self.written(*item, most));
        }
        text.push_str("    }\n");
        text
    }

    fn collect(
        &self,
        operation: usize,
        rows: usize,
        is_item: bool,
        rows_before: &mut BTreeMap<usize, usize>,
    ) {
        if !is_item && self.is_kept(operation) {
            return;
        }
        let known = rows_before.entry(operation).or_insert(0);
        *known = (*known).max(rows);
        if !self.group.sources.contains(&operation) {
            for input in &self.code.operations[operation].inputs {
                if self.here(*input).is_none() {
                    self.collect(input.operation, rows, false, rows_before);
                }
            }
        }
    }

    /// Whether other operations read its values from where they are kept.
    fn is_kept(&self, operation: usize) -> bool {
        (0..self.code.operations[operation].n_outputs).any(|output| {
            let value = Value { operation, output };
            self.group.slots.contains_key(&value)
        })
    }

    /// How a function reads a value that is not computed in the loop itself.
    fn here(&self, value: Value) -> Option<String> {
        if let Work::Input(Input::Constant(bits)) = self.code.operations[value.operation].work
            && !self.group.slots.contains_key(&value)
        {
            return Some(format!("Here{{{}}}", number(bits)));
        }
        if self.is_wide {
            let column = self.columns.get(&value)?;
            let is_source = self.group.sources.contains(&value.operation);
            return (is_source || self.group.slots.contains_key(&value))
                .then(|| format!("There{{c{column} + row, row - tile.begin}}"));
        }
        let slot = self.group.slots.get(&value)?;
        Some(format!("s{slot} + i"))
    }

    /// Its values as local variables, computed from row `guard` on where it is given.
    fn computed(&self, operation: usize, guard: Option<usize>) -> String {
        let work = &self.code.operations[operation];
        let n_outputs = work.n_outputs;
        let values = (0..n_outputs).map(|output| Value { operation, output });
        let names: Vec<String> = values.map(name).collect();
        let declared: String = names
            .iter()
            .map(|name| format!("        double {name} = nan_value();\n"))
            .collect();
        let statement = match &work.work {
            Work::Rows { function, .. } if !self.group.sources.contains(&operation) => {
                let read = |value: &Value| {
                    self.here(*value)
                        .unwrap_or_else(|| format!("Here{{{}}}", name(*value)))
                };
                let mut arguments: Vec<String> = work.inputs.iter().map(read).collect();
                if n_outputs == 1 {
                    format!("{} = {function}({});", names[0], arguments.join(", "))
                } else {
                    arguments.extend(names.iter().cloned());
                    format!("{function}({});", arguments.join(", "))
                }
            }
            Work::Input(Input::Constant(bits)) => format!("{} = {};", names[0], number(*bits)),
            Work::Input(Input::Day) => format!("{} = day(c0, row, tile.begin);", names[0]),
            Work::Input(Input::TimeOfDay) => {
                format!("{} = time_of_day(c0, row, tile.begin);", names[0])
            }
            _ => (0..n_outputs)
                .filter_map(|output| {
                    let value = Value { operation, output };
                    let column = self.columns.get(&value)?;
                    Some(format!(
                        "{} = load(c{column}, row, tile.begin);",
                        name(value)
                    ))
                })
                .collect::<Vec<_>>()
                .join(" "),
        };
        match guard {
            None => format!("{declared}        {statement}\n"),
            Some(row) => format!("{declared}        if (i >= {row}) {{ {statement} }}\n"),
        }
    }

    /// Where an item's values go.
    fn written(&self, item: Item, most: usize) -> String {
        let mut text = String::new();
        let operation = item.operation;
        let n_outputs = self.code.operations[operation].n_outputs;
        let first = self.halo() - item.rows_before;
        let guard = |needed: bool, row: usize| {
            if needed {
                format!("if (i >= {row}) ")
            } else {
                String::new()
            }
        };
        for output in 0..n_outputs {
            let value = Value { operation, output };
            let name = name(value);
            if let Some(slot) = self.group.slots.get(&value).filter(|_| !self.is_wide) {
                text.push_str(&format!(
                    "        {}s{slot}[i] = {};\n",
                    guard(item.rows_before < most, first),
                    if item.rows_before > 0 {
                        format!("i < from ? nan_value() : {name}")
                    } else {
                        name.clone()
                    }
                ));
            }
            let column = self.columns.get(&value);
            if let Some(column) = column.filter(|_| self.stored.contains(&value)) {
                text.push_str(&format!(
                    "        {}c{column}[row] = {name};\n",
                    guard(most > 0, self.halo())
                ));
            }
            for place in self.outputs.get(&value).into_iter().flatten() {
                text.push_str(&format!(
                    "        {}o{place}[row] = as_output({name});\n",
                    guard(most > 0, self.halo())
                ));
            }
        }
        text
    }
}

/// Rows of a chunk: as many as are thrown away before it, so that a chunk is short and at most half of the work is lost;
/// whole steps of the kernel.
pub(super) fn chunk_rows(chunks: Chunks) -> usize {
    match chunks {
        Chunks::Restart(rows) => rows.max(256).next_multiple_of(16),
        Chunks::Carry(_) => 1024,
        Chunks::Suppose { run_up, .. } => run_up.next_multiple_of(16),
    }
}

/// What a launch of recurrences is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// The first or only run.
    Run,
    /// From chunk to chunk, for those that are carried.
    Carry,
    /// The second run of those that are carried.
    Resume,
    /// What was supposed is checked.
    Check,
}

/// One kernel that runs recurrences side by side: `blockIdx.z` says which.
pub(super) fn recurrences(
    code: &Code,
    places: &Places,
    kernel: &str,
    operations: &[usize],
    pass: Pass,
) -> String {
    let mut text = format!(
        "extern \"C\" __global__ void {kernel}(const u64* table, const u64* segments, u64 longest) {{\n    \
         switch (blockIdx.z) {{\n"
    );
    for (part, operation) in operations.iter().enumerate() {
        let Work::Chunks { start, chunks } = &code.operations[*operation].work else {
            unreachable!("only recurrences are run in chunks")
        };
        let rows = chunk_rows(*chunks);
        let states = places.states.get(operation).map_or_else(
            || "(double*)0".to_owned(),
            |place| format!("column(table, {place})"),
        );
        text.push_str(&format!(
            "    case {part}: {{\n        \
             auto start = {start};\n        \
             typedef decltype(start) R;\n        \
             static_assert(R::INPUTS == {} && R::OUTPUTS == {}, \"what it reads and gives\");\n        \
             const i64 chunk_rows = {rows}, n_chunks = ((i64)longest + chunk_rows - 1) / chunk_rows;\n",
            code.operations[*operation].inputs.len(),
            code.operations[*operation].n_outputs,
        ));
        if let Chunks::Carry(words) | Chunks::Suppose { words, .. } = chunks {
            text.push_str(&format!(
                "        static_assert(R::WORDS == {words}, \"words of the state\");\n"
            ));
        }
        if pass == Pass::Carry {
            text.push_str(&format!(
                "        carry_chunks(start, segments, chunk_rows, {states}, n_chunks);\n"
            ));
        } else {
            text.push_str("        Columns<R> columns;\n");
            for (position, input) in code.operations[*operation].inputs.iter().enumerate() {
                text.push_str(&format!(
                    "        columns.in[{position}] = column(table, {});\n",
                    places.columns[input]
                ));
            }
            for output in 0..code.operations[*operation].n_outputs {
                let value = Value {
                    operation: *operation,
                    output,
                };
                let place = |place: Option<&usize>, kind: &str| {
                    place.map_or_else(|| "0".to_owned(), |k| format!("({kind})column(table, {k})"))
                };
                let outputs = places.outputs.get(&value);
                text.push_str(&format!(
                    "        columns.out[{output}] = {};\n        columns.kept[{output}] = {};\n",
                    place(places.columns.get(&value), "double*"),
                    place(outputs.and_then(|outputs| outputs.first()), "Output*")
                ));
            }
            let (run, run_up) = match (chunks, pass) {
                // For the row before.
                (Chunks::Carry(_), Pass::Run) => ("TOTAL", 16),
                (Chunks::Carry(_), _) => ("RESUME", 16),
                (Chunks::Restart(rows), _) => ("RESTART", rows.next_multiple_of(16)),
                (Chunks::Suppose { run_up, .. }, _) => ("SUPPOSE", run_up.next_multiple_of(16)),
            };
            text.push_str(&if pass == Pass::Check {
                format!(
                    "        check_chunks(start, columns, segments, chunk_rows, {states}, n_chunks);\n"
                )
            } else { format!(
                "        run_chunks<{run}>(start, columns, segments, chunk_rows, {run_up}, {states}, n_chunks);\n"
            ) });
        }
        text.push_str("        break;\n    }\n");
    }
    text.push_str("    }\n}\n\n");
    text
}

/// The numbers of a program's tables.
pub(super) fn tables(code: &Code) -> String {
    let table = |(position, numbers): (usize, &Vec<f64>)| {
        // The shortest decimals that give the same bits.
        let numbers: Vec<String> = numbers.iter().map(|x| format!("{x:e}")).collect();
        format!(
            "__constant__ const double table_{position}[] = {{{}}};\n\
             struct Table{position} {{ __device__ static double at(int k) {{ return table_{position}[k]; }} }};\n",
            numbers.join(", ")
        )
    };
    code.tables.iter().enumerate().map(table).collect()
}

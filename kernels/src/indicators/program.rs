//! What is computed: inputs, windows and recurrences, each once.

use std::{collections::BTreeMap, sync::Arc};

use super::kernel::{Id, Recurrence, Window};

/// What a program reads of every bar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// First price.
    Open,
    /// Highest price.
    High,
    /// Lowest price.
    Low,
    /// Last price.
    Close,
    /// Units traded.
    Volume,
    /// The day of the bar's time: days since 1970-01-01 UTC, a Thursday.
    Day,
    /// Nanoseconds since that day began.
    TimeOfDay,
    /// A further column that is handed over with the bars, by its position.
    Column(usize),
    /// The number with these bits, in every row.
    Constant(u64),
}

impl Input {
    /// Whether it is a column of numbers that is handed over.
    pub(super) fn is_column(self) -> bool {
        !matches!(self, Self::Day | Self::TimeOfDay | Self::Constant(_))
    }
}

/// An output of a node: the handle by which features are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    pub(super) node: usize,
    pub(super) output: usize,
}

/// How a node computes.
#[derive(Debug, Clone)]
pub(super) enum Work {
    Input(Input),
    Window(Arc<dyn Window>),
    Recurrence(Arc<dyn Recurrence>),
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) work: Work,
    pub(super) inputs: Vec<Series>,
    pub(super) n_outputs: usize,
    /// Rows without value at the start of a series.
    pub(super) warm_up: usize,
    /// See [`Program::memory`].
    pub(super) memory: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Input(Input),
    Kernel(Id, Vec<Series>),
}

/// Puts a program together.
#[derive(Debug, Default)]
pub struct Builder {
    nodes: Vec<Node>,
    /// The node of each kernel, and the first of its outputs there.
    known: BTreeMap<Key, (usize, usize)>,
}

impl Builder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A column of the bars.
    pub fn input(&mut self, input: Input) -> Series {
        let (node, _) = self.node(Key::Input(input), || Node {
            work: Work::Input(input),
            inputs: Vec::new(),
            n_outputs: 1,
            warm_up: 0,
            memory: Some(0),
        });
        Series { node, output: 0 }
    }

    /// The same number in every row.
    pub fn constant(&mut self, x: f64) -> Series {
        self.input(Input::Constant(x.to_bits()))
    }

    /// The outputs of a window over `inputs`.
    pub fn window(&mut self, window: impl Window + 'static, inputs: &[Series]) -> Vec<Series> {
        let warm_up = if window.is_defined_from_the_start() {
            0
        } else {
            self.warm_up_of(inputs) + window.warm_up()
        };
        let memory = self.memory_of(inputs).map(|rows| rows + window.lookback());
        let n_outputs = window.n_outputs();
        let key = Key::Kernel(window.id(), inputs.to_vec());
        if !self.known.contains_key(&key) {
            self.join(&key, n_outputs);
        }
        let (node, first) = self.node(key, || Node {
            work: Work::Window(Arc::new(window)),
            inputs: inputs.to_vec(),
            n_outputs,
            warm_up,
            memory,
        });
        outputs(node, first, n_outputs)
    }

    /// Has a node that is there already compute the window `key` too, if there is one that can.
    fn join(&mut self, key: &Key, n_outputs: usize) {
        let Key::Kernel(id, inputs) = key else { return };
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Work::Window(window) = &node.work
                && node.inputs == *inputs
                && let Some(joined) = window.joined(id)
            {
                self.known.insert(key.clone(), (index, node.n_outputs));
                node.work = Work::Window(joined);
                node.n_outputs += n_outputs;
                return;
            }
        }
    }

    /// The outputs of a recurrence over `inputs`.
    pub fn recurrence(
        &mut self,
        recurrence: impl Recurrence + 'static,
        inputs: &[Series],
    ) -> Vec<Series> {
        let warm_up = if recurrence.is_defined_from_the_start() {
            0
        } else {
            self.warm_up_of(inputs) + recurrence.warm_up()
        };
        let own = recurrence.memory();
        let memory = self
            .memory_of(inputs)
            .zip(own)
            .map(|(rows, own)| rows + own);
        let n_outputs = recurrence.n_outputs();
        let (node, first) = self.node(Key::Kernel(recurrence.id(), inputs.to_vec()), || Node {
            work: Work::Recurrence(Arc::new(recurrence)),
            inputs: inputs.to_vec(),
            n_outputs,
            warm_up,
            memory,
        });
        outputs(node, first, n_outputs)
    }

    fn node(&mut self, key: Key, make: impl FnOnce() -> Node) -> (usize, usize) {
        if let Some(place) = self.known.get(&key) {
            return *place;
        }
        let place = (self.nodes.len(), 0);
        self.nodes.push(make());
        self.known.insert(key, place);
        place
    }

    fn warm_up_of(&self, inputs: &[Series]) -> usize {
        let rows = inputs.iter().map(|input| self.nodes[input.node].warm_up);
        rows.max().unwrap_or(0)
    }

    fn memory_of(&self, inputs: &[Series]) -> Option<usize> {
        let mut rows = inputs.iter().map(|input| self.nodes[input.node].memory);
        rows.try_fold(0, |most, rows| rows.map(|rows| most.max(rows)))
    }

    /// The program that computes `outputs`, and nothing that they do not need.
    pub fn finish(self, outputs: &[Series]) -> Program {
        let all = Program {
            nodes: self.nodes,
            outputs: outputs.to_vec(),
        };
        all.needed()
    }
}

fn outputs(node: usize, first: usize, n: usize) -> Vec<Series> {
    (first..first + n)
        .map(|output| Series { node, output })
        .collect()
}

/// A list of computations, each after those that it reads, and which of their outputs are wanted.
#[derive(Debug, Clone)]
pub struct Program {
    pub(super) nodes: Vec<Node>,
    pub(super) outputs: Vec<Series>,
}

impl Program {
    /// The same without what no output needs.
    fn needed(self) -> Self {
        let is_needed = self.needs(self.outputs.iter().map(|output| output.node));
        let mut place = vec![usize::MAX; self.nodes.len()];
        let mut nodes: Vec<Node> = Vec::new();
        for (old, mut node) in self.nodes.into_iter().enumerate() {
            if is_needed[old] {
                for input in &mut node.inputs {
                    input.node = place[input.node];
                }
                place[old] = nodes.len();
                nodes.push(node);
            }
        }
        let outputs = self.outputs.iter().map(|output| Series {
            node: place[output.node],
            output: output.output,
        });
        let outputs = outputs.collect();
        Self { nodes, outputs }
    }

    /// For each node, whether one of `wanted` needs it.
    pub(super) fn needs(&self, wanted: impl IntoIterator<Item = usize>) -> Vec<bool> {
        let mut is_needed = vec![false; self.nodes.len()];
        let mut open: Vec<usize> = wanted.into_iter().collect();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut is_needed[node], true) {
                open.extend(self.nodes[node].inputs.iter().map(|input| input.node));
            }
        }
        is_needed
    }

    /// The program of these outputs, in this order, alone.
    pub(super) fn part(&self, outputs: &[usize]) -> Self {
        let all = Self {
            nodes: self.nodes.clone(),
            outputs: outputs.iter().map(|output| self.outputs[*output]).collect(),
        };
        all.needed()
    }

    /// The number of wanted outputs.
    pub fn n_outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Rows at the start of a series in which output `output` has no value.
    pub fn warm_up(&self, output: usize) -> usize {
        self.nodes[self.outputs[output].node].warm_up
    }

    /// Bars before a row that decide the value of output `output` there; nothing if all of them do. A series that starts
    /// at least this many bars before the row has the same value as one that starts earlier: to the bit for windows, to
    /// 1e-12 of the column's size for recurrences.
    pub fn memory(&self, output: usize) -> Option<usize> {
        self.nodes[self.outputs[output].node].memory
    }

    /// The largest number of further columns that it reads, see [`Input::Column`].
    pub fn n_columns(&self) -> usize {
        let columns = self.nodes.iter().map(|node| match node.work {
            Work::Input(Input::Column(position)) => position + 1,
            _ => 0,
        });
        columns.max().unwrap_or(0)
    }
}

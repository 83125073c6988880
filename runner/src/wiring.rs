//! Which instance reads which: names of stages, cycles, joins and gathers along axes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use petgraph::{algo::tarjan_scc, graph::DiGraph};

use crate::{
    Diagnostic, Place, code,
    did_you_mean::{listed, suggestion_or},
    document::{self, Node},
    drafts::{self, Draft, Stages},
    interpolate::Coordinates,
    matrix::value_text,
    references::{Reference, SHAPES, Selected},
};

/// What a reference comes to.
pub(crate) enum Resolved {
    /// These instances of the stage at the first position; several when gathered.
    Instances(usize, Vec<usize>),
    /// Instances that their `when` switches off.
    Off,
    /// Something that was complained about.
    Broken,
}

/// The stages that take part in cycles; each cycle is reported.
pub(crate) fn cyclic_stages(
    stages: &Stages<'_>,
    mistakes: &mut Vec<Diagnostic>,
) -> BTreeSet<String> {
    let names: Vec<&str> = stages.iter().map(|(name, _)| name.as_str()).collect();
    // Consumer -> producer, with the first place that says so.
    let mut reads: BTreeMap<(usize, usize), Place> = BTreeMap::new();
    for (consumer, (_, stage)) in stages.iter().enumerate() {
        for (producer, place) in &stage.reads {
            if let Ok(producer) = names.binary_search(&producer.as_str()) {
                reads.insert((consumer, producer), place.clone());
            }
        }
    }
    let mut graph: DiGraph<(), ()> = DiGraph::new();
    let nodes: Vec<_> = names.iter().map(|_| graph.add_node(())).collect();
    for (consumer, producer) in reads.keys() {
        graph.add_edge(nodes[*consumer], nodes[*producer], ());
    }
    let mut cyclic = BTreeSet::new();
    for component in tarjan_scc(&graph) {
        let members: BTreeSet<usize> = component.iter().map(|node| node.index()).collect();
        let Some(&first) = members.first() else {
            continue;
        };
        if members.len() == 1 && !reads.contains_key(&(first, first)) {
            continue;
        }
        mistakes.push(cycle_mistake(&names, &reads, &members, first));
        cyclic.extend(members.iter().map(|member| names[*member].to_owned()));
    }
    cyclic
}

/// The shortest cycle through `first` within `members`, each edge labelled.
fn cycle_mistake(
    names: &[&str],
    reads: &BTreeMap<(usize, usize), Place>,
    members: &BTreeSet<usize>,
    first: usize,
) -> Diagnostic {
    let mut before: BTreeMap<usize, usize> = BTreeMap::new();
    let mut queue = std::collections::VecDeque::from([first]);
    let mut last = first;
    'search: while let Some(consumer) = queue.pop_front() {
        for (_, producer) in reads
            .range((consumer, 0)..=(consumer, usize::MAX))
            .map(|(edge, _)| *edge)
        {
            if producer == first {
                last = consumer;
                break 'search;
            }
            if members.contains(&producer) && !before.contains_key(&producer) {
                before.insert(producer, consumer);
                queue.push_back(producer);
            }
        }
    }
    let mut path = vec![last];
    while let Some(consumer) = before.get(&path[path.len() - 1]) {
        path.push(*consumer);
        if *consumer == first {
            break;
        }
    }
    path.reverse();
    path.push(first);
    let arrows: Vec<&str> = path.iter().map(|stage| names[*stage]).collect();
    let mut edges: Vec<(&Place, String)> = path
        .windows(2)
        .map(|edge| {
            let label = if edge[0] == edge[1] {
                format!("`{}` reads itself", names[edge[0]])
            } else {
                format!("`{}` reads `{}`", names[edge[0]], names[edge[1]])
            };
            (&reads[&(edge[0], edge[1])], label)
        })
        .collect();
    edges.sort_by_key(|(place, _)| place.span.start);
    let message = if arrows.len() == 2 {
        format!("stage `{}` reads itself", arrows[0])
    } else {
        format!("stages form a cycle: {}", arrows.join(" -> "))
    };
    let mut edges = edges.into_iter();
    let (place, label) = edges.next().expect("a cycle has an edge");
    let mut mistake = Diagnostic::error(code::STAGE_CYCLE, message, place, label);
    for (place, label) in edges {
        mistake = mistake.also(place, label);
    }
    mistake.help("remove one of these inputs, or split a stage so that the data flows one way")
}

/// The instances that `reference`, written in `node` of an instance at `coordinates`, reads.
pub(crate) fn resolve(
    stages: &Stages<'_>,
    node: &Node,
    reference: &Reference,
    coordinates: &Coordinates,
    mistakes: &mut Vec<Diagnostic>,
) -> Resolved {
    let Some(position) = drafts::find(stages, &reference.stage) else {
        let names = stages.iter().map(|(name, _)| name.as_str());
        let otherwise = format!("the stages are {}; {SHAPES}", listed(names.clone()));
        let help = suggestion_or(&reference.stage, names, &otherwise);
        let message = format!("there is no stage `{}`", reference.stage);
        mistakes.push(node.mistake(code::UNKNOWN_STAGE, message, "").help(help));
        return Resolved::Broken;
    };
    let stage = &stages[position].1;
    let Some(drafts) = &stage.drafts else {
        return Resolved::Broken;
    };
    let mut chooser = Chooser {
        reference,
        drafts,
        index: stage.index.get_or_init(|| Index::new(drafts)),
        node,
        mistakes,
    };
    let Some(chosen) = chooser.choose(coordinates) else {
        return Resolved::Broken;
    };
    let mut on = chosen;
    on.retain(|position| drafts[*position].is_on);
    if on.is_empty() {
        Resolved::Off
    } else {
        Resolved::Instances(position, on)
    }
}

/// The instances of a stage by their places on its axes: a matrix that joins another one does not look at all of it for each of
/// its own instances.
pub(crate) struct Index {
    axes: BTreeSet<String>,
    /// The values of each axis, by their texts.
    values: BTreeMap<String, BTreeMap<String, Node>>,
    /// For some axes, the positions by their texts on these axes.
    by_axes: Mutex<BTreeMap<Vec<String>, Positions>>,
}

type Positions = BTreeMap<Vec<String>, Vec<usize>>;

impl Index {
    fn new(drafts: &[Draft<'_>]) -> Self {
        let mut values: BTreeMap<String, BTreeMap<String, Node>> = BTreeMap::new();
        for (axis, value) in drafts.iter().flat_map(|draft| &draft.coordinates) {
            let texts = values.entry(axis.clone()).or_default();
            texts
                .entry(value_text(value))
                .or_insert_with(|| value.clone());
        }
        Self {
            axes: values.keys().cloned().collect(),
            values,
            by_axes: Mutex::default(),
        }
    }

    /// Positions of the instances that stand at `texts` on `axes`.
    fn at(&self, drafts: &[Draft<'_>], axes: Vec<String>, texts: &[String]) -> Vec<usize> {
        let mut by_axes = self.by_axes.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = by_axes.entry(axes).or_insert_with_key(|axes| {
            let mut positions = Positions::new();
            for (position, draft) in drafts.iter().enumerate() {
                let texts = axes.iter().map(|axis| value_text(&draft.coordinates[axis]));
                positions.entry(texts.collect()).or_default().push(position);
            }
            positions
        });
        positions.get(texts).cloned().unwrap_or_default()
    }
}

struct Chooser<'a> {
    reference: &'a Reference,
    drafts: &'a [Draft<'a>],
    index: &'a Index,
    node: &'a Node,
    mistakes: &'a mut Vec<Diagnostic>,
}

impl Chooser<'_> {
    /// Positions of the chosen instances, on or off.
    fn choose(&mut self, coordinates: &Coordinates) -> Option<Vec<usize>> {
        let stage = &self.reference.stage;
        let axes: BTreeSet<&str> = self.index.axes.iter().map(String::as_str).collect();
        if let Some(chosen) = self.choose_at_once(coordinates) {
            return Some(chosen);
        }
        if axes.is_empty() {
            if self.reference.selection.is_empty() {
                return Some((0..self.drafts.len()).collect());
            }
            let message = format!("stage `{stage}` has no matrix to choose from");
            self.mistakes.push(
                self.node
                    .mistake(code::UNKNOWN_INSTANCE, message, "")
                    .help(format!("write `{stage}` without brackets")),
            );
            return None;
        }
        let mut chosen: Vec<usize> = (0..self.drafts.len()).collect();
        let mut open = axes.clone();
        for selected in &self.reference.selection {
            match selected {
                Selected::All => return Some(chosen),
                Selected::Every(axis) | Selected::One(axis, _) if !axes.contains(axis.as_str()) => {
                    let otherwise = format!("its axes are {}", listed(axes.iter().copied()));
                    let message = format!("stage `{stage}` has no axis `{axis}`");
                    self.mistakes.push(
                        self.node
                            .mistake(code::UNKNOWN_INSTANCE, message, "")
                            .help(suggestion_or(axis, axes.iter().copied(), &otherwise)),
                    );
                    return None;
                }
                Selected::Every(axis) => {
                    open.remove(axis.as_str());
                }
                Selected::One(axis, value) => {
                    open.remove(axis.as_str());
                    let wanted = value_of(value);
                    chosen.retain(|position| {
                        fits(
                            &self.drafts[*position].coordinates[axis],
                            value,
                            wanted.as_ref(),
                        )
                    });
                    if chosen.is_empty() {
                        self.no_instance(&format!("{axis}={value}"), Some(axis));
                        return None;
                    }
                }
            }
        }
        let mut not_chosen = Vec::new();
        for axis in open {
            match coordinates.get(axis) {
                Some(value) => {
                    let text = value_text(value);
                    chosen.retain(|position| {
                        value_text(&self.drafts[*position].coordinates[axis]) == text
                    });
                    if chosen.is_empty() {
                        self.no_instance(&format!("{axis}={text}"), Some(axis));
                        return None;
                    }
                }
                None => not_chosen.push(axis),
            }
        }
        if !not_chosen.is_empty() {
            self.not_chosen(&not_chosen);
            return None;
        }
        Some(chosen)
    }

    /// The chosen instances where every axis has one text that is meant; the way round finds what is wrong otherwise.
    fn choose_at_once(&self, coordinates: &Coordinates) -> Option<Vec<usize>> {
        let mut fixed: BTreeMap<&str, String> = BTreeMap::new();
        let mut open: BTreeSet<&str> = self.index.axes.iter().map(String::as_str).collect();
        for selected in &self.reference.selection {
            match selected {
                Selected::All => return None,
                Selected::Every(axis) => {
                    open.remove(axis.as_str()).then_some(())?;
                }
                Selected::One(axis, text) => {
                    open.remove(axis.as_str()).then_some(())?;
                    let wanted = value_of(text);
                    let values = self.index.values[axis].iter();
                    let mut meant = values.filter(|(_, value)| fits(value, text, wanted.as_ref()));
                    let (shown, _) = meant.next()?;
                    if meant.next().is_some() {
                        return None;
                    }
                    fixed.insert(axis, shown.clone());
                }
            }
        }
        for axis in open {
            fixed.insert(axis, value_text(coordinates.get(axis)?));
        }
        let axes = fixed.keys().map(|axis| (*axis).to_owned()).collect();
        let texts: Vec<String> = fixed.into_values().collect();
        let chosen = self.index.at(self.drafts, axes, &texts);
        (!chosen.is_empty()).then_some(chosen)
    }

    fn no_instance(&mut self, wanted: &str, axis: Option<&str>) {
        let stage = &self.reference.stage;
        let message = format!("stage `{stage}` has no instance with `{wanted}`");
        let help = axis.map_or_else(String::new, |axis| {
            let values: BTreeSet<String> = self
                .drafts
                .iter()
                .filter_map(|draft| draft.coordinates.get(axis))
                .map(value_text)
                .collect();
            let shown = values.iter().take(8).map(String::as_str);
            let more = if values.len() > 8 { ", ..." } else { "" };
            format!("the values of `{axis}` are {}{more}", listed(shown))
        });
        self.mistakes.push(
            self.node
                .mistake(code::UNKNOWN_INSTANCE, message, "")
                .help(help),
        );
    }

    fn not_chosen(&mut self, axes: &[&str]) {
        let stage = &self.reference.stage;
        let output = match &self.reference.output {
            Some(output) => format!(".{output}"),
            None => String::new(),
        };
        let message = format!(
            "stage `{stage}` has {} instances along {}, and none is chosen",
            self.drafts.len(),
            listed(axes.iter().copied())
        );
        let axis = axes[0];
        let example = self.drafts[0]
            .coordinates
            .get(axis)
            .map(value_text)
            .unwrap_or_default();
        let help = format!(
            "read all with `{stage}[*]{output}`, one with `{stage}[{axis}={example}]{output}`, or give this stage `matrix.{axis}` too"
        );
        self.mistakes.push(
            self.node
                .mistake(code::INSTANCES_NOT_CHOSEN, message, "")
                .help(help),
        );
    }
}

/// What the text of a chosen value means as TOML.
fn value_of(text: &str) -> Option<Node> {
    let file = crate::SourceText::new("", text);
    document::parse_value(&file, 0..text.len()).ok()
}

fn fits(value: &Node, text: &str, wanted: Option<&Node>) -> bool {
    let shown = value_text(value);
    shown == text
        || value.as_str() == Some(text)
        || wanted.is_some_and(|wanted| crate::matrix::same(value, wanted))
}

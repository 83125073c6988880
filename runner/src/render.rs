//! The graph as a picture: lines and names for a terminal, Graphviz, Mermaid, SVG.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use natron_artifacts::Kind;

use crate::{Graph, InputEdge};

mod svg;

pub use svg::svg;

/// What there is to draw.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Drawing {
    /// Name of the pipeline.
    pub name: String,
    /// The stages, producers before consumers.
    pub nodes: Vec<Node>,
}

/// A box of the picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Name of the stage instance, or of the stage with `[*]` when its instances are drawn as one.
    pub name: String,
    /// Kind of the stage.
    pub kind: String,
    /// How many instances the box stands for.
    pub instances: usize,
    /// Kind of its first output, for the colour.
    pub gives: Option<Kind>,
    /// What it reads, sorted by producer.
    pub reads: Vec<Read>,
}

/// An arrow of the picture.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Read {
    /// Position of the producer.
    pub node: usize,
    /// The producer's output.
    pub output: String,
    /// Whether the producer has other outputs too, so that the name says something.
    pub is_one_of_several: bool,
    /// The port where it comes in.
    pub port: String,
}

/// More instances than this are drawn as one box per stage.
const MOST_INSTANCES: usize = 60;

/// A tree with more lines side by side than this says nothing to the eye.
const MOST_LANES: usize = 24;

impl Drawing {
    /// The graph; one box per instance, or per stage if there are very many instances.
    pub fn of(graph: &Graph) -> Self {
        if graph.instances.len() > MOST_INSTANCES {
            Self::by_stage(graph)
        } else {
            let all: Vec<usize> = (0..graph.instances.len()).collect();
            Self::grouped(graph, &all)
        }
    }

    /// The graph with one box per stage of the file.
    pub fn by_stage(graph: &Graph) -> Self {
        let mut stages: Vec<&str> = Vec::new();
        let groups: Vec<usize> = graph
            .instances
            .iter()
            .map(|instance| {
                let known = stages.iter().position(|stage| *stage == instance.stage);
                known.unwrap_or_else(|| {
                    stages.push(&instance.stage);
                    stages.len() - 1
                })
            })
            .collect();
        Self::grouped(graph, &groups)
    }

    /// `groups` says for each instance which box it is part of.
    fn grouped(graph: &Graph, groups: &[usize]) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for (instance, &group) in graph.instances.iter().zip(groups) {
            if group == nodes.len() {
                let output = instance.signature.outputs.first();
                nodes.push(Node {
                    name: instance.name.clone(),
                    kind: instance.kind.clone(),
                    instances: 0,
                    gives: output.map(|port| port.schema.kind),
                    reads: Vec::new(),
                });
            }
            let node = &mut nodes[group];
            node.instances += 1;
            if node.instances == 2 {
                node.name = format!("{}[*]", instance.stage);
            }
            for (port, edges) in &instance.inputs {
                for edge in edges {
                    let InputEdge::Output {
                        instance: producer,
                        output,
                    } = edge
                    else {
                        continue;
                    };
                    node.reads.push(Read {
                        node: groups[*producer],
                        output: output.clone(),
                        is_one_of_several: graph.instances[*producer].signature.outputs.len() > 1,
                        port: port.clone(),
                    });
                }
            }
        }
        for node in &mut nodes {
            node.reads.sort();
            node.reads.dedup();
        }
        Self {
            name: graph.name.clone(),
            nodes,
        }
    }

    /// The producers that a node reads, each with the names of the outputs where these say something.
    fn producers(node: &Node) -> BTreeMap<usize, BTreeSet<String>> {
        let mut producers: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for read in &node.reads {
            let outputs = producers.entry(read.node).or_default();
            if read.is_one_of_several {
                outputs.insert(read.output.clone());
            }
        }
        producers
    }

    /// What a node reads: `candles.candles`, `evaluate.{equity, trades}`, `features`.
    fn sources(&self, node: &Node) -> Vec<String> {
        let name = |(producer, outputs): (usize, BTreeSet<String>)| {
            let producer = &self.nodes[producer].name;
            match outputs.len() {
                0 => producer.clone(),
                1 => format!("{producer}.{}", joined(&outputs)),
                _ => format!("{producer}.{{{}}}", joined(&outputs)),
            }
        };
        Self::producers(node).into_iter().map(name).collect()
    }

    fn title(&self) -> String {
        let n: usize = self.nodes.iter().map(|node| node.instances).sum();
        format!("{} ({n} stage{})", self.name, if n == 1 { "" } else { "s" })
    }
}

/// The graph for a terminal: one line per stage, its inputs' lines coming in from the left.
pub fn tree(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let text = draw_tree(&drawing);
    if drawing.nodes.len() < graph.instances.len() || lanes(&drawing).width <= MOST_LANES {
        text
    } else {
        draw_tree(&Drawing::by_stage(graph))
    }
}

fn draw_tree(drawing: &Drawing) -> String {
    let lanes = lanes(drawing);
    let cells = drawing.nodes.iter().map(|node| node.name.chars().count());
    let name_cells = cells.max().unwrap_or(0);
    let cells = drawing.nodes.iter().map(|node| node.kind.chars().count());
    let kind_cells = cells.max().unwrap_or(0);
    let mut text = format!("{}\n", drawing.title());
    for (node, lines) in drawing.nodes.iter().zip(&lanes.rows) {
        let sources = drawing.sources(node);
        let arrow = if sources.is_empty() { "" } else { "← " };
        let graph_cells = 2 * lanes.width;
        let (name, kind) = (&node.name, &node.kind);
        let line = format!(
            "{lines:graph_cells$} {name:name_cells$}  {kind:kind_cells$}  {arrow}{}",
            sources.join(", ")
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

struct Lanes {
    /// The lines of each row.
    rows: Vec<String>,
    /// How many lie side by side.
    width: usize,
}

/// A place for a line.
struct Lane {
    /// The stage whose line it is.
    carries: Option<usize>,
    /// The last row in which there was something in it.
    last_row: usize,
}

/// Every stage that somebody reads has a line downwards until its last reader.
fn lanes(drawing: &Drawing) -> Lanes {
    let n = drawing.nodes.len();
    let producers: Vec<BTreeSet<usize>> = drawing
        .nodes
        .iter()
        .map(|node| node.reads.iter().map(|read| read.node).collect())
        .collect();
    let mut readers_left = vec![0_usize; n];
    producers
        .iter()
        .flatten()
        .for_each(|&producer| readers_left[producer] += 1);
    let mut lanes: Vec<Lane> = Vec::new();
    let mut rows = Vec::new();
    for (row, inputs) in producers.iter().enumerate() {
        let before: Vec<Option<usize>> = lanes.iter().map(|lane| lane.carries).collect();
        let is_input = |lane: usize| {
            before
                .get(lane)
                .copied()
                .flatten()
                .is_some_and(|p| inputs.contains(&p))
        };
        for &producer in inputs {
            readers_left[producer] -= 1;
        }
        let ends =
            |lane: usize| before[lane].is_some_and(|p| inputs.contains(&p) && readers_left[p] == 0);
        let inherited = (0..before.len()).find(|&lane| ends(lane));
        // A lane that had something in the row above would seem to go on.
        let is_free = |lane: &Lane| lane.carries.is_none() && lane.last_row + 1 < row;
        let column = inherited
            .or_else(|| lanes.iter().position(is_free))
            .unwrap_or_else(|| {
                lanes.push(Lane {
                    carries: None,
                    last_row: row,
                });
                lanes.len() - 1
            });
        for (lane, carried) in before.iter().enumerate() {
            if ends(lane) {
                lanes[lane].carries = None;
            }
            if carried.is_some() {
                lanes[lane].last_row = row;
            }
        }
        lanes[column] = Lane {
            carries: (readers_left[row] > 0).then_some(row),
            last_row: row,
        };
        let touched: Vec<usize> = (0..lanes.len())
            .filter(|&lane| lane == column || is_input(lane))
            .collect();
        let (left, right) = (touched[0], touched[touched.len() - 1]);
        let mut text = String::new();
        for (lane, now) in lanes.iter().enumerate() {
            let is_inside = left < lane && lane < right;
            text.push(if lane == column {
                '●'
            } else if is_input(lane) {
                corner(now.carries.is_some(), lane > left, lane < right)
            } else if before.get(lane).copied().flatten().is_some() {
                '│'
            } else if is_inside {
                '─'
            } else {
                ' '
            });
            text.push(if left <= lane && lane < right {
                '─'
            } else {
                ' '
            });
        }
        rows.push(text.trim_end().to_owned());
    }
    Lanes {
        rows,
        width: lanes.len(),
    }
}

/// A line from above that goes on downwards, or not, with arms to the left and right, or not.
fn corner(down: bool, left: bool, right: bool) -> char {
    match (down, left, right) {
        (true, true, true) => '┼',
        (true, true, false) => '┤',
        (true, false, true) => '├',
        (true, false, false) => '│',
        (false, true, true) => '┴',
        (false, true, false) => '╯',
        (false, false, true) => '╰',
        (false, false, false) => '╵',
    }
}

/// The graph in Graphviz' language.
pub fn dot(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    let quoted = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', " ")
    };
    let mut text = format!("digraph \"{}\" {{\n", quoted(&drawing.name));
    text.push_str("  rankdir=TB;\n  node [shape=box, style=\"rounded,filled\", fontname=\"sans-serif\", fontsize=11];\n");
    text.push_str("  edge [color=\"#777777\", fontname=\"sans-serif\", fontsize=9];\n");
    for (i, node) in drawing.nodes.iter().enumerate() {
        let (name, kind, fill) = (quoted(&node.name), quoted(&label(node)), fill(node.gives));
        let _ = writeln!(
            text,
            "  n{i} [label=\"{name}\\n{kind}\", fillcolor=\"{fill}\"];"
        );
    }
    for (i, node) in drawing.nodes.iter().enumerate() {
        for (producer, outputs) in Drawing::producers(node) {
            let label = if outputs.is_empty() {
                String::new()
            } else {
                format!(" [label=\"{}\"]", quoted(&joined(&outputs)))
            };
            let _ = writeln!(text, "  n{producer} -> n{i}{label};");
        }
    }
    text.push_str("}\n");
    text
}

/// The graph in Mermaid's language.
pub fn mermaid(graph: &Graph) -> String {
    let drawing = Drawing::of(graph);
    // Mermaid reads entities with `#` in place of `&`.
    let quoted = |text: &str| {
        let mut out = String::new();
        for c in text.chars() {
            match c {
                '"' | '#' | '<' | '>' | '&' | '`' | '\\' | '[' | ']' | '{' | '}' | '|' | '*' => {
                    let _ = write!(out, "#{};", u32::from(c));
                }
                c if c.is_control() => out.push(' '),
                c => out.push(c),
            }
        }
        out
    };
    let mut text = String::from("flowchart TD\n");
    for (i, node) in drawing.nodes.iter().enumerate() {
        let _ = writeln!(
            text,
            "  n{i}[\"{}<br/><small>{}</small>\"]",
            quoted(&node.name),
            quoted(&label(node))
        );
    }
    for (i, node) in drawing.nodes.iter().enumerate() {
        for (producer, outputs) in Drawing::producers(node) {
            let label = if outputs.is_empty() {
                String::new()
            } else {
                format!("|\"{}\"|", quoted(&joined(&outputs)))
            };
            let _ = writeln!(text, "  n{producer} -->{label} n{i}");
        }
    }
    for (i, node) in drawing.nodes.iter().enumerate() {
        let _ = writeln!(
            text,
            "  style n{i} fill:{},stroke:#777777,color:#222222",
            fill(node.gives)
        );
    }
    text
}

/// Names with commas between.
fn joined(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.join(", ")
}

/// The second line of a box.
fn label(node: &Node) -> String {
    if node.instances > 1 {
        format!("{} × {}", node.instances, node.kind)
    } else {
        node.kind.clone()
    }
}

/// A light colour for each kind of output.
fn fill(gives: Option<Kind>) -> &'static str {
    match gives {
        Some(Kind::Table) => "#e3effb",
        Some(Kind::Model) => "#fdebd3",
        Some(Kind::Metrics) => "#e2f4e3",
        Some(Kind::Report) => "#f3e5f8",
        Some(Kind::File | Kind::Files) | None => "#eeeeee",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A drawing of stages with the names of what they read.
    pub(super) fn drawing(stages: &[(&str, &[&str])]) -> Drawing {
        let position = |name: &str| stages.iter().position(|(other, _)| *other == name).unwrap();
        let nodes = stages.iter().map(|(name, reads)| Node {
            name: (*name).into(),
            kind: "kind".into(),
            instances: 1,
            gives: Some(Kind::Table),
            reads: reads
                .iter()
                .map(|read| Read {
                    node: position(read),
                    output: "out".into(),
                    is_one_of_several: false,
                    port: "in".into(),
                })
                .collect(),
        });
        Drawing {
            name: "p".into(),
            nodes: nodes.collect(),
        }
    }

    fn lines(stages: &[(&str, &[&str])]) -> Vec<String> {
        lanes(&drawing(stages)).rows
    }

    #[test]
    fn a_chain_is_straight() {
        assert_eq!(
            lines(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]),
            ["●", "●", "●"]
        );
    }

    #[test]
    fn a_diamond_opens_and_closes() {
        let rows = lines(&[("a", &[]), ("b", &["a"]), ("c", &["a"]), ("d", &["b", "c"])]);

        assert_eq!(rows, ["●", "├─●", "● │", "●─╯"]);
    }

    #[test]
    fn lines_that_only_cross_are_broken() {
        let rows = lines(&[
            ("a", &[]),
            ("x", &[]),
            ("b", &["a"]),
            ("c", &["x", "b", "a"]),
        ]);

        assert_eq!(rows, ["●", "│ ●", "├─│─●", "●─┴─╯"]);
    }

    #[test]
    fn strangers_do_not_seem_joined() {
        let rows = lines(&[("a", &[]), ("b", &[]), ("c", &["b"])]);

        assert_eq!(rows, ["●", "  ●", "  ●"]);
    }

    #[test]
    fn the_text_stands_in_columns() {
        let text = draw_tree(&drawing(&[("candles", &[]), ("f", &["candles"])]));

        assert_eq!(
            text,
            "p (2 stages)\n●  candles  kind\n●  f        kind  ← candles\n"
        );
    }
}

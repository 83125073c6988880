//! The graph as an SVG picture: layers from top to bottom, arrows around the boxes.

use std::fmt::Write as _;

use super::{Drawing, fill, joined, label};
use crate::Graph;

const BOX_HEIGHT: f64 = 44.0;
const LAYER_GAP: f64 = 46.0;
const GAP: f64 = 26.0;
const MARGIN: f64 = 24.0;
/// Width of a letter of the names, for lack of the font: sans-serif of 13 pixels.
const LETTER: f64 = 7.6;
/// Sweeps of ordering and of straightening. More change nothing visible.
const SWEEPS: usize = 12;

/// The graph as an SVG file that needs nothing beside itself.
pub fn svg(graph: &Graph) -> String {
    draw(&Drawing::of(graph))
}

/// A box, or the place where an arrow passes through a layer.
struct Item {
    node: Option<usize>,
    layer: usize,
    width: f64,
    /// The middle.
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

struct Layout {
    items: Vec<Item>,
    /// The items of each layer from left to right.
    layers: Vec<Vec<usize>>,
    /// What each arrow says, and the items on its way, its ends among them.
    arrows: Vec<(String, Vec<usize>)>,
}

fn draw(drawing: &Drawing) -> String {
    let layout = lay_out(drawing);
    let right = layout
        .items
        .iter()
        .map(|item| item.x + item.width / 2.0)
        .fold(0.0, f64::max);
    let height = layout.layers.len() as f64 * (BOX_HEIGHT + LAYER_GAP) - LAYER_GAP;
    let (width, height) = (right + 2.0 * MARGIN, height.max(0.0) + 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"system-ui, sans-serif\">\n"
    );
    let _ = writeln!(text, "<title>{}</title>", escaped(&drawing.name));
    text.push_str("<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#888\"/></marker></defs>\n");
    let _ = writeln!(
        text,
        "<rect width=\"{width:.0}\" height=\"{height:.0}\" rx=\"8\" fill=\"#ffffff\"/>"
    );
    for (title, items) in &layout.arrows {
        draw_arrow(&mut text, &layout, title, items);
    }
    for item in &layout.items {
        let Some(node) = item.node.map(|node| &drawing.nodes[node]) else {
            continue;
        };
        let (x, y) = (MARGIN + item.x, top(item));
        let _ = writeln!(
            text,
            "<g><title>{} ({})</title><rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BOX_HEIGHT}\" rx=\"7\" fill=\"{}\" stroke=\"#888\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"13\" fill=\"#222\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"10\" fill=\"#666\">{}</text></g>",
            escaped(&node.name),
            escaped(&node.kind),
            x - item.width / 2.0,
            item.width,
            fill(node.gives),
            y + 19.0,
            escaped(&node.name),
            y + 34.0,
            escaped(&label(node)),
        );
    }
    text.push_str("</svg>\n");
    text
}

fn top(item: &Item) -> f64 {
    MARGIN + item.layer as f64 * (BOX_HEIGHT + LAYER_GAP)
}

fn draw_arrow(text: &mut String, layout: &Layout, title: &str, items: &[usize]) {
    let mut path = String::new();
    for pair in items.windows(2) {
        let (from, to) = (&layout.items[pair[0]], &layout.items[pair[1]]);
        let (x0, y0) = (MARGIN + from.x, top(from) + BOX_HEIGHT);
        let (x1, y1) = (MARGIN + to.x, top(to));
        if path.is_empty() {
            let _ = write!(path, "M{x0:.1} {y0:.1}");
        } else {
            // Straight through the layer.
            let _ = write!(path, "L{x0:.1} {y0:.1}");
        }
        let middle = f64::midpoint(y0, y1);
        let _ = write!(
            path,
            "C{x0:.1} {middle:.1} {x1:.1} {middle:.1} {x1:.1} {y1:.1}"
        );
    }
    let _ = writeln!(
        text,
        "<path d=\"{path}\" fill=\"none\" stroke=\"#888\" stroke-width=\"1.3\" marker-end=\"url(#tip)\"><title>{}</title></path>",
        escaped(title)
    );
}

fn lay_out(drawing: &Drawing) -> Layout {
    let mut items: Vec<Item> = Vec::new();
    for (i, node) in drawing.nodes.iter().enumerate() {
        let layer = node
            .reads
            .iter()
            .map(|read| items[read.node].layer + 1)
            .max()
            .unwrap_or(0);
        let letters = node
            .name
            .chars()
            .count()
            .max(label(node).chars().count() * 4 / 5);
        let width = letters as f64 * LETTER + 24.0;
        items.push(Item {
            node: Some(i),
            layer,
            width,
            x: 0.0,
            above: Vec::new(),
            below: Vec::new(),
        });
    }
    let mut arrows = Vec::new();
    // Where each producer's arrows pass through the layers below it; arrows of one producer share the way.
    let mut ways: Vec<Vec<usize>> = vec![Vec::new(); drawing.nodes.len()];
    for (consumer, node) in drawing.nodes.iter().enumerate() {
        for (producer, outputs) in Drawing::producers(node) {
            let (from, to) = (items[producer].layer, items[consumer].layer);
            while ways[producer].len() < to - from - 1 {
                let layer = from + 1 + ways[producer].len();
                let above = ways[producer].last().copied().unwrap_or(producer);
                items.push(Item {
                    node: None,
                    layer,
                    width: 2.0,
                    x: 0.0,
                    above: vec![above],
                    below: Vec::new(),
                });
                let new = items.len() - 1;
                items[above].below.push(new);
                ways[producer].push(new);
            }
            let mut way = vec![producer];
            way.extend(&ways[producer][..to - from - 1]);
            let last = way[way.len() - 1];
            items[last].below.push(consumer);
            items[consumer].above.push(last);
            way.push(consumer);
            let mut title = format!("{} -> {}", drawing.nodes[producer].name, node.name);
            if !outputs.is_empty() {
                let _ = write!(title, ": {}", joined(&outputs));
            }
            arrows.push((title, way));
        }
    }
    let n_layers = items.iter().map(|item| item.layer + 1).max().unwrap_or(0);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); n_layers];
    for (i, item) in items.iter().enumerate() {
        layers[item.layer].push(i);
    }
    order(&items, &mut layers);
    place(&mut items, &layers);
    Layout {
        items,
        layers,
        arrows,
    }
}

/// Orders each layer by the mean position of its neighbours, down and up in turn.
fn order(items: &[Item], layers: &mut [Vec<usize>]) {
    let mut position = vec![0.0_f64; items.len()];
    for layer in layers.iter() {
        for (i, &item) in layer.iter().enumerate() {
            position[item] = i as f64;
        }
    }
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let n = layers.len();
        for step in 0..n {
            let layer = &mut layers[if down { step } else { n - 1 - step }];
            let mut keyed: Vec<(f64, usize)> = layer
                .iter()
                .map(|&item| {
                    let neighbours = if down {
                        &items[item].above
                    } else {
                        &items[item].below
                    };
                    (mean(neighbours, &position).unwrap_or(position[item]), item)
                })
                .collect();
            keyed.sort_by(|a, b| {
                a.0.total_cmp(&b.0)
                    .then(position[a.1].total_cmp(&position[b.1]))
            });
            *layer = keyed.into_iter().map(|(_, item)| item).collect();
            for (i, &item) in layer.iter().enumerate() {
                position[item] = i as f64;
            }
        }
    }
}

fn mean(of: &[usize], values: &[f64]) -> Option<f64> {
    (!of.is_empty()).then(|| of.iter().map(|&i| values[i]).sum::<f64>() / of.len() as f64)
}

/// Gives every item an `x`: near its neighbours, in the order of its layer, without overlaps.
fn place(items: &mut [Item], layers: &[Vec<usize>]) {
    for _ in 0..SWEEPS {
        for layer in layers {
            let xs: Vec<f64> = items.iter().map(|item| item.x).collect();
            let wanted: Vec<f64> = layer
                .iter()
                .map(|&item| {
                    let neighbours =
                        [items[item].above.as_slice(), items[item].below.as_slice()].concat();
                    mean(&neighbours, &xs).unwrap_or(xs[item])
                })
                .collect();
            let mut x = f64::NEG_INFINITY;
            for (k, &item) in layer.iter().enumerate() {
                let half = items[item].width / 2.0;
                items[item].x = wanted[k].max(x + half);
                x = items[item].x + half + GAP;
            }
            // Pushing apart went to the right only; the layer as a whole goes back.
            let shift = layer
                .iter()
                .zip(&wanted)
                .map(|(&item, w)| items[item].x - w)
                .sum::<f64>()
                / layer.len().max(1) as f64;
            for &item in layer {
                items[item].x -= shift;
            }
        }
    }
    let left = items
        .iter()
        .map(|item| item.x - item.width / 2.0)
        .fold(f64::INFINITY, f64::min);
    if left.is_finite() {
        for item in items {
            item.x -= left;
        }
    }
}

/// Text that XML takes as it is.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML has no way to write most of these.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::drawing;

    #[test]
    fn boxes_of_a_layer_do_not_overlap() {
        let drawing = drawing(&[
            ("a", &[]),
            ("long_name_of_a_stage", &["a"]),
            ("another_long_name", &["a"]),
            ("third_of_them", &["a"]),
            ("d", &["a", "long_name_of_a_stage", "third_of_them"]),
        ]);

        let layout = lay_out(&drawing);
        for layer in &layout.layers {
            for pair in layer.windows(2) {
                let (a, b) = (&layout.items[pair[0]], &layout.items[pair[1]]);
                assert!(a.x + a.width / 2.0 < b.x - b.width / 2.0);
            }
        }
        assert!(
            layout
                .items
                .iter()
                .all(|item| item.x - item.width / 2.0 > -1e-9)
        );
        assert_eq!(layout.arrows.len(), 6);
    }

    #[test]
    fn names_cannot_leave_their_text() {
        let drawing = drawing(&[("<script>&\"'\u{1b}", &[])]);
        let text = draw(&drawing);

        assert!(text.contains("&lt;script&gt;&amp;&quot;&#39; "), "{text}");
        assert!(!text.contains("<script"));
        assert!(draw(&Drawing::default()).starts_with("<svg"));
    }
}

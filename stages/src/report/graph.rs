//! The pipeline as a drawing: stages in layers, each below all that it reads.

use std::{collections::BTreeMap, fmt::Write as _};

use natron_artifacts::Lineage;

use super::html::escape;

const NODE_WIDTH: f64 = 150.0;
const NODE_HEIGHT: f64 = 44.0;
const GAP_X: f64 = 22.0;
const GAP_Y: f64 = 34.0;
const MARGIN: f64 = 6.0;

/// A place in a layer: a stage, or a point that an edge passes on its way through.
struct Slot {
    stage: Option<usize>,
    /// Slots of the layer above that lead here.
    above: Vec<usize>,
}

/// The drawing, as wide as it needs to be.
#[expect(
    clippy::too_many_lines,
    reason = "layers, places and strokes of one drawing, top to bottom"
)]
pub(super) fn svg(lineage: &Lineage) -> String {
    let stages = &lineage.stages;
    let index: BTreeMap<&str, usize> = stages
        .iter()
        .enumerate()
        .map(|(i, stage)| (stage.name.as_str(), i))
        .collect();
    // Topological order: what a stage reads comes before it.
    let mut depth = vec![0; stages.len()];
    for (i, stage) in stages.iter().enumerate() {
        for name in &stage.reads {
            if let Some(&j) = index.get(name.as_str()).filter(|&&j| j < i) {
                depth[i] = depth[i].max(depth[j] + 1);
            }
        }
    }
    let n_layers = depth.iter().max().map_or(0, |d| d + 1);
    let mut slots: Vec<Slot> = (0..stages.len())
        .map(|i| Slot {
            stage: Some(i),
            above: vec![],
        })
        .collect();
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); n_layers];
    for (i, &d) in depth.iter().enumerate() {
        layers[d].push(i);
    }
    for (i, stage) in stages.iter().enumerate() {
        for name in &stage.reads {
            let Some(&j) = index.get(name.as_str()).filter(|&&j| j < i) else {
                continue;
            };
            let mut from = j;
            for layer in layers.iter_mut().take(depth[i]).skip(depth[j] + 1) {
                slots.push(Slot {
                    stage: None,
                    above: vec![from],
                });
                from = slots.len() - 1;
                layer.push(from);
            }
            slots[i].above.push(from);
        }
    }
    order(&mut layers, &slots);

    let width_of = |slot: usize| {
        if slots[slot].stage.is_some() {
            NODE_WIDTH
        } else {
            14.0
        }
    };
    let layer_width = |layer: &[usize]| {
        layer
            .iter()
            .map(|&slot| width_of(slot) + GAP_X)
            .sum::<f64>()
            - GAP_X
    };
    let width = layers
        .iter()
        .map(|layer| layer_width(layer))
        .fold(0.0, f64::max)
        + 2.0 * MARGIN;
    let height = n_layers as f64 * (NODE_HEIGHT + GAP_Y) - GAP_Y + 2.0 * MARGIN;
    let mut place = vec![(0.0, 0.0); slots.len()];
    for (d, layer) in layers.iter().enumerate() {
        let mut x = (width - layer_width(layer)) / 2.0;
        for &slot in layer {
            place[slot] = (
                x + width_of(slot) / 2.0,
                MARGIN + d as f64 * (NODE_HEIGHT + GAP_Y),
            );
            x += width_of(slot) + GAP_X;
        }
    }

    let mut edges = String::new();
    for (i, slot) in slots.iter().enumerate() {
        for &from in &slot.above {
            let ((x1, y1), (x2, y2)) = (place[from], place[i]);
            let y1 = y1 + NODE_HEIGHT;
            let middle = f64::midpoint(y1, y2);
            let _ = write!(
                edges,
                "<path class=\"edge\" d=\"M{x1:.1} {y1:.1}C{x1:.1} {middle:.1} {x2:.1} {middle:.1} {x2:.1} {y2:.1}"
            );
            if slot.stage.is_none() {
                let _ = write!(edges, "V{:.1}", y2 + NODE_HEIGHT);
            }
            edges.push_str("\"/>");
        }
    }
    let mut nodes = String::new();
    for (i, stage) in stages.iter().enumerate() {
        let (x, y) = place[i];
        let (left, name, kind) = (
            x - NODE_WIDTH / 2.0,
            escape(&short(&stage.name)),
            escape(&short(&stage.kind)),
        );
        let full = escape(&format!("{} ({})", stage.name, stage.kind));
        let _ = write!(
            nodes,
            "<g class=\"node\"><title>{full}</title>\
             <rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{NODE_WIDTH}\" height=\"{NODE_HEIGHT}\" rx=\"8\"/>\
             <text class=\"name\" x=\"{x:.1}\" y=\"{:.1}\">{name}</text><text class=\"kind\" x=\"{x:.1}\" y=\"{:.1}\">{kind}</text></g>",
            y + 18.5,
            y + 34.0
        );
    }
    format!(
        "<div class=\"scroll graph\"><svg viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" \
         role=\"img\" aria-label=\"graph of the pipeline\">{edges}{nodes}</svg></div>\n"
    )
}

/// Sorts each layer by the mean place of what leads to it, and of what it leads to, a few times over (Sugiyama et al., 1981).
fn order(layers: &mut [Vec<usize>], slots: &[Slot]) {
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); slots.len()];
    for (i, slot) in slots.iter().enumerate() {
        for &from in &slot.above {
            below[from].push(i);
        }
    }
    let mut place = vec![0.0; slots.len()];
    let renumber = |layer: &[usize], place: &mut Vec<f64>| {
        for (k, &slot) in layer.iter().enumerate() {
            place[slot] = (k as f64 + 0.5) / layer.len() as f64;
        }
    };
    for layer in layers.iter() {
        renumber(layer, &mut place);
    }
    for sweep in 0..8 {
        let n = layers.len();
        for k in 0..n {
            let layer = if sweep % 2 == 0 { k } else { n - 1 - k };
            let mut sorted = layers[layer].clone();
            let key = |slot: usize| {
                let near = if sweep % 2 == 0 {
                    &slots[slot].above
                } else {
                    &below[slot]
                };
                if near.is_empty() {
                    return place[slot];
                }
                near.iter().map(|&other| place[other]).sum::<f64>() / near.len() as f64
            };
            sorted.sort_by(|&a, &b| key(a).total_cmp(&key(b)));
            renumber(&sorted, &mut place);
            layers[layer] = sorted;
        }
    }
}

/// At most as much of a name as fits its box.
fn short(name: &str) -> String {
    const FITS: usize = 20;
    if name.chars().count() <= FITS {
        return name.to_owned();
    }
    let start: String = name.chars().take(FITS - 1).collect();
    format!("{start}\u{2026}")
}

#[cfg(test)]
mod tests {
    use natron_artifacts::LineageStage;
    use serde_json::Value;

    use super::*;

    #[test]
    fn draws_every_stage_and_every_edge() {
        let stage = |name: &str, reads: &[&str]| LineageStage {
            name: name.into(),
            kind: "<kind>".into(),
            parameters: Value::Null,
            reads: reads.iter().map(|&r| r.into()).collect(),
        };
        let lineage = Lineage {
            pipeline: "p".into(),
            stages: vec![
                stage("a", &[]),
                stage("b", &["a"]),
                stage("c", &["b"]),
                stage("d", &["a", "c"]),
            ],
        };
        let drawing = svg(&lineage);

        assert_eq!(drawing.matches("class=\"node\"").count(), 4);
        // The edge from `a` to `d` passes two layers.
        assert_eq!(drawing.matches("class=\"edge\"").count(), 3 + 3);
        assert!(drawing.contains("&lt;kind&gt;") && !drawing.contains("<kind>"));
    }
}

//! The instances of a stage: the product of its axes, with `zip`, `include`, `exclude` and `sample`.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Diagnostic, code,
    did_you_mean::{listed, suggestion_or},
    document::{Content, Entry, Node, Table},
    interpolate::Coordinates,
    names,
    sample::{self, Dimension},
};

/// Keys of `matrix` that are no axes.
pub(crate) const SPECIAL: [&str; 4] = ["zip", "include", "exclude", "sample"];

/// The values of every axis.
type Axes = BTreeMap<String, Vec<Node>>;

/// The coordinates of all instances, in order of the axes' names and the values' places; `None` after a mistake.
pub(crate) fn expand(
    stage: &str,
    matrix: &Entry,
    max_instances: usize,
    mistakes: &mut Vec<Diagnostic>,
) -> Option<Vec<Coordinates>> {
    let mut reader = Reader {
        stage,
        matrix,
        max_instances,
        mistakes: Vec::new(),
    };
    let expanded = reader.expand();
    let is_good = reader.mistakes.is_empty();
    mistakes.append(&mut reader.mistakes);
    expanded.filter(|_| is_good)
}

/// `stage`, or `stage[axis=value,...]` with the axes in order.
pub(crate) fn instance_name(stage: &str, coordinates: &Coordinates) -> String {
    if coordinates.is_empty() {
        return stage.to_owned();
    }
    let axes: Vec<String> = coordinates
        .iter()
        .map(|(axis, value)| format!("{axis}={}", value_text(value)))
        .collect();
    format!("{stage}[{}]", axes.join(","))
}

/// How names of instances show `value`: text with unusual letters is quoted.
pub(crate) fn value_text(value: &Node) -> String {
    let text = value.scalar_text().unwrap_or_default();
    let is_plain = !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._+-:".contains(&b));
    if is_plain { text } else { format!("{text:?}") }
}

struct Reader<'a> {
    stage: &'a str,
    matrix: &'a Entry,
    max_instances: usize,
    mistakes: Vec<Diagnostic>,
}

impl Reader<'_> {
    fn mistake(&mut self, message: String, node: &Node, help: &str) {
        self.mistakes
            .push(node.mistake(code::BAD_MATRIX, message, "").help(help));
    }

    fn expand(&mut self) -> Option<Vec<Coordinates>> {
        let node = &self.matrix.node;
        let Content::Table(table) = &node.content else {
            if !node.is_broken() {
                let message = format!("`matrix` is {}, expected a table of axes", node.type_name());
                self.mistake(
                    message,
                    node,
                    "write `matrix.fold = [0, 1, 2]`; `${matrix.fold}` is then the value",
                );
            }
            return None;
        };
        let mut axes = self.axes(table);
        let sampled = self.sample(table, &mut axes);
        let groups = self.groups(table, &axes, sampled)?;
        if !self.mistakes.is_empty() {
            return None;
        }
        let count = groups
            .iter()
            .map(|group| axes[group[0].as_str()].len() as u128)
            .fold(1, u128::saturating_mul);
        if count > self.max_instances as u128 {
            self.too_many(count);
            return None;
        }
        let mut instances = vec![Coordinates::new()];
        for group in &groups {
            let length = axes[group[0].as_str()].len();
            instances = instances
                .iter()
                .flat_map(|base| {
                    (0..length).map(|position| {
                        let mut one = base.clone();
                        for axis in group {
                            one.insert(axis.clone(), axes[axis.as_str()][position].clone());
                        }
                        one
                    })
                })
                .collect();
        }
        if axes.is_empty() {
            instances.clear();
        }
        self.exclude(table, &axes, &mut instances);
        self.include(table, &axes, &mut instances);
        if instances.is_empty() && self.mistakes.is_empty() {
            let message = format!("the matrix of `{}` has no instances", self.stage);
            self.mistakes.push(
                Diagnostic::error(code::EMPTY_MATRIX, message, &self.matrix.key, "").help(
                    "give it an axis with values, or take `matrix` away; `when = false` switches a stage off",
                ),
            );
        }
        Some(instances)
    }

    fn axes(&mut self, table: &Table) -> Axes {
        let mut axes = Axes::new();
        for (name, entry) in table {
            if SPECIAL.contains(&name.as_str()) {
                continue;
            }
            if let Err(mistake) = names::check("an axis", name, &entry.key) {
                self.mistakes.push(mistake);
                continue;
            }
            let Content::Array(values) = &entry.node.content else {
                if entry.node.as_table().is_none() && !entry.node.is_broken() {
                    let message = format!(
                        "axis `{name}` is {}, expected a list of values",
                        entry.node.type_name()
                    );
                    self.mistake(message, &entry.node, "");
                }
                continue; // A table is a range, see `sample`.
            };
            if values.is_empty() {
                self.mistakes.push(
                    entry
                        .node
                        .mistake(
                            code::EMPTY_MATRIX,
                            format!("axis `{name}` has no values"),
                            "",
                        )
                        .help("give it at least one value; `when = false` switches a stage off"),
                );
            }
            self.check_values(name, values);
            axes.insert(name.clone(), values.clone());
        }
        axes
    }

    /// No value twice, and only values that can stand in a name.
    fn check_values(&mut self, axis: &str, values: &[Node]) {
        let mut seen: BTreeMap<String, &Node> = BTreeMap::new();
        for value in values {
            if value.is_broken() || !self.is_scalar(value, axis) {
                continue;
            }
            let text = value_text(value);
            if let Some(first) = seen.get(&text) {
                let message = format!("axis `{axis}` has the value `{text}` twice");
                self.mistakes.push(
                    value
                        .mistake(code::BAD_MATRIX, message, "again here")
                        .also(&first.place, "first here")
                        .help("take one of them away"),
                );
            }
            seen.entry(text).or_insert(value);
        }
    }

    /// Adds the sampled axes, one value for each point; their names.
    fn sample(&mut self, table: &Table, axes: &mut Axes) -> Vec<String> {
        let ranges: Vec<(&str, &Entry)> = table
            .iter()
            .filter(|(name, entry)| {
                !SPECIAL.contains(&name.as_str()) && entry.node.as_table().is_some()
            })
            .map(|(name, entry)| (name.as_str(), entry))
            .collect();
        let plan = table
            .get("sample")
            .and_then(|entry| sample::read_plan(&entry.node, &mut self.mistakes));
        let mut dimensions = Vec::new();
        for (name, entry) in &ranges {
            let found = sample::read_dimension(name, &entry.node, &mut self.mistakes);
            if let Some(Dimension::Choices(values)) = &found {
                self.check_values(name, values);
                if values.is_empty() {
                    self.mistake(format!("axis `{name}` has no values"), &entry.node, "");
                }
            }
            dimensions.extend(found.map(|dimension| (*name, dimension)));
        }
        let Some(entry) = table.get("sample") else {
            if let Some((name, range)) = ranges.first()
                && self.mistakes.is_empty()
            {
                let message = format!("axis `{name}` is a range, and the matrix has no `sample`");
                let help =
                    "add `matrix.sample = { method = \"sobol\", n = 32 }`, or list the values";
                self.mistake(message, &range.node, help);
            }
            return Vec::new();
        };
        if ranges.is_empty() {
            let message = "there is nothing to sample".to_owned();
            let help = "an axis that is sampled is a range, as `{ min = 1e-5, max = 1e-2 }`, or `{ values = [...] }`";
            self.mistake(message, &entry.node, help);
        }
        let Some(plan) = plan.filter(|_| self.mistakes.is_empty()) else {
            return Vec::new();
        };
        if plan.n > self.max_instances {
            self.too_many(plan.n as u128);
            return Vec::new();
        }
        match sample::draw(&plan, &dimensions) {
            Err(message) => {
                self.mistake(message, &entry.node, "ask for fewer, or widen a range");
                Vec::new()
            }
            Ok(points) => {
                for (position, (name, range)) in ranges.iter().enumerate() {
                    let value = |point: &Vec<Content>| {
                        Node::new(range.node.place.clone(), point[position].clone())
                    };
                    axes.insert((*name).to_owned(), points.iter().map(value).collect());
                }
                ranges.iter().map(|(name, _)| (*name).to_owned()).collect()
            }
        }
    }

    fn too_many(&mut self, count: u128) {
        let message = format!(
            "`{}` has {count} instances, more than {}",
            self.stage, self.max_instances
        );
        self.mistakes.push(
            Diagnostic::error(code::TOO_MANY_INSTANCES, message, &self.matrix.key, "")
                .help("shorten an axis, or raise the limit with `--max-instances`"),
        );
    }

    fn is_scalar(&mut self, value: &Node, axis: &str) -> bool {
        let help = "values of axes are strings, numbers, booleans and dates";
        if let Content::Float(float) = value.content
            && !float.is_finite()
        {
            let message = format!("{float} cannot be a value of axis `{axis}`");
            self.mistakes
                .push(value.mistake(code::NOT_FINITE, message, "").help(help));
            return false;
        }
        if value.scalar_text().is_none() {
            let message = format!("a value of axis `{axis}` is {}", value.type_name());
            self.mistake(message, value, help);
            return false;
        }
        true
    }

    /// Axes that go together, in order of their first names.
    fn groups(
        &mut self,
        table: &Table,
        axes: &Axes,
        sampled: Vec<String>,
    ) -> Option<Vec<Vec<String>>> {
        if axes
            .values()
            .any(|values| values.iter().any(Node::is_broken))
        {
            return None; // Complained about already; without the value the instances cannot be known.
        }
        let mut groups: Vec<Vec<String>> = Vec::new();
        let mut zipped: BTreeSet<String> = sampled.iter().cloned().collect();
        for list in self.lists(table, "zip", "lists of axes, as `zip = [[\"a\", \"b\"]]`") {
            let Content::Array(items) = &list.content else {
                self.mistake(
                    format!("`zip` holds {}, expected lists of axes", list.type_name()),
                    list,
                    "write `zip = [[\"a\", \"b\"]]`",
                );
                continue;
            };
            let mut group = Vec::new();
            for item in items {
                let Some(axis) = item.as_str() else {
                    let message = format!("`zip` names axes, this is {}", item.type_name());
                    self.mistake(message, item, "");
                    continue;
                };
                if !axes.contains_key(axis) {
                    self.unknown_axis(axis, item, axes);
                } else if sampled.iter().any(|name| name == axis) {
                    let message = format!("axis `{axis}` is sampled, and cannot be zipped too");
                    self.mistake(message, item, "sampled axes go together already");
                } else if !zipped.insert(axis.to_owned()) {
                    self.mistake(format!("axis `{axis}` is zipped twice"), item, "");
                } else {
                    group.push(axis.to_owned());
                }
            }
            group.sort();
            let lengths: BTreeSet<usize> = group.iter().map(|a| axes[a.as_str()].len()).collect();
            if lengths.len() > 1 {
                let described: Vec<String> = group
                    .iter()
                    .map(|axis| format!("`{axis}` has {}", axes[axis.as_str()].len()))
                    .collect();
                let message = format!("zipped axes differ in length: {}", described.join(", "));
                self.mistake(
                    message,
                    list,
                    "zipped axes have one value each per instance",
                );
            } else if !group.is_empty() {
                groups.push(group);
            }
        }
        groups.extend(
            axes.keys()
                .filter(|axis| !zipped.contains(*axis))
                .map(|axis| vec![axis.clone()]),
        );
        if !sampled.is_empty() {
            groups.push(sampled);
        }
        groups.sort();
        Some(groups)
    }

    fn exclude(&mut self, table: &Table, axes: &Axes, instances: &mut Vec<Coordinates>) {
        for item in self.lists(table, "exclude", "a list of tables, as `[{ fold = 0 }]`") {
            let Some(unwanted) = self.values(item, "exclude", axes) else {
                continue;
            };
            instances.retain(|instance| {
                !unwanted
                    .iter()
                    .all(|(axis, value)| instance.get(axis).is_some_and(|v| same(v, value)))
            });
        }
    }

    fn include(&mut self, table: &Table, axes: &Axes, instances: &mut Vec<Coordinates>) {
        let wanted = "a list of tables with a value for every axis, as `[{ fold = 9, seed = 1 }]`";
        let items = self.lists(table, "include", wanted);
        // Without axes of its own a matrix is the list of what it includes.
        let first: Axes = items
            .first()
            .and_then(|item| item.as_table())
            .map(|table| table.keys().map(|k| (k.clone(), Vec::new())).collect())
            .unwrap_or_default();
        let axes = if axes.is_empty() { &first } else { axes };
        for item in items {
            let Some(extra) = self.values(item, "include", axes) else {
                continue;
            };
            let missing: Vec<&str> = axes
                .keys()
                .map(String::as_str)
                .filter(|axis| !extra.contains_key(*axis))
                .collect();
            if missing.is_empty() {
                let is_there = instances
                    .iter()
                    .any(|i| i.iter().all(|(axis, value)| same(value, &extra[axis])));
                if !is_there {
                    instances.push(extra);
                }
            } else {
                let message = format!("`include` has no value for {}", listed(missing));
                self.mistake(
                    message,
                    item,
                    "an included instance has a value on every axis",
                );
            }
        }
    }

    /// The items of the list `key`, if there is one.
    fn lists<'t>(&mut self, table: &'t Table, key: &str, expected: &str) -> Vec<&'t Node> {
        let Some(entry) = table.get(key) else {
            return Vec::new();
        };
        match &entry.node.content {
            Content::Array(items) => items.iter().filter(|item| !item.is_broken()).collect(),
            Content::Broken => Vec::new(),
            _ => {
                let message = format!("`{key}` is {}, expected a list", entry.node.type_name());
                self.mistake(message, &entry.node, &format!("it is {expected}"));
                Vec::new()
            }
        }
    }

    fn values(&mut self, item: &Node, key: &str, axes: &Axes) -> Option<Coordinates> {
        let Some(table) = item.as_table() else {
            let message = format!("`{key}` holds {}, expected tables", item.type_name());
            self.mistake(
                message,
                item,
                &format!("write `{key} = [{{ axis = value }}]`"),
            );
            return None;
        };
        let mut values = Coordinates::new();
        let before = self.mistakes.len();
        for (axis, entry) in table {
            if let Err(mistake) = names::check("an axis", axis, &entry.key) {
                self.mistakes.push(mistake);
            } else if !axes.contains_key(axis.as_str()) {
                let place = Node::new(entry.key.clone(), Content::Broken);
                self.unknown_axis(axis, &place, axes);
            } else if !entry.node.is_broken() && self.is_scalar(&entry.node, axis) {
                values.insert(axis.clone(), entry.node.clone());
            }
        }
        (self.mistakes.len() == before).then_some(values)
    }

    fn unknown_axis(&mut self, axis: &str, at: &Node, axes: &Axes) {
        let otherwise = format!("the axes are {}", listed(axes.keys().map(String::as_str)));
        let help = suggestion_or(axis, axes.keys().map(String::as_str), &otherwise);
        self.mistake(format!("`{}` has no axis `{axis}`", self.stage), at, &help);
    }
}

/// Whether two values of axes are the same.
pub(crate) fn same(a: &Node, b: &Node) -> bool {
    value_text(a) == value_text(b)
        && std::mem::discriminant(&a.content) == std::mem::discriminant(&b.content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SourceText, document};

    fn names(text: &str) -> Result<Vec<String>, Vec<String>> {
        let root = document::parse(&SourceText::new("p.toml", text)).unwrap();
        let mut mistakes = Vec::new();
        let matrix = root.as_table().unwrap().get("matrix").unwrap();
        let expanded = expand("t", matrix, 100, &mut mistakes);
        match expanded {
            Some(instances) => Ok(instances.iter().map(|i| instance_name("t", i)).collect()),
            None => Err(mistakes.iter().map(|m| m.message.clone()).collect()),
        }
    }

    #[test]
    fn multiplies_axes_in_order() {
        let names = names("matrix.lr = [1e-4, 0.5]\nmatrix.fold = [1, 0]").unwrap();

        assert_eq!(
            names,
            [
                "t[fold=1,lr=1e-4]",
                "t[fold=1,lr=0.5]",
                "t[fold=0,lr=1e-4]",
                "t[fold=0,lr=0.5]"
            ]
        );
    }

    #[test]
    fn zips_includes_and_excludes() {
        let names = names(
            "[matrix]\na = [1, 2, 3]\nb = ['x', 'y', 'a/b']\nc = [true, false]\nzip = [['b', 'a']]\n\
             exclude = [{ a = 1, c = true }, { b = 'y' }]\ninclude = [{ a = 9, b = 'z', c = true }, { a = 3, b = 'a/b', c = true }]",
        )
        .unwrap();

        assert_eq!(
            names,
            [
                "t[a=1,b=x,c=false]",
                "t[a=3,b=\"a/b\",c=true]",
                "t[a=3,b=\"a/b\",c=false]",
                "t[a=9,b=z,c=true]"
            ]
        );
    }

    #[test]
    fn a_list_of_instances_needs_no_axes() {
        let names = names("matrix.include = [{ a = 1, b = 2 }, { a = 2, b = 1 }]").unwrap();

        assert_eq!(names, ["t[a=1,b=2]", "t[a=2,b=1]"]);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, message) in [
            (
                "matrix = 3",
                "`matrix` is an integer, expected a table of axes",
            ),
            (
                "matrix.a = 3",
                "axis `a` is an integer, expected a list of values",
            ),
            ("matrix.a = []", "axis `a` has no values"),
            ("matrix = {}", "the matrix of `t` has no instances"),
            ("matrix.a = [[1]]", "a value of axis `a` is a list"),
            ("matrix.a = [nan]", "NaN cannot be a value of axis `a`"),
            ("matrix.a = [1, 1]", "axis `a` has the value `1` twice"),
            (
                "[matrix]\na = [1]\nb = [1, 2]\nzip = [['a', 'b']]",
                "zipped axes differ in length: `a` has 1, `b` has 2",
            ),
            ("[matrix]\na = [1]\nzip = [['b']]", "`t` has no axis `b`"),
            (
                "[matrix]\na = [1]\nzip = ['a']",
                "`zip` holds a string, expected lists of axes",
            ),
            (
                "[matrix]\na = [1]\nexclude = [{ b = 1 }]",
                "`t` has no axis `b`",
            ),
            (
                "[matrix]\na = [1]\nexclude = [{ a = 1 }]",
                "the matrix of `t` has no instances",
            ),
            (
                "[matrix]\na = [1]\nb = [1]\ninclude = [{ a = 1 }]",
                "`include` has no value for `b`",
            ),
            (
                "[matrix]\na = [1,2,3,4,5,6,7,8,9,0,11]\nb = [1,2,3,4,5,6,7,8,9,0,11]",
                "`t` has 121 instances, more than 100",
            ),
        ] {
            assert_eq!(names(text), Err(vec![message.to_owned()]), "{text}");
        }
    }
}

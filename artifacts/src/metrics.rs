//! Metrics: a tree with finite numbers at its leaves.

use serde_json::{Map, Number, Value};

/// A tree of named numbers, series of numbers and matrices of numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metrics {
    root: Map<String, Value>,
}

impl Metrics {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number at `path` (names joined by `.`).
    ///
    /// # Errors
    ///
    /// When `value` is not finite: a metric that cannot be computed is left out, not faked.
    pub fn set(&mut self, path: &str, value: f64) -> Result<(), String> {
        let number = Number::from_f64(value)
            .ok_or_else(|| format!("metric `{path}` is {value}, not a finite number"))?;
        self.put(path, Value::Number(number))
    }

    /// Sets the whole number at `path`.
    pub fn set_count(&mut self, path: &str, value: u64) -> Result<(), String> {
        self.put(path, Value::Number(value.into()))
    }

    /// Sets a series of numbers at `path`, for curves.
    pub fn set_series(&mut self, path: &str, values: &[f64]) -> Result<(), String> {
        let items = values
            .iter()
            .enumerate()
            .map(|(i, &v)| {
                Number::from_f64(v)
                    .map(Value::Number)
                    .ok_or_else(|| format!("metric `{path}[{i}]` is {v}, not a finite number"))
            })
            .collect::<Result<_, _>>()?;
        self.put(path, Value::Array(items))
    }

    /// Puts another tree below `path`.
    pub fn set_tree(&mut self, path: &str, tree: Metrics) -> Result<(), String> {
        self.put(path, Value::Object(tree.root))
    }

    /// The number at `path`.
    pub fn get(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    /// The series at `path`.
    pub fn series(&self, path: &str) -> Option<Vec<f64>> {
        self.value(path)?
            .as_array()?
            .iter()
            .map(Value::as_f64)
            .collect()
    }

    /// Whatever is at `path`.
    pub fn value(&self, path: &str) -> Option<&Value> {
        let mut parts = path.split('.');
        let first = self.root.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }

    /// The whole tree.
    pub fn tree(&self) -> &Map<String, Value> {
        &self.root
    }

    /// All single numbers with their paths, in order.
    pub fn numbers(&self) -> Vec<(String, f64)> {
        fn walk(prefix: &str, map: &Map<String, Value>, out: &mut Vec<(String, f64)>) {
            for (name, value) in map {
                let path = if prefix.is_empty() {
                    name.clone()
                } else {
                    format!("{prefix}.{name}")
                };
                match value {
                    Value::Object(inner) => walk(&path, inner, out),
                    Value::Number(number) => out.extend(number.as_f64().map(|v| (path, v))),
                    _ => {}
                }
            }
        }
        let mut out = Vec::new();
        walk("", &self.root, &mut out);
        out
    }

    /// A tree from JSON.
    ///
    /// # Errors
    ///
    /// When a leaf is not a number, with the leaf's path.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        fn check(path: &str, value: &Value) -> Result<(), String> {
            match value {
                Value::Number(_) => Ok(()),
                Value::Array(items) => items
                    .iter()
                    .enumerate()
                    .try_for_each(|(i, item)| check(&format!("{path}[{i}]"), item)),
                Value::Object(map) => map
                    .iter()
                    .try_for_each(|(name, item)| check(&format!("{path}.{name}"), item)),
                other => Err(format!(
                    "metric `{}` is {other}, not a number",
                    path.trim_start_matches('.')
                )),
            }
        }
        match serde_json::from_slice(bytes).map_err(|e| format!("metrics are not JSON: {e}"))? {
            Value::Object(root) => {
                root.iter()
                    .try_for_each(|(name, value)| check(name, value))?;
                Ok(Self { root })
            }
            other => Err(format!("metrics are a JSON object of numbers, not {other}")),
        }
    }

    /// The canonical JSON: names sorted, two blanks of indentation, shortest numbers, a newline at the end.
    pub fn to_json(&self) -> String {
        let mut text =
            serde_json::to_string_pretty(&self.root).expect("a tree of numbers serializes");
        text.push('\n');
        text
    }

    fn put(&mut self, path: &str, value: Value) -> Result<(), String> {
        let mut map = &mut self.root;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            if part.is_empty() {
                return Err(format!("metric path `{path}` has an empty name"));
            }
            if parts.peek().is_none() {
                map.insert(part.to_owned(), value);
                return Ok(());
            }
            map = match map
                .entry(part.to_owned())
                .or_insert_with(|| Value::Object(Map::new()))
            {
                Value::Object(inner) => inner,
                _ => {
                    return Err(format!(
                        "metric path `{path}` runs through a number at `{part}`"
                    ));
                }
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes() {
        let mut metrics = Metrics::new();
        metrics.set("test.buy.auc", 0.5125).unwrap();
        metrics.set_series("loss", &[1.5, 0.25]).unwrap();

        let again = Metrics::from_json(metrics.to_json().as_bytes()).unwrap();
        assert_eq!(again, metrics);
        assert_eq!(again.get("test.buy.auc"), Some(0.5125));
        assert_eq!(again.series("loss"), Some(vec![1.5, 0.25]));
    }

    #[test]
    fn refuses_what_is_no_number() {
        assert!(
            Metrics::new()
                .set("sharpe", f64::NAN)
                .unwrap_err()
                .contains("`sharpe`")
        );
        assert!(
            Metrics::from_json(br#"{"a": {"b": "x"}}"#)
                .unwrap_err()
                .contains("`a.b`")
        );
    }
}

//! Stage keys, and what they are made of.

use std::{collections::BTreeMap, fmt, str::FromStr};

use natron_artifacts::{ColumnType, Digest, Kind, canonical};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::SharedValue;

/// The name of a computation: the digest of its [`Ingredients`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StageKey(Digest);

impl StageKey {
    /// The key that `digest` is.
    pub const fn new(digest: Digest) -> Self {
        Self(digest)
    }

    /// The digest.
    pub const fn digest(&self) -> Digest {
        self.0
    }

    /// The first 12 hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.0.short()
    }
}

impl fmt::Display for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for StageKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// All that a stage's result depends on.
///
/// What is hashed, what `explain` prints and what `diff` compares are this struct. Never in it: the stage's name in the
/// pipeline, paths, times, thread counts, log settings. A field that is new and usually absent is left out when empty, so
/// that older keys stay what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ingredients {
    /// Version of the key's encoding, [`canonical::FORMAT`].
    pub format: u32,
    /// Stage kind.
    pub kind: String,
    /// Fingerprint of the code that defines the kind.
    pub code: String,
    /// Parameters with defaults filled in, without paths.
    pub parameters: SharedValue,
    /// The stage's seed.
    pub seed: u64,
    /// Numeric class: `portable`, or what the bits of results are tied to.
    pub numeric: String,
    /// Device class, where the stage ran elsewhere than on the CPU and results depend on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Content of the inputs by port, in order.
    pub inputs: BTreeMap<String, Vec<InputIngredient>>,
    /// Content of the files read from outside, by the names the stage declares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, Digest>,
    /// Declared environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// Output ports and their kinds.
    pub outputs: BTreeMap<String, Kind>,
    /// Digest of the graph above, for stages that read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lineage: Option<Digest>,
    /// Free text that disowns a family of results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
}

/// What a key holds of one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum InputIngredient {
    /// The content, whatever its layout in bytes.
    Logical {
        /// Kind of the artifact.
        kind: Kind,
        /// Its logical digest.
        digest: Digest,
    },
    /// The bytes.
    Bytes {
        /// Digest of the bytes.
        digest: Digest,
    },
    /// Some columns of a table, the time index among them.
    Columns {
        /// Rows of the table.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rows: Option<u64>,
        /// The columns, in the order in which the stage sees them.
        columns: Vec<ColumnIngredient>,
    },
}

/// What a key holds of one column.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnIngredient {
    /// Name.
    pub name: String,
    /// Type.
    #[serde(rename = "type")]
    pub column_type: ColumnType,
    /// Unit; empty for pure numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// Digest of the values.
    pub digest: Digest,
}

impl Ingredients {
    /// A CPU stage of this kind without inputs, outputs and parameters; the rest is filled in field by field.
    pub fn new(kind: impl Into<String>, code: impl Into<String>) -> Self {
        Self {
            format: canonical::FORMAT,
            kind: kind.into(),
            code: code.into(),
            parameters: Value::Object(serde_json::Map::new()).into(),
            seed: 0,
            numeric: "portable".into(),
            device: None,
            inputs: BTreeMap::new(),
            sources: BTreeMap::new(),
            environment: BTreeMap::new(),
            outputs: BTreeMap::new(),
            lineage: None,
            salt: None,
        }
    }

    /// The key: the digest of the canonical encoding.
    pub fn key(&self) -> StageKey {
        StageKey(canonical::digest("natron stage key v1", self))
    }

    /// The ingredients as JSON.
    ///
    /// # Panics
    ///
    /// Never: plain structs serialize.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("plain structs serialize")
    }
}

/// One ingredient that differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Where, as `parameters.learning_rate` or `inputs.features.columns.rsi_14.digest`.
    pub path: String,
    /// The value before; nothing when it is new.
    pub before: Option<Value>,
    /// The value after; nothing when it is gone.
    pub after: Option<Value>,
}

/// All leaves in which two sets of ingredients differ, in order of their paths. None exactly when the keys are equal,
/// but for differences that the encoding does not see (`-0.0` and `0.0`, composed and decomposed letters).
pub fn diff(before: &Ingredients, after: &Ingredients) -> Vec<Difference> {
    let mut differences = Vec::new();
    compare(
        "",
        Some(&before.to_value()),
        Some(&after.to_value()),
        &mut differences,
    );
    differences
}

fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, out: &mut Vec<Difference>) {
    match (before, after) {
        (None, None) => {}
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            let names: std::collections::BTreeSet<_> = a.keys().chain(b.keys()).collect();
            for name in names {
                compare(&join(path, name), a.get(name), b.get(name), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => match (by_name(a), by_name(b)) {
            (Some(a_by_name), Some(b_by_name)) => {
                let names: std::collections::BTreeSet<_> =
                    a_by_name.keys().chain(b_by_name.keys()).collect();
                let before = out.len();
                for name in names {
                    let (x, y) = (a_by_name.get(name).copied(), b_by_name.get(name).copied());
                    compare(&join(path, name), x, y, out);
                }
                if out.len() == before && a != b {
                    // The same items in another order.
                    out.push(Difference {
                        path: join(path, "order"),
                        before: Some(a_by_name_order(a)),
                        after: Some(a_by_name_order(b)),
                    });
                }
            }
            _ if a.len() == 1 && b.len() == 1 && a[0].is_object() => {
                compare(path, Some(&a[0]), Some(&b[0]), out);
            }
            _ => {
                for i in 0..a.len().max(b.len()) {
                    compare(&format!("{path}[{i}]"), a.get(i), b.get(i), out);
                }
            }
        },
        (a, b) if a == b => {}
        (a, b) => out.push(Difference {
            path: path.to_owned(),
            before: a.cloned(),
            after: b.cloned(),
        }),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Items that all have a different `name`, by name: then an item that moved is not a change of every later one.
fn by_name(items: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let named: BTreeMap<&str, &Value> = items
        .iter()
        .map(|item| Some((item.get("name")?.as_str()?, item)))
        .collect::<Option<_>>()?;
    (named.len() == items.len() && !items.is_empty()).then_some(named)
}

fn a_by_name_order(items: &[Value]) -> Value {
    items.iter().map(|item| item["name"].clone()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn column(name: &str, content: &str) -> ColumnIngredient {
        ColumnIngredient {
            name: name.into(),
            column_type: ColumnType::F64,
            unit: String::new(),
            digest: Digest::of(content.as_bytes()),
        }
    }

    fn ingredients() -> Ingredients {
        let mut ingredients = Ingredients::new("finetune", "c0de");
        ingredients.parameters =
            json!({"learning_rate": 1e-4, "epochs": 100, "heads": [1, 2]}).into();
        ingredients.seed = u64::MAX;
        ingredients.outputs.insert("model".into(), Kind::Model);
        ingredients.inputs.insert(
            "features".into(),
            vec![InputIngredient::Columns {
                rows: Some(10),
                columns: vec![column("ts_ns", "t"), column("close", "c")],
            }],
        );
        ingredients
    }

    #[test]
    fn survive_their_text_form() {
        let ingredients = ingredients();

        let text = serde_json::to_string(&ingredients).unwrap();
        let again: Ingredients = serde_json::from_str(&text).unwrap();
        assert_eq!(again, ingredients);
        assert_eq!(again.key(), ingredients.key());
    }

    type Change = Box<dyn Fn(&mut Ingredients)>;

    #[test]
    fn every_field_is_part_of_the_key() {
        let base = ingredients();
        let changes: Vec<(&str, Change)> = vec![
            ("format", Box::new(|i| i.format += 1)),
            ("kind", Box::new(|i| i.kind = "pretrain".into())),
            ("code", Box::new(|i| i.code = "c1de".into())),
            (
                "parameters.epochs",
                Box::new(|i| i.parameters["epochs"] = json!(100.0)),
            ),
            (
                "parameters.learning_rate",
                Box::new(|i| i.parameters["learning_rate"] = json!(3e-4)),
            ),
            (
                "parameters.heads[1]",
                Box::new(|i| i.parameters["heads"] = json!([1, 3])),
            ),
            ("seed", Box::new(|i| i.seed -= 1)),
            ("numeric", Box::new(|i| i.numeric = "device".into())),
            ("device", Box::new(|i| i.device = Some("cuda:sm_90".into()))),
            (
                "inputs.extra",
                Box::new(|i| {
                    let digest = Digest::of(b"x");
                    i.inputs
                        .insert("extra".into(), vec![InputIngredient::Bytes { digest }]);
                }),
            ),
            (
                "sources",
                Box::new(|i| {
                    i.sources.insert("path".into(), Digest::of(b"x"));
                }),
            ),
            (
                "environment",
                Box::new(|i| {
                    i.environment.insert("TZ".into(), "UTC".into());
                }),
            ),
            (
                "outputs.metrics",
                Box::new(|i| {
                    i.outputs.insert("metrics".into(), Kind::Metrics);
                }),
            ),
            ("lineage", Box::new(|i| i.lineage = Some(Digest::of(b"x")))),
            ("salt", Box::new(|i| i.salt = Some("2".into()))),
        ];

        let mut keys = std::collections::BTreeSet::from([base.key()]);
        for (path, change) in changes {
            let mut other = base.clone();
            change(&mut other);
            assert!(keys.insert(other.key()), "{path} is not in the key");
            let differences = diff(&base, &other);
            assert_eq!(differences.len(), 1, "{path}");
            assert_eq!(differences[0].path, path);
        }
        assert!(diff(&base, &base.clone()).is_empty());
    }

    #[test]
    fn a_changed_column_is_named() {
        let mut other = ingredients();
        other.inputs.insert(
            "features".into(),
            vec![InputIngredient::Columns {
                rows: Some(10),
                columns: vec![
                    column("ts_ns", "t"),
                    column("open", "o"),
                    column("close", "d"),
                ],
            }],
        );

        let paths: Vec<_> = diff(&ingredients(), &other)
            .into_iter()
            .map(|d| d.path)
            .collect();
        assert_eq!(
            paths,
            [
                "inputs.features.columns.columns.close.digest",
                "inputs.features.columns.columns.open"
            ]
        );
    }

    #[test]
    fn an_order_that_changed_is_a_difference() {
        let mut other = ingredients();
        let port = other.inputs.get_mut("features").unwrap();
        let InputIngredient::Columns { columns, .. } = &mut port[0] else {
            unreachable!()
        };
        columns.reverse();

        let differences = diff(&ingredients(), &other);
        assert_ne!(other.key(), ingredients().key());
        assert_eq!(differences[0].path, "inputs.features.columns.columns.order");
        assert_eq!(differences[0].before, Some(json!(["ts_ns", "close"])));
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e300_f64..1e300).prop_map(Value::from),
            "[a-z]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]|name", inner, 0..3)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn there_is_a_difference_exactly_when_keys_differ(a in json_value(), b in json_value()) {
            let with = |value: &Value| {
                let mut ingredients = ingredients();
                ingredients.parameters = value.clone().into();
                ingredients
            };
            let (a, b) = (with(&a), with(&b));
            prop_assert_eq!(diff(&a, &b).is_empty(), a.key() == b.key());
            prop_assert!(diff(&a, &a).is_empty());
            let again: Ingredients = serde_json::from_str(&serde_json::to_string(&a).unwrap()).unwrap();
            prop_assert_eq!(again.key(), a.key());
        }
    }
}

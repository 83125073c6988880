//! How a pipeline file writes features of its own.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// One feature with all that can be said of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureDefinition {
    /// Its name; left out where the name stands before.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What it is, as `close / sma(close, 20)`.
    pub expression: String,
    /// What it is measured in. If it is left out, what follows from the expression.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unit: String,
    /// What it means. If it is left out, the expression.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// Features of a pipeline's own: `{ name = "expression" }`, or a list of tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureColumns {
    /// By name, in the order of the names.
    Table(BTreeMap<String, Entry>),
    /// In their order.
    List(Vec<FeatureDefinition>),
}

/// What stands after the name of a feature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The expression.
    Text(String),
    /// A table.
    Full(FeatureDefinition),
}

impl Default for FeatureColumns {
    fn default() -> Self {
        Self::Table(BTreeMap::new())
    }
}

impl FeatureColumns {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Table(entries) => entries.is_empty(),
            Self::List(definitions) => definitions.is_empty(),
        }
    }

    /// Each feature, and the path of its expression below `with`.
    pub(super) fn definitions(&self) -> Vec<(FeatureDefinition, String)> {
        match self {
            Self::Table(entries) => entries
                .iter()
                .map(|(name, entry)| match entry {
                    Entry::Text(expression) => {
                        let definition = FeatureDefinition {
                            name: name.clone(),
                            expression: expression.clone(),
                            unit: String::new(),
                            description: String::new(),
                        };
                        (definition, format!("columns.{name}"))
                    }
                    Entry::Full(definition) => {
                        let definition = FeatureDefinition {
                            name: name.clone(),
                            ..definition.clone()
                        };
                        (definition, format!("columns.{name}.expression"))
                    }
                })
                .collect(),
            Self::List(definitions) => definitions
                .iter()
                .enumerate()
                .map(|(i, definition)| (definition.clone(), format!("columns.{i}.expression")))
                .collect(),
        }
    }
}

impl Serialize for FeatureColumns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Table(entries) => entries.serialize(serializer),
            Self::List(definitions) => definitions.serialize(serializer),
        }
    }
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Full(definition) => definition.serialize(serializer),
        }
    }
}

// By hand: derived enums without tags lose the place of a mistake.
impl<'de> Deserialize<'de> for FeatureColumns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Columns;

        impl<'de> Visitor<'de> for Columns {
            type Value = FeatureColumns;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of expressions by name, or a list of tables with `name` and `expression`")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, entry)) = map.next_entry()? {
                    entries.insert(name, entry);
                }
                Ok(FeatureColumns::Table(entries))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
                let mut definitions = Vec::new();
                while let Some(definition) = list.next_element()? {
                    definitions.push(definition);
                }
                Ok(FeatureColumns::List(definitions))
            }
        }

        deserializer.deserialize_any(Columns)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfOne;

        impl<'de> Visitor<'de> for OfOne {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression, or a table with `expression`")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Entry::Text(text.to_owned()))
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Self::Value, M::Error> {
                FeatureDefinition::deserialize(MapAccessDeserializer::new(map)).map(Entry::Full)
            }
        }

        deserializer.deserialize_any(OfOne)
    }
}

impl JsonSchema for FeatureColumns {
    fn schema_name() -> Cow<'static, str> {
        "FeatureColumns".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let definition = generator.subschema_for::<FeatureDefinition>();
        json_schema!({
            "anyOf": [
                {
                    "type": "object",
                    "additionalProperties": { "anyOf": [{ "type": "string" }, definition] }
                },
                { "type": "array", "items": definition }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_and_lists_come_back_as_they_were_written() {
        for value in [
            json!({ "a": "close", "b": { "expression": "open", "unit": "price" } }),
            json!([{ "name": "b", "expression": "open" }, { "name": "a", "expression": "close", "description": "x" }]),
        ] {
            let columns: FeatureColumns = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(serde_json::to_value(&columns).unwrap(), value);
        }
        let paths = |value| {
            let columns: FeatureColumns = serde_json::from_value(value).unwrap();
            let found = columns.definitions().into_iter();
            found
                .map(|(definition, path)| format!("{} {path}", definition.name))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            paths(json!({ "a": "close", "b": { "expression": "open" } })),
            ["a columns.a", "b columns.b.expression"]
        );
        assert_eq!(
            paths(json!([{ "name": "b", "expression": "open" }])),
            ["b columns.0.expression"]
        );
        let wrong = serde_json::from_value::<FeatureColumns>(json!({ "a": 7 })).unwrap_err();
        assert!(
            wrong.to_string().contains("expected an expression"),
            "{wrong}"
        );
    }
}

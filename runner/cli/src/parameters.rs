//! The parameters of a kind of stage, from their JSON schema.

use serde_json::Value;

/// One parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Parameter {
    /// Its name in its table.
    pub(crate) name: String,
    /// How deep its table lies: 0 directly below `with`.
    pub(crate) depth: usize,
    /// Its type, as a user would say it.
    pub(crate) value_type: String,
    /// Its default, as TOML.
    pub(crate) default: Option<String>,
    /// Whether it must be given.
    pub(crate) is_required: bool,
    /// What its doc comment says.
    pub(crate) documentation: String,
}

/// The parameters that `schema` describes; those of a table follow the table.
pub(crate) fn parameters(schema: &Value) -> Vec<Parameter> {
    let mut out = Vec::new();
    collect(schema, schema, 0, &mut out);
    out
}

/// Deep enough for any real parameters, and an end for a schema that refers to itself.
const MAX_DEPTH: usize = 6;

fn collect(root: &Value, schema: &Value, depth: usize, out: &mut Vec<Parameter>) {
    let schema = resolved(root, schema);
    let Some(properties) = schema["properties"].as_object() else {
        return;
    };
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    for (name, property) in properties {
        let default = property.get("default").map(toml_value);
        out.push(Parameter {
            name: name.clone(),
            depth,
            value_type: value_type(root, property),
            is_required: required.contains(&name.as_str()) && default.is_none(),
            default,
            documentation: property["description"]
                .as_str()
                .or_else(|| resolved(root, property)["description"].as_str())
                .unwrap_or_default()
                .to_owned(),
        });
        if depth < MAX_DEPTH {
            collect(root, property, depth + 1, out);
        }
    }
}

/// The schema that a reference or an `Option` stands for.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(reference) = schema["$ref"].as_str() {
        return reference
            .strip_prefix('#')
            .and_then(|pointer| root.pointer(pointer))
            .unwrap_or(schema);
    }
    for key in ["allOf", "anyOf"] {
        if let Some(choices) = schema[key].as_array() {
            let mut real = choices.iter().filter(|choice| choice["type"] != "null");
            if let (Some(only), None) = (real.next(), real.next()) {
                return resolved(root, only);
            }
        }
    }
    schema
}

fn value_type(root: &Value, schema: &Value) -> String {
    let schema = resolved(root, schema);
    if let Some(choices) = schema["enum"].as_array() {
        return one_of(choices.iter().map(toml_value));
    }
    if let Some(value) = schema.get("const") {
        return toml_value(value);
    }
    if let Some(choices) = schema["oneOf"]
        .as_array()
        .or_else(|| schema["anyOf"].as_array())
    {
        return one_of(choices.iter().map(|choice| value_type(root, choice)));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let base = match types.iter().find(|&&name| name != "null") {
        Some(&"integer") => whole_number(schema),
        Some(&"number") => "number".to_owned(),
        Some(&"string") => "text".to_owned(),
        Some(&"boolean") => "true or false".to_owned(),
        Some(&"array") => match schema.get("items") {
            Some(items) => format!("list of {}", value_type(root, items)),
            None => "list".to_owned(),
        },
        Some(&"object") => match schema.get("additionalProperties") {
            Some(values) if values.is_object() => {
                format!("table of {}", value_type(root, values))
            }
            _ => "table".to_owned(),
        },
        _ => "any value".to_owned(),
    };
    let limits = limits(schema);
    if limits.is_empty() {
        base
    } else {
        format!("{base} {limits}")
    }
}

fn whole_number(schema: &Value) -> String {
    if schema["minimum"].as_i64() == Some(0) {
        "whole number, 0 or more".to_owned()
    } else {
        "whole number".to_owned()
    }
}

fn limits(schema: &Value) -> String {
    let bound = |key: &str, sign: &str| {
        let value = schema.get(key)?;
        let is_trivial =
            schema["type"] == "integer" && key == "minimum" && value.as_f64() == Some(0.0);
        // The limits of the machine types say nothing to a user.
        let is_machine = key == "maximum"
            && [255.0, 65_535.0, 4_294_967_295.0]
                .iter()
                .any(|&m| value.as_f64() == Some(m));
        (!is_trivial && !is_machine).then(|| format!("{sign} {value}"))
    };
    let bounds = [
        bound("minimum", ">="),
        bound("exclusiveMinimum", ">"),
        bound("maximum", "<="),
        bound("exclusiveMaximum", "<"),
    ];
    bounds.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn one_of(choices: impl Iterator<Item = String>) -> String {
    let mut choices: Vec<String> = choices.filter(|choice| choice != "null").collect();
    choices.dedup();
    choices.join(" | ")
}

/// The value as it would stand in a pipeline file.
pub(crate) fn toml_value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(toml_value).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) if fields.is_empty() => "{}".to_owned(),
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("{name} = {}", toml_value(value)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Number(number) => match number.as_f64() {
            // A single-precision parameter comes as the nearest double.
            Some(value)
                if number.is_f64() && f64::from(value as f32).to_bits() == value.to_bits() =>
            {
                (value as f32).to_string()
            }
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_types_and_defaults_for_users() {
        let schema = json!({
            "required": ["path"],
            "properties": {
                "path": { "type": "string", "description": "Where." },
                "dropout": { "type": "number", "default": f64::from(0.1_f32) },
                "epochs": { "type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32, "default": 3 },
                "mode": { "oneOf": [{ "const": "a" }, { "const": "b" }], "default": "a" },
                "limit": { "anyOf": [{ "type": "number", "exclusiveMinimum": 0 }, { "type": "null" }], "default": null },
                "cost": { "properties": { "fee_bps": { "type": ["number", "null"] } }, "type": "object" }
            }
        });

        let lines: Vec<String> = parameters(&schema)
            .into_iter()
            .map(|p| {
                format!(
                    "{} {} {}: {} {:?}",
                    p.depth, p.name, p.is_required, p.value_type, p.default
                )
            })
            .collect();
        assert_eq!(
            lines,
            [
                "0 cost false: table None",
                "1 fee_bps false: number None",
                "0 dropout false: number Some(\"0.1\")",
                "0 epochs false: whole number, 0 or more Some(\"3\")",
                "0 limit false: number > 0 Some(\"none\")",
                "0 mode false: \"a\" | \"b\" Some(\"\\\"a\\\"\")",
                "0 path true: text None",
            ]
        );
    }
}

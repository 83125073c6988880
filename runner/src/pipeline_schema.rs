//! The JSON schema of pipeline files, for editors.

use natron_artifacts::{Registry, StageKind};
use serde_json::{Map, Value, json};

/// JSON schema (draft 2020-12) of pipeline files that use the kinds of `registry`.
pub fn pipeline_schema(registry: &Registry) -> Value {
    let kinds: Vec<Value> = registry
        .kinds()
        .map(|kind| json!({"const": kind.name, "description": kind.summary()}))
        .collect();
    let with_of_kind: Vec<Value> = registry.kinds().map(with_of_kind).collect();
    let mut stage = stage_properties();
    stage.insert(
        "uses".into(),
        json!({
            "description": "Kind of the stage.",
            "anyOf": [{"oneOf": kinds}, reference()]
        }),
    );
    let overlay = stage.clone();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Natron pipeline",
        "type": "object",
        "additionalProperties": false,
        "required": ["stages"],
        "properties": {
            "pipeline": pipeline_table(),
            "params": params("Values that `${params.NAME}` brings anywhere; `--set params.NAME=VALUE` replaces them."),
            "stages": {
                "description": "The stages by name.",
                "type": "object",
                "minProperties": 1,
                "propertyNames": name(),
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": false,
                    "required": ["uses"],
                    "properties": stage,
                    "allOf": with_of_kind
                }
            },
            "profiles": {
                "description": "What `--profile NAME` lays over the file.",
                "type": "object",
                "propertyNames": name(),
                "additionalProperties": {
                    "type": "object",
                    "additionalProperties": false,
                    "properties": {
                        "pipeline": pipeline_table(),
                        "params": params("Other values of `[params]`."),
                        "stages": {
                            "description": "What is different in each stage.",
                            "type": "object",
                            "additionalProperties": {
                                "type": "object",
                                "additionalProperties": false,
                                "properties": overlay
                            }
                        }
                    }
                }
            }
        }
    })
}

/// `with` of one kind; each parameter may be a reference instead.
fn with_of_kind(kind: &StageKind) -> Value {
    let mut schema = kind.schema().clone();
    if let Value::Object(map) = &mut schema {
        map.remove("$schema");
        map.remove("title");
        if let Some(Value::Object(properties)) = map.get_mut("properties") {
            for parameter in properties.values_mut() {
                let mut wrapped = Map::new();
                if let Value::Object(inner) = parameter
                    && let Some(description) = inner.get("description")
                {
                    wrapped.insert("description".into(), description.clone());
                }
                wrapped.insert("anyOf".into(), json!([parameter.take(), reference()]));
                *parameter = Value::Object(wrapped);
            }
        }
    }
    let has_required = schema
        .get("required")
        .and_then(Value::as_array)
        .is_some_and(|required| !required.is_empty());
    let mut then = json!({"properties": {"with": schema}});
    if has_required {
        then["required"] = json!(["with"]);
    }
    json!({
        "if": {"properties": {"uses": {"const": kind.name}}, "required": ["uses"]},
        "then": then
    })
}

fn pipeline_table() -> Value {
    json!({
        "description": "Settings of the whole pipeline.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "name": {"description": "Name; the file's own without it.", "type": "string"},
            "seed": {
                "description": "Root of the seeds that stages do not choose themselves.",
                "anyOf": [{"type": "integer", "minimum": 0}, reference()]
            },
            "numeric": {
                "description": "`portable`: the same bits on every x86-64 CPU with AVX2 and FMA. `native`: whatever is fastest here.",
                "enum": ["portable", "native"],
                "default": "portable"
            },
            "device": {
                "description": "Where stages compute that can use a GPU: `cpu`; `auto`, on a GPU if there is one; `cuda`, on a GPU. The key holds it.",
                "enum": ["cpu", "auto", "cuda"],
                "default": "cpu"
            },
            "tokens": {
                "description": "How many there are of each named token that stages hold while they run.",
                "type": "object",
                "propertyNames": name(),
                "additionalProperties": {"type": "integer", "minimum": 1, "maximum": 1_000_000}
            }
        }
    })
}

fn params(description: &str) -> Value {
    json!({"description": description, "type": "object", "propertyNames": name()})
}

fn stage_properties() -> Map<String, Value> {
    let source = source();
    let scalar = json!({"type": ["string", "number", "boolean"]});
    let scalars =
        json!({"type": "array", "items": {"type": "object", "additionalProperties": scalar}});
    let properties = json!({
        "inputs": {
            "description": "What each input reads.",
            "type": "object",
            "propertyNames": name(),
            "additionalProperties": {
                "anyOf": [source, {"type": "array", "minItems": 1, "items": source}]
            }
        },
        "with": {"description": "Parameters of the kind.", "type": "object"},
        "views": {
            "description": "Output -> path in the workspace where it is shown, too.",
            "type": "object",
            "additionalProperties": {"type": "string"}
        },
        "matrix": {
            "description": "One instance for each combination of the axes' values.",
            "type": "object",
            "properties": {
                "zip": {
                    "description": "Axes that go together instead of being multiplied.",
                    "type": "array",
                    "items": {"type": "array", "items": {"type": "string"}}
                },
                "include": scalars,
                "exclude": scalars,
                "sample": sample()
            },
            "additionalProperties": {
                "anyOf": [{"type": "array", "minItems": 1, "items": scalar}, range(), listed(), reference()]
            }
        },
        "resources": {
            "description": "What it needs to run; never part of the key.",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "threads": {"anyOf": [{"type": "integer", "minimum": 1}, {"enum": ["all", "one"]}, reference()]},
                "memory": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
                "gpu": gpu(),
                "tokens": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}}
            }
        },
        "retries": retries(),
        "timeout": {
            "description": "How long it may take: seconds, or text as `1h30m`.",
            "type": ["integer", "string"]
        },
        "isolation": {
            "description": "`process`: it runs in a process of its own, whose crash is an ordinary failure.",
            "enum": ["none", "process"],
            "default": "none"
        },
        "limits": {
            "description": "What its process may take; a stage with limits has a process of its own.",
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "memory": {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]},
                "processes": {"type": "integer", "minimum": 1},
                "cpu_seconds": {"type": "integer", "minimum": 1}
            }
        },
        "when": {
            "description": "Whether there is an instance at all: a boolean, or a condition as `${matrix.model} == 'gru' and ${matrix.layers} > 1`.",
            "anyOf": [{"type": "boolean"}, {"type": "string"}]
        },
        "on_failure": {
            "description": "What its failure does to the rest.",
            "enum": ["stop", "continue", "ignore"],
            "default": "stop"
        },
        "seed": {
            "description": "Its seed; `auto` is a hash of the root seed, the kind and the seed axes.",
            "anyOf": [{"type": "integer", "minimum": 0}, {"const": "auto"}, reference()]
        },
        "seed_axes": {
            "description": "Axes whose values change the seed, besides an axis called `seed`.",
            "type": "array",
            "items": {"type": "string"}
        },
        "salt": {"description": "Part of the key, to disown a family of results.", "type": "string"},
        "reproducible": reproducible()
    });
    match properties {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// What an input reads.
fn source() -> Value {
    json!({
        "anyOf": [
            {"type": "string", "description": "`stage`, `stage.output`, `stage[axis=value].output`, `stage[*]`"},
            {
                "type": "object",
                "description": "A part of a table: some columns, or some rows.",
                "additionalProperties": false,
                "required": ["from"],
                "properties": {
                    "from": {"type": "string"},
                    "columns": {
                        "description": "Only these, and the time index.",
                        "anyOf": [{"type": "array", "minItems": 1, "items": {"type": "string"}}, reference()]
                    },
                    "window": window()
                }
            },
            {
                "type": "object",
                "description": "A file or folder of the workspace.",
                "additionalProperties": false,
                "required": ["file"],
                "properties": {"file": {"type": "string"}}
            }
        ]
    })
}

/// Points of a matrix.
fn sample() -> Value {
    json!({
        "description": "Points of the ranges among the axes, instead of all combinations.",
        "type": "object",
        "additionalProperties": false,
        "required": ["method", "n"],
        "properties": {
            "method": {"anyOf": [{"enum": ["random", "sobol", "lhs"]}, reference()]},
            "n": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1_000_000}, reference()]},
            "seed": {"anyOf": [{"type": "integer", "minimum": 0}, reference()]}
        }
    })
}

/// `resources.gpu`.
fn gpu() -> Value {
    json!({
        "description": "`auto`, or how many, and how much memory each of them has. Only for programs and kinds that can use one.",
        "anyOf": [
            {"enum": ["never", "auto", "required"]},
            {"type": "integer", "minimum": 0, "maximum": 64},
            {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "count": {"type": "integer", "minimum": 0, "maximum": 64},
                    "memory": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
                }
            },
            reference()
        ]
    })
}

/// `retries`.
fn retries() -> Value {
    json!({
        "description": "How often it is tried again.",
        "anyOf": [
            {"type": "integer", "minimum": 0, "maximum": 1000},
            {
                "type": "object",
                "additionalProperties": false,
                "required": ["times"],
                "properties": {
                    "times": {"type": "integer", "minimum": 0, "maximum": 1000},
                    "backoff": {
                        "description": "How long to wait before the first retry; twice as long before each further one.",
                        "type": ["integer", "string"]
                    },
                    "memory_growth": {
                        "description": "By what the memory that it wants grows with each attempt.",
                        "type": "number", "minimum": 1, "maximum": 16, "default": 1
                    }
                }
            },
            reference()
        ]
    })
}

/// Rows of a table.
fn window() -> Value {
    json!({
        "description": "Only these rows: of a year, month or day (`2024-03`), or as the table says.",
        "anyOf": [
            {"type": ["string", "integer"]},
            {
                "type": "object",
                "additionalProperties": false,
                "properties": {
                    "last": {"description": "So many at the end.", "type": "integer", "minimum": 1},
                    "rows": {
                        "description": "From the first position up to the second, without it.",
                        "type": "array", "minItems": 2, "maxItems": 2,
                        "items": {"type": "integer", "minimum": 0}
                    },
                    "from_time": {"description": "Not before this time.", "type": "string"},
                    "to_time": {"description": "Before this time.", "type": "string"}
                }
            }
        ]
    })
}

/// A sampled axis.
fn range() -> Value {
    json!({
        "description": "A range that `sample` draws from; whole numbers when both ends are.",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "min": {"type": "number"},
            "max": {"type": "number"},
            "scale": {"enum": ["linear", "log"], "default": "linear"},
            "values": {"description": "A choice instead of a range.", "type": "array", "minItems": 1}
        }
    })
}

/// An axis whose values an artifact lists.
fn listed() -> Value {
    json!({
        "description": "The values are listed by what a stage makes.",
        "type": "object",
        "additionalProperties": false,
        "required": ["from"],
        "properties": {
            "from": {"description": "`stage.output`", "type": "string"},
            "path": {"description": "Where in metrics the list stands.", "type": "string"},
            "column": {"description": "The column of a table that holds the values.", "type": "string"},
            "partition": {
                "description": "The years, months or days in which a table has rows.",
                "enum": ["year", "month", "day"]
            }
        }
    })
}

/// How alike outputs have to come out again.
fn reproducible() -> Value {
    let number = json!({"anyOf": [{"type": "number", "minimum": 0}, reference()]});
    let tolerance = json!({
        "abs": number,
        "rel": number,
        "ulps": {"anyOf": [{"type": "integer", "minimum": 0}, reference()]}
    });
    let by_name = |description: &str| {
        json!({
            "description": description,
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": false,
                "properties": tolerance
            }
        })
    };
    let mut properties = tolerance.clone();
    properties["columns"] = by_name("By column of a table or tensor of a model.");
    properties["metrics"] = by_name("By path of a metric.");
    json!({
        "description": "How alike its outputs have to come out when it is executed again: `natron verify`, `--locked`.",
        "default": "bytes",
        "anyOf": [
            {"enum": ["bytes", "logical"]},
            {
                "description": "Numbers may differ by any of these.",
                "type": "object",
                "minProperties": 1,
                "additionalProperties": false,
                "properties": properties
            },
            reference()
        ]
    })
}

/// A string with a reference, which may take any type.
fn reference() -> Value {
    json!({"type": "string", "pattern": r"\$\{"})
}

fn name() -> Value {
    json!({"pattern": "^[A-Za-z0-9_-]{1,128}$"})
}

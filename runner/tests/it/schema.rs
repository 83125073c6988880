//! The JSON schema of pipeline files.

use natron_runner::pipeline_schema;
use serde_json::json;

use crate::toys;

#[test]
fn knows_every_kind_and_its_parameters() {
    let schema = pipeline_schema(&toys::registry());

    let stage = &schema["properties"]["stages"]["additionalProperties"];
    let rules = stage["allOf"].as_array().unwrap();
    let rule = rules
        .iter()
        .find(|rule| rule["if"]["properties"]["uses"]["const"] == "load.synthetic")
        .unwrap();
    let rows = &rule["then"]["properties"]["with"]["properties"]["rows"];
    assert_eq!(rows["description"], "How many bars.");
    assert_eq!(rows["anyOf"][0]["default"], 4000);
    assert_eq!(rows["anyOf"][1]["pattern"], r"\$\{");
    assert_eq!(
        rule["then"]["properties"]["with"]["additionalProperties"],
        json!(false)
    );
    assert_eq!(rules.len(), toys::registry().kinds().count());
}

#[test]
fn knows_every_key_of_a_stage() {
    let schema = pipeline_schema(&toys::registry());

    let stage = &schema["properties"]["stages"]["additionalProperties"];
    let known: Vec<&str> = stage["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let mut expected = vec![
        "uses",
        "inputs",
        "with",
        "views",
        "matrix",
        "resources",
        "retries",
        "timeout",
        "when",
        "on_failure",
        "seed",
        "seed_axes",
        "salt",
        "isolation",
        "limits",
        "reproducible",
    ];
    expected.sort_unstable();
    assert_eq!(known, expected);
}

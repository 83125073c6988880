//! The kinds of stages that a program knows.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use serde_path_to_error::Segment;

use crate::Stage;

/// A parameter that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterError {
    /// Where below `with`: names of tables, positions in lists (as decimal digits).
    pub path: Vec<String>,
    /// What is wrong, as serde words it.
    pub message: String,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "`{}`: {}", self.path.join("."), self.message)
        }
    }
}

impl std::error::Error for ParameterError {}

/// A stage with its parameters, ready to be asked for its signature.
#[derive(Clone)]
pub struct ParsedStage {
    /// The stage.
    pub stage: Arc<dyn Stage>,
    /// Its parameters with all defaults filled in: what the key hashes.
    pub parameters: Value,
}

type Parse = dyn Fn(&Value) -> Result<ParsedStage, ParameterError> + Send + Sync;

/// A kind of stage. Copies are cheap.
#[derive(Clone)]
pub struct StageKind {
    /// What `uses` calls it.
    pub name: String,
    /// Fingerprint of the code that defines its results.
    pub code: String,
    /// Made when somebody asks: a run that finds nothing to do does not need it.
    schema: Arc<OnceLock<Value>>,
    make_schema: fn() -> Value,
    parse: Arc<Parse>,
}

impl StageKind {
    /// JSON schema of its parameters.
    pub fn schema(&self) -> &Value {
        self.schema.get_or_init(self.make_schema)
    }

    /// All that its doc comment says.
    pub fn documentation(&self) -> &str {
        self.schema()["description"].as_str().unwrap_or_default()
    }

    /// One line about it.
    pub fn summary(&self) -> &str {
        self.documentation().lines().next().unwrap_or_default()
    }

    /// The stage with the parameters `with` (a JSON object).
    ///
    /// # Errors
    ///
    /// The first parameter that does not fit. To find all, leave it out and ask again.
    pub fn parse(&self, with: &Value) -> Result<ParsedStage, ParameterError> {
        (self.parse)(with)
    }
}

/// The list of kinds.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<String, StageKind>,
}

impl Registry {
    /// No kinds.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the kind `name`, whose parameters are the struct `P` and whose results are defined by the code that `code`
    /// fingerprints (change it whenever the same parameters and inputs would give other results).
    ///
    /// # Panics
    ///
    /// When the name is taken.
    pub fn register<P>(&mut self, name: &str, code: &str)
    where
        P: Stage + Serialize + DeserializeOwned + JsonSchema + 'static,
    {
        let kind = StageKind {
            name: name.to_owned(),
            code: code.to_owned(),
            schema: Arc::default(),
            make_schema: make_schema::<P>,
            parse: Arc::new(parse::<P>),
        };
        let before = self.kinds.insert(name.to_owned(), kind);
        assert!(before.is_none(), "stage kind `{name}` is registered twice");
    }

    /// The kind called `name`.
    pub fn get(&self, name: &str) -> Option<&StageKind> {
        self.kinds.get(name)
    }

    /// All kinds in order of their names.
    pub fn kinds(&self) -> impl Iterator<Item = &StageKind> {
        self.kinds.values()
    }
}

fn make_schema<P: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    let generator = settings.into_generator();
    generator.into_root_schema_for::<P>().to_value()
}

fn parse<P>(with: &Value) -> Result<ParsedStage, ParameterError>
where
    P: Stage + Serialize + DeserializeOwned + 'static,
{
    let stage: P = serde_path_to_error::deserialize(with).map_err(|error| {
        let path = error.path().iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        });
        ParameterError {
            path: path.collect(),
            message: error.inner().to_string(),
        }
    })?;
    let parameters = serde_json::to_value(&stage).map_err(|e| ParameterError {
        path: Vec::new(),
        message: format!("the parameters do not serialize: {e}"),
    })?;
    Ok(ParsedStage {
        stage: Arc::new(stage),
        parameters,
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::{Schemas, Signature, StageContext, StageError};

    /// Waits.
    ///
    /// And waits.
    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Wait {
        /// How long, in bars.
        #[serde(default = "default_bars")]
        bars: u32,
    }

    fn default_bars() -> u32 {
        3
    }

    impl Stage for Wait {
        fn signature(&self, _: &Schemas) -> Result<Signature, StageError> {
            Ok(Signature::new())
        }

        fn run(&self, _: &mut StageContext) -> Result<(), StageError> {
            Ok(())
        }
    }

    #[test]
    fn fills_defaults_in_and_places_mistakes() {
        let mut registry = Registry::new();
        registry.register::<Wait>("wait", "1");
        let kind = registry.get("wait").unwrap();

        assert_eq!(kind.summary(), "Waits.");
        assert_eq!(
            kind.parse(&json!({})).unwrap().parameters,
            json!({"bars": 3})
        );
        let error = kind.parse(&json!({"bars": "3"})).err().unwrap();
        assert_eq!(error.path, ["bars"]);
        let error = kind.parse(&json!({"bras": 3})).err().unwrap();
        assert!(error.message.contains("unknown field `bras`"), "{error}");
        assert_eq!(
            kind.schema()["properties"]["bars"]["description"],
            "How long, in bars."
        );
    }
}

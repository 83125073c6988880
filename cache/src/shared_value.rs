//! A JSON value that many hold: copies are cheap, and a change makes a copy of its own.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A shared [`Value`]; it reads and writes like one.
#[derive(Debug, Clone, PartialEq)]
pub struct SharedValue(Arc<Value>);

impl From<Value> for SharedValue {
    fn from(value: Value) -> Self {
        Self(Arc::new(value))
    }
}

impl Deref for SharedValue {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl DerefMut for SharedValue {
    fn deref_mut(&mut self) -> &mut Value {
        Arc::make_mut(&mut self.0)
    }
}

impl PartialEq<Value> for SharedValue {
    fn eq(&self, other: &Value) -> bool {
        *self.0 == *other
    }
}

impl Serialize for SharedValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SharedValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_of_one_copy_leaves_the_others() {
        let one = SharedValue::from(json!({"a": 1}));
        let mut other = one.clone();

        other["a"] = json!(2);

        assert_eq!((one["a"].as_i64(), other["a"].as_i64()), (Some(1), Some(2)));
        assert_eq!(serde_json::to_string(&other).unwrap(), r#"{"a":2}"#);
        assert_eq!(
            serde_json::from_str::<SharedValue>(r#"{"a":1}"#).unwrap(),
            one
        );
    }
}

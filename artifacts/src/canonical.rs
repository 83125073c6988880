//! One binary encoding of structured values, the thing that keys hash.
//!
//! Every value is a tag and its content; strings and lists carry their length, maps are sorted by key, integers and floats
//! are distinct, floats are IEEE bits with -0 made 0, strings are Unicode NFC. Two values are equal exactly when their
//! encodings are.

mod direct;

use serde::Serialize;
use serde_json::Value;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::Digest;

/// Version of this encoding. It is part of every key and changes only when the encoding does.
pub const FORMAT: u32 = 1;

/// Encodes `value`.
///
/// NaN and infinities cannot occur: [`Value`] does not hold them.
pub fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    put(value, &mut bytes);
    bytes
}

/// The digest of `value`'s encoding, within the domain `context`.
///
/// # Panics
///
/// When `value` does not serialize (a map with keys that are not strings): a mistake of the program.
pub fn digest(context: &str, value: &impl Serialize) -> Digest {
    let encoded = direct::encode(value).expect("keys are made of plain structs");
    Digest::from_bytes(blake3::derive_key(context, &encoded))
}

fn put(value: &Value, bytes: &mut Vec<u8>) {
    match value {
        Value::Null => bytes.push(0),
        Value::Bool(false) => bytes.push(1),
        Value::Bool(true) => bytes.push(2),
        Value::Number(number) => {
            if let Some(integer) = number.as_i128() {
                bytes.push(3);
                bytes.extend(integer.to_le_bytes());
            } else {
                let float = number.as_f64().expect("a number is an integer or a float");
                bytes.push(4);
                bytes.extend((float + 0.0).to_bits().to_le_bytes()); // -0.0 + 0.0 is 0.0.
            }
        }
        Value::String(text) => {
            bytes.push(5);
            put_text(text, bytes);
        }
        Value::Array(items) => {
            bytes.push(6);
            bytes.extend((items.len() as u64).to_le_bytes());
            for item in items {
                put(item, bytes);
            }
        }
        Value::Object(map) => {
            bytes.push(7);
            bytes.extend((map.len() as u64).to_le_bytes());
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            for (key, item) in entries {
                put_text(key, bytes);
                put(item, bytes);
            }
        }
    }
}

fn put_text(text: &str, bytes: &mut Vec<u8>) {
    if is_nfc_quick(text.chars()) == IsNormalized::Yes {
        bytes.extend((text.len() as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
    } else {
        let normal: String = text.nfc().collect();
        bytes.extend((normal.len() as u64).to_le_bytes());
        bytes.extend(normal.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn integers_and_floats_differ() {
        assert_ne!(encode(&json!(1)), encode(&json!(1.0)));
    }

    #[test]
    fn minus_zero_is_zero() {
        assert_eq!(encode(&json!(-0.0)), encode(&json!(0.0)));
    }

    #[test]
    fn composed_and_decomposed_letters_are_one() {
        assert_eq!(encode(&json!("\u{e9}")), encode(&json!("e\u{301}")));
    }

    #[test]
    fn nesting_cannot_be_mistaken() {
        assert_ne!(encode(&json!([["a"], "b"])), encode(&json!([["a", "b"]])));
    }
}

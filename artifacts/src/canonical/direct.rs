//! From a value that serializes straight to its encoding, without a tree of [`Value`]s in between: what it writes is what
//! [`super::encode`] writes of that tree.

use std::borrow::Cow;

use serde::ser::{self, Error as _, Serialize};
use serde_json::{Error, Value};

use super::{put, put_text};

/// The encoding of `value`.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(1024);
    value.serialize(Writer(&mut bytes))?;
    Ok(bytes)
}

/// Writes one value at the end of the bytes.
struct Writer<'a>(&'a mut Vec<u8>);

/// A list that is being written, perhaps as the content of a variant.
struct List<'a> {
    bytes: &'a mut Vec<u8>,
    /// Where its length stands.
    at: usize,
    length: u64,
}

/// A map that is being written.
struct Object<'a> {
    bytes: &'a mut Vec<u8>,
    /// Where its length stands.
    at: usize,
    /// The keys, and where each begins.
    keys: Vec<(Cow<'static, str>, usize)>,
}

/// Writes a tag and room for a length; where the length stands.
fn open(bytes: &mut Vec<u8>, tag: u8) -> usize {
    bytes.push(tag);
    bytes.extend([0; 8]);
    bytes.len() - 8
}

/// Writes the start of a map whose one key is a variant's name.
fn open_variant(bytes: &mut Vec<u8>, variant: &str) {
    let at = open(bytes, 7);
    bytes[at..].copy_from_slice(&1_u64.to_le_bytes());
    put_text(variant, bytes);
}

impl<'a> List<'a> {
    fn open(bytes: &'a mut Vec<u8>) -> Self {
        let at = open(bytes, 6);
        Self {
            bytes,
            at,
            length: 0,
        }
    }

    fn add<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
        self.length += 1;
        item.serialize(Writer(self.bytes))
    }

    fn close(self) {
        self.bytes[self.at..self.at + 8].copy_from_slice(&self.length.to_le_bytes());
    }
}

impl<'a> Object<'a> {
    fn open(bytes: &'a mut Vec<u8>, length: usize) -> Self {
        let at = open(bytes, 7);
        Self {
            bytes,
            at,
            keys: Vec::with_capacity(length),
        }
    }

    fn key(&mut self, key: Cow<'static, str>) {
        let begin = self.bytes.len();
        put_text(&key, self.bytes);
        self.keys.push((key, begin));
    }

    fn add<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.key(Cow::Borrowed(key));
        value.serialize(Writer(self.bytes))
    }

    /// Brings the entries in order of their keys; of equal keys the last stays.
    fn close(mut self) {
        let start = self.at + 8;
        let mut n = self.keys.len();
        if !self.keys.is_sorted_by(|a, b| a.0 < b.0) {
            let written = self.bytes.split_off(start);
            let ends = self.keys.iter().skip(1).map(|(_, begin)| *begin - start);
            let ends: Vec<usize> = ends.chain([written.len()]).collect();
            let mut entries: Vec<_> = self.keys.drain(..).zip(ends).collect();
            entries.sort_by(|((a, _), _), ((b, _), _)| a.cmp(b));
            n = 0;
            for (i, ((key, begin), end)) in entries.iter().enumerate() {
                let is_replaced = entries.get(i + 1).is_some_and(|((next, _), _)| next == key);
                if !is_replaced {
                    n += 1;
                    self.bytes.extend(&written[*begin - start..*end]);
                }
            }
        }
        self.bytes[self.at..start].copy_from_slice(&(n as u64).to_le_bytes());
    }
}

/// Numbers and what else takes no room of its own.
macro_rules! scalars {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<(), Error> {
            put(&Value::from(value), self.0);
            Ok(())
        })*
    };
}

impl<'a> ser::Serializer for Writer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = List<'a>;
    type SerializeTuple = List<'a>;
    type SerializeTupleStruct = List<'a>;
    type SerializeTupleVariant = List<'a>;
    type SerializeMap = Object<'a>;
    type SerializeStruct = Object<'a>;
    type SerializeStructVariant = Object<'a>;

    scalars! {
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64,
        serialize_f32: f32, serialize_f64: f64
    }

    fn serialize_i128(self, value: i128) -> Result<(), Error> {
        put(&serde_json::to_value(value)?, self.0);
        Ok(())
    }

    fn serialize_u128(self, value: u128) -> Result<(), Error> {
        put(&serde_json::to_value(value)?, self.0);
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, text: &str) -> Result<(), Error> {
        self.0.push(5);
        put_text(text, self.0);
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Error> {
        bytes.serialize(self)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        put(&Value::Null, self.0);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        open_variant(self.0, variant);
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List<'a>, Error> {
        Ok(List::open(self.0))
    }

    fn serialize_tuple(self, _: usize) -> Result<List<'a>, Error> {
        Ok(List::open(self.0))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List<'a>, Error> {
        Ok(List::open(self.0))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List<'a>, Error> {
        open_variant(self.0, variant);
        Ok(List::open(self.0))
    }

    fn serialize_map(self, length: Option<usize>) -> Result<Object<'a>, Error> {
        Ok(Object::open(self.0, length.unwrap_or(0)))
    }

    fn serialize_struct(self, _: &'static str, length: usize) -> Result<Object<'a>, Error> {
        Ok(Object::open(self.0, length))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        length: usize,
    ) -> Result<Object<'a>, Error> {
        open_variant(self.0, variant);
        Ok(Object::open(self.0, length))
    }
}

/// The ways in which serde adds to a list.
macro_rules! lists {
    ($($trait:ident::$method:ident),*) => {
        $(impl ser::$trait for List<'_> {
            type Ok = ();
            type Error = Error;

            fn $method<T: Serialize + ?Sized>(&mut self, item: &T) -> Result<(), Error> {
                self.add(item)
            }

            fn end(self) -> Result<(), Error> {
                self.close();
                Ok(())
            }
        })*
    };
}

lists! {
    SerializeSeq::serialize_element, SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field, SerializeTupleVariant::serialize_field
}

/// The ways in which serde adds a field.
macro_rules! objects {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Object<'_> {
            type Ok = ();
            type Error = Error;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), Error> {
                self.add(key, value)
            }

            fn end(self) -> Result<(), Error> {
                self.close();
                Ok(())
            }
        })*
    };
}

objects! { SerializeStruct, SerializeStructVariant }

impl ser::SerializeMap for Object<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let key = match serde_json::to_value(key)? {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(truth) => truth.to_string(),
            _ => return Err(Error::custom("key must be a string")),
        };
        self.key(Cow::Owned(key));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        value.serialize(Writer(self.bytes))
    }

    fn end(self) -> Result<(), Error> {
        self.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use serde_json::json;

    use super::*;

    fn agrees<T: Serialize>(value: &T) {
        let tree = serde_json::to_value(value).unwrap();

        assert_eq!(
            encode(value).unwrap(),
            super::super::encode(&tree),
            "{tree}"
        );
    }

    #[derive(Serialize)]
    enum Shape {
        Unit,
        One(u8),
        Two(i8, f32),
        Fields { b: Option<u8>, a: () },
    }

    #[derive(Serialize)]
    struct Pair(bool, char);

    #[derive(Serialize)]
    struct Wrapped(i128);

    #[derive(Serialize)]
    struct Whole {
        z: Vec<Shape>,
        a: BTreeMap<u32, Pair>,
        #[serde(skip_serializing_if = "Option::is_none")]
        none: Option<u8>,
        f: [f64; 4],
        w: Wrapped,
        #[serde(flatten)]
        rest: BTreeMap<String, Shape>,
    }

    #[test]
    fn writes_what_the_tree_says() {
        let rest = [("y", Shape::Unit), ("b", Shape::One(3)), ("z", Shape::Unit)];
        agrees(&Whole {
            z: vec![
                Shape::Unit,
                Shape::One(1),
                Shape::Two(-1, 0.1),
                Shape::Fields { b: None, a: () },
                Shape::Fields { b: Some(2), a: () },
            ],
            a: BTreeMap::from([(10, Pair(true, 'é')), (9, Pair(false, '\u{301}'))]),
            none: None,
            f: [-0.0, 1.5, f64::NAN, f64::INFINITY],
            w: Wrapped(i128::from(u64::MAX)),
            rest: rest.map(|(key, shape)| (key.to_owned(), shape)).into(),
        });
    }

    #[test]
    fn writes_trees_as_they_are() {
        for value in [
            json!(null),
            json!([]),
            json!({}),
            json!({"b": [1, -1, 1.0, u64::MAX], "a": {"é": "e\u{301}", "B": [[{}]]}, "": true}),
        ] {
            agrees(&value);
        }
    }

    #[test]
    fn refuses_keys_that_are_no_texts() {
        assert!(encode(&BTreeMap::from([([1], 2)])).is_err());
    }
}

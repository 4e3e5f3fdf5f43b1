//! What `--json` prints: views and records with ids, content ids and moments as text.
//!
//! On the wire an id is thirty-two bytes and a moment is a number; for a program that reads JSON both are the text that
//! people see. Every serde type that has a wire form has this one, without a second set of types to keep in step.

use std::fmt::Display;

use data_encoding::HEXLOWER;
use serde::Serialize;
use serde::ser::{
    self, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};
use serde_json::{Map, Value};
use wc_types::{AccountId, CellId, Cid, JobId, NodeId, Timestamp};

/// Returns `value` as JSON for people's programs.
pub fn view<T: Serialize + ?Sized>(value: &T) -> Value {
    // The serializer below fails only where the type itself says so, and ours do not.
    value.serialize(Json).unwrap_or_else(|error| Value::String(format!("unprintable: {error}")))
}

struct Json;

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct JsonError(String);

impl ser::Error for JsonError {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Names of the newtype structs that hold the bytes of an id, and how those read.
fn id_text(name: &str, bytes: &[u8]) -> Option<String> {
    if name == ipld_cid_name() {
        return Cid::try_from(bytes).ok().map(|cid| cid.to_string());
    }
    let key: [u8; 32] = bytes.try_into().ok()?;
    Some(match name {
        "AccountId" => AccountId(key).to_string(),
        "CellId" => CellId(key).to_string(),
        "JobId" => JobId(key).to_string(),
        "NodeId" => NodeId(key).to_string(),
        _ => return None,
    })
}

/// The name by which CIDs announce themselves to serializers.
fn ipld_cid_name() -> &'static str {
    "$__private__serde__identifier__for__cid"
}

fn number(value: i128) -> Value {
    if let Ok(value) = u64::try_from(value) {
        return value.into();
    }
    i64::try_from(value).map_or_else(|_| Value::String(value.to_string()), Into::into)
}

macro_rules! whole {
    ($($method:ident: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Value, JsonError> {
            Ok(number(i128::from(value)))
        })*
    };
}

impl ser::Serializer for Json {
    type Ok = Value;
    type Error = JsonError;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = List;
    type SerializeMap = Object;
    type SerializeStruct = Object;
    type SerializeStructVariant = Object;

    whole!(
        serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64
    );

    fn serialize_bool(self, value: bool) -> Result<Value, JsonError> {
        Ok(value.into())
    }

    fn serialize_f32(self, value: f32) -> Result<Value, JsonError> {
        Ok(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<Value, JsonError> {
        Ok(value.into())
    }

    fn serialize_char(self, value: char) -> Result<Value, JsonError> {
        Ok(value.to_string().into())
    }

    fn serialize_str(self, value: &str) -> Result<Value, JsonError> {
        Ok(value.into())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Value, JsonError> {
        Ok(HEXLOWER.encode(value).into())
    }

    fn serialize_none(self) -> Result<Value, JsonError> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, JsonError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, JsonError> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, JsonError> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<Value, JsonError> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<Value, JsonError> {
        let inner = value.serialize(Json)?;
        let text = inner.as_str().and_then(|hex| HEXLOWER.decode(hex.as_bytes()).ok());
        Ok(text.and_then(|bytes| id_text(name, &bytes)).map_or(inner, Value::String))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, JsonError> {
        Ok(tagged(variant, value.serialize(Json)?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<List, JsonError> {
        Ok(List::default())
    }

    fn serialize_tuple(self, _: usize) -> Result<List, JsonError> {
        Ok(List::default())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<List, JsonError> {
        Ok(List::default())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<List, JsonError> {
        Ok(List { variant: Some(variant), items: Vec::new() })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Object, JsonError> {
        Ok(Object::default())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Object, JsonError> {
        Ok(Object::default())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Object, JsonError> {
        Ok(Object { variant: Some(variant), ..Object::default() })
    }
}

fn tagged(variant: &str, value: Value) -> Value {
    Value::Object(Map::from_iter([(variant.to_owned(), value)]))
}

#[derive(Default)]
struct List {
    variant: Option<&'static str>,
    items: Vec<Value>,
}

impl List {
    fn push<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        self.items.push(value.serialize(Json)?);
        Ok(())
    }

    fn finish(self) -> Value {
        let list = Value::Array(self.items);
        match self.variant {
            Some(variant) => tagged(variant, list),
            None => list,
        }
    }
}

macro_rules! list {
    ($($trait:ident: $method:ident),*) => {
        $(impl $trait for List {
            type Ok = Value;
            type Error = JsonError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
                self.push(value)
            }

            fn end(self) -> Result<Value, JsonError> {
                Ok(self.finish())
            }
        })*
    };
}

list!(
    SerializeSeq: serialize_element,
    SerializeTuple: serialize_element,
    SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);

#[derive(Default)]
struct Object {
    variant: Option<&'static str>,
    entries: Map<String, Value>,
    key: Option<String>,
}

impl Object {
    fn put<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), JsonError> {
        let mut value = value.serialize(Json)?;
        // A moment is a bare number of microseconds; the field's name says that it is one.
        if (key == "at" || key.ends_with("_at") || key.ends_with("_since"))
            && let Some(micros) = value.as_i64()
        {
            value = Timestamp(micros).to_string().into();
        }
        self.entries.insert(key.to_owned(), value);
        Ok(())
    }

    fn finish(self) -> Value {
        let object = Value::Object(self.entries);
        match self.variant {
            Some(variant) => tagged(variant, object),
            None => object,
        }
    }
}

impl SerializeMap for Object {
    type Ok = Value;
    type Error = JsonError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), JsonError> {
        let key = key.serialize(Json)?;
        self.key = Some(key.as_str().map_or_else(|| key.to_string(), str::to_owned));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        let key = self.key.take().unwrap_or_default();
        self.entries.insert(key, value.serialize(Json)?);
        Ok(())
    }

    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}

macro_rules! object {
    ($($trait:ident),*) => {
        $(impl $trait for Object {
            type Ok = Value;
            type Error = JsonError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                key: &'static str,
                value: &T,
            ) -> Result<(), JsonError> {
                self.put(key, value)
            }

            fn end(self) -> Result<Value, JsonError> {
                Ok(self.finish())
            }
        })*
    };
}

object!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use wc_types::cid::{CODEC_RAW, cid_of};
    use wc_types::outcome::{Ending, Exit, Failure};

    #[derive(Serialize)]
    struct Sample {
        node: NodeId,
        job: Option<JobId>,
        cid: Cid,
        submitted_at: Timestamp,
        ended_at: Option<Timestamp>,
        behind_since: Option<Timestamp>,
        exits: Vec<Exit>,
        ending: Ending,
        bytes: serde_bytes_like::Raw,
    }

    mod serde_bytes_like {
        pub struct Raw(pub Vec<u8>);

        impl serde::Serialize for Raw {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }
    }

    #[test]
    fn ids_and_moments_are_text() {
        let cid = cid_of(CODEC_RAW, b"");
        let sample = Sample {
            node: NodeId([7; 32]),
            job: Some(JobId([9; 32])),
            cid,
            submitted_at: Timestamp(1),
            ended_at: None,
            behind_since: Some(Timestamp(2)),
            exits: vec![Exit::Success, Exit::Code(3)],
            ending: Ending::Failed(Failure::Refused("no".to_owned())),
            bytes: serde_bytes_like::Raw(vec![0xab, 1]),
        };
        assert_eq!(
            view(&sample),
            json!({
                "node": NodeId([7; 32]).to_string(),
                "job": JobId([9; 32]).to_string(),
                "cid": cid.to_string(),
                "submitted_at": "1970-01-01T00:00:00.000001Z",
                "ended_at": null,
                "behind_since": "1970-01-01T00:00:00.000002Z",
                "exits": ["success", {"code": 3}],
                "ending": {"failed": {"refused": "no"}},
                "bytes": "ab01",
            })
        );
    }
}

//! Reads a JSON object field by field, as Go's decoder would: `null` means absent, names match in any case.
//!
//! What must stay true: nothing is lost silently. A field that a route knows but does not do is refused by name with
//! `refuse`; what is left over at the end is told to the client as a warning by `finish`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::http::ApiError;

/// The fields of one JSON object that have not been read yet.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    /// Where in the body this object is, for messages: `HostConfig.` or empty.
    at: String,
    map: Map<String, Value>,
}

impl Fields {
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    /// The object `value`, at `at` in the body; `None` for null.
    pub(crate) fn from_value(at: &str, value: Value) -> Result<Option<Self>, ApiError> {
        match value {
            Value::Null => Ok(None),
            Value::Object(map) => {
                let at = if at.is_empty() {
                    String::new()
                } else {
                    format!("{at}.")
                };
                Ok(Some(Self { at, map }))
            }
            other => Err(wrong_type(at, &other, "object")),
        }
    }

    /// Whether nothing is left to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The full name of a field of this object.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.at)
    }

    /// Takes a field out; null when it is absent.
    pub(crate) fn take(&mut self, field: &str) -> Value {
        if let Some(value) = self.map.remove(field) {
            return value;
        }
        let other = self
            .map
            .keys()
            .find(|key| key.eq_ignore_ascii_case(field))
            .cloned();
        other
            .and_then(|key| self.map.remove(&key))
            .unwrap_or(Value::Null)
    }

    pub(crate) fn string(&mut self, field: &str) -> Result<String, ApiError> {
        match self.take(field) {
            Value::Null => Ok(String::new()),
            Value::String(text) => Ok(text),
            other => Err(wrong_type(&self.name(field), &other, "string")),
        }
    }

    /// A string; `None` when it is absent or empty.
    pub(crate) fn nonempty(&mut self, field: &str) -> Result<Option<String>, ApiError> {
        Ok(Some(self.string(field)?).filter(|text| !text.is_empty()))
    }

    pub(crate) fn optional_bool(&mut self, field: &str) -> Result<Option<bool>, ApiError> {
        match self.take(field) {
            Value::Null => Ok(None),
            Value::Bool(value) => Ok(Some(value)),
            other => Err(wrong_type(&self.name(field), &other, "bool")),
        }
    }

    pub(crate) fn bool(&mut self, field: &str) -> Result<bool, ApiError> {
        self.optional_bool(field).map(Option::unwrap_or_default)
    }

    pub(crate) fn optional_integer(&mut self, field: &str) -> Result<Option<i64>, ApiError> {
        let value = self.take(field);
        integer_of(&self.name(field), value)
    }

    pub(crate) fn integer(&mut self, field: &str) -> Result<i64, ApiError> {
        self.optional_integer(field).map(Option::unwrap_or_default)
    }

    /// An integer of a smaller type; a value that does not fit is an error.
    pub(crate) fn number<T: TryFrom<i64> + Default>(&mut self, field: &str) -> Result<T, ApiError> {
        let name = self.name(field);
        let value = self.integer(field)?;
        T::try_from(value).map_err(|_| {
            ApiError::invalid(format!("invalid JSON: {name} is out of range: {value}"))
        })
    }

    /// A list of strings; `None` when it is absent.
    pub(crate) fn optional_strings(
        &mut self,
        field: &str,
    ) -> Result<Option<Vec<String>>, ApiError> {
        let name = self.name(field);
        match self.take(field) {
            Value::Null => Ok(None),
            Value::Array(list) => list
                .into_iter()
                .map(|item| string_of(&name, item))
                .collect::<Result<_, _>>()
                .map(Some),
            other => Err(wrong_type(&name, &other, "[]string")),
        }
    }

    pub(crate) fn strings(&mut self, field: &str) -> Result<Vec<String>, ApiError> {
        self.optional_strings(field).map(Option::unwrap_or_default)
    }

    /// A command: a list of strings, or one string that stands for a list of one.
    pub(crate) fn command(&mut self, field: &str) -> Result<Option<Vec<String>>, ApiError> {
        match self.take(field) {
            Value::String(text) => Ok(Some(vec![text])),
            other => {
                self.map.insert(field.to_owned(), other);
                self.optional_strings(field)
            }
        }
    }

    pub(crate) fn string_map(&mut self, field: &str) -> Result<BTreeMap<String, String>, ApiError> {
        let name = self.name(field);
        match self.take(field) {
            Value::Null => Ok(BTreeMap::new()),
            Value::Object(map) => map
                .into_iter()
                .map(|(key, value)| Ok((key, string_of(&name, value)?)))
                .collect(),
            other => Err(wrong_type(&name, &other, "map[string]string")),
        }
    }

    /// The keys of an object that stands for a set: `{"80/tcp":{}}`.
    pub(crate) fn keys(&mut self, field: &str) -> Result<Vec<String>, ApiError> {
        let name = self.name(field);
        match self.take(field) {
            Value::Null => Ok(Vec::new()),
            Value::Object(map) => Ok(map.into_iter().map(|(key, _)| key).collect()),
            other => Err(wrong_type(&name, &other, "map[string]struct {}")),
        }
    }

    /// The entries of an object.
    pub(crate) fn entries(&mut self, field: &str) -> Result<Vec<(String, Value)>, ApiError> {
        let name = self.name(field);
        match self.take(field) {
            Value::Null => Ok(Vec::new()),
            Value::Object(map) => Ok(map.into_iter().collect()),
            other => Err(wrong_type(&name, &other, "map")),
        }
    }

    /// An object within; `None` when it is absent.
    pub(crate) fn object(&mut self, field: &str) -> Result<Option<Self>, ApiError> {
        let value = self.take(field);
        Self::from_value(&self.name(field), value)
    }

    /// A list of objects; nulls among them are dropped.
    pub(crate) fn objects(&mut self, field: &str) -> Result<Vec<Self>, ApiError> {
        let name = self.name(field);
        match self.take(field) {
            Value::Null => Ok(Vec::new()),
            Value::Array(list) => list
                .into_iter()
                .filter_map(|item| Self::from_value(&name, item).transpose())
                .collect(),
            other => Err(wrong_type(&name, &other, "[]struct")),
        }
    }

    /// Two numbers: height and width. Zeros mean absent.
    pub(crate) fn console_size(&mut self, field: &str) -> Result<Option<[u16; 2]>, ApiError> {
        let name = self.name(field);
        let value = self.take(field);
        let pair = match value {
            Value::Null => return Ok(None),
            Value::Array(list) => list,
            other => return Err(wrong_type(&name, &other, "[2]uint")),
        };
        let mut numbers = [0; 2];
        for (number, value) in numbers.iter_mut().zip(pair) {
            *number = integer_of(&name, value)?
                .unwrap_or_default()
                .try_into()
                .map_err(|_| ApiError::invalid(format!("invalid JSON: {name} is out of range")))?;
        }
        Ok(Some(numbers).filter(|numbers| *numbers != [0, 0]))
    }

    /// A known field that is not done: an error that names it, unless it says nothing.
    pub(crate) fn refuse(&mut self, field: &str) -> Result<(), ApiError> {
        let value = self.take(field);
        if says_nothing(&value) {
            Ok(())
        } else {
            Err(ApiError::unsupported_field(&self.name(field)))
        }
    }

    /// A known field that a server fills in and clients send back: not looked at.
    pub(crate) fn skip(&mut self, field: &str) {
        self.take(field);
    }

    /// Ends the reading: what nobody knows is told in a warning each.
    pub(crate) fn finish(self, warnings: &mut Vec<String>) {
        for (key, value) in self.map {
            if !says_nothing(&value) {
                warnings.push(format!(
                    "{}{key} is not a field of this API and was ignored",
                    self.at
                ));
            }
        }
    }
}

/// Whether a value is its type's zero.
pub(crate) fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(says_nothing),
    }
}

fn string_of(name: &str, value: Value) -> Result<String, ApiError> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Ok(String::new()),
        other => Err(wrong_type(name, &other, "string")),
    }
}

fn integer_of(name: &str, value: Value) -> Result<Option<i64>, ApiError> {
    match value {
        Value::Null => Ok(None),
        Value::Number(ref number) => match number.as_i64() {
            Some(integer) => Ok(Some(integer)),
            None => Err(ApiError::invalid(format!(
                "invalid JSON: json: cannot unmarshal number {number} into Go struct field .{name} of type int64"
            ))),
        },
        other => Err(wrong_type(name, &other, "int64")),
    }
}

/// Go's words for a value of the wrong type.
fn wrong_type(name: &str, value: &Value, wanted: &str) -> ApiError {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    ApiError::invalid(format!(
        "invalid JSON: json: cannot unmarshal {kind} into Go struct field .{name} of type {wanted}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::from_value("HostConfig", value).unwrap().unwrap()
    }

    #[test]
    fn reads_as_go_does() {
        let mut object = fields(
            json!({"a": "x", "memory": 5, "n": null, "list": ["1"], "cmd": "sh", "size": [0, 0]}),
        );
        assert_eq!(object.string("a").unwrap(), "x");
        assert_eq!(object.integer("Memory").unwrap(), 5);
        assert_eq!(object.string("n").unwrap(), "");
        assert_eq!(object.strings("list").unwrap(), ["1"]);
        assert_eq!(object.command("cmd").unwrap().unwrap(), ["sh"]);
        assert_eq!(object.console_size("size").unwrap(), None);
        assert!(object.is_empty());
        assert_eq!(
            fields(json!({"a": 1})).string("a").unwrap_err().message,
            "invalid JSON: json: cannot unmarshal number into Go struct field .HostConfig.a of type string"
        );
    }

    #[test]
    fn nothing_is_lost_silently() {
        let mut object = fields(json!({"Links": ["a:b"], "Other": 1, "Empty": {"x": null}}));
        assert!(
            object
                .refuse("Links")
                .unwrap_err()
                .message
                .starts_with("HostConfig.Links is not supported")
        );
        assert!(object.refuse("Empty").is_ok());
        let mut warnings = Vec::new();
        object.finish(&mut warnings);
        assert_eq!(
            warnings,
            ["HostConfig.Other is not a field of this API and was ignored"]
        );
    }
}

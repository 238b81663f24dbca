//! Reads directives one by one with their types, and refuses those that are not done.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde_json::{Map, Value};

/// Directives that have not been read yet.
pub(super) struct Options(Map<String, Value>);

impl Options {
    pub(super) fn new(directives: Map<String, Value>) -> Self {
        Self(directives)
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    pub(super) fn text(&mut self, key: &str) -> anyhow::Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
            Some(other) => bail!("invalid value for {key}: want a string, not {other}"),
        }
    }

    pub(super) fn switch(&mut self, key: &str) -> anyhow::Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => bail!("invalid value for {key}: want true or false, not {other}"),
        }
    }

    pub(super) fn number(&mut self, key: &str) -> anyhow::Result<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64()),
            Some(other) => bail!("invalid value for {key}: want a whole number, not {other}"),
        }
    }

    pub(super) fn list(&mut self, key: &str) -> anyhow::Result<Vec<String>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .into_iter()
                .map(|item| match item {
                    Value::String(text) => Ok(text),
                    other => bail!("invalid value for {key}: want strings, not {other}"),
                })
                .collect(),
            Some(other) => bail!("invalid value for {key}: want a list of strings, not {other}"),
        }
    }

    pub(super) fn pairs(&mut self, key: &str) -> anyhow::Result<BTreeMap<String, String>> {
        match self.take(key) {
            None => Ok(BTreeMap::new()),
            Some(Value::Object(map)) => map
                .into_iter()
                .map(|(name, value)| match value {
                    Value::String(text) => Ok((name, text)),
                    other => bail!("invalid value for {key}: {name} must be a string, not {other}"),
                })
                .collect(),
            Some(other) => bail!("invalid value for {key}: want an object, not {other}"),
        }
    }

    pub(super) fn objects(&mut self, key: &str) -> anyhow::Result<Vec<Map<String, Value>>> {
        match self.take(key) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => map
                .into_iter()
                .map(|(name, value)| match value {
                    Value::Object(object) => Ok(object),
                    other => {
                        bail!("invalid value for {key}: {name} must be an object, not {other}")
                    }
                })
                .collect(),
            Some(other) => bail!("invalid value for {key}: want an object, not {other}"),
        }
    }

    /// A size in bytes: a number, or text with a unit.
    pub(super) fn size(&mut self, key: &str) -> anyhow::Result<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(number)) if number.is_i64() => Ok(number.as_i64()),
            Some(Value::String(text)) => kekkai_types::size::parse_ram(&text)
                .map(Some)
                .with_context(|| format!("invalid value for {key}")),
            Some(other) => bail!("invalid value for {key}: want a size, not {other}"),
        }
    }

    /// A directive whose values other than `accepted` are not done.
    pub(super) fn only(&mut self, key: &str, accepted: &[Value]) -> anyhow::Result<()> {
        match self.take(key) {
            Some(value) if !says_nothing(&value) && !accepted.contains(&value) => {
                bail!("{key}={} is not supported by Kekkai yet", plain(&value))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left: known to dockerd, not done here.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        let left: Vec<String> = self
            .0
            .into_iter()
            .filter(|(_, value)| !says_nothing(value))
            .map(|(key, _)| key)
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        bail!("not supported by Kekkai yet: {}", left.join(", "))
    }
}

/// Whether a value is its type's zero.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map
            .values()
            .all(|value| says_nothing(value) || value == "false"),
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

//! The `filters` parameter: `{"status":["exited"]}`, or the older `{"status":{"exited":true}}`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::http::ApiError;

/// The conditions of a `filters` parameter by key; empty for an absent one.
pub(crate) fn parse_filters(text: &str) -> Result<BTreeMap<String, Vec<String>>, ApiError> {
    let mut filters = BTreeMap::new();
    if text.is_empty() {
        return Ok(filters);
    }
    let invalid = || ApiError::invalid("invalid filter");
    let parsed: Value = serde_json::from_str(text).map_err(|_| invalid())?;
    let Value::Object(keys) = parsed else {
        return if parsed.is_null() {
            Ok(filters)
        } else {
            Err(invalid())
        };
    };
    for (key, values) in keys {
        let values = match values {
            Value::Object(set) => set.into_iter().map(|(value, _)| value).collect(),
            Value::Array(list) => list
                .into_iter()
                .map(|value| {
                    if let Value::String(text) = value {
                        Ok(text)
                    } else {
                        Err(invalid())
                    }
                })
                .collect::<Result<_, _>>()?,
            Value::Null => Vec::new(),
            _ => return Err(invalid()),
        };
        filters.insert(key, values);
    }
    Ok(filters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let new = parse_filters(r#"{"a":["x","y"]}"#).unwrap();
        assert_eq!(new["a"], ["x", "y"]);
        let old = parse_filters(r#"{"a":{"x":true,"y":true}}"#).unwrap();
        assert_eq!(old, new);
        for bad in ["foo", "[]", "{\"a\":1}", "{\"a\":[1]}"] {
            assert_eq!(
                parse_filters(bad).unwrap_err().message,
                "invalid filter",
                "{bad}"
            );
        }
    }
}

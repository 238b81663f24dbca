//! Query strings, read as Go's `net/url` and moby's helpers read them.

use crate::http::ApiError;

/// The parameters of a request, in order; the first of a name counts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(Vec<(String, String)>);

/// Most parameters that are looked at.
const MOST_PARAMETERS: usize = 1000;

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        let pairs = text
            .split('&')
            .filter(|part| !part.is_empty())
            .take(MOST_PARAMETERS);
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(name, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The value of `name`; empty when it is absent.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map_or("", |(_, value)| value.as_str())
    }

    /// All values of `name`.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(key, _)| key == name)
    }

    /// The value of `name` unless it is empty.
    pub(crate) fn nonempty(&self, name: &str) -> Option<&str> {
        Some(self.get(name)).filter(|value| !value.is_empty())
    }

    /// Everything but the few words for "no" is true.
    pub(crate) fn bool(&self, name: &str) -> bool {
        !matches!(
            self.get(name).trim().to_ascii_lowercase().as_str(),
            "" | "0" | "no" | "false" | "none"
        )
    }

    /// As `bool`, with `default` for an absent parameter.
    pub(crate) fn bool_or(&self, name: &str, default: bool) -> bool {
        if self.has(name) {
            self.bool(name)
        } else {
            default
        }
    }

    /// A number; `None` when absent or empty. dockerd answers 500 with Go's words for one that is none.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, ApiError> {
        self.nonempty(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    ApiError::invalid(format!("strconv.Atoi: parsing {text:?}: invalid syntax"))
                })
            })
            .transpose()
    }
}

/// Decodes `%XX` (and `+` as a space, in query strings). A wrong escape stays as it is; bytes that are no UTF-8 are
/// replaced, which no name that exists can match.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text
        .bytes()
        .any(|b| b == b'%' || (plus_is_space && b == b'+'))
    {
        return text.to_owned();
    }
    let input = text.as_bytes();
    let mut bytes = Vec::with_capacity(input.len());
    let mut at = 0;
    while let Some(&byte) = input.get(at) {
        let escaped = (byte == b'%')
            .then(|| input.get(at + 1..at + 3))
            .flatten()
            .and_then(|pair| std::str::from_utf8(pair).ok())
            .filter(|pair| pair.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|pair| u8::from_str_radix(pair, 16).ok());
        match escaped {
            Some(value) => {
                bytes.push(value);
                at += 3;
            }
            None => {
                bytes.push(if plus_is_space && byte == b'+' {
                    b' '
                } else {
                    byte
                });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let query = Query::parse("a=1&b=%2Fx+y&a=2&c&d=No&e=%zz");
        assert_eq!(query.get("a"), "1");
        assert_eq!(query.all("a").collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(query.get("b"), "/x y");
        assert_eq!(query.get("e"), "%zz");
        assert!(query.bool("a") && !query.bool("c") && !query.bool("d") && !query.bool("x"));
        assert!(query.bool_or("x", true) && !query.bool_or("c", true));
        assert!(query.integer("b").is_err());
        assert_eq!(query.integer("a").unwrap(), Some(1));
        assert_eq!(percent_decode("a+b%2f", false), "a+b/");
    }
}

//! The functions of Go's templates, and those that Docker adds.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::Mode;
use super::{Value, print};

const NAMES: &[&str] = &[
    "and", "or", "not", "len", "index", "slice", "print", "printf", "println", "html", "js",
    "urlquery", "call", "eq", "ne", "lt", "le", "gt", "ge", "json", "split", "join", "title",
    "lower", "upper", "pad", "truncate",
];

/// Whether there is such a function.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls a function other than `and` and `or`, whose arguments are evaluated one by one.
pub(super) fn call(name: &str, arguments: &[Value], mode: Mode) -> Result<Value, String> {
    let wrong_number = |want: &str| {
        Err(format!(
            "wrong number of args for {name}: want {want} got {}",
            arguments.len()
        ))
    };
    if mode == Mode::Titles {
        // Column titles keep their spelling.
        match (name, arguments) {
            ("json" | "title" | "lower" | "upper", [value, ..]) => return Ok(value.clone()),
            ("truncate" | "split" | "join" | "pad", [value, ..]) => return Ok(value.clone()),
            _ => {}
        }
    }
    match (name, arguments) {
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("len", [value]) => length(value),
        ("index", [value, keys @ ..]) => index(value, keys),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("print", values) => Ok(Value::text(print::sprint(values))),
        ("println", values) => Ok(Value::text(print::sprintln(values))),
        ("printf", [Value::Text(format), values @ ..]) => {
            Ok(Value::text(print::sprintf(format, values)))
        }
        ("printf", _) => Err(String::from(
            "wrong number of args for printf: want at least 1 got 0",
        )),
        ("html", values) => Ok(Value::text(escape_html(&print::sprint(values)))),
        ("js", values) => Ok(Value::text(escape_js(&print::sprint(values)))),
        ("urlquery", values) => Ok(Value::text(escape_query(&print::sprint(values)))),
        ("call", [Value::Method(method), values @ ..]) => method(values),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            for other in others {
                if equal(first, other)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        ("eq", _) => Err(String::from(
            "error calling eq: missing argument for comparison",
        )),
        ("ne", [a, b]) => Ok(Value::Bool(!equal(a, b)?)),
        ("lt", [a, b]) => Ok(Value::Bool(compare(name, a, b)? == Ordering::Less)),
        ("le", [a, b]) => Ok(Value::Bool(compare(name, a, b)? != Ordering::Greater)),
        ("gt", [a, b]) => Ok(Value::Bool(compare(name, a, b)? == Ordering::Greater)),
        ("ge", [a, b]) => Ok(Value::Bool(compare(name, a, b)? != Ordering::Less)),
        ("json", [value]) => json(value).map(Value::text),
        ("split", [value, separator]) => {
            let (text, separator) = (expect_text(name, value)?, expect_text(name, separator)?);
            let parts: Vec<Value> = if separator.is_empty() {
                text.chars().map(|c| Value::text(c.to_string())).collect()
            } else {
                text.split(separator).map(Value::text).collect()
            };
            Ok(Value::List(Rc::new(parts)))
        }
        ("join", [value, separator]) => {
            let separator = expect_text(name, separator)?;
            match value {
                Value::List(items) => {
                    let items: Result<Vec<&str>, String> =
                        items.iter().map(|item| expect_text(name, item)).collect();
                    Ok(Value::text(items?.join(separator)))
                }
                Value::Nil | Value::Missing => Ok(Value::text("")),
                other => Err(format!(
                    "wrong type for value; expected []string; got {}",
                    print::go_type(other)
                )),
            }
        }
        ("title", [value]) => Ok(Value::text(title(expect_text(name, value)?))),
        ("lower", [value]) => Ok(Value::text(expect_text(name, value)?.to_lowercase())),
        ("upper", [value]) => Ok(Value::text(expect_text(name, value)?.to_uppercase())),
        ("pad", [value, before, after]) => {
            let text = expect_text(name, value)?;
            if text.is_empty() {
                return Ok(Value::text(text));
            }
            let blanks = |count: i64| " ".repeat(usize::try_from(count).unwrap_or(0).min(1 << 16));
            Ok(Value::text(format!(
                "{}{text}{}",
                blanks(expect_int(before)?),
                blanks(expect_int(after)?)
            )))
        }
        ("truncate", [value, limit]) => {
            let (text, limit) = (expect_text(name, value)?, expect_int(limit)?);
            let limit = usize::try_from(limit)
                .map_err(|_| format!("error calling truncate: negative length {limit}"))?;
            let kept = text
                .char_indices()
                .map(|(at, c)| at + c.len_utf8())
                .take_while(|end| *end <= limit)
                .last();
            Ok(Value::text(if text.len() <= limit {
                text
            } else {
                &text[..kept.unwrap_or(0)]
            }))
        }
        ("not" | "len" | "json" | "title" | "lower" | "upper", _) => wrong_number("1"),
        ("ne" | "lt" | "le" | "gt" | "ge" | "split" | "join" | "truncate", _) => wrong_number("2"),
        ("pad", _) => wrong_number("3"),
        _ => wrong_number("at least 1"),
    }
}

fn expect_text<'a>(name: &str, value: &'a Value) -> Result<&'a str, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Missing => Ok(""),
        other => {
            let _ = name;
            Err(format!(
                "wrong type for value; expected string; got {}",
                print::go_type(other)
            ))
        }
    }
}

fn expect_int(value: &Value) -> Result<i64, String> {
    match value {
        Value::Int(value) => Ok(*value),
        other => Err(format!("expected integer; found {}", print::display(other))),
    }
}

fn length(value: &Value) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        Value::Map(entries) => entries.len(),
        Value::Nil | Value::Missing => {
            return Err(String::from("error calling len: len of nil pointer"));
        }
        other => {
            return Err(format!(
                "error calling len: len of type {}",
                print::go_type(other)
            ));
        }
    };
    Ok(Value::Int(i64::try_from(length).unwrap_or(i64::MAX)))
}

fn index(value: &Value, keys: &[Value]) -> Result<Value, String> {
    let mut value = value.clone();
    for key in keys {
        value = match (&value, key) {
            (Value::List(items), Value::Int(at)) => {
                match usize::try_from(*at).ok().and_then(|at| items.get(at)) {
                    Some(item) => item.clone(),
                    None => return Err(format!("error calling index: index out of range: {at}")),
                }
            }
            (Value::Text(text), Value::Int(at)) => match usize::try_from(*at)
                .ok()
                .and_then(|at| text.as_bytes().get(at))
            {
                Some(byte) => Value::Int(i64::from(*byte)),
                None => return Err(format!("error calling index: index out of range: {at}")),
            },
            (Value::Map(entries), Value::Text(key)) => entries
                .iter()
                .find(|(name, _)| **name == **key)
                .map_or(Value::Missing, |(_, value)| value.clone()),
            (Value::Struct(structure), Value::Text(key)) => structure
                .fields
                .iter()
                .find(|(name, _)| **name == **key)
                .map_or(Value::Missing, |(_, value)| value.clone()),
            (Value::Nil | Value::Missing, _) => {
                return Err(String::from("error calling index: index of nil pointer"));
            }
            (Value::List(_) | Value::Text(_), other) => {
                return Err(format!(
                    "error calling index: cannot index slice/array with type {}",
                    print::go_type(other)
                ));
            }
            (other, _) => {
                return Err(format!(
                    "error calling index: can't index item of type {}",
                    print::go_type(other)
                ));
            }
        };
    }
    Ok(value)
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, String> {
    let length = match value {
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        other => {
            return Err(format!(
                "error calling slice: can't slice item of type {}",
                print::go_type(other)
            ));
        }
    };
    let bound = |at: usize, default: usize| -> Result<usize, String> {
        let Some(value) = bounds.get(at) else {
            return Ok(default);
        };
        let number = expect_int(value)?;
        usize::try_from(number)
            .ok()
            .filter(|number| *number <= length)
            .ok_or_else(|| format!("error calling slice: index out of range: {number}"))
    };
    let (from, to) = (bound(0, 0)?, bound(1, length)?);
    if from > to {
        return Err(format!(
            "error calling slice: invalid slice index: {from} > {to}"
        ));
    }
    Ok(match value {
        Value::Text(text) => Value::text(String::from_utf8_lossy(&text.as_bytes()[from..to])),
        Value::List(items) => Value::List(Rc::new(items[from..to].to_vec())),
        _ => Value::Missing,
    })
}

fn equal(a: &Value, b: &Value) -> Result<bool, String> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Ok(a == b),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Int(a), Value::Int(b)) => Ok(a == b),
        #[expect(clippy::float_cmp, reason = "this is what eq means in a template")]
        (Value::Float(a), Value::Float(b)) => Ok(a == b),
        (Value::Nil | Value::Missing, Value::Nil | Value::Missing) => Ok(true),
        (Value::Nil | Value::Missing, _) | (_, Value::Nil | Value::Missing) => Ok(false),
        _ => Err(String::from(
            "error calling eq: incompatible types for comparison",
        )),
    }
}

fn compare(name: &str, a: &Value, b: &Value) -> Result<Ordering, String> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Ok(a.cmp(b)),
        (Value::Int(a), Value::Int(b)) => Ok(a.cmp(b)),
        (Value::Float(a), Value::Float(b)) => Ok(a.partial_cmp(b).unwrap_or(Ordering::Equal)),
        _ => Err(format!(
            "error calling {name}: incompatible types for comparison"
        )),
    }
}

/// JSON as Docker's `json` function writes it: only a formatter's context escapes `<`, `>` and `&`.
fn json(value: &Value) -> Result<String, String> {
    let text = serde_json::to_string(&value.to_json())
        .map_err(|error| format!("error calling json: {error}"))?;
    Ok(match value {
        Value::Struct(structure) if structure.is_context => text
            .replace('<', "\\u003c")
            .replace('>', "\\u003e")
            .replace('&', "\\u0026"),
        _ => text,
    })
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || c == '\'';
    }
    out
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte))
            }
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

//! How Go prints values: `%v` and the other verbs of `printf`.

use std::fmt::Write as _;

use super::Value;

/// `%v`, which is also what an action's result prints as.
pub(crate) fn display(value: &Value) -> String {
    let mut text = String::new();
    write_value(value, &mut text);
    text
}

fn write_value(value: &Value, text: &mut String) {
    match value {
        Value::Missing => text.push_str("<no value>"),
        Value::Nil => text.push_str("<nil>"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Int(value) => {
            let _ = write!(text, "{value}");
        }
        Value::Float(value) => text.push_str(&float(*value)),
        Value::Text(value) | Value::Span(_, value) => text.push_str(value),
        Value::List(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                write_value(item, text);
            }
            text.push(']');
        }
        Value::Map(entries) => {
            let mut sorted: Vec<_> = entries.iter().collect();
            sorted.sort_by(|a, b| a.0.cmp(&b.0));
            text.push_str("map[");
            for (index, (key, item)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                text.push_str(key);
                text.push(':');
                write_value(item, text);
            }
            text.push(']');
        }
        Value::Struct(structure) => {
            text.push('{');
            for (index, (_, item)) in structure.fields.iter().enumerate() {
                if index > 0 {
                    text.push(' ');
                }
                write_value(item, text);
            }
            text.push('}');
        }
        Value::Method(_) => text.push_str("<func>"),
    }
}

/// `%g` with the shortest digits, as `%v` prints floats.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return String::from("NaN");
    }
    if value.is_infinite() {
        return String::from(if value > 0.0 { "+Inf" } else { "-Inf" });
    }
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e21).contains(&magnitude) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!(
            "{mantissa}e{}{:02}",
            if exponent < 0 { '-' } else { '+' },
            exponent.abs()
        );
    }
    format!("{value}")
}

/// A Go string literal (`%q`).
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\r' => quoted.push_str("\\r"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0c' => quoted.push_str("\\f"),
            '\x0b' => quoted.push_str("\\v"),
            c if c.is_control() => {
                let _ = if u32::from(c) < 0x80 {
                    write!(quoted, "\\x{:02x}", u32::from(c))
                } else {
                    write!(quoted, "\\u{:04x}", u32::from(c))
                };
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `fmt.Sprint`: a space between operands when neither is a string.
pub(super) fn sprint(values: &[Value]) -> String {
    let mut text = String::new();
    for (index, value) in values.iter().enumerate() {
        let is_text = |value: &Value| matches!(value, Value::Text(_));
        if index > 0 && !is_text(value) && !is_text(&values[index - 1]) {
            text.push(' ');
        }
        text.push_str(&argument(value));
    }
    text
}

/// `fmt.Sprintln`.
pub(super) fn sprintln(values: &[Value]) -> String {
    let mut text = values.iter().map(argument).collect::<Vec<_>>().join(" ");
    text.push('\n');
    text
}

/// A value as an argument of a print function: a missing one is a nil interface there.
fn argument(value: &Value) -> String {
    match value {
        Value::Missing => String::from("<nil>"),
        other => display(other),
    }
}

#[derive(Default)]
struct Directive {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// The widest field that a format may ask for; more is an attempt to fill the memory.
const MAX_WIDTH: usize = 1 << 16;

/// `fmt.Sprintf`.
pub(super) fn sprintf(format: &str, values: &[Value]) -> String {
    let mut text = String::new();
    let mut chars = format.chars().peekable();
    let mut next = 0;
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = Directive::default();
        while let Some(flag) = chars.next_if(|c| matches!(c, '-' | '+' | '#' | ' ' | '0')) {
            match flag {
                '-' => directive.minus = true,
                '+' => directive.plus = true,
                '#' => directive.sharp = true,
                ' ' => directive.space = true,
                _ => directive.zero = true,
            }
        }
        let mut number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| -> Option<usize> {
            if chars.next_if_eq(&'*').is_some() {
                let value = match values.get(next) {
                    Some(Value::Int(value)) => usize::try_from(value.unsigned_abs()).ok(),
                    _ => None,
                };
                next += 1;
                return value.map(|value| value.min(MAX_WIDTH));
            }
            let mut value: Option<usize> = None;
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                let digit = usize::try_from(digit.to_digit(10).unwrap_or(0)).unwrap_or(0);
                value = Some((value.unwrap_or(0) * 10 + digit).min(MAX_WIDTH));
            }
            value
        };
        directive.width = number(&mut chars);
        if chars.next_if_eq(&'.').is_some() {
            directive.precision = Some(number(&mut chars).unwrap_or(0));
        }
        match chars.next() {
            None => text.push_str("%!(NOVERB)"),
            Some('%') => text.push('%'),
            Some(verb) => {
                match values.get(next) {
                    Some(value) => {
                        text.push_str(&pad(verb_text(verb, value, &directive), &directive))
                    }
                    None => {
                        let _ = write!(text, "%!{verb}(MISSING)");
                    }
                }
                next += 1;
            }
        }
    }
    if next < values.len() {
        let extra: Vec<String> = values[next..]
            .iter()
            .map(|value| format!("{}={}", go_type(value), argument(value)))
            .collect();
        let _ = write!(text, "%!(EXTRA {})", extra.join(", "));
    }
    text
}

fn pad(text: String, directive: &Directive) -> String {
    let (Some(width), length) = (directive.width, text.chars().count()) else {
        return text;
    };
    if length >= width {
        return text;
    }
    let fill = width - length;
    if directive.minus {
        return text + &" ".repeat(fill);
    }
    if directive.zero {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => (&text[..1], digits),
            None => ("", text.as_str()),
        };
        return format!("{sign}{}{digits}", "0".repeat(fill));
    }
    " ".repeat(fill) + &text
}

fn verb_text(verb: char, value: &Value, directive: &Directive) -> String {
    let bad = || format!("%!{verb}({}={})", go_type(value), argument(value));
    match (verb, value) {
        ('v' | 's', Value::Text(text)) => match directive.precision {
            Some(precision) => text.chars().take(precision).collect(),
            None => text.to_string(),
        },
        ('v', Value::Float(_)) if directive.precision.is_some() => verb_text('f', value, directive),
        ('v', other) => argument(other),
        ('s' | 'q' | 'd' | 'x' | 'X', Value::List(items)) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| verb_text(verb, item, directive))
                .collect();
            format!("[{}]", items.join(" "))
        }
        ('s', Value::Map(_) | Value::Struct(_)) => argument(value),
        ('s', Value::Span(_, text)) => text.to_string(),
        ('d', Value::Span(nanos, _)) => nanos.to_string(),
        ('q', Value::Text(text)) => quote(text),
        ('d', Value::Int(number)) if directive.plus && *number >= 0 => format!("+{number}"),
        ('d', Value::Int(number)) if directive.space && *number >= 0 => format!(" {number}"),
        ('d', Value::Int(number)) => number.to_string(),
        ('x', Value::Int(number)) => signed(*number, |n| {
            format!("{}{n:x}", if directive.sharp { "0x" } else { "" })
        }),
        ('X', Value::Int(number)) => signed(*number, |n| {
            format!("{}{n:X}", if directive.sharp { "0X" } else { "" })
        }),
        ('o', Value::Int(number)) => signed(*number, |n| {
            format!("{}{n:o}", if directive.sharp { "0" } else { "" })
        }),
        ('b', Value::Int(number)) => signed(*number, |n| format!("{n:b}")),
        ('c', Value::Int(number)) => u32::try_from(*number)
            .ok()
            .and_then(char::from_u32)
            .unwrap_or(char::REPLACEMENT_CHARACTER)
            .to_string(),
        ('x', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
        ('X', Value::Text(text)) => text.bytes().map(|byte| format!("{byte:02X}")).collect(),
        ('f' | 'F', Value::Float(number)) => {
            let text = format!("{number:.*}", directive.precision.unwrap_or(6));
            if directive.plus && *number >= 0.0 {
                format!("+{text}")
            } else {
                text
            }
        }
        ('g', Value::Float(number)) => float(*number),
        ('e', Value::Float(number)) => {
            let text = format!("{number:.*e}", directive.precision.unwrap_or(6));
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!(
                "{mantissa}e{}{:02}",
                if exponent < 0 { '-' } else { '+' },
                exponent.abs()
            )
        }
        ('t', Value::Bool(value)) => value.to_string(),
        ('T', value) => go_type(value).to_owned(),
        _ => bad(),
    }
}

fn signed(number: i64, digits: impl Fn(u64) -> String) -> String {
    if number < 0 {
        format!("-{}", digits(number.unsigned_abs()))
    } else {
        digits(number.unsigned_abs())
    }
}

/// The Go type a value would have.
pub(super) fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Missing | Value::Nil => "<nil>",
        Value::Bool(_) => "bool",
        Value::Int(_) => "int",
        Value::Span(..) => "time.Duration",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::List(_) => "[]interface {}",
        Value::Map(_) => "map[string]interface {}",
        Value::Struct(structure) => structure.type_name,
        Value::Method(_) => "func",
    }
}

//! `--format` of lists: the default table, `table TEMPLATE`, `json`, or a template per row.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::Failure;
use super::table;
use super::template::{self, Mode, Value, execute};

/// What a list can show.
pub(crate) struct Listing {
    /// Go's type name of a row, for error messages.
    pub(crate) type_name: &'static str,
    /// The template of the default table, with `\t` between columns.
    pub(crate) table: &'static str,
    /// Column titles by field.
    pub(crate) titles: &'static [(&'static str, &'static str)],
}

impl Listing {
    /// A row of this list.
    pub(crate) fn row(&self, fields: Vec<(&'static str, Value)>) -> Value {
        Value::context(
            self.type_name,
            fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
        )
    }

    /// Which fields a format can touch, so that no others are computed.
    pub(crate) fn wanted(&self, format: &str) -> Wanted {
        let (source, _) = self.source(format);
        let bytes = source.as_bytes();
        let bare_dot = bytes.iter().enumerate().any(|(at, byte)| {
            *byte == b'.' && !bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic)
        });
        let is_used = |name: &str| {
            let mut places = source.match_indices(name);
            places.any(|(at, _)| source[..at].ends_with('.'))
        };
        let names = self.titles.iter().map(|(name, _)| *name).chain(["Label"]);
        Wanted {
            all: bare_dot || source.contains('$'),
            used: names.filter(|name| is_used(name)).collect(),
        }
    }

    /// The template behind a format, and whether it makes a table.
    fn source(&self, format: &str) -> (String, bool) {
        let (source, is_table) = match format {
            "" | "table" => (self.table, true),
            "json" => ("{{json .}}", false),
            _ => match format.strip_prefix("table") {
                Some(rest) => (rest.trim_matches(' '), true),
                None => (format, false),
            },
        };
        let source = source.replace("\\t", "\t").replace("\\n", "\n");
        (source, is_table)
    }

    /// The column titles as a template sees them.
    fn title_row(&self) -> Value {
        let mut entries: Vec<(String, Value)> = self
            .titles
            .iter()
            .map(|(name, title)| ((*name).to_owned(), Value::text(title)))
            .collect();
        entries.push((String::from("Label"), label_title()));
        Value::Map(Rc::new(entries))
    }

    /// Renders all rows in the format the user asked for.
    pub(crate) fn render(&self, format: &str, rows: &[Value]) -> Result<String, Failure> {
        let (source, is_table) = self.source(format);
        let template = template::parse(&source)
            .map_err(|why| Failure::new(format!("failed to parse template: {why}")))?;
        let failed = |(_, why)| Failure::new(format!("failed to execute template: {why}"));
        let mut text = String::new();
        if is_table {
            text.push_str(&execute(&template, &self.title_row(), Mode::Titles).map_err(failed)?);
            text.push('\n');
        }
        for row in rows {
            text.push_str(&execute(&template, row, Mode::Values).map_err(failed)?);
            text.push('\n');
        }
        Ok(if is_table { table::align(&text) } else { text })
    }
}

/// The fields that a format can touch.
pub(crate) struct Wanted {
    /// The whole row is used as a value somewhere.
    all: bool,
    used: Vec<&'static str>,
}

impl Wanted {
    /// Everything.
    pub(crate) fn everything() -> Self {
        Self {
            all: true,
            used: Vec::new(),
        }
    }

    /// Whether the field may be used.
    pub(crate) fn has(&self, field: &str) -> bool {
        self.all || self.used.contains(&field)
    }
}

/// The title of `{{.Label "com.example.some-key"}}`: the last part, with blanks.
fn label_title() -> Value {
    Value::Method(Rc::new(|arguments: &[Value]| match arguments {
        [Value::Text(name)] => Ok(Value::text(
            name.rsplit('.')
                .next()
                .unwrap_or("")
                .replace(['-', '_'], " "),
        )),
        _ => Err(String::from("wrong number of args for Label: want 1")),
    }))
}

/// The method `.Label NAME` over an object of labels.
pub(crate) fn label_method(labels: &serde_json::Value) -> Value {
    let labels: BTreeMap<String, String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or("").to_owned()))
        .collect();
    Value::Method(Rc::new(move |arguments: &[Value]| match arguments {
        [Value::Text(name)] => Ok(Value::text(labels.get(&**name).map_or("", String::as_str))),
        _ => Err(format!(
            "wrong number of args for Label: want 1 got {}",
            arguments.len()
        )),
    }))
}

/// `key=value,…`, sorted.
pub(crate) fn join_labels(labels: &serde_json::Value) -> String {
    let mut all: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    all.sort();
    all.join(",")
}

/// Renders one object (`version`, `info`, `inspect`) with a template. Text before an error is returned with it.
pub(crate) fn render_object(format: &str, value: &Value) -> Result<String, Failure> {
    let source = if format == "json" {
        "{{json .}}"
    } else {
        format
    };
    let template = template::parse(source)
        .map_err(|why| Failure::new(format!("template parsing error: {why}")).with_code(64))?;
    execute(&template, value, Mode::Values)
        .map_err(|(_, why)| Failure::new(format!("template parsing error: {why}")))
}

/// The JSON of a `--filter` list, as the API takes it; empty without filters.
pub(crate) fn filters(given: &[&str]) -> String {
    let mut all: BTreeMap<String, BTreeMap<&str, bool>> = BTreeMap::new();
    for filter in given {
        if let Some((name, value)) = filter.split_once('=') {
            all.entry(name.trim().to_lowercase())
                .or_default()
                .insert(value.trim(), true);
        }
    }
    if all.is_empty() {
        String::new()
    } else {
        serde_json::to_string(&all).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: Listing = Listing {
        type_name: "*formatter.ContainerContext",
        table: "{{.ID}}\\t{{.Names}}",
        titles: &[("ID", "CONTAINER ID"), ("Names", "NAMES")],
    };

    #[test]
    fn tables_and_templates() {
        let row = LISTING.row(vec![
            ("ID", Value::text("47335a813b5f")),
            ("Names", Value::text("cli-a")),
            ("Label", label_method(&serde_json::json!({"a": "b"}))),
        ]);
        let render = |format: &str| {
            LISTING
                .render(format, std::slice::from_ref(&row))
                .map_err(|failure| failure.text().to_owned())
        };
        assert_eq!(
            render("").unwrap(),
            "CONTAINER ID   NAMES\n47335a813b5f   cli-a\n"
        );
        assert_eq!(
            render("table {{.ID}}\\t{{.Label \"x.b-c\"}}").unwrap(),
            "CONTAINER ID   b c\n47335a813b5f   \n"
        );
        assert_eq!(render("table {{upper .Names}}").unwrap(), "NAMES\nCLI-A\n");
        assert_eq!(render("{{.Label \"a\"}}").unwrap(), "b\n");
        assert_eq!(
            render("json").unwrap(),
            "{\"ID\":\"47335a813b5f\",\"Names\":\"cli-a\"}\n"
        );
        assert_eq!(
            render("{{.Foo}}").unwrap_err(),
            "failed to execute template: template: :1:2: executing \"\" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext"
        );
        assert_eq!(
            render("{{").unwrap_err(),
            "failed to parse template: template: :1: unclosed action"
        );
    }

    #[test]
    fn only_what_is_used_is_wanted() {
        let wanted = |format: &str| LISTING.wanted(format);
        assert!(wanted("").has("Names") && !wanted("").has("Ports"));
        assert!(wanted("{{.ID}}").has("ID") && !wanted("{{.ID}}").has("Names"));
        assert!(wanted("{{json .}}").has("Ports") && wanted("json").has("Ports"));
        assert!(wanted("{{with $x := .ID}}{{$x}}{{end}}").has("Ports"));
    }

    #[test]
    fn filter_json() {
        assert_eq!(
            filters(&["name=a", "Name = b", "label=x=y"]),
            r#"{"label":{"x=y":true},"name":{"a":true,"b":true}}"#
        );
        assert_eq!(filters(&[]), "");
    }
}

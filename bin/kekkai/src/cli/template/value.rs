//! What a template works on: Go's values, as far as templates can tell them apart.

use std::rc::Rc;

/// A method of a formatter, called with the arguments that follow it in the template.
pub(crate) type Method = Rc<dyn Fn(&[Value]) -> Result<Value, String>>;

/// A value. `Struct` prints and fails on unknown fields as a Go struct does, `Map` as a Go map.
#[derive(Clone)]
pub(crate) enum Value {
    /// What a missing map key gives; prints `<no value>`.
    Missing,
    /// A nil pointer or interface; prints `<nil>`.
    Nil,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    /// A duration: its nanoseconds, and how it prints.
    Span(i64, Rc<str>),
    List(Rc<Vec<Value>>),
    Map(Rc<Vec<(String, Value)>>),
    Struct(Rc<Structure>),
    Method(Method),
}

/// A struct or formatter context.
pub(crate) struct Structure {
    /// Name of the Go type, for error messages.
    pub(crate) type_name: &'static str,
    /// Fields in order, under the names that JSON has.
    pub(crate) fields: Vec<(String, Value)>,
    /// Whether this is a formatter's context, whose JSON is sorted and escapes `<>&`.
    pub(crate) is_context: bool,
    /// Fields (by bit) that JSON left out because they are empty: printed and found, but not in our JSON either.
    pub(crate) omitted: u64,
}

impl Structure {
    fn is_omitted(&self, at: usize) -> bool {
        at < 64 && self.omitted & (1 << at) != 0
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&super::print::display(self))
    }
}

impl Value {
    pub(crate) fn text(text: impl AsRef<str>) -> Self {
        Self::Text(Rc::from(text.as_ref()))
    }

    /// A formatter's context: its fields, the type's name for messages.
    pub(crate) fn context(type_name: &'static str, fields: Vec<(String, Value)>) -> Self {
        Self::Struct(Rc::new(Structure {
            type_name,
            fields,
            is_context: true,
            omitted: 0,
        }))
    }

    /// A struct of the API.
    pub(crate) fn structure(type_name: &'static str, fields: Vec<(String, Value)>) -> Self {
        Self::Struct(Rc::new(Structure {
            type_name,
            fields,
            is_context: false,
            omitted: 0,
        }))
    }

    /// A second name of a field: found by templates, left out of JSON.
    pub(crate) fn alias(value: Value) -> Self {
        Self::Method(Rc::new(move |_| Ok(value.clone())))
    }

    /// Go's truth: not the zero value, not empty.
    pub(crate) fn is_true(&self) -> bool {
        match self {
            Self::Missing | Self::Nil => false,
            Self::Bool(value) => *value,
            Self::Int(value) | Self::Span(value, _) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.is_empty(),
            Self::List(items) => !items.is_empty(),
            Self::Map(entries) => !entries.is_empty(),
            Self::Struct(_) | Self::Method(_) => true,
        }
    }

    /// The value as JSON, in the order it has.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Missing | Self::Nil | Self::Method(_) => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(value) | Self::Span(value, _) => Json::from(*value),
            Self::Float(value) => Json::from(*value),
            Self::Text(text) => Json::String(text.to_string()),
            Self::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Self::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                Json::Object(
                    sorted
                        .into_iter()
                        .map(|(key, value)| (key.clone(), value.to_json()))
                        .collect(),
                )
            }
            Self::Struct(structure) => {
                let mut fields: Vec<_> = structure
                    .fields
                    .iter()
                    .enumerate()
                    .filter(|(at, (_, value))| {
                        !matches!(value, Self::Method(_)) && !structure.is_omitted(*at)
                    })
                    .map(|(_, field)| field)
                    .collect();
                if structure.is_context {
                    fields.sort_by(|a, b| a.0.cmp(&b.0));
                }
                Json::Object(
                    fields
                        .into_iter()
                        .map(|(key, value)| (key.clone(), value.to_json()))
                        .collect(),
                )
            }
        }
    }
}

/// Keys whose objects are Go maps in the API's types; all other objects are structs.
const MAPS: &[&str] = &[
    "Labels",
    "ExposedPorts",
    "Volumes",
    "Ports",
    "Networks",
    "PortBindings",
    "Config",
    "Sysctls",
    "Annotations",
    "StorageOpt",
    "Tmpfs",
    "Data",
    "DriverOpts",
    "Options",
    "Containers",
    "Status",
    "Opts",
    "Attributes",
    "Runtimes",
    "AuxiliaryAddresses",
    "Details",
    "Services",
    "Metadata",
];

/// Keys whose null is a nil slice and prints `[]`.
const NIL_LISTS: &[&str] = &[
    "Binds",
    "Links",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "CapAdd",
    "CapDrop",
    "GroupAdd",
    "SecurityOpt",
    "Devices",
    "DeviceRequests",
    "DeviceCgroupRules",
    "Entrypoint",
    "Cmd",
    "Env",
    "OnBuild",
    "VolumesFrom",
    "ExtraHosts",
    "ExecIDs",
    "Ulimits",
    "MaskedPaths",
    "ReadonlyPaths",
    "BlkioWeightDevice",
    "BlkioDeviceReadBps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
    "Aliases",
    "DNSNames",
    "Mounts",
    "RepoTags",
    "RepoDigests",
    "Layers",
    "SecondaryIPAddresses",
    "SecondaryIPv6Addresses",
    "Warnings",
    "Shell",
    "Plugins",
];

/// What an omitted field holds.
#[derive(Clone, Copy)]
enum Zero {
    Nil,
    Text,
    Span,
    Number,
}

/// Structs whose fields JSON may leave out, by the key they stand under: all fields in Go's order.
const SHAPES: &[(&str, &[(&str, Zero)])] = &[
    (
        "State",
        &[
            ("Status", Zero::Text),
            ("Running", Zero::Text),
            ("Paused", Zero::Text),
            ("Restarting", Zero::Text),
            ("OOMKilled", Zero::Text),
            ("Dead", Zero::Text),
            ("Pid", Zero::Number),
            ("ExitCode", Zero::Number),
            ("Error", Zero::Text),
            ("StartedAt", Zero::Text),
            ("FinishedAt", Zero::Text),
            ("Health", Zero::Nil),
        ],
    ),
    (
        "Mounts",
        &[
            ("Type", Zero::Text),
            ("Name", Zero::Text),
            ("Source", Zero::Text),
            ("Destination", Zero::Text),
            ("Driver", Zero::Text),
            ("Mode", Zero::Text),
            ("RW", Zero::Text),
            ("Propagation", Zero::Text),
        ],
    ),
    (
        "Healthcheck",
        &[
            ("Test", Zero::Nil),
            ("Interval", Zero::Span),
            ("Timeout", Zero::Span),
            ("StartPeriod", Zero::Span),
            ("StartInterval", Zero::Span),
            ("Retries", Zero::Number),
        ],
    ),
];

/// Brings the fields of a known struct into Go's order and adds those that JSON left out.
fn shaped(key: &str, fields: Vec<(String, Value)>) -> (Vec<(String, Value)>, u64) {
    let Some((_, shape)) = SHAPES.iter().find(|(name, _)| *name == key) else {
        return (fields, 0);
    };
    // Mounts of a container's host configuration are another struct.
    if key == "Mounts" && fields.iter().any(|(name, _)| name == "Target") {
        return (fields, 0);
    }
    let mut rest = fields;
    let mut omitted = 0;
    let mut all = Vec::with_capacity(shape.len());
    for (name, zero) in *shape {
        match rest.iter().position(|(known, _)| known == name) {
            Some(at) => {
                let (name, value) = rest.remove(at);
                let value = match (zero, value) {
                    (Zero::Span, Value::Int(nanos)) => span(nanos),
                    (_, value) => value,
                };
                all.push((name, value));
            }
            None => {
                omitted |= 1 << all.len();
                let value = match zero {
                    Zero::Nil => Value::Nil,
                    Zero::Text => Value::text(""),
                    Zero::Span => Value::text("0s"),
                    Zero::Number => Value::Int(0),
                };
                all.push(((*name).to_owned(), value));
            }
        }
    }
    all.extend(rest);
    (all, omitted)
}

/// A duration; it prints as Go prints one.
fn span(nanos: i64) -> Value {
    let duration = std::time::Duration::from_nanos(nanos.unsigned_abs());
    Value::Span(nanos, Rc::from(kekkai_types::format_duration(duration)))
}

/// Makes a template value of an API answer: structs and maps are told apart by the key they stand under.
pub(crate) fn from_json(json: &serde_json::Value) -> Value {
    convert(json, "")
}

fn convert(json: &serde_json::Value, key: &str) -> Value {
    use serde_json::Value as Json;
    match json {
        Json::Null if NIL_LISTS.contains(&key) => Value::List(Rc::new(Vec::new())),
        Json::Null if MAPS.contains(&key) => Value::Map(Rc::new(Vec::new())),
        Json::Null => Value::Nil,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Value::Int(value),
            None => Value::Float(number.as_f64().unwrap_or(0.0)),
        },
        Json::String(text) => Value::text(text),
        Json::Array(items) => {
            let key = if key == "Mounts" { key } else { "" };
            Value::List(Rc::new(
                items.iter().map(|item| convert(item, key)).collect(),
            ))
        }
        Json::Object(entries) => {
            // `Config` is the container's configuration at the top and a log driver's options elsewhere.
            let is_map =
                MAPS.contains(&key) && !(matches!(key, "Config") && entries.contains_key("Env"));
            let fields = entries.iter().map(|(name, value)| {
                (name.clone(), convert(value, if is_map { "" } else { name }))
            });
            let fields: Vec<_> = fields.collect();
            if is_map {
                Value::Map(Rc::new(fields))
            } else {
                let (fields, omitted) = shaped(key, fields);
                Value::Struct(Rc::new(Structure {
                    type_name: "",
                    fields,
                    is_context: false,
                    omitted,
                }))
            }
        }
    }
}

//! Walks the tree and writes the result.

use std::rc::Rc;

use super::parser::{Command, Node, Operand, Pipeline, Template};
use super::{Value, functions, print};

/// How a template is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// For output.
    Values,
    /// Over column titles: `upper`, `json` and the like leave them as they are.
    Titles,
}

/// Go's names of fields whose JSON name differs, so that both are found.
const FIELD_NAMES: &[(&str, &str)] = &[
    ("ID", "Id"),
    ("APIVersion", "ApiVersion"),
    ("CPUCfsPeriod", "CpuCfsPeriod"),
    ("CPUCfsQuota", "CpuCfsQuota"),
    ("NanoCPUs", "NanoCpus"),
    ("CPUShares", "CpuShares"),
    ("CPUPeriod", "CpuPeriod"),
    ("CPUQuota", "CpuQuota"),
    ("CPURealtimePeriod", "CpuRealtimePeriod"),
    ("CPURealtimeRuntime", "CpuRealtimeRuntime"),
    ("CPUCount", "CpuCount"),
    ("CPUPercent", "CpuPercent"),
    ("DNS", "Dns"),
    ("DNSOptions", "DnsOptions"),
    ("DNSSearch", "DnsSearch"),
];

/// Fields that JSON leaves out when they are nil pointers, empty maps, empty lists, empty texts.
const NIL_FIELDS: &[&str] = &[
    "Health",
    "Healthcheck",
    "StopTimeout",
    "Init",
    "SizeRw",
    "SizeRootFs",
    "UsageData",
    "OomKillDisable",
    "PidsLimit",
    "Platform",
    "ClusterVolume",
    "GraphDriver",
];
const EMPTY_MAPS: &[&str] = &[
    "ExposedPorts",
    "Labels",
    "Sysctls",
    "Tmpfs",
    "Annotations",
    "StorageOpt",
    "Options",
    "Volumes",
];
const EMPTY_LISTS: &[&str] = &[
    "Mounts",
    "Shell",
    "OnBuild",
    "ExecIDs",
    "RepoTags",
    "RepoDigests",
    "Env",
    "Cmd",
];
const EMPTY_TEXTS: &[&str] = &[
    "StopSignal",
    "MacAddress",
    "User",
    "WorkingDir",
    "Hostname",
    "Domainname",
    "AppArmorProfile",
    "Comment",
    "Author",
    "Variant",
    "OsVersion",
    "Parent",
    "Container",
    "DockerVersion",
    "Created",
];

/// Runs `template` over `dot`. On an error, what was written before it is in the first half.
pub(crate) fn execute(
    template: &Template,
    dot: &Value,
    mode: Mode,
) -> Result<String, (String, String)> {
    let mut run = Run {
        template,
        mode,
        variables: vec![(String::from("$"), dot.clone())],
        output: String::new(),
    };
    match run.nodes(&template.body, dot) {
        Ok(_) => Ok(run.output),
        Err(message) => Err((run.output, message)),
    }
}

#[derive(PartialEq, Eq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    template: &'a Template,
    mode: Mode,
    variables: Vec<(String, Value)>,
    output: String,
}

impl Run<'_> {
    fn error(&self, at: usize, context: &str, message: &str) -> String {
        let before = &self.template.source[..at.min(self.template.source.len())];
        let line = 1 + before.matches('\n').count();
        let column = before.rfind('\n').map_or(at, |newline| at - newline - 1);
        let shortened: String = context.chars().take(20).collect();
        let context = if context.chars().count() > 20 {
            format!("{shortened}...")
        } else {
            shortened
        };
        format!("template: :{line}:{column}: executing \"\" at <{context}>: {message}")
    }

    fn nodes(&mut self, nodes: &[Node], dot: &Value) -> Result<Flow, String> {
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn node(&mut self, node: &Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.output.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipeline(pipe, dot)?;
                if pipe.declares.is_empty() {
                    self.output.push_str(&print::display(&value));
                }
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
            Node::If {
                pipe,
                then,
                otherwise,
            }
            | Node::With {
                pipe,
                then,
                otherwise,
            } => {
                let scope = self.variables.len();
                let value = self.pipeline(pipe, dot)?;
                let inner = if matches!(node, Node::With { .. }) {
                    &value
                } else {
                    dot
                };
                let flow = if value.is_true() {
                    self.nodes(then, inner)
                } else {
                    self.nodes(otherwise, dot)
                };
                self.variables.truncate(scope);
                return flow;
            }
            Node::Range {
                pipe,
                body,
                otherwise,
            } => return self.range(pipe, body, otherwise, dot),
        }
        Ok(Flow::On)
    }

    fn range(
        &mut self,
        pipe: &Pipeline,
        body: &[Node],
        otherwise: &[Node],
        dot: &Value,
    ) -> Result<Flow, String> {
        let scope = self.variables.len();
        let value = self.commands(pipe, dot)?;
        let entries: Vec<(Value, Value)> = match &value {
            Value::List(items) => items
                .iter()
                .enumerate()
                .map(|(index, item)| (Value::Int(i64::try_from(index).unwrap_or(0)), item.clone()))
                .collect(),
            Value::Map(entries) => {
                let mut sorted: Vec<_> = entries.iter().collect();
                sorted.sort_by(|a, b| a.0.cmp(&b.0));
                sorted
                    .into_iter()
                    .map(|(key, item)| (Value::text(key), item.clone()))
                    .collect()
            }
            Value::Nil | Value::Missing => Vec::new(),
            other => {
                let (at, text) = self.place(pipe);
                return Err(self.error(
                    at,
                    &text,
                    &format!("range can't iterate over {}", print::display(other)),
                ));
            }
        };
        if entries.is_empty() {
            return self.nodes(otherwise, dot);
        }
        for (key, item) in entries {
            match pipe.declares.as_slice() {
                [only] => self.bind(only, item.clone(), pipe.assigns),
                [first, second] => {
                    self.bind(first, key, pipe.assigns);
                    self.bind(second, item.clone(), pipe.assigns);
                }
                _ => {}
            }
            let flow = self.nodes(body, &item)?;
            self.variables.truncate(scope);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn bind(&mut self, name: &str, value: Value, assign: bool) {
        if assign
            && let Some(slot) = self
                .variables
                .iter_mut()
                .rev()
                .find(|(known, _)| known == name)
        {
            slot.1 = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn pipeline(&mut self, pipe: &Pipeline, dot: &Value) -> Result<Value, String> {
        let value = self.commands(pipe, dot)?;
        for name in &pipe.declares {
            self.bind(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn commands(&mut self, pipe: &Pipeline, dot: &Value) -> Result<Value, String> {
        let mut value = None;
        for command in &pipe.commands {
            value = Some(self.command(command, dot, value)?);
        }
        Ok(value.unwrap_or(Value::Missing))
    }

    fn place(&self, pipe: &Pipeline) -> (usize, String) {
        pipe.commands.first().map_or((0, String::new()), |command| {
            (command.at, describe_command(command))
        })
    }

    fn command(
        &mut self,
        command: &Command,
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Value, String> {
        let Some((first, rest)) = command.operands.split_first() else {
            return Ok(Value::Missing);
        };
        match first {
            Operand::Function(name, at) => {
                if matches!(name.as_str(), "and" | "or") {
                    return self.short_circuit(name == "and", rest, dot, last);
                }
                let arguments = self.arguments(rest, dot, last)?;
                let context = if name == "index" || !rest.is_empty() {
                    describe_command(command)
                } else {
                    name.clone()
                };
                functions::call(name, &arguments, self.mode)
                    .map_err(|message| self.error(*at, &context, &message))
            }
            Operand::Field(names, at) => {
                let arguments = self.arguments(rest, dot, last)?;
                self.fields(dot.clone(), names, &arguments, *at, first)
            }
            Operand::Variable(name, names, at) => {
                let value = self.variable(name);
                let arguments = self.arguments(rest, dot, last)?;
                self.fields(value, names, &arguments, *at, first)
            }
            Operand::Pipe(pipe, names, at) => {
                let value = self.pipeline(pipe, dot)?;
                let arguments = self.arguments(rest, dot, last)?;
                self.fields(value, names, &arguments, *at, first)
            }
            other => {
                if !rest.is_empty() || last.is_some() {
                    let what = describe_operand(other);
                    return Err(self.error(
                        command.at,
                        &what,
                        &format!("can't give argument to non-function {what}"),
                    ));
                }
                if matches!(other, Operand::Nil) {
                    return Err(self.error(command.at, "nil", "nil is not a command"));
                }
                self.operand(other, dot)
            }
        }
    }

    fn short_circuit(
        &mut self,
        all: bool,
        rest: &[Operand],
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Value, String> {
        let mut value = Value::Missing;
        for operand in rest {
            value = self.operand(operand, dot)?;
            if value.is_true() != all {
                return Ok(value);
            }
        }
        Ok(last.unwrap_or(value))
    }

    fn arguments(
        &mut self,
        operands: &[Operand],
        dot: &Value,
        last: Option<Value>,
    ) -> Result<Vec<Value>, String> {
        let mut values = operands
            .iter()
            .map(|operand| self.operand(operand, dot))
            .collect::<Result<Vec<_>, _>>()?;
        values.extend(last);
        Ok(values)
    }

    fn variable(&self, name: &str) -> Value {
        self.variables
            .iter()
            .rev()
            .find(|(known, _)| known == name)
            .map_or(Value::Missing, |(_, value)| value.clone())
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        Ok(match operand {
            Operand::Dot => dot.clone(),
            Operand::Nil => Value::Nil,
            Operand::Bool(value) => Value::Bool(*value),
            Operand::Int(value) => Value::Int(*value),
            Operand::Float(value) => Value::Float(*value),
            Operand::Char(value, _) => Value::Int(i64::from(u32::from(*value))),
            Operand::Text(value, _) => Value::text(value),
            Operand::Field(names, at) => self.fields(dot.clone(), names, &[], *at, operand)?,
            Operand::Variable(name, names, at) => {
                self.fields(self.variable(name), names, &[], *at, operand)?
            }
            Operand::Pipe(pipe, names, at) => {
                let value = self.pipeline(pipe, dot)?;
                self.fields(value, names, &[], *at, operand)?
            }
            Operand::Function(name, at) => functions::call(name, &[], self.mode)
                .map_err(|message| self.error(*at, name, &message))?,
        })
    }

    fn fields(
        &self,
        mut value: Value,
        names: &[String],
        arguments: &[Value],
        at: usize,
        operand: &Operand,
    ) -> Result<Value, String> {
        for (index, name) in names.iter().enumerate() {
            let is_last = index + 1 == names.len();
            let arguments = if is_last { arguments } else { &[] };
            value = self
                .field(&value, name, arguments, is_last)
                .map_err(|message| self.error(at, &describe_operand(operand), &message))?;
        }
        if names.is_empty() && !arguments.is_empty() {
            let context = describe_operand(operand);
            let message = format!("can't give argument to non-function {context}");
            return Err(self.error(at, &context, &message));
        }
        Ok(value)
    }

    fn field(
        &self,
        value: &Value,
        name: &str,
        arguments: &[Value],
        is_last: bool,
    ) -> Result<Value, String> {
        let found = match value {
            Value::Missing => return Ok(Value::Missing),
            Value::Nil => return Err(format!("nil pointer evaluating interface {{}}.{name}")),
            Value::Map(entries) => entries
                .iter()
                .find(|(key, _)| key == name)
                .map_or(Value::Missing, |(_, value)| value.clone()),
            Value::Struct(structure) => {
                let find = |name: &str| {
                    structure
                        .fields
                        .iter()
                        .find(|(key, _)| key == name)
                        .map(|(_, value)| value.clone())
                };
                let json_name = FIELD_NAMES
                    .iter()
                    .find(|(go, _)| *go == name)
                    .map(|(_, json)| *json);
                match find(name).or_else(|| json_name.and_then(find)) {
                    Some(found) => found,
                    None if structure.is_context => {
                        return Err(format!(
                            "can't evaluate field {name} in type {}",
                            structure.type_name
                        ));
                    }
                    None => absent(name, is_last)
                        .ok_or_else(|| format!("map has no entry for key \"{name}\""))?,
                }
            }
            other => {
                return Err(format!(
                    "can't evaluate field {name} in type {}",
                    print::go_type(other)
                ));
            }
        };
        match found {
            Value::Method(method) => method(arguments),
            _ if !arguments.is_empty() => Err(format!(
                "{name} has arguments but cannot be invoked as function"
            )),
            found => Ok(found),
        }
    }
}

/// What a field holds that JSON left out because it is empty.
fn absent(name: &str, is_last: bool) -> Option<Value> {
    if EMPTY_MAPS.contains(&name) {
        return Some(Value::Map(Rc::new(Vec::new())));
    }
    if !is_last {
        return None;
    }
    if NIL_FIELDS.contains(&name) {
        Some(Value::Nil)
    } else if EMPTY_LISTS.contains(&name) {
        Some(Value::List(Rc::new(Vec::new())))
    } else if EMPTY_TEXTS.contains(&name) {
        Some(Value::text(""))
    } else {
        None
    }
}

/// An operand as it was written, for messages.
pub(super) fn describe_operand(operand: &Operand) -> String {
    let join = |head: &str, names: &[String]| {
        let mut text = head.to_owned();
        for name in names {
            text.push('.');
            text.push_str(name);
        }
        text
    };
    match operand {
        Operand::Dot => String::from("."),
        Operand::Nil => String::from("nil"),
        Operand::Bool(value) => value.to_string(),
        Operand::Int(value) => value.to_string(),
        Operand::Float(value) => print::float(*value),
        Operand::Char(_, source) | Operand::Text(_, source) => source.clone(),
        Operand::Field(names, _) => join("", names),
        Operand::Variable(name, names, _) => join(name, names),
        Operand::Function(name, _) => name.clone(),
        Operand::Pipe(pipe, names, _) => {
            let inner: Vec<String> = pipe.commands.iter().map(describe_command).collect();
            join(&format!("({})", inner.join(" | ")), names)
        }
    }
}

fn describe_command(command: &Command) -> String {
    command
        .operands
        .iter()
        .map(describe_operand)
        .collect::<Vec<_>>()
        .join(" ")
}

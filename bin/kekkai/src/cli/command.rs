//! What a command is: name, usage, flags, and the function that does it.

use std::future::Future;
use std::pin::Pin;

use super::flags::{Flag, Matches};
use super::{Cli, Failure};

/// The name by which users call the program.
pub(crate) const PROGRAM: &str = "kekkai";

/// How a command ends: its exit status, or an error to print.
pub(crate) type Outcome = Result<u8, Failure>;

/// The function behind a command.
pub(crate) type Run =
    for<'a> fn(&'a Cli, &'a Matches) -> Pin<Box<dyn Future<Output = Outcome> + 'a>>;

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

/// What a command does.
#[derive(Clone, Copy)]
pub(crate) enum Action {
    Run(Run),
    Group(&'static [&'static Command]),
    /// Docker has it; we do not, yet.
    Missing,
}

/// One command, or one group of commands.
#[derive(Clone, Copy)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) aliases: &'static [&'static str],
    /// What follows the command's name in its usage line.
    pub(crate) usage: &'static str,
    pub(crate) about: &'static str,
    /// More words for its own help; empty: `about` is all.
    pub(crate) long: &'static str,
    /// Full paths under which it is also known, as the help shows them.
    pub(crate) paths: &'static [&'static str],
    pub(crate) flags: &'static [Flag],
    pub(crate) arity: Arity,
    /// Whether flags may follow arguments.
    pub(crate) interspersed: bool,
    pub(crate) action: Action,
}

impl std::fmt::Debug for Command {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Command")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Command {
    /// A command that runs.
    pub(crate) const fn new(
        name: &'static str,
        usage: &'static str,
        about: &'static str,
        arity: Arity,
        run: Run,
    ) -> Self {
        Self {
            name,
            aliases: &[],
            usage,
            about,
            long: "",
            paths: &[],
            flags: &[],
            arity,
            interspersed: true,
            action: Action::Run(run),
        }
    }

    /// A group.
    pub(crate) const fn group(
        name: &'static str,
        about: &'static str,
        members: &'static [&'static Self],
    ) -> Self {
        Self {
            name,
            aliases: &[],
            usage: "COMMAND",
            about,
            long: "",
            paths: &[],
            flags: &[],
            arity: Arity::None,
            interspersed: false,
            action: Action::Group(members),
        }
    }

    /// A command of Docker's that is refused by name.
    pub(crate) const fn missing(name: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            usage: "",
            about: "",
            long: "",
            paths: &[],
            flags: &[],
            arity: Arity::AtLeast(0),
            interspersed: false,
            action: Action::Missing,
        }
    }

    pub(crate) const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
    pub(crate) const fn paths(mut self, paths: &'static [&'static str]) -> Self {
        self.paths = paths;
        self
    }
    pub(crate) const fn flags(mut self, flags: &'static [Flag]) -> Self {
        self.flags = flags;
        self
    }
    pub(crate) const fn long(mut self, long: &'static str) -> Self {
        self.long = long;
        self
    }
    /// Flags must stand before the arguments.
    pub(crate) const fn flags_first(mut self) -> Self {
        self.interspersed = false;
        self
    }
    pub(crate) const fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    /// Whether `word` names it.
    pub(crate) fn answers_to(&self, word: &str) -> bool {
        self.name == word || self.aliases.contains(&word)
    }

    /// The usage line for the given path; `path` has no program name.
    pub(crate) fn usage_line(&self, path: &str) -> String {
        let line = |tail: &str| {
            let tail = if tail.is_empty() {
                String::new()
            } else {
                format!(" {tail}")
            };
            format!("{PROGRAM} {path}{tail}")
        };
        self.usage
            .split('\n')
            .map(line)
            .collect::<Vec<_>>()
            .join("\n\t")
    }

    /// The words of a wrong number of arguments, if it is wrong.
    pub(crate) fn arity_error(&self, path: &str, given: usize) -> Option<String> {
        let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
        let needs = match self.arity {
            Arity::None if given > 0 => "accepts no arguments".to_owned(),
            Arity::Exactly(count) if given != count => {
                format!("requires {count} {}", plural(count))
            }
            Arity::AtLeast(count) if given < count => {
                format!("requires at least {count} {}", plural(count))
            }
            Arity::AtMost(count) if given > count => {
                format!("requires at most {count} {}", plural(count))
            }
            Arity::Between(low, high) if given < low || given > high => {
                format!(
                    "requires at least {low} and at most {high} {}",
                    plural(high)
                )
            }
            _ => return None,
        };
        let hint = if self.arity == Arity::None {
            "Run"
        } else {
            "See"
        };
        Some(format!(
            "{PROGRAM}: '{PROGRAM} {path}' {needs}\n\nUsage:  {}\n\n{hint} '{PROGRAM} {path} --help' for more information",
            self.usage_line(path)
        ))
    }
}

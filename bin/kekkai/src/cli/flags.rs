//! Flags as pflag reads them: `--name value`, `--name=value`, `-n value`, `-nvalue`, `-abc`, `--`.
//!
//! Tables are constants, so that a command line costs nothing but the reading of what was typed.

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--flag`, `--flag=false`.
    Switch,
    /// One value; the last one counts. The word is shown in the help.
    One(&'static str),
    /// Any number of values.
    Many(&'static str),
    /// Like `Many`, and each value may hold several, separated by commas.
    Strings,
}

/// Checks a value; the error text completes `invalid argument … for …: `.
pub(crate) type Check = fn(&str) -> Result<(), String>;

/// One flag.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) kind: Kind,
    /// As shown in the help, quotes included; empty for none.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    pub(crate) check: Option<Check>,
    pub(crate) hidden: bool,
}

impl Flag {
    const fn new(long: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            long,
            short: None,
            kind,
            default: "",
            help,
            check: None,
            hidden: false,
        }
    }
    pub(crate) const fn short(mut self, short: char) -> Self {
        self.short = Some(short);
        self
    }
    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }
    pub(crate) const fn check(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }
    pub(crate) const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    /// How messages name it: `"-m, --memory"`.
    fn display(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }
}

pub(crate) const fn switch(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Switch, help)
}
pub(crate) const fn text(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::One("string"), help)
}
pub(crate) const fn one(long: &'static str, word: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::One(word), help)
}
pub(crate) const fn int(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::One("int"), help).check(check_int)
}
pub(crate) const fn list(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Many("list"), help)
}
pub(crate) const fn many(long: &'static str, word: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Many(word), help)
}
pub(crate) const fn strings(long: &'static str, help: &'static str) -> Flag {
    Flag::new(long, Kind::Strings, help)
}

/// A filter flag, `name=value`.
pub(crate) const fn filter(help: &'static str) -> Flag {
    Flag::new("filter", Kind::Many("filter"), help).check(check_filter)
}

fn check_int(text: &str) -> Result<(), String> {
    let syntax = |why: &str| format!("strconv.ParseInt: parsing {text:?}: {why}");
    match text.parse::<i64>() {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(
                error.kind(),
                std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow
            ) =>
        {
            Err(syntax("value out of range"))
        }
        Err(_) => parse_prefixed(text)
            .map(|_| ())
            .ok_or_else(|| syntax("invalid syntax")),
    }
}

/// Go's base-0 integers: `0x10`, `0o17`, `017`, `0b1`.
fn parse_prefixed(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let value = if let Some(hex) = lower.strip_prefix("0x") {
        i64::from_str_radix(hex, 16).ok()?
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()?
    } else if let Some(octal) = lower
        .strip_prefix("0o")
        .or_else(|| lower.strip_prefix('0').filter(|rest| !rest.is_empty()))
    {
        i64::from_str_radix(octal, 8).ok()?
    } else {
        lower.parse().ok()?
    };
    Some(if negative { -value } else { value })
}

fn check_filter(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('=') {
        Ok(())
    } else {
        Err(String::from("bad format of filter (expected name=value)"))
    }
}

/// Reads a Go boolean.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// What was typed, sorted into flags and arguments.
#[derive(Debug, Clone)]
pub(crate) struct Matches {
    flags: &'static [Flag],
    values: Vec<(usize, String)>,
    /// Arguments that are not flags.
    pub(crate) args: Vec<String>,
    /// How many of them stood before a `--`, if there was one.
    pub(crate) dash: Option<usize>,
    /// The words of the command itself, for example `container ls`.
    pub(crate) path: String,
}

/// Why reading stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// `--help` or `-h` was among the flags.
    Help,
    /// Not understood.
    Wrong(String),
}

impl Matches {
    /// Reads `words`. With `interspersed`, flags may follow arguments.
    pub(crate) fn parse(
        flags: &'static [Flag],
        words: impl IntoIterator<Item = String>,
        interspersed: bool,
        path: String,
    ) -> Result<Self, Stop> {
        let mut matches = Self {
            flags,
            values: Vec::new(),
            args: Vec::new(),
            dash: None,
            path,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if let Some(long) = word.strip_prefix("--") {
                if long.is_empty() {
                    matches.dash = Some(matches.args.len());
                    matches.args.extend(words);
                    break;
                }
                matches.long(long, &mut words)?;
            } else if word.len() > 1 && word.starts_with('-') {
                matches.shorts(&word, &mut words)?;
            } else {
                matches.args.push(word);
                if !interspersed {
                    matches.args.extend(words);
                    break;
                }
            }
        }
        Ok(matches)
    }

    fn long(&mut self, body: &str, words: &mut impl Iterator<Item = String>) -> Result<(), Stop> {
        let (name, inline) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Stop::Wrong(format!("bad flag syntax: --{body}")));
        }
        let Some(at) = self.flags.iter().position(|flag| flag.long == name) else {
            if name == "help" {
                return Err(Stop::Help);
            }
            return Err(Stop::Wrong(format!("unknown flag: --{name}")));
        };
        if name == "help"
            && inline
                .as_deref()
                .is_none_or(|value| parse_bool(value) == Some(true))
        {
            return Err(Stop::Help);
        }
        let value = match (self.flags[at].kind, inline) {
            (_, Some(value)) => value,
            (Kind::Switch, None) => String::from("true"),
            (_, None) => words
                .next()
                .ok_or_else(|| Stop::Wrong(format!("flag needs an argument: --{name}")))?,
        };
        self.take(at, value)
    }

    fn shorts(&mut self, word: &str, words: &mut impl Iterator<Item = String>) -> Result<(), Stop> {
        let mut rest = &word[1..];
        while let Some(c) = rest.chars().next() {
            let after = &rest[c.len_utf8()..];
            let Some(at) = self.flags.iter().position(|flag| flag.short == Some(c)) else {
                if c == 'h' {
                    return Err(Stop::Help);
                }
                return Err(Stop::Wrong(format!(
                    "unknown shorthand flag: '{c}' in -{rest}"
                )));
            };
            if let Some(value) = after.strip_prefix('=') {
                return self.take(at, value.to_owned());
            }
            if self.flags[at].kind == Kind::Switch {
                self.take(at, String::from("true"))?;
                rest = after;
                continue;
            }
            if !after.is_empty() {
                return self.take(at, after.to_owned());
            }
            let value = words
                .next()
                .ok_or_else(|| Stop::Wrong(format!("flag needs an argument: '{c}' in -{rest}")))?;
            return self.take(at, value);
        }
        Ok(())
    }

    fn take(&mut self, at: usize, value: String) -> Result<(), Stop> {
        let flag = &self.flags[at];
        let invalid = |why: String| {
            Stop::Wrong(format!(
                "invalid argument {value:?} for \"{}\" flag: {why}",
                flag.display()
            ))
        };
        if flag.kind == Kind::Switch && parse_bool(&value).is_none() {
            return Err(invalid(format!(
                "strconv.ParseBool: parsing {value:?}: invalid syntax"
            )));
        }
        if let Some(check) = flag.check {
            check(&value).map_err(invalid)?;
        }
        if flag.kind == Kind::Strings {
            self.values
                .extend(value.split(',').map(|part| (at, part.to_owned())));
        } else {
            self.values.push((at, value));
        }
        Ok(())
    }

    fn flag(&self, name: &str) -> Option<usize> {
        let at = self.flags.iter().position(|flag| flag.long == name);
        debug_assert!(at.is_some(), "no flag --{name} for {}", self.path);
        at
    }

    /// Whether this command has the flag at all.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.flags.iter().any(|flag| flag.long == name)
    }

    /// Whether the flag was typed.
    pub(crate) fn is_set(&self, name: &str) -> bool {
        let at = self.flag(name);
        self.values.iter().any(|(index, _)| Some(*index) == at)
    }

    /// A switch.
    pub(crate) fn on(&self, name: &str) -> bool {
        let Some(at) = self.flag(name) else {
            return false;
        };
        match self.values.iter().rev().find(|(index, _)| *index == at) {
            Some((_, value)) => parse_bool(value).unwrap_or(false),
            None => self.flags[at].default == "true",
        }
    }

    /// A value: the last one typed, else the default without its quotes.
    pub(crate) fn text(&self, name: &str) -> &str {
        let Some(at) = self.flag(name) else { return "" };
        match self.values.iter().rev().find(|(index, _)| *index == at) {
            Some((_, value)) => value,
            None => self.flags[at].default.trim_matches('"'),
        }
    }

    /// All values.
    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let at = self.flag(name);
        self.values
            .iter()
            .filter(|(index, _)| Some(*index) == at)
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// An integer, checked while reading.
    pub(crate) fn int(&self, name: &str) -> i64 {
        let text = self.text(name);
        text.parse()
            .ok()
            .or_else(|| parse_prefixed(text))
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] = &[
        switch("rm", ""),
        switch("tty", "").short('t'),
        switch("interactive", "").short('i'),
        switch("sig-proxy", "").default("true"),
        list("env", "").short('e'),
        int("time", "").short('T'),
        text("pull", "").default("\"missing\""),
        filter("").short('f'),
    ];

    fn parse(words: &[&str], interspersed: bool) -> Result<Matches, Stop> {
        Matches::parse(
            FLAGS,
            words.iter().map(|word| (*word).to_owned()),
            interspersed,
            String::from("x"),
        )
    }

    #[test]
    fn forms() {
        let matches = parse(
            &[
                "-it",
                "--rm",
                "-eA=1",
                "-e",
                "B=2",
                "-e=C=3",
                "--env=D",
                "--sig-proxy=false",
                "img",
                "-x",
                "--y",
            ],
            false,
        )
        .unwrap();
        assert!(
            matches.on("rm")
                && matches.on("tty")
                && matches.on("interactive")
                && !matches.on("sig-proxy")
        );
        assert_eq!(matches.list("env"), ["A=1", "B=2", "C=3", "D"]);
        assert_eq!(matches.args, ["img", "-x", "--y"]);
        assert_eq!(matches.text("pull"), "missing");
        let matches = parse(&["a", "-T", "5", "--", "-x"], true).unwrap();
        assert_eq!(
            (matches.int("time"), matches.args.as_slice(), matches.dash),
            (5, &["a".into(), "-x".into()][..], Some(1))
        );
    }

    #[test]
    fn words_of_errors() {
        let wrong = |words: &[&str]| match parse(words, true) {
            Err(Stop::Wrong(text)) => text,
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong(&["--foo"]), "unknown flag: --foo");
        assert_eq!(wrong(&["-tX"]), "unknown shorthand flag: 'X' in -X");
        assert_eq!(wrong(&["--pull"]), "flag needs an argument: --pull");
        assert_eq!(wrong(&["-e"]), "flag needs an argument: 'e' in -e");
        assert_eq!(
            wrong(&["-T", "x"]),
            "invalid argument \"x\" for \"-T, --time\" flag: strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert_eq!(
            wrong(&["-f", "x"]),
            "invalid argument \"x\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"
        );
        assert_eq!(parse(&["-h"], true).unwrap_err(), Stop::Help);
    }
}

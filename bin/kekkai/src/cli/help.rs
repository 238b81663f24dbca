//! The help texts, laid out as users of Docker's command line know them.

use std::fmt::Write as _;

use super::command::{Action, Command, PROGRAM};
use super::flags::{Flag, Kind};
use super::tree;

/// Width without a terminal.
const DEFAULT_WIDTH: usize = 80;

fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdin()).ok();
    size.map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(DEFAULT_WIDTH)
}

/// The help of one command.
pub(crate) fn of_command(command: &Command, path: &str) -> String {
    let mut text = format!("Usage:  {}\n", command.usage_line(path));
    let about = if command.long.is_empty() {
        command.about
    } else {
        command.long
    };
    let _ = write!(text, "\n{about}\n");
    if !command.paths.is_empty() {
        let paths: Vec<String> = command
            .paths
            .iter()
            .map(|path| format!("{PROGRAM} {path}"))
            .collect();
        let _ = write!(text, "\nAliases:\n  {}\n", paths.join(", "));
    }
    if let Action::Group(members) = command.action {
        text.push_str("\nCommands:\n");
        push_commands(&mut text, members.iter().copied());
    }
    if command.flags.iter().any(|flag| !flag.hidden) {
        let _ = write!(text, "\nOptions:\n{}", flag_lines(command.flags, width()));
    }
    if matches!(command.action, Action::Group(_)) {
        let _ = write!(
            text,
            "\nRun '{PROGRAM} {path} COMMAND --help' for more information on a command.\n"
        );
    }
    text
}

/// The help of the program itself.
pub(crate) fn of_program() -> String {
    let mut text = format!(
        "Usage:  {PROGRAM} [OPTIONS] COMMAND\n\nA container engine: run, build and ship programs in boundaries\n"
    );
    for (title, names) in [
        ("Common Commands", tree::COMMON),
        ("Management Commands", tree::MANAGEMENT),
    ] {
        let _ = write!(text, "\n{title}:\n");
        push_commands(&mut text, names.iter().copied());
    }
    text.push_str("\nCommands:\n");
    push_commands(&mut text, tree::OTHER.iter().copied());
    let _ = write!(
        text,
        "\nGlobal Options:\n{}",
        flag_lines(tree::GLOBAL_FLAGS, width())
    );
    let _ = write!(
        text,
        "\nRun '{PROGRAM} COMMAND --help' for more information on a command.\n"
    );
    text
}

fn push_commands<'a>(text: &mut String, commands: impl Iterator<Item = &'a Command> + Clone) {
    let shown = commands.filter(|command| !command.about.is_empty());
    let longest = shown
        .clone()
        .map(|command| command.name.len())
        .max()
        .unwrap_or(0)
        .max(11);
    let mut rows: Vec<&Command> = shown.collect();
    if !rows
        .first()
        .is_some_and(|first| first.name == "run" && rows.len() < 20)
    {
        rows.sort_by_key(|command| command.name);
    }
    for command in rows {
        let _ = writeln!(
            text,
            "  {:longest$} {}",
            command.name,
            command.about.lines().next().unwrap_or("")
        );
    }
}

/// All flags, aligned and wrapped.
pub(crate) fn flag_lines(flags: &[Flag], width: usize) -> String {
    let heads: Vec<(String, &Flag)> = {
        let mut sorted: Vec<&Flag> = flags.iter().filter(|flag| !flag.hidden).collect();
        sorted.sort_by_key(|flag| flag.long);
        sorted.into_iter().map(|flag| (head(flag), flag)).collect()
    };
    let column = heads.iter().map(|(head, _)| head.len()).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (head, flag) in heads {
        let mut help = flag.help.to_owned();
        if !flag.default.is_empty() {
            let _ = write!(help, " (default {})", flag.default);
        }
        let _ = writeln!(text, "{head:column$}{}", wrap(column, width - 1, &help));
    }
    text
}

fn head(flag: &Flag) -> String {
    let short = flag
        .short
        .map_or_else(|| String::from("      "), |short| format!("  -{short}, "));
    let kind = match flag.kind {
        Kind::Switch => String::new(),
        Kind::One(word) | Kind::Many(word) => format!(" {word}"),
        Kind::Strings => String::from(" strings"),
    };
    format!("{short}--{}{kind}", flag.long)
}

/// Wraps `text` between `indent` and `width`. A last piece of up to five characters more is left on its line.
fn wrap(indent: usize, width: usize, text: &str) -> String {
    const SLOP: usize = 5;
    const NARROWEST: usize = 24;
    let mut indent = indent;
    let mut out = String::new();
    if width.saturating_sub(indent) < NARROWEST {
        indent = 16;
        out = format!("\n{}", " ".repeat(indent));
        if width.saturating_sub(indent) < NARROWEST {
            return text.to_owned();
        }
    }
    let room = width - indent - SLOP;
    let newline = format!("\n{}", " ".repeat(indent));
    let mut rest = text;
    let mut first = true;
    while !rest.is_empty() || first {
        let (line, after) = split_line(room, SLOP, rest);
        if !first {
            out.push_str(&newline);
        }
        out.push_str(&line.replace('\n', &newline));
        rest = after;
        first = false;
    }
    out
}

fn split_line(room: usize, slop: usize, text: &str) -> (&str, &str) {
    if room + slop > text.len() {
        return (text, "");
    }
    let mut end = room;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let head = &text[..end];
    match (head.rfind([' ', '\t', '\n']), head.rfind('\n')) {
        (None | Some(0), _) => (text, ""),
        (Some(blank), Some(newline)) if newline > 0 && newline < blank => {
            (&text[..newline], &text[newline + 1..])
        }
        (Some(blank), _) => (&text[..blank], &text[blank + 1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::flags::{switch, text};

    #[test]
    fn layout_is_cobra_s() {
        const FLAGS: &[Flag] = &[
            text(
                "detach-keys",
                "Override the key sequence for detaching a container",
            ),
            switch("no-stdin", "Do not attach STDIN"),
            switch("sig-proxy", "Proxy all received signals to the process").default("true"),
        ];
        // The docker CLI prints these three flags of `attach` in exactly this shape.
        let expected = "      --detach-keys string   Override the key sequence for detaching a\n                             container\n      --no-stdin             Do not attach STDIN\n      --sig-proxy            Proxy all received signals to the process\n                             (default true)\n";
        assert_eq!(flag_lines(FLAGS, 80), expected);
    }
}

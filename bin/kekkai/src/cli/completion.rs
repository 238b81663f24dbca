//! Shell completion: three small scripts that ask `kekkai __complete` for words, so that they never grow old.

use kekkai_client::{Query, Request};
use serde_json::Value as Json;

use super::command::{Action, Command, Outcome};
use super::flags::{Kind, Matches};
use super::{Cli, Failure, output, tree};

const BASH: &str = r#"# bash completion of kekkai
_kekkai() {
    local IFS=$'\n' word="${COMP_WORDS[COMP_CWORD]}"
    COMPREPLY=()
    local line
    while read -r line; do
        COMPREPLY+=("${line%%$'\t'*}")
    done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        compopt -o default 2>/dev/null
    fi
}
complete -F _kekkai kekkai
"#;

const ZSH: &str = r#"#compdef kekkai
_kekkai() {
    local -a lines entries
    lines=("${(@f)$(${words[1]} __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    local line
    for line in $lines; do
        [[ -z $line ]] && continue
        entries+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( ${#entries} )); then
        _describe 'kekkai' entries
    else
        _files
    fi
}
if [[ $funcstack[1] == _kekkai ]]; then
    _kekkai "$@"
else
    compdef _kekkai kekkai
fi
"#;

const FISH: &str = r#"# fish completion of kekkai
function __kekkai_complete
    set -l words (commandline -opc) (commandline -ct)
    $words[1] __complete -- $words[2..-1] 2>/dev/null
end
complete -c kekkai -f -a '(__kekkai_complete)'
complete -c kekkai -n 'test -z (__kekkai_complete | string collect; or echo)' -F
"#;

/// Prints a shell's script.
pub(super) async fn script(_: &Cli, matches: &Matches) -> Outcome {
    let script = match matches.args[0].as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        other => {
            return Err(Failure::new(format!(
                "unknown shell {other:?}: must be one of \"bash\", \"zsh\" or \"fish\""
            )));
        }
    };
    output::print(script)?;
    Ok(0)
}

/// What the word under the cursor may be.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Words(Vec<(String, String)>),
    Containers { all: bool },
    Images,
    Volumes,
    Networks,
    Nothing,
}

/// Prints the words that fit, one a line, each with a tab and what it is.
pub(super) async fn complete(cli: &Cli, matches: &Matches) -> Outcome {
    let Some((current, before)) = matches.args.split_last() else {
        return Ok(0);
    };
    let words = match wanted(before, current) {
        Wanted::Words(words) => words,
        Wanted::Nothing => Vec::new(),
        Wanted::Containers { all } => {
            let request =
                Request::get("/containers/json").query(Query::new().with_flag("all", all));
            names(cli, request, |answer| {
                let containers = answer.as_array().into_iter().flatten();
                containers
                    .filter_map(|container| {
                        let name = container["Names"][0]
                            .as_str()?
                            .trim_start_matches('/')
                            .to_owned();
                        Some((name, container["Image"].as_str().unwrap_or("").to_owned()))
                    })
                    .collect()
            })
            .await
        }
        Wanted::Images => {
            names(cli, Request::get("/images/json"), |answer| {
                let images = answer.as_array().into_iter().flatten();
                let tags = images
                    .filter_map(|image| image["RepoTags"].as_array())
                    .flatten()
                    .filter_map(Json::as_str);
                tags.filter(|tag| !tag.starts_with("<none>"))
                    .map(|tag| (tag.to_owned(), String::new()))
                    .collect()
            })
            .await
        }
        Wanted::Volumes => {
            names(cli, Request::get("/volumes"), |answer| {
                let volumes = answer["Volumes"].as_array().into_iter().flatten();
                volumes
                    .filter_map(|volume| Some((volume["Name"].as_str()?.to_owned(), String::new())))
                    .collect()
            })
            .await
        }
        Wanted::Networks => {
            names(cli, Request::get("/networks"), |answer| {
                let networks = answer.as_array().into_iter().flatten();
                networks
                    .filter_map(|network| {
                        Some((network["Name"].as_str()?.to_owned(), String::new()))
                    })
                    .collect()
            })
            .await
        }
    };
    let mut text = String::new();
    for (word, about) in words
        .iter()
        .filter(|(word, _)| word.starts_with(current.as_str()))
    {
        text.push_str(&format!("{word}\t{about}\n"));
    }
    output::print(&text)?;
    Ok(0)
}

/// Names from the daemon; none when it does not answer. Completing never starts a daemon.
async fn names(
    cli: &Cli,
    request: Request,
    read: impl Fn(&Json) -> Vec<(String, String)>,
) -> Vec<(String, String)> {
    let Ok(client) = cli.client_unconnected() else {
        return Vec::new();
    };
    let answer = async { client.send(request).await?.json::<Json>().await };
    answer.await.map(|answer| read(&answer)).unwrap_or_default()
}

fn command_words(commands: impl Iterator<Item = &'static Command>) -> Wanted {
    let words = commands.filter(|command| !command.about.is_empty());
    Wanted::Words(
        words
            .map(|command| (command.name.to_owned(), command.about.to_owned()))
            .collect(),
    )
}

fn wanted(before: &[String], current: &str) -> Wanted {
    let mut words = before.iter().peekable();
    // Flags before the command.
    while let Some(word) = words.next_if(|word| word.starts_with('-')) {
        let flag = tree::GLOBAL_FLAGS
            .iter()
            .find(|flag| word.strip_prefix("--") == Some(flag.long) || short_is(flag, word));
        if flag.is_some_and(|flag| flag.kind != Kind::Switch) && words.next().is_none() {
            return Wanted::Nothing;
        }
    }
    let Some(first) = words.next() else {
        if current.starts_with('-') {
            return flag_words(tree::GLOBAL_FLAGS);
        }
        return command_words(tree::top());
    };
    let Some(mut command) = tree::top().find(|command| command.answers_to(first)) else {
        return Wanted::Nothing;
    };
    while let Action::Group(members) = command.action {
        match words.next() {
            None => return command_words(members.iter().copied()),
            Some(word) => match members.iter().find(|member| member.answers_to(word)) {
                Some(member) => command = member,
                None => return Wanted::Nothing,
            },
        }
    }
    let mut arguments = 0;
    while let Some(word) = words.next() {
        if word.starts_with('-') && word.len() > 1 && (arguments == 0 || command.interspersed) {
            let flag = command
                .flags
                .iter()
                .find(|flag| word.strip_prefix("--") == Some(flag.long) || short_is(flag, word));
            if let Some(flag) = flag
                && flag.kind != Kind::Switch
                && words.next().is_none()
            {
                return flag_value(flag.long);
            }
            continue;
        }
        arguments += 1;
    }
    if current.starts_with('-') && (arguments == 0 || command.interspersed) {
        return flag_words(command.flags);
    }
    argument_of(command, arguments)
}

fn short_is(flag: &super::flags::Flag, word: &str) -> bool {
    // In `-it`, the last letter takes the value.
    !word.starts_with("--") && flag.short.is_some() && word.chars().next_back() == flag.short
}

fn flag_words(flags: &'static [super::flags::Flag]) -> Wanted {
    let shown = flags.iter().filter(|flag| !flag.hidden);
    Wanted::Words(
        shown
            .map(|flag| {
                (
                    format!("--{}", flag.long),
                    flag.help.lines().next().unwrap_or("").to_owned(),
                )
            })
            .collect(),
    )
}

fn flag_value(flag: &str) -> Wanted {
    let fixed = |words: &[&str]| {
        Wanted::Words(
            words
                .iter()
                .map(|word| ((*word).to_owned(), String::new()))
                .collect(),
        )
    };
    match flag {
        "network" | "net" => Wanted::Networks,
        "volumes-from" | "link" => Wanted::Containers { all: true },
        "pull" => fixed(&["always", "missing", "never"]),
        "restart" => fixed(&["no", "always", "on-failure", "unless-stopped"]),
        "log-driver" => fixed(&["local", "json-file", "none"]),
        "signal" | "stop-signal" => fixed(&[
            "SIGTERM", "SIGKILL", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2",
        ]),
        _ => Wanted::Nothing,
    }
}

fn argument_of(command: &Command, position: usize) -> Wanted {
    let several = matches!(command.arity, super::command::Arity::AtLeast(_));
    let first = command
        .usage
        .split(' ')
        .find(|word| *word != "[OPTIONS]")
        .unwrap_or("");
    if position > 0 && (!several || matches!(command.name, "run" | "create" | "exec" | "top")) {
        return Wanted::Nothing;
    }
    match first
        .trim_start_matches('[')
        .split([':', '[', ']', '|', '.'])
        .next()
        .unwrap_or("")
    {
        "CONTAINER" => Wanted::Containers {
            all: !matches!(
                command.name,
                "exec" | "kill" | "pause" | "attach" | "top" | "stop"
            ),
        },
        "IMAGE" | "REPOSITORY" | "SOURCE_IMAGE" => Wanted::Images,
        "VOLUME" if command.name != "create" => Wanted::Volumes,
        "NETWORK" => Wanted::Networks,
        "NAME" if command.name == "inspect" => Wanted::Containers { all: true },
        "bash" => Wanted::Words(
            ["bash", "zsh", "fish"]
                .iter()
                .map(|shell| ((*shell).to_owned(), String::new()))
                .collect(),
        ),
        _ => Wanted::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(before: &[&str], current: &str) -> Wanted {
        let before: Vec<String> = before.iter().map(|word| (*word).to_owned()).collect();
        wanted(&before, current)
    }

    #[test]
    fn what_comes_next() {
        assert!(
            matches!(ask(&[], "r"), Wanted::Words(words) if words.iter().any(|(word, _)| word == "run"))
        );
        assert!(
            matches!(ask(&["container"], ""), Wanted::Words(words) if words.iter().any(|(word, _)| word == "ls"))
        );
        assert_eq!(ask(&["run", "-it", "--network"], ""), Wanted::Networks);
        assert_eq!(ask(&["run", "--rm"], ""), Wanted::Images);
        assert_eq!(ask(&["run", "--rm", "alpine"], ""), Wanted::Nothing);
        assert_eq!(
            ask(&["-H", "unix:///x", "rm", "a"], ""),
            Wanted::Containers { all: true }
        );
        assert!(
            matches!(ask(&["ps"], "--"), Wanted::Words(words) if words.iter().any(|(word, _)| word == "--no-trunc"))
        );
        assert_eq!(ask(&["volume", "rm"], ""), Wanted::Volumes);
    }
}

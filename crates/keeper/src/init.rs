//! `docker-init`: the small first process of containers started with `--init`.
//!
//! It starts the command, passes every signal on to it, reaps whatever is orphaned, and ends with the command's status
//! (128 + n for signal n). Command line as Docker uses tini: `docker-init [-g] [-v] [-s] [-w] [--] COMMAND [ARG…]`.
//!
//! What must stay true: it is single-threaded, holds every signal back and takes them one by one, and allocates nothing
//! once the command runs.

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;

use kekkai_sys::clone::{CloneFlags, spawn_copied};
use kekkai_sys::process::{CStringArray, execute, reap_any};
use kekkai_sys::{Errno, signal};
use rustix::process::{Pid, kill_process_group};

const SIGCHLD: i32 = 17;

struct Options {
    /// Signals go to the command's process group, not to the command alone.
    group: bool,
    command: Vec<OsString>,
}

fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut options = Options {
        group: false,
        command: Vec::new(),
    };
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.peek() {
        match argument.as_bytes() {
            b"--" => {
                arguments.next();
                break;
            }
            b"-g" => options.group = true,
            // Being a subreaper, being told of reaped zombies, and verbosity: nothing to do as pid 1.
            b"-s" | b"-v" | b"-vv" | b"-vvv" | b"-w" => {}
            [b'-', ..] => return Err(format!("unknown option {}", argument.to_string_lossy())),
            _ => break,
        }
        arguments.next();
    }
    options.command = arguments.collect();
    if options.command.is_empty() {
        Err("no command".to_owned())
    } else {
        Ok(options)
    }
}

/// The program `docker-init`.
pub fn run() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("docker-init: {message}\nusage: docker-init [-g] [--] COMMAND [ARG...]");
            return ExitCode::FAILURE;
        }
    };
    match supervise(&options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("docker-init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(options: &Options) -> Result<u8, Errno> {
    let strings = |texts: Vec<OsString>| {
        let texts = texts
            .into_iter()
            .map(|text| CString::new(text.into_vec()).map_err(|_| Errno::INVAL));
        texts.collect::<Result<Vec<_>, _>>().map(CStringArray::new)
    };
    let arguments = strings(options.command.clone())?;
    let environment = strings(
        std::env::vars_os()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            })
            .collect(),
    )?;
    let candidates = candidates(&options.command[0]);
    signal::block_all();
    let child = spawn_copied(CloneFlags::NONE, None, &mut || {
        // A process group of its own, in the terminal's foreground if there is one.
        let _ = rustix::process::setpgid(None, None);
        signal::block_all();
        let _ = rustix::termios::tcsetpgrp(std::io::stdin().as_fd(), rustix::process::getpgrp());
        signal::reset_all();
        let mut failure = Errno::NOENT;
        for candidate in &candidates {
            match execute(candidate, &arguments, &environment) {
                Errno::NOENT | Errno::NOTDIR => {}
                error => failure = error,
            }
        }
        eprintln!(
            "docker-init: {}: {failure}",
            options.command[0].to_string_lossy()
        );
        if failure == Errno::NOENT { 127 } else { 126 }
    })?;
    let group = Pid::from_raw(child.pid);
    loop {
        while let Ok(Some((pid, status))) = reap_any() {
            if pid == child.pid {
                let code = kekkai_types::ExitStatus::from_wait_status(status).code();
                return Ok(u8::try_from(code).unwrap_or(255));
            }
        }
        let Ok(Some(info)) = signal::wait(None) else {
            continue;
        };
        if info.signal == SIGCHLD {
            continue;
        }
        match group
            .filter(|_| options.group)
            .zip(rustix::process::Signal::from_named_raw(info.signal))
        {
            Some((group, signal)) => {
                let _ = kill_process_group(group, signal);
            }
            None => {
                let _ = kekkai_sys::pidfd::send_signal(child.pidfd.as_fd(), info.signal);
            }
        }
    }
}

/// Where the command may be: itself if it names a path, else in each directory of `PATH`.
fn candidates(command: &OsString) -> Vec<CString> {
    let c_string = |bytes: Vec<u8>| CString::new(bytes).ok();
    if command.as_bytes().contains(&b'/') {
        return c_string(command.clone().into_vec()).into_iter().collect();
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/bin:/usr/bin".into());
    std::env::split_paths(&path)
        .filter_map(|directory| c_string(directory.join(command).into_os_string().into_vec()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arguments: &[&str]) -> Result<(bool, Vec<String>), String> {
        let options = parse(arguments.iter().map(OsString::from))?;
        Ok((
            options.group,
            options
                .command
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect(),
        ))
    }

    #[test]
    fn command_lines() {
        let words = |words: &[&str]| {
            words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            of(&["--", "sh", "-c", "x"]),
            Ok((false, words(&["sh", "-c", "x"])))
        );
        assert_eq!(of(&["-g", "-s", "--", "-x"]), Ok((true, words(&["-x"]))));
        assert_eq!(of(&["true", "--"]), Ok((false, words(&["true", "--"]))));
        assert!(of(&["--"]).is_err());
        assert!(of(&["-z", "x"]).is_err());
    }
}

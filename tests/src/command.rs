//! Runs a command line with a deadline and holds what came of it; the assertions say the command when they fail.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Out {
    /// The command as typed.
    pub command: String,
    /// Its exit code; 128+n when a signal ended it, -1 when its deadline did.
    pub code: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

/// Splits a command line like a shell, without expanding anything: quotes, backslashes, white space.
pub fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let w = word.get_or_insert_default();
                for q in chars.by_ref().take_while(|q| *q != '\'') {
                    w.push(q);
                }
            }
            '"' => {
                let w = word.get_or_insert_default();
                while let Some(q) = chars.next() {
                    match q {
                        '"' => break,
                        '\\' => w.extend(chars.next()),
                        q => w.push(q),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A command that is running; its streams are read all the while.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub child: Child,
    command: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    started: Instant,
}

fn drain(stream: Option<impl Read + Send + 'static>) -> Option<JoinHandle<Vec<u8>>> {
    let mut stream = stream?;
    Some(std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error still counts.
        drop(stream.read_to_end(&mut bytes));
        bytes
    }))
}

impl Running {
    /// Starts the command; `stdin` None gives it `/dev/null`.
    pub fn start(mut command: Command, words: String, stdin: Option<&[u8]>) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if stdin.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        let started = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("spawn of `{words}`: {e}"));
        if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
            let bytes = bytes.to_vec();
            // A child that does not read its input is not an error of this thread.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        Self {
            child,
            command: words,
            stdout,
            stderr,
            started,
        }
    }

    /// Starts it with a stdin pipe that the caller holds in `self.child.stdin`.
    pub fn start_piped(mut command: Command, words: String) -> Self {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .stdin(Stdio::piped());
        let started = Instant::now();
        let mut child = command
            .spawn()
            .unwrap_or_else(|e| panic!("spawn of `{words}`: {e}"));
        let (stdout, stderr) = (drain(child.stdout.take()), drain(child.stderr.take()));
        Self {
            child,
            command: words,
            stdout,
            stderr,
            started,
        }
    }

    /// Sends the command (not the container) a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("the command still runs");
    }

    /// Waits until it ends or the deadline passes; then it is killed and `code` is -1.
    pub fn finish(mut self, deadline: Duration) -> Out {
        use std::os::unix::process::ExitStatusExt;
        let until = Instant::now() + deadline;
        let mut pause = Duration::from_micros(500);
        let code = loop {
            match self.child.try_wait().expect("our own child") {
                Some(status) => {
                    break status
                        .code()
                        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
                }
                None if Instant::now() > until => {
                    drop(self.child.kill());
                    drop(self.child.wait());
                    break -1;
                }
                None => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        };
        let took = self.started.elapsed();
        let text = |handle: Option<JoinHandle<Vec<u8>>>| {
            let bytes = handle
                .map(|h| h.join().unwrap_or_default())
                .unwrap_or_default();
            String::from_utf8(bytes)
                .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
        };
        let (stdout, stderr) = (text(self.stdout.take()), text(self.stderr.take()));
        Out {
            command: self.command,
            code,
            stdout,
            stderr,
            took,
        }
    }
}

impl Out {
    fn fail(&self, wanted: &str) -> ! {
        let mut text = format!(
            "`{}`: wanted {wanted}\n  got exit code {}",
            self.command, self.code
        );
        let cut = |s: &str| {
            if s.len() > 1500 {
                format!("{}…", String::from_utf8_lossy(&s.as_bytes()[..1500]))
            } else {
                s.to_owned()
            }
        };
        write!(
            text,
            "\n  stdout: {:?}\n  stderr: {:?}",
            cut(&self.stdout),
            cut(&self.stderr)
        )
        .expect("memory");
        panic!("{text}");
    }

    /// The exit code is this.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        if self.code != code {
            self.fail(&format!("exit code {code}"));
        }
        self
    }

    /// The exit code is 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// The exit code is not 0.
    pub fn fails(self) -> Self {
        if self.code == 0 {
            self.fail("a failure");
        }
        self
    }

    /// Standard output is exactly this.
    pub fn out(self, text: &str) -> Self {
        if self.stdout != text {
            self.fail(&format!("stdout {text:?}"));
        }
        self
    }

    /// Standard error is exactly this.
    pub fn err(self, text: &str) -> Self {
        if self.stderr != text {
            self.fail(&format!("stderr {text:?}"));
        }
        self
    }

    /// Standard output holds this.
    pub fn out_has(self, text: &str) -> Self {
        if !self.stdout.contains(text) {
            self.fail(&format!("stdout with {text:?}"));
        }
        self
    }

    /// Standard output does not hold this.
    pub fn out_lacks(self, text: &str) -> Self {
        if self.stdout.contains(text) {
            self.fail(&format!("stdout without {text:?}"));
        }
        self
    }

    /// Standard error holds this, letter case aside: daemons and command lines differ in capitals.
    pub fn err_has(self, text: &str) -> Self {
        if !self.stderr.to_lowercase().contains(&text.to_lowercase()) {
            self.fail(&format!("stderr with {text:?}"));
        }
        self
    }

    /// Standard error holds one of these, letter case aside.
    pub fn err_has_one(self, texts: &[&str]) -> Self {
        let stderr = self.stderr.to_lowercase();
        if !texts.iter().any(|t| stderr.contains(&t.to_lowercase())) {
            self.fail(&format!("stderr with one of {texts:?}"));
        }
        self
    }

    /// A condition on all of it, named for the message.
    pub fn check(self, what: &str, condition: impl FnOnce(&Self) -> bool) -> Self {
        if !condition(&self) {
            self.fail(what);
        }
        self
    }

    /// Standard output without white space at its ends.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Standard output's lines.
    pub fn lines(&self) -> Vec<&str> {
        self.stdout.lines().collect()
    }

    /// Standard output as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| self.fail(&format!("JSON ({e})")))
    }
}

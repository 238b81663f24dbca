//! The tour of README.md, played in a pseudo-terminal as a newcomer would: the real shell, the real `kekkai` in PATH,
//! no daemon running before the first command, no file prepared.
//!
//! Isolated from the machine's own Kekkai by a mount namespace in which `/var/lib/kekkai`, `/run/kekkai` and
//! `/etc/kekkai` are tmpfs; the images come from the suite's registry, named as a mirror in `/etc/kekkai/daemon.json`.

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use kekkai_tests::daemon::binary;
use kekkai_tests::fixture::Fixtures;
use kekkai_tests::leftovers;
use kekkai_tests::pty::Pty;
use kekkai_tests::registry::Registry;
use libtest_mimic::{Arguments, Failed, Trial};

const PROMPT: &str = "newcomer$ ";

/// A shell on a terminal in the newcomer's machine.
struct Tour {
    pty: Pty,
}

impl Tour {
    /// Types a line, expects these texts in order, then the prompt; gives what stood before the prompt.
    fn step(&mut self, line: &str, expected: &[&str]) -> String {
        self.type_line(line);
        for text in expected {
            self.pty.expect(text);
        }
        self.pty.expect(PROMPT)
    }

    /// Types a line and waits until the terminal has echoed it.
    fn type_line(&mut self, line: &str) {
        self.pty.send(&format!("{line}\n"));
        // The echo of a long line is wrapped by the shell's editor, so only its beginning is looked for.
        self.pty.expect(&line[..line.len().min(20)]);
        self.pty.expect("\n");
    }

    /// A line's whole output, without terminal's carriage returns.
    fn output(&mut self, line: &str) -> String {
        self.type_line(line);
        self.pty.expect(PROMPT).replace('\r', "")
    }
}

fn shell(registry: &Registry) -> Result<Tour, Failed> {
    let folder = binary("kekkai")?
        .parent()
        .ok_or("no folder")?
        .display()
        .to_string();
    // The bridge is the machine's: another name and range than the default, in case Kekkai is in use here.
    let config = serde_json::json!({
        "registry-mirrors": [format!("http://{}", registry.host())],
        "bridge": bridge(), "bip": format!("10.240.{}.1/24", std::process::id() % 250),
        "nft-table": table(), "cgroup-parent": cgroup(),
    });
    let script = format!(
        "set -e; mkdir -p /var/lib/kekkai /run/kekkai /etc/kekkai; \
         for d in /var/lib/kekkai /run/kekkai /etc/kekkai /root; do mount -t tmpfs kekkai-tour $d; done; \
         printf '%s' '{config}' > /etc/kekkai/daemon.json; \
         export HOME=/root PATH={folder}:$PATH TERM=xterm COLUMNS=200; cd /root; \
         exec sh -i"
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", &script]);
    command
        .env("PS1", PROMPT)
        .env_remove("DOCKER_HOST")
        .env_remove("KEKKAI_HOST")
        .env_remove("ENV");
    let mut pty = Pty::start(&command, "the tour's shell", 50, 200)?;
    pty.expect(PROMPT);
    Ok(Tour { pty })
}

fn bridge() -> String {
    format!("kkt{}", std::process::id())
}
fn table() -> String {
    format!("kekkai_test_tour_{}", std::process::id())
}
fn cgroup() -> String {
    format!("kekkai-test-tour-{}", std::process::id())
}

/// A 12-digit id somewhere in the text.
fn short_id(text: &str) -> String {
    let word = |w: &&str| w.len() == 12 && w.bytes().all(|b| b.is_ascii_hexdigit());
    text.split_whitespace()
        .find(word)
        .unwrap_or_else(|| panic!("no id in {text:?}"))
        .to_owned()
}

fn play(tour: &mut Tour, real: bool) {
    // The first command of all: no daemon, no image, no network needed.
    tour.step("kekkai version --format '{{.Client.Version}}'", &[]);
    tour.step(
        "kekkai run hello-world",
        &["Unable to find image 'hello-world:latest' locally", "Hello"],
    );
    tour.step(
        "kekkai run alpine /bin/echo 'hello world'",
        &[
            "Unable to find image 'alpine:latest' locally",
            "Pull complete",
            "Status: Downloaded newer image for alpine:latest",
            "hello world",
        ],
    );
    tour.step(
        "kekkai run alpine /bin/echo 'hello world'",
        &["hello world"],
    );

    tour.pty.send("kekkai run -it alpine sh\n");
    tour.pty.expect("# ");
    tour.pty.send("cat /etc/hostname; exit\n");
    tour.pty.expect(PROMPT);

    // -dit, ps, prefixes, attach.
    let id = tour.output("kekkai run -dit --name tourist alpine sh");
    let id = id.trim().lines().last().unwrap_or_default().to_owned();
    assert_eq!(id.len(), 64, "an id: {id:?}");
    let ps = tour.output("kekkai ps");
    assert!(
        ps.contains("CONTAINER ID") && ps.contains("tourist") && ps.contains(&id[..12]),
        "{ps}"
    );
    tour.pty.send(&format!("kekkai attach {}\n", &id[..5]));
    std::thread::sleep(Duration::from_millis(500));
    tour.pty.send("\n");
    tour.pty.expect("# ");
    tour.pty.send("echo $((20+22))\n");
    tour.pty.expect("42");
    tour.pty.send("\x10\x11");
    tour.pty.expect(PROMPT);
    let ps = tour.output("kekkai ps -q");
    assert!(
        ps.contains(&id[..12]),
        "the detach keys leave it running: {ps}"
    );

    tour.pty.send("kekkai exec -it tourist sh\n");
    tour.pty.expect("# ");
    tour.pty.send("exit\n");
    tour.pty.expect(PROMPT);
    assert!(
        tour.output("kekkai ps -q").contains(&id[..12]),
        "leaving exec leaves it running"
    );

    tour.pty.send("kekkai attach tourist\n");
    std::thread::sleep(Duration::from_millis(500));
    tour.pty.send("\n");
    tour.pty.expect("# ");
    tour.pty.send("exit\n");
    tour.pty.expect(PROMPT);
    let until = Instant::now() + Duration::from_secs(10);
    while tour.output("kekkai ps -q").contains(&id[..12]) {
        assert!(Instant::now() < until, "leaving with exit stops it");
    }

    assert!(tour.output("kekkai ps -a").contains("Exited (0)"));
    tour.step("kekkai start tourist", &["tourist"]);
    tour.step("kekkai stop -t 1 tourist", &["tourist"]);
    tour.step("kekkai restart -t 1 tourist", &["tourist"]);
    assert!(tour.output("kekkai ps").contains("Up "));

    let images = tour.output("kekkai image ls");
    assert!(
        images.contains("REPOSITORY")
            && images.contains("alpine")
            && images.contains("hello-world"),
        "{images}"
    );
    let alpine = tour.output("kekkai image ls alpine");
    assert!(
        alpine.contains("alpine") && !alpine.contains("hello-world"),
        "{alpine}"
    );
    let formatted = tour.output("kekkai image ls --format \"{{.ID}}: {{.Repository}}\"");
    let image_id = short_id(&formatted.replace(':', " "));
    assert!(formatted.contains(": alpine"), "{formatted}");
    assert!(
        tour.output("kekkai image inspect alpine")
            .contains("\"RepoTags\"")
    );
    assert!(
        tour.output(&format!(
            "kekkai image inspect {} --format '{{{{.Os}}}}'",
            &image_id[..6]
        ))
        .contains("linux")
    );

    let refused = tour.output("kekkai image rm alpine");
    assert!(
        refused.contains("conflict") || refused.contains("Untagged"),
        "{refused}"
    );
    let refused = tour.output("kekkai container rm tourist");
    assert!(refused.contains("container is running"), "{refused}");
    tour.step("kekkai rm -f tourist", &["tourist"]);
    tour.step("kekkai rm $(kekkai ps -aq)", &[]);
    assert_eq!(tour.output("kekkai ps -aq").trim(), "");
    tour.step(
        "kekkai image rm hello-world",
        &["Untagged: hello-world:latest", "Deleted: sha256:"],
    );
    if real {
        tour.step(
            "kekkai run --rm debian:bookworm-slim cat /etc/debian_version",
            &["12"],
        );
    }
}

fn tour() -> Result<(), Failed> {
    let mut fixtures = Fixtures::build()?;
    // Without ../shared/images the fixtures stand in under the names of the tour.
    let boxed = fixtures.image("box:latest").clone();
    let hello = fixtures.image("hello:latest").clone();
    fixtures.images.insert("alpine:latest".into(), boxed);
    fixtures.images.insert("hello-world:latest".into(), hello);
    let registry = Registry::start(&fixtures)?;
    let mut tour = shell(&registry)?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        play(&mut tour, registry.has_real_images)
    }));
    // Stop what the first command started. Everything else is inside the mount namespace and goes with it.
    tour.pty.send("\x03\x04\n");
    tour.pty.send("kekkai system stop\n");
    let until = Instant::now() + Duration::from_secs(20);
    while !processes_in_cgroup_or_namespace().is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(50));
    }
    let inside = processes_in_cgroup_or_namespace();
    for pid in &inside {
        if let Some(pid) = rustix::process::Pid::from_raw(*pid as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
    }
    leftovers::kill_cgroups(&cgroup());
    leftovers::remove_cgroups(&cgroup());
    leftovers::remove_link(&bridge());
    leftovers::remove_table(&table());
    leftovers::remove_foreign_rules(&bridge());
    match outcome {
        Err(panic) => Err(kekkai_tests::runner::words_of(&*panic).into()),
        Ok(()) if !inside.is_empty() => {
            Err(format!("`kekkai system stop` left {} processes", inside.len()).into())
        }
        Ok(()) => Ok(()),
    }
}

/// Engine processes whose mount namespace is the tour's: they see a tmpfs at /var/lib/kekkai named `kekkai-tour`.
fn processes_in_cgroup_or_namespace() -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<u32>().ok())
        else {
            continue;
        };
        let Ok(mounts) = std::fs::read_to_string(entry.path().join("mounts")) else {
            continue;
        };
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if mounts.contains("kekkai-tour /var/lib/kekkai ")
            && String::from_utf8_lossy(&line).contains("kekkai")
        {
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if !line.contains("sh -i") && !line.starts_with("kekkai system stop") {
                found.push(pid);
            }
        }
    }
    found
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, vec![Trial::test("tour", tour)]).exit_code()
}

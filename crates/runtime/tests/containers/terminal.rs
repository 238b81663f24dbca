//! Pseudo-terminals.

use std::os::fd::{AsFd, OwnedFd};

use kekkai_runtime::{ExecPlan, ExecTarget, Launched, Stdio, WindowSize, launch_exec, plan_exec};
use serde_json::json;

use crate::needs_root;
use crate::support::{Bundle, kill, pipes, wait};

/// Reads a master until the last slave is closed (EIO).
fn drain(master: &OwnedFd) -> String {
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    while let Ok(length @ 1..) = rustix::io::read(master, &mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8_lossy(&text).replace("\r\n", "\n")
}

fn start(bundle: &Bundle) -> Launched {
    let (mut fds, _out, _err) = pipes();
    fds.stdio = Stdio::Terminal {
        size: Some(WindowSize {
            rows: 33,
            columns: 99,
        }),
    };
    bundle.start(fds).unwrap()
}

#[test]
fn of_the_container() {
    needs_root!();
    let script = "tty; stty size; ls -l /dev/console /dev/pts/0 | cut -c1-10; id -u; echo x > /dev/console; echo y > /dev/tty; ls /proc/self/fd | wc -l";
    let mut bundle = Bundle::new()
        .set("/process/terminal", json!(true))
        .script(script);
    bundle.user = Some("daemon".into());
    let launched = start(&bundle);
    let output = drain(&launched.console.as_ref().unwrap().master);
    assert_eq!(wait(&launched), 0, "{output}");
    assert_eq!(
        output, "/dev/pts/0\n33 99\ncrw--w----\ncrw--w----\n2\nx\ny\n4\n",
        "{output}"
    );
}

#[test]
fn is_the_controlling_one() {
    needs_root!();
    let bundle = Bundle::new()
        .set("/process/terminal", json!(true))
        .script("trap 'echo got; exit 3' INT; sleep 30 & wait");
    let launched = start(&bundle);
    let master = &launched.console.as_ref().unwrap().master;
    std::thread::sleep(std::time::Duration::from_millis(300));
    rustix::io::write(master, &[3]).unwrap();
    let output = drain(master);
    assert_eq!(wait(&launched), 3, "{output}");
    assert!(output.contains("got"), "{output}");
}

#[test]
fn of_an_exec_session() {
    needs_root!();
    let bundle = Bundle::new().script("sleep 30");
    let (fds, _out, _err) = pipes();
    let running = bundle.start(fds).unwrap();
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!([
        "sh",
        "-c",
        "tty; stty size; echo $((6*7)); test -t 0 && echo yes"
    ]);
    process["terminal"] = json!(true);
    let plan: ExecPlan =
        plan_exec(&serde_json::from_value(process).unwrap(), &bundle.plan()).unwrap();
    let (mut fds, _out, _err) = pipes();
    fds.stdio = Stdio::Terminal {
        size: Some(WindowSize {
            rows: 10,
            columns: 20,
        }),
    };
    let target = ExecTarget {
        pid: running.pid,
        pidfd: running.pidfd.as_fd(),
        devpts: None,
    };
    let launched = launch_exec(&plan, &target, fds).unwrap();
    let output = drain(&launched.console.as_ref().unwrap().master);
    assert_eq!(wait(&launched), 0, "{output}");
    assert_eq!(output, "/dev/pts/0\n10 20\n42\nyes\n");
    kill(&running);
}

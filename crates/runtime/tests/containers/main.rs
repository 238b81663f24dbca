//! Real containers of a busybox root on this machine. They need root; without it every test says `skipped`.

mod support;

use support::{Bundle, table, why_not};

macro_rules! needs_root {
    () => {
        if let Some(reason) = why_not() {
            println!("skipped: {reason}");
            return;
        }
    };
}

#[test]
fn says_hello() {
    needs_root!();
    assert_eq!(Bundle::new().args(&["echo", "hello"]).stdout(), "hello\n");
}

#[test]
fn is_alone() {
    needs_root!();
    let output = Bundle::new().script("hostname; echo $$; ps | wc -l; pwd; id; env; cat /proc/self/status; ls -la /dev").stdout();
    println!("{output}");
    let status = table(&output);
    assert_eq!(status["CapEff"], "00000000a80425fb");
    assert_eq!(status["CapBnd"], "00000000a80425fb");
    assert_eq!(status["CapInh"], "0000000000000000");
    assert_eq!(status["Seccomp"], "2");
    assert_eq!(status["NoNewPrivs"], "0");
}

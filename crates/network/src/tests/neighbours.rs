//! Beside other firewalls. These tests need iptables-nft, which is in the peers' root; without it they say so.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

use super::lab::{HOST, OUTSIDE, attach, call, eventually, lab, serve};

/// Runs commands in another root, in the network namespace of the calling thread.
const ENTER: &str = "/work/shared/peers/enter";

/// The output of a shell command with the peers' iptables and nft, or `None` where there are none.
fn peers(script: &str) -> Option<String> {
    if !Path::new(ENTER).exists() || !Path::new("/srv/peers/usr").exists() {
        println!("skipped: no iptables at {ENTER}");
        return None;
    }
    let output = Command::new(ENTER)
        .args(["sh", "-ec", script])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8(output.stdout).unwrap())
}

fn rules() -> String {
    peers("iptables -S").unwrap()
}

#[test]
fn forwarding_works_beside_a_chain_that_drops() {
    lab(|lab| {
        if peers("iptables -P FORWARD DROP; iptables -A FORWARD -s 203.0.113.0/24 -j DROP")
            .is_none()
        {
            return;
        }
        let service = lab.start();
        let web = attach(&service, &["8080:80"]);
        let _server1 = serve(web.netns.as_fd(), (Ipv4Addr::UNSPECIFIED, 80));
        let _server2 = serve(lab.outside.as_fd(), (Ipv4Addr::UNSPECIFIED, 82));
        assert_eq!(
            call(web.netns.as_fd(), (OUTSIDE, 82)).unwrap(),
            HOST.to_string()
        );
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string()
        );
        assert_eq!(
            rules(),
            "-P INPUT ACCEPT\n-P FORWARD DROP\n-P OUTPUT ACCEPT\n-A FORWARD -s 203.0.113.0/24 -j DROP\n\
             -A FORWARD -i kkt0 -j ACCEPT\n-A FORWARD -o kkt0 -j ACCEPT\n"
        );
        // Docker comes, and its chain is the better place.
        peers(
            "iptables -N DOCKER-USER; iptables -I FORWARD -j DOCKER-USER; iptables -A DOCKER-USER -j RETURN",
        );
        eventually("the rules to move", || {
            let rules = rules();
            rules.contains("-A DOCKER-USER -i kkt0 -j ACCEPT\n-A DOCKER-USER -o kkt0 -j ACCEPT\n-A DOCKER-USER -j RETURN")
                && !rules.contains("FORWARD -i kkt0")
        });
        // Somebody flushes them.
        peers("iptables -F DOCKER-USER");
        eventually("the rules to come back", || {
            rules().contains("DOCKER-USER -o kkt0")
        });
        assert_eq!(
            call(web.netns.as_fd(), (OUTSIDE, 82)).unwrap(),
            HOST.to_string()
        );
        peers("iptables -D FORWARD -s 203.0.113.0/24 -j DROP; iptables -P FORWARD ACCEPT");
        eventually("the rules to go where nothing drops", || {
            !rules().contains("kkt0")
        });
        peers("iptables -P FORWARD DROP");
        eventually("the rules once more", || {
            rules().contains("DOCKER-USER -o kkt0")
        });
        service.destroy().unwrap();
        assert!(!rules().contains("kkt0"), "{}", rules());
    });
}

#[test]
fn somebody_flushes_the_ruleset() {
    lab(|lab| {
        let service = lab.start();
        let web = attach(&service, &["8080:80"]);
        let _server3 = serve(web.netns.as_fd(), (Ipv4Addr::UNSPECIFIED, 80));
        let Some(before) = peers("nft list ruleset") else {
            return;
        };
        assert!(
            before.contains("map published {") && before.contains("8080"),
            "{before}"
        );
        peers("nft flush ruleset");
        eventually("the table to come back", || {
            call(lab.outside.as_fd(), (HOST, 8080)) == Ok(OUTSIDE.to_string())
        });
        assert_eq!(peers("nft list ruleset").unwrap(), before);
    });
}

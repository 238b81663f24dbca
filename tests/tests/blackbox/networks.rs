//! The default bridge, published ports, the other network modes.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kekkai_tests::{Case, Ctx};

/// A one-answer server inside a container: busybox's nc in a loop.
const SERVER: &str = "sh -c 'while :; do echo served | nc -l -p 80; done'";

fn ask(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    stream.write_all(b"hello\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    (!text.is_empty()).then_some(text)
}

fn served(c: &Ctx<'_>, address: &str) {
    c.until(&format!("an answer at {address}"), || {
        ask(address).as_deref() == Some("served\n")
    });
}

/// A host port that was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind(("127.0.0.1", 0))
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn address_of(c: &Ctx<'_>, name: &str) -> String {
    c.run(&format!(
        "inspect -f '{{{{.NetworkSettings.IPAddress}}}}' {name}"
    ))
    .ok()
    .text()
    .to_owned()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("network/inside", |c| {
            c.run("run --rm @box sh -c 'ls /sys/class/net | grep -E \"^(lo|eth0)$\" | tr \"\\n\" \" \"; cat /sys/class/net/eth0/operstate; ip route | grep -c \"^default via\"'").ok().out("eth0 lo up\n1\n");
            c.run("run --rm @box sh -c 'ping -c 1 -W 2 $(ip route | sed -n \"s/^default via \\([0-9.]*\\).*/\\1/p\") | grep -c \" 0% packet loss\"'").ok().out("1\n");
        }),
        Case::new("network/none", |c| {
            c.run("run --rm --network none @box sh -c 'ls /sys/class/net; ip route | wc -l; ping -c 1 127.0.0.1 | grep -c \" 0% packet loss\"'").ok().check("only lo", |o| o.stdout.contains("lo\n") && !o.stdout.contains("eth0") && o.stdout.ends_with("0\n1\n"));
        }),
        Case::new("network/host", |c| {
            c.run("run --rm --network host @box ls /sys/class/net")
                .ok()
                .check("the machine's own", |o| {
                    std::fs::read_dir("/sys/class/net")
                        .unwrap()
                        .flatten()
                        .filter(|e| !e.file_name().to_string_lossy().starts_with("veth"))
                        .filter(|e| o.stdout.contains(&*e.file_name().to_string_lossy()))
                        .count()
                        >= 2
                });
            c.run("run --rm --network host @box hostname").ok();
        }),
        Case::new("network/container", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            let address = address_of(c, "@n");
            c.run("run --rm --network container:@n @box ip addr show eth0")
                .ok()
                .out_has(&address);
            c.run("run --rm --network container:@nnone @box true")
                .code(125)
                .err_has("No such container");
            c.run("run --rm --network container:@n -h x @box true")
                .code(125)
                .err_has("conflicting options: hostname and the network mode");
            c.run("run --rm --network container:@n -p 80:80 @box true")
                .code(125)
                .err_has(
                    "conflicting options: port publishing and the container type network mode",
                );
        }),
        Case::new("network/unknown", |c| {
            c.run("run --rm --network nosuchnet @box true")
                .code(125)
                .err_has("network nosuchnet not found");
        }),
        Case::new("network/between-containers", |c| {
            c.run(&format!("run -d --name @n @box {SERVER}")).ok();
            let address = address_of(c, "@n");
            c.until("an answer", || {
                c.run(&format!(
                    "run --rm @box sh -c 'echo x | nc -w 2 {address} 80'"
                ))
                .stdout
                    == "served\n"
            });
        }),
        Case::new("network/from-the-host", |c| {
            c.run(&format!("run -d --name @n @box {SERVER}")).ok();
            served(c, &format!("{}:80", address_of(c, "@n")));
        }),
        Case::new("publish/on-localhost-and-elsewhere", |c| {
            let port = free_port();
            c.run(&format!("run -d --name @n -p {port}:80 @box {SERVER}"))
                .ok();
            served(c, &format!("127.0.0.1:{port}"));
            // The machine's other addresses too: the bridge's own is one that always exists.
            let gateway = c
                .run("inspect -f '{{.NetworkSettings.Gateway}}' @n")
                .ok()
                .text()
                .to_owned();
            served(c, &format!("{gateway}:{port}"));
            // And from a container, by the way out and back in.
            c.until("hairpin", || {
                c.run(&format!(
                    "run --rm @box sh -c 'echo x | nc -w 2 {gateway} {port}'"
                ))
                .stdout
                    == "served\n"
            });
            c.run("rm -f @n").ok();
            assert!(ask(&format!("127.0.0.1:{port}")).is_none());
        }),
        Case::new("publish/shown", |c| {
            let port = free_port();
            c.run(&format!(
                "run -d --name @n -p {port}:80 -p 127.0.0.1::53/udp --expose 99 @box sleep 60"
            ))
            .ok();
            c.run("port @n 80")
                .ok()
                .out_has(&format!("0.0.0.0:{port}\n"));
            c.run("port @n 80/tcp")
                .ok()
                .out_has(&format!("0.0.0.0:{port}\n"));
            c.run("port @n")
                .ok()
                .out_has(&format!("80/tcp -> 0.0.0.0:{port}\n"))
                .out_has("53/udp -> 127.0.0.1:");
            c.run("port @n 81")
                .code(1)
                .err_has("no public port '81")
                .err_has("' published for");
            c.run("ps --filter name=@n --format '{{.Ports}}'")
                .ok()
                .out_has(&format!("0.0.0.0:{port}->80/tcp"))
                .out_has("->53/udp")
                .out_has("99/tcp");
            let ports = c.inspect("@n")["NetworkSettings"]["Ports"].clone();
            assert_eq!(ports["80/tcp"][0]["HostPort"], port.to_string().as_str());
            assert_eq!(ports["53/udp"][0]["HostIp"], "127.0.0.1");
            assert!(ports["99/tcp"].is_null() && ports.as_object().unwrap().contains_key("99/tcp"));
        }),
        Case::new("publish/chosen-port", |c| {
            c.run(&format!("run -d --name @n -p 80 @box {SERVER}")).ok();
            let port = c.run("port @n 80").ok().lines()[0]
                .rsplit(':')
                .next()
                .unwrap()
                .to_owned();
            served(c, &format!("127.0.0.1:{port}"));
        }),
        Case::new("publish/all-exposed", |c| {
            c.run("run -d --name @n -P --entrypoint sleep @conf 60")
                .ok();
            c.run("port @n")
                .ok()
                .out_has("80/tcp -> 0.0.0.0:")
                .out_has("53/udp -> 0.0.0.0:");
        }),
        Case::new("publish/bound-to-one-address", |c| {
            let port = free_port();
            c.run(&format!(
                "run -d --name @n -p 127.0.0.1:{port}:80 @box {SERVER}"
            ))
            .ok();
            served(c, &format!("127.0.0.1:{port}"));
            let gateway = c
                .run("inspect -f '{{.NetworkSettings.Gateway}}' @n")
                .ok()
                .text()
                .to_owned();
            assert!(ask(&format!("{gateway}:{port}")).is_none());
        }),
        Case::new("publish/taken", |c| {
            let port = free_port();
            c.run(&format!("run -d --name @na -p {port}:80 @box sleep 60"))
                .ok();
            c.run(&format!("run -d --name @nb -p {port}:80 @box sleep 60"))
                .code(125)
                .err_has("port is already allocated");
            assert_eq!(c.state("@nb"), "created");
            let listener = std::net::TcpListener::bind(("0.0.0.0", 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            c.run(&format!("run -d --name @nc -p {port}:80 @box sleep 60"))
                .code(125)
                .err_has("address already in use");
        }),
        Case::new("publish/udp", |c| {
            let port = free_port();
            c.run(&format!("run -d --name @n -p {port}:53/udp @box sh -c 'while :; do echo pong | nc -u -l -p 53 -w 1; done'")).ok();
            c.run("port @n")
                .ok()
                .out_has(&format!("53/udp -> 0.0.0.0:{port}\n"));
        }),
        Case::new("publish/range", |c| {
            c.run("run -d --name @n -p 127.0.0.1:28100-28102:80-82 @box sleep 60")
                .ok();
            c.run("port @n")
                .ok()
                .out_has("80/tcp -> 127.0.0.1:28100\n")
                .out_has("82/tcp -> 127.0.0.1:28102\n");
        }),
        Case::new("publish/bad", |c| {
            c.run("run --rm -p x:80 @box true").code(125).err_has_one(&[
                "Invalid hostPort",
                "invalid hostPort",
                "invalid publish",
            ]);
            c.run("run --rm -p 80:99999 @box true")
                .code(125)
                .err_has_one(&[
                    "Invalid containerPort",
                    "invalid containerPort",
                    "invalid port",
                ]);
            c.run("run --rm -p 1-3:80-81 @box true")
                .code(125)
                .err_has("Invalid ranges specified for container and host Ports");
            c.run("run --rm -p 1.2.3:80:80 @box true")
                .code(125)
                .err_has_one(&["Invalid ip address", "Invalid IP address"]);
            c.run("run --rm --expose x @box true")
                .code(125)
                .err_has_one(&["invalid range format for --expose", "invalid"]);
        }),
        Case::new("publish/freed-on-stop-and-back-on-start", |c| {
            let port = free_port();
            c.run(&format!(
                "run -d --name @n -p {port}:80 --stop-timeout 0 @box {SERVER}"
            ))
            .ok();
            served(c, &format!("127.0.0.1:{port}"));
            c.run("stop -t 0 @n").ok();
            drop(std::net::TcpListener::bind(("0.0.0.0", port)).unwrap());
            c.run("start @n").ok();
            served(c, &format!("127.0.0.1:{port}"));
        }),
        Case::new("network/ls-and-inspect", |c| {
            c.run("network ls --format '{{.Name}} {{.Driver}} {{.Scope}}'")
                .ok()
                .out_has("bridge bridge local\n")
                .out_has("host host local\n")
                .out_has("none null local\n");
            c.run("network ls")
                .ok()
                .check("header", |o| o.stdout.starts_with("NETWORK ID"));
            c.run("network ls -q --filter name=bridge")
                .ok()
                .check("12 digits", |o| o.lines()[0].len() == 12);
            c.run("network ls --filter driver=null -q")
                .ok()
                .check("one", |o| o.lines().len() == 1);
            c.run("run -d --name @n @box sleep 60").ok();
            let network = c.run("network inspect bridge").ok().json()[0].clone();
            assert_eq!(
                (&network["Name"], &network["Driver"]),
                (&"bridge".into(), &"bridge".into())
            );
            let id = c.inspect("@n")["Id"].as_str().unwrap().to_owned();
            assert!(
                network["Containers"][&id]["IPv4Address"]
                    .as_str()
                    .unwrap()
                    .contains('/'),
                "{network}"
            );
            assert!(
                network["IPAM"]["Config"][0]["Subnet"]
                    .as_str()
                    .unwrap()
                    .contains('/')
            );
            c.run("network inspect nosuchnet")
                .code(1)
                .out("[]\n")
                .err_has("network nosuchnet not found");
        }),
        Case::new("network/different-addresses", |c| {
            let mut seen = std::collections::BTreeSet::new();
            for i in 0..4 {
                c.run(&format!("run -d --name @n-{i} @box sleep 60")).ok();
                assert!(seen.insert(address_of(c, &format!("@n-{i}"))));
            }
            for i in 0..4 {
                c.run(&format!("rm -f @n-{i}")).ok();
            }
        }),
        Case::new("network/mac-and-ip-shown-inside", |c| {
            c.run("run -d --name @n --mac-address 02:42:de:ad:be:ef @box sleep 60")
                .check("set, or refused by name", |o| {
                    o.code == 0 || o.stderr.contains("mac-address")
                });
        }),
        Case::new("network/hosts-has-own-address", |c| {
            c.run("run -d --name @n -h me @box sleep 60").ok();
            let address = address_of(c, "@n");
            c.run("exec @n cat /etc/hosts")
                .ok()
                .out_has(&format!("{address}\tme\n"));
        }),
    ]
}

//! Who reaches whom.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::lab::{
    GATEWAY, HOST, Lab, OUTSIDE, attach, call, call_here, config, current, eventually, inside, lab,
    request, route_outside_in, serve, serve_udp,
};
use crate::config::NetworkConfig;
use crate::model::MacAddress;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn a_container_finds_what_docker_gives() {
    lab(|lab| {
        let service = lab.start();
        let endpoint = attach(&service, &[]);
        let record = &endpoint.record;
        assert_eq!(
            (record.address, record.gateway, record.prefix_len),
            (Ipv4Addr::new(10, 77, 0, 2), GATEWAY, 24)
        );
        assert_eq!(record.mac.to_string(), "02:42:0a:4d:00:02");
        inside(endpoint.netns.as_fd(), || {
            for (name, value) in [
                ("ipv4/ip_unprivileged_port_start", "0"),
                ("ipv4/ping_group_range", "0\t2147483647"),
                ("ipv6/conf/eth0/disable_ipv6", "1"),
                ("ipv6/conf/lo/disable_ipv6", "0"),
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
            ] {
                assert_eq!(read(&format!("/proc/sys/net/{name}")), value, "{name}");
            }
            let mut socket = crate::netlink::Socket::route().unwrap();
            let links = socket.links().unwrap();
            assert_eq!(
                links
                    .iter()
                    .map(|l| (l.name.as_str(), l.up))
                    .collect::<Vec<_>>(),
                [("lo", true), ("eth0", true)]
            );
            assert_eq!(links[1].mac, Some(record.mac));
            assert_eq!(
                socket.addresses(links[1].index).unwrap()[0].to_string(),
                "10.77.0.2/24"
            );
            let arp = read("/proc/thread-self/net/arp");
            assert!(
                arp.contains("10.77.0.1") && arp.contains("02:42:0a:4d:00:01"),
                "{arp}"
            );
        });
        let isolated = service.isolated().unwrap();
        inside(isolated.as_fd(), || {
            assert_eq!(super::lab::interfaces(), ["lo"]);
            let _server1 = serve(current().as_fd(), (LOCALHOST, 80));
            assert_eq!(call_here((LOCALHOST, 80)).unwrap(), "127.0.0.1");
        });
    });
}

#[test]
fn containers_reach_each_other_the_host_and_the_outside() {
    lab(|lab| {
        let service = lab.start();
        let (a, b) = (attach(&service, &[]), attach(&service, &[]));
        let _server2 = serve(b.netns.as_fd(), (ANY, 80));
        let _server3 = serve(current().as_fd(), (ANY, 81));
        let _server4 = serve(lab.outside.as_fd(), (ANY, 82));
        let a_ip = a.record.address.to_string();
        assert_eq!(call(a.netns.as_fd(), (b.record.address, 80)).unwrap(), a_ip);
        assert_eq!(call(a.netns.as_fd(), (GATEWAY, 81)).unwrap(), a_ip);
        assert_eq!(
            call_here((b.record.address, 80)).unwrap(),
            GATEWAY.to_string()
        );
        assert_eq!(
            call(a.netns.as_fd(), (OUTSIDE, 82)).unwrap(),
            HOST.to_string(),
            "the outside sees the host"
        );
    });
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    lab(|lab| {
        let service = lab.start();
        let web = attach(
            &service,
            &["8080:80", "127.0.0.1:8081:81", "192.0.2.1:8082:82"],
        );
        let other = attach(&service, &[]);
        let _servers = [80, 81, 82].map(|port| serve(web.netns.as_fd(), (ANY, port)));
        let outside = lab.outside.as_fd();
        // Before the other paths, so that no connection tracked by them helps.
        assert_eq!(
            call(outside, (HOST, 8080)).unwrap(),
            OUTSIDE.to_string(),
            "the source address is kept"
        );
        assert_eq!(call_here((LOCALHOST, 8080)).unwrap(), GATEWAY.to_string());
        assert_eq!(
            call_here((Ipv4Addr::new(127, 1, 2, 3), 8080)).unwrap(),
            GATEWAY.to_string()
        );
        assert_eq!(call_here((HOST, 8080)).unwrap(), HOST.to_string());
        assert_eq!(
            call(other.netns.as_fd(), (HOST, 8080)).unwrap(),
            GATEWAY.to_string(),
            "by way of the host"
        );
        assert_eq!(
            call(web.netns.as_fd(), (GATEWAY, 8080)).unwrap(),
            GATEWAY.to_string(),
            "hairpin"
        );
        assert_eq!(call_here((LOCALHOST, 8081)).unwrap(), GATEWAY.to_string());
        assert!(call(outside, (HOST, 8081)).is_err());
        assert!(call_here((HOST, 8081)).is_err());
        assert_eq!(call(outside, (HOST, 8082)).unwrap(), OUTSIDE.to_string());
        assert!(call_here((LOCALHOST, 8082)).is_err());
        service.release(&web.record).unwrap();
        assert!(call(outside, (HOST, 8080)).is_err());
        assert!(call_here((LOCALHOST, 8080)).is_err());
    });
}

#[test]
fn the_outside_does_not_get_past_published_ports() {
    lab(|lab| {
        let service = lab.start();
        let web = attach(&service, &["8080:80", "127.0.0.1:8081:81"]);
        let _server6 = serve(web.netns.as_fd(), (ANY, 80));
        let _server7 = serve(web.netns.as_fd(), (ANY, 81));
        route_outside_in(lab);
        let outside = lab.outside.as_fd();
        assert_eq!(
            call(outside, (web.record.address, 80)),
            Err(std::io::ErrorKind::TimedOut),
            "direct, published"
        );
        assert_eq!(
            call(outside, (web.record.address, 81)),
            Err(std::io::ErrorKind::TimedOut),
            "direct, not published"
        );
        // The outside has no loopback of its own (it is down), so this leaves by its default route.
        assert!(
            call(outside, (LOCALHOST, 8081)).is_err(),
            "127.0.0.1 from outside"
        );
        assert_eq!(call(outside, (HOST, 8080)).unwrap(), OUTSIDE.to_string());
    });
}

#[test]
fn udp_follows_the_container() {
    lab(|lab| {
        let service = lab.start();
        let client = inside(lab.outside.as_fd(), || {
            UdpSocket::bind((OUTSIDE, 4000)).unwrap()
        });
        client
            .set_read_timeout(Some(Duration::from_millis(300)))
            .unwrap();
        client.connect((HOST, 5353)).unwrap();
        // The flow is tracked before anybody serves it.
        let _ = client.send(b"early");
        let _ = client.recv(&mut [0; 9]);
        for round in ["one", "two"] {
            let server = attach(&service, &["5353:53/udp"]);
            let heard = serve_udp(server.netns.as_fd(), 53);
            let expected = format!("{OUTSIDE} {round}");
            let mut buffer = [0; 100];
            // A refusal from the time without a server is read as an error first.
            eventually("an answer from this very server", || {
                client.send(round.as_bytes()).is_ok()
                    && client
                        .recv(&mut buffer)
                        .is_ok_and(|n| buffer[..n] == *expected.as_bytes())
                    && heard.try_iter().any(|text| text == expected)
            });
            service.release(&server.record).unwrap();
        }
    });
}

#[test]
fn without_icc_containers_do_not_reach_each_other() {
    lab(|lab| {
        let service = lab.start_with(NetworkConfig {
            inter_container: false,
            ..config()
        });
        let (a, b) = (attach(&service, &["8080:80"]), attach(&service, &[]));
        let _server8 = serve(a.netns.as_fd(), (ANY, 80));
        let _server9 = serve(lab.outside.as_fd(), (ANY, 82));
        assert!(call(b.netns.as_fd(), (a.record.address, 80)).is_err());
        assert_eq!(
            call(b.netns.as_fd(), (OUTSIDE, 82)).unwrap(),
            HOST.to_string()
        );
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string()
        );
    });
}

#[test]
fn a_mac_address_can_be_had() {
    lab(|lab| {
        let service = lab.start();
        let mac: MacAddress = "92:d0:c6:0a:29:33".parse().unwrap();
        let mut wanted = request(&[]);
        wanted.mac = Some(mac);
        let endpoint = service.attach(&wanted).unwrap();
        assert_eq!(endpoint.record.mac, mac);
        let seen = inside(endpoint.netns.as_fd(), || {
            crate::netlink::Socket::route()
                .unwrap()
                .link("eth0")
                .unwrap()
                .unwrap()
                .mac
        });
        assert_eq!(seen, Some(mac));
        let _server10 = serve(endpoint.netns.as_fd(), (ANY, 80));
        assert_eq!(
            call_here((endpoint.record.address, 80)).unwrap(),
            GATEWAY.to_string()
        );
    });
}

#[test]
fn two_daemons_keep_their_containers_apart() {
    lab(|lab| {
        let service = lab.start();
        let other_lab = Lab {
            outside: lab.outside.try_clone().unwrap(),
            directory: tempfile::tempdir().unwrap(),
            database: kekkai_metadata::Database::open(&lab.directory.path().join("other.db"))
                .unwrap(),
        };
        let other = other_lab.start_with(NetworkConfig {
            bridge: "kkt1".into(),
            bip: Some("10.78.0.1/24".parse().unwrap()),
            table: "kekkai_test_1".into(),
            ..config()
        });
        let a = attach(&service, &["8080:80"]);
        let b = attach(&other, &[]);
        let _server11 = serve(a.netns.as_fd(), (ANY, 80));
        assert!(
            call(b.netns.as_fd(), (a.record.address, 80)).is_err(),
            "isolation"
        );
        assert!(
            call(b.netns.as_fd(), (HOST, 8080)).is_ok(),
            "published ports are for everybody"
        );
        other.destroy().unwrap();
        assert_eq!(call_here((LOCALHOST, 8080)).unwrap(), GATEWAY.to_string());
        assert!(super::lab::interfaces().contains(&"kkt0".to_owned()));
    });
}

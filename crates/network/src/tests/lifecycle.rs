//! Pools, restarts, and what is left behind.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;

use super::lab::{
    GATEWAY, HOST, OUTSIDE, attach, call, call_here, config, eventually, interfaces, lab, request,
    serve,
};
use crate::config::{NetworkConfig, PoolSize, Subnet};
use crate::error::NetworkError;
use crate::netlink::Socket;
use crate::service::NetworkService;

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

fn ports_of_bridge() -> Vec<String> {
    interfaces()
        .into_iter()
        .filter(|name| name.starts_with("kk0"))
        .collect()
}

fn elements(table: &str) -> usize {
    let mut socket = Socket::netfilter().unwrap();
    ["published", "published_at"]
        .into_iter()
        .map(|map| socket.set_elements(table, map).unwrap().len())
        .sum()
}

#[test]
fn two_hundred_cycles_leave_nothing() {
    lab(|lab| {
        let service = lab.start();
        for n in 0..200u16 {
            let port = format!("{}:80", 9000 + n % 3);
            let endpoint = attach(&service, &[&port, "127.0.0.1:7000:70", "53/udp"]);
            assert_eq!(elements("kekkai_test"), 3);
            service.release(&endpoint.record).unwrap();
            service.release(&endpoint.record).unwrap();
        }
        assert_eq!(elements("kekkai_test"), 0);
        drop(TcpListener::bind((ANY, 9000)).unwrap());
        eventually("only the pool's interfaces", || {
            ports_of_bridge().len() == service.ready() && service.ready() >= 2
        });
        eventually("an empty inspection", || {
            service.inspect("bridge").unwrap().endpoints.is_empty()
        });
        service.destroy().unwrap();
        eventually("nothing but the laboratory", || {
            interfaces() == ["lo", "uplink", "up0"]
        });
        let chains = Socket::netfilter().unwrap().chains().unwrap();
        assert!(chains.is_empty(), "{chains:?}");
    });
}

#[test]
fn a_small_subnet_is_used_to_the_last_address() {
    lab(|lab| {
        let service = lab.start_with(NetworkConfig {
            bip: Some(Subnet::new(GATEWAY, 29)),
            ..config()
        });
        let mut all: Vec<_> = (0..5).map(|_| attach(&service, &[])).collect();
        let mut addresses: Vec<_> = all.iter().map(|e| e.record.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 5);
        let error = service.attach(&request(&[])).unwrap_err();
        assert!(matches!(error, NetworkError::NoAddress { .. }), "{error}");
        let freed = all.remove(2);
        let address = freed.record.address;
        service.release(&freed.record).unwrap();
        let error = service.attach(&request(&[])).unwrap_err();
        assert!(
            matches!(error, NetworkError::NoAddress { .. }),
            "its namespace still lives: {error}"
        );
        drop(freed);
        assert_eq!(attach(&service, &[]).record.address, address);
    });
}

#[test]
fn the_pool_grows_with_demand() {
    lab(|lab| {
        let service = lab.start_with(NetworkConfig {
            pool: PoolSize { min: 2, max: 16 },
            ..config()
        });
        eventually("two ready", || service.ready() == 2);
        let burst: Vec<_> = (0..20).map(|_| attach(&service, &[])).collect();
        eventually("more ready", || service.ready() == 16);
        assert_eq!(service.inspect("bridge").unwrap().endpoints.len(), 20);
        drop(burst);
    });
}

#[test]
fn a_new_daemon_takes_over_running_containers() {
    lab(|lab| {
        let service = lab.start();
        let id = service.bridge_id();
        let web = attach(&service, &["8080:80", "5300:53/udp", "8090:90"]);
        let lost = attach(&service, &[]);
        let _server1 = serve(web.netns.as_fd(), (ANY, 80));
        let _server2 = serve(lab.outside.as_fd(), (ANY, 82));
        // A daemon that dies takes its pool along and leaves the rest.
        drop(service);
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string(),
            "no daemon"
        );
        // Somebody takes a port meanwhile.
        let thief = TcpListener::bind((ANY, 8090)).unwrap();

        let service = NetworkService::open(config(), &lab.database).unwrap();
        assert!(matches!(
            service.attach(&request(&[])),
            Err(NetworkError::NotReady)
        ));
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string(),
            "not adopted yet"
        );
        let trouble = service.adopt(std::slice::from_ref(&web.record)).unwrap();
        assert_eq!(trouble.len(), 1);
        assert!(
            trouble[0].to_string().contains("0.0.0.0:8090"),
            "{}",
            trouble[0]
        );
        drop(thief);
        assert_eq!(service.bridge_id(), id);
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string(),
            "adopted"
        );
        assert_eq!(elements("kekkai_test"), 2);
        assert!(
            TcpListener::bind((ANY, 8080)).is_err(),
            "its port is held again"
        );
        let known = service.inspect(&id.to_string()[..10]).unwrap();
        assert_eq!(known.endpoints.len(), 1);
        assert_eq!(known.endpoints[0].ports.len(), 2);

        let next = attach(&service, &[]);
        assert!(
            ![web.record.address, lost.record.address].contains(&next.record.address),
            "both namespaces live"
        );
        assert_eq!(
            call(next.netns.as_fd(), (OUTSIDE, 82)).unwrap(),
            HOST.to_string()
        );
        service.release(&web.record).unwrap();
        drop(TcpListener::bind((ANY, 8080)).unwrap());
        assert_eq!(elements("kekkai_test"), 0);
        drop((web, lost, _server1));
        eventually("the dead ones' interfaces to go", || {
            ports_of_bridge().len() == service.ready() + 1
        });
    });
}

#[test]
fn a_failed_attach_leaves_nothing() {
    lab(|lab| {
        let service = lab.start();
        let holder = attach(&service, &["8080:80"]);
        let process = TcpListener::bind((ANY, 8070)).unwrap();
        let bind = service
            .attach(&request(&["8071:81", "8070:80"]))
            .unwrap_err()
            .to_string();
        assert!(
            bind.starts_with("failed to set up container networking: driver failed programming external connectivity on endpoint web ("),
            "{bind}"
        );
        assert!(
            bind.contains("): failed to bind host port for 0.0.0.0:8070:10.77.0."),
            "{bind}"
        );
        assert!(bind.ends_with(":80/tcp: address already in use"), "{bind}");
        drop(process);
        let allocated = service
            .attach(&request(&["8080:80"]))
            .unwrap_err()
            .to_string();
        assert!(
            allocated.ends_with("Bind for 0.0.0.0:8080 failed: port is already allocated"),
            "{allocated}"
        );
        let error = service.attach(&request(&["8072:80/sctp"])).unwrap_err();
        assert_eq!(
            error.class(),
            kekkai_types::ErrorClass::NotImplemented,
            "{error}"
        );
        drop(TcpListener::bind((ANY, 8071)).unwrap());
        assert_eq!(elements("kekkai_test"), 1);
        assert_eq!(service.inspect("bridge").unwrap().endpoints.len(), 1);
        eventually("interfaces to go", || {
            ports_of_bridge().len() == service.ready() + 1
        });
        drop(holder);
    });
}

#[test]
fn a_flushed_table_comes_back() {
    lab(|lab| {
        let service = lab.start();
        let web = attach(&service, &["8080:80"]);
        let _server3 = serve(web.netns.as_fd(), (ANY, 80));
        // In this process's name, so the watch takes it for our own doing; the next publication finds out.
        let mut transaction = crate::netlink::nft::Transaction::new();
        transaction.delete_table("kekkai_test");
        transaction
            .commit(&mut Socket::netfilter().unwrap())
            .unwrap();
        assert!(call(lab.outside.as_fd(), (HOST, 8080)).is_err());
        let second = attach(&service, &["8081:80"]);
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string()
        );
        let mut transaction = crate::netlink::nft::Transaction::new();
        transaction.delete_table("kekkai_test");
        transaction
            .commit(&mut Socket::netfilter().unwrap())
            .unwrap();
        service.release(&second.record).unwrap();
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string()
        );
    });
}

#[test]
fn bridges_are_claimed_and_kept() {
    lab(|lab| {
        let service = lab.start_with(NetworkConfig {
            bip: None,
            ..config()
        });
        let second = NetworkService::open(config(), &lab.database).unwrap_err();
        assert!(
            second.to_string().contains("in use by another daemon"),
            "{second}"
        );
        assert_eq!(service.subnet().to_string(), "172.17.0.1/16");
        let endpoint = attach(&service, &[]);
        drop(service);
        let service = NetworkService::open(
            NetworkConfig {
                bip: None,
                ..config()
            },
            &lab.database,
        )
        .unwrap();
        assert_eq!(
            service.subnet().to_string(),
            "172.17.0.1/16",
            "the bridge keeps its subnet"
        );
        assert!(
            service
                .adopt(std::slice::from_ref(&endpoint.record))
                .unwrap()
                .is_empty()
        );
        assert!(matches!(service.adopt(&[]), Err(NetworkError::NotReady)));
        let _server4 = serve(endpoint.netns.as_fd(), (ANY, 80));
        assert_eq!(
            call_here((endpoint.record.address, 80)).unwrap(),
            "172.17.0.1"
        );
        let names: Vec<_> = service
            .list()
            .into_iter()
            .map(|n| (n.name, n.driver.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("bridge".into(), "bridge"),
                ("host".into(), "host"),
                ("none".into(), "null")
            ] as [(String, _); 3]
        );
        assert!(matches!(
            service.inspect("nosuch"),
            Err(NetworkError::NotFound(_))
        ));
    });
}

#[test]
fn closing_leaves_what_containers_need() {
    lab(|lab| {
        let service = lab.start();
        let web = attach(&service, &["8080:80"]);
        let _server = serve(web.netns.as_fd(), (ANY, 80));
        assert!(!service.close().unwrap());
        assert!(matches!(
            service.attach(&request(&[])),
            Err(NetworkError::NotReady)
        ));
        drop(service);
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 8080)).unwrap(),
            OUTSIDE.to_string()
        );
        let service = NetworkService::open(config(), &lab.database).unwrap();
        service.adopt(std::slice::from_ref(&web.record)).unwrap();
        service.release(&web.record).unwrap();
        assert!(service.close().unwrap());
        assert!(!interfaces().contains(&"kkt0".to_owned()));
    });
}

#[test]
fn many_at_once_do_not_meet() {
    lab(|lab| {
        let service = lab.start_with(NetworkConfig {
            pool: PoolSize { min: 4, max: 24 },
            ..config()
        });
        let host = super::lab::current();
        let kept: Vec<_> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..8)
                .map(|_| {
                    let (service, host) = (&service, host.as_fd());
                    // Threads of a scope start in the test's namespace.
                    scope.spawn(move || {
                        super::lab::inside(host, || {
                            let mut kept = Vec::new();
                            for round in 0..12 {
                                let endpoint = attach(service, &["80/tcp", "53/udp"]);
                                if round % 4 == 0 {
                                    kept.push(endpoint);
                                } else {
                                    service.release(&endpoint.record).unwrap();
                                }
                            }
                            kept
                        })
                    })
                })
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().unwrap())
                .collect()
        });
        let mut addresses: Vec<_> = kept.iter().map(|e| e.record.address).collect();
        let mut ports: Vec<_> = kept
            .iter()
            .flat_map(|e| e.record.ports.clone())
            .map(|p| (p.container, p.host_port))
            .collect();
        for (found, distinct) in [
            (addresses.len(), {
                addresses.sort();
                addresses.dedup();
                addresses.len()
            }),
            (ports.len(), {
                ports.sort();
                ports.dedup();
                ports.len()
            }),
        ] {
            assert_eq!(found, distinct);
        }
        assert_eq!(elements("kekkai_test"), 48);
        for endpoint in kept {
            service.release(&endpoint.record).unwrap();
        }
        assert_eq!(elements("kekkai_test"), 0);
        eventually("only the pool's interfaces", || {
            ports_of_bridge().len() == service.ready() && service.ready() >= 4
        });
    });
}

#[test]
fn a_thousand_ports_are_one_container() {
    lab(|lab| {
        let service = lab.start();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        let wanted = rustix::process::Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        rustix::process::setrlimit(rustix::process::Resource::Nofile, wanted).unwrap();
        let texts: Vec<String> = (10_000..11_000)
            .map(|port| format!("{port}:{port}"))
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let web = attach(&service, &texts);
        assert_eq!(elements("kekkai_test"), 1000);
        let _server = serve(web.netns.as_fd(), (ANY, 10_999));
        assert_eq!(
            call(lab.outside.as_fd(), (HOST, 10_999)).unwrap(),
            OUTSIDE.to_string()
        );
        service.release(&web.record).unwrap();
        assert_eq!(elements("kekkai_test"), 0);
    });
}

#[test]
fn what_a_dead_daemon_has_left_can_be_purged() {
    lab(|lab| {
        let service = lab.start();
        let web = attach(&service, &["8080:80"]);
        assert!(
            crate::purge("kkt0", "kekkai_test").is_err(),
            "its daemon lives"
        );
        drop((service, web));
        crate::purge("kkt0", "kekkai_test").unwrap();
        crate::purge("kkt0", "kekkai_test").unwrap();
        assert!(!interfaces().contains(&"kkt0".to_owned()));
        assert!(Socket::netfilter().unwrap().chains().unwrap().is_empty());
        crate::purge("uplink", "kekkai_test").unwrap();
        assert!(
            interfaces().contains(&"uplink".to_owned()),
            "a bridge of somebody else's"
        );
    });
}

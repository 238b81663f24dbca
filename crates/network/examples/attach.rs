//! Measures what a container pays for its network: `cargo run --release -p kekkai-network --example attach [COUNT]`.
//!
//! Runs in a network namespace of its own, so it needs root and leaves nothing.

use std::time::{Duration, Instant};

use kekkai_metadata::Database;
use kekkai_network::{EndpointRequest, NetworkConfig, NetworkService, PoolSize};
use kekkai_types::ContainerId;

fn report(name: &str, times: &mut [Duration]) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e6;
    println!(
        "{name:<44} min {:>8.1}  p50 {:>8.1}  p99 {:>8.1} us",
        at(0),
        at(50),
        at(99)
    );
}

fn request(ports: &[&str]) -> EndpointRequest {
    let ports = ports
        .iter()
        .map(|port| kekkai_types::PortMapping {
            container: port.parse().expect("a port"),
            host_ip: None,
            host_ports: None,
        })
        .collect();
    EndpointRequest {
        container: ContainerId::random(),
        name: "bench".into(),
        mac: None,
        ip: None,
        ports,
    }
}

fn settle(service: &NetworkService, count: usize) {
    while service.ready() < count {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    kekkai_sys::pidfd::unshare_namespaces(0x4000_0000)?;
    let count: usize = std::env::args().nth(1).map_or(Ok(300), |n| n.parse())?;
    let directory = tempfile::tempdir()?;
    let database = Database::open(&directory.path().join("metadata.db"))?;
    let config = NetworkConfig {
        bridge: "kktbench".into(),
        bip: Some("10.99.0.1/16".parse()?),
        table: "kekkai_bench".into(),
        pool: PoolSize { min: 64, max: 64 },
        ..NetworkConfig::default()
    };
    let begin = Instant::now();
    let service = NetworkService::open(config, &database)?;
    let opened = begin.elapsed();
    service.adopt(&[])?;
    println!(
        "{:<44} {:>12.1} ms, then adopt {:.1} ms",
        "open",
        opened.as_secs_f64() * 1e3,
        (begin.elapsed() - opened).as_secs_f64() * 1e3
    );
    let begin = Instant::now();
    settle(&service, 64);
    println!(
        "{:<44} {:>12.1} us each",
        "make a namespace ahead (first 64)",
        begin.elapsed().as_secs_f64() * 1e6 / 64.0
    );

    for (name, ports, pause) in [
        ("attach + release, back to back", &[][..], Duration::ZERO),
        (
            "attach + release, 20 ms apart",
            &[][..],
            Duration::from_millis(20),
        ),
        (
            "attach with one published port, 20 ms apart",
            &["80/tcp"][..],
            Duration::from_millis(20),
        ),
        (
            "attach with ten published ports, 20 ms apart",
            &[
                "1/tcp", "2/tcp", "3/tcp", "4/tcp", "5/tcp", "6/tcp", "7/tcp", "8/tcp", "9/udp",
                "10/udp",
            ][..],
            Duration::from_millis(20),
        ),
    ] {
        settle(&service, 64);
        let (mut attach, mut release) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let wanted = request(ports);
            let begin = Instant::now();
            let endpoint = service.attach(&wanted)?;
            attach.push(begin.elapsed());
            let begin = Instant::now();
            service.release(&endpoint.record)?;
            release.push(begin.elapsed());
            drop(endpoint);
            std::thread::sleep(pause);
        }
        report(name, &mut attach);
        report("    release", &mut release);
    }
    let mut isolated = Vec::new();
    for _ in 0..count {
        let begin = Instant::now();
        drop(service.isolated()?);
        isolated.push(begin.elapsed());
        std::thread::sleep(Duration::from_millis(10));
    }
    report("a namespace without a network, 10 ms apart", &mut isolated);
    let begin = Instant::now();
    let burst: Vec<_> = (0..count)
        .map(|_| service.attach(&request(&[])))
        .collect::<Result<_, _>>()?;
    println!(
        "{:<44} {:>12.1} us each",
        "burst, all kept",
        begin.elapsed().as_secs_f64() * 1e6 / count as f64
    );
    drop(burst);
    service.destroy()?;
    Ok(())
}

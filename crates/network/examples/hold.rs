//! Attaches one container's network on this host and holds it, for trying things by hand beside other engines:
//! `cargo run -p kekkai-network --example hold BRIDGE PORT… -- COMMAND…` runs COMMAND in the container's namespace.
//!
//! Everything it makes is gone when COMMAND ends.

use std::os::fd::AsFd;

use kekkai_metadata::Database;
use kekkai_network::{EndpointRequest, NetworkConfig, NetworkService};
use kekkai_types::{ContainerId, PortMapping};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut parts = arguments.splitn(2, |argument| argument == "--");
    let (Some([bridge, ports @ ..]), Some([program, rest @ ..])) = (parts.next(), parts.next())
    else {
        return Err("usage: hold BRIDGE PORT... -- COMMAND...".into());
    };
    let directory = tempfile::tempdir()?;
    let database = Database::open(&directory.path().join("metadata.db"))?;
    let config = NetworkConfig {
        bridge: bridge.clone(),
        table: format!("kekkai_test_{bridge}"),
        ..NetworkConfig::default()
    };
    let service = NetworkService::open(config, &database)?;
    service.adopt(&[])?;
    let ports = ports
        .iter()
        .map(|port| {
            Ok(PortMapping {
                container: port.parse()?,
                host_ip: None,
                host_ports: None,
            })
        })
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let endpoint = service.attach(&EndpointRequest {
        container: ContainerId::random(),
        name: "hold".into(),
        mac: None,
        ip: None,
        ports,
    })?;
    println!("{:#?}", endpoint.record);
    let status = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                move_into_link_name_space(
                    endpoint.netns.as_fd(),
                    Some(LinkNameSpaceType::Network),
                )?;
                std::process::Command::new(program).args(rest).status()
            })
            .join()
    });
    println!("{:?}", status.map_err(|_| "the thread died")??);
    service.destroy()?;
    Ok(())
}

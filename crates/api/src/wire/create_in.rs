//! Reads the body of `POST /containers/create`.

use kekkai_engine::model::CreateContainer;
use kekkai_types::Platform;

use crate::http::{ApiError, ApiVersion, Fields, Query};
use crate::wire::{read_config, read_endpoints, read_host};

/// What a client wants created. Fields that nobody knows end up in `warnings`.
pub(crate) fn read_create(
    mut body: Fields,
    query: &Query,
    version: ApiVersion,
    warnings: &mut Vec<String>,
) -> Result<CreateContainer, ApiError> {
    if body.is_empty() {
        return Err(ApiError::invalid(
            "config cannot be empty in order to create a container",
        ));
    }
    let platform = query
        .nonempty("platform")
        .filter(|_| version.at_least(41))
        .map(str::parse::<Platform>)
        .transpose()
        .map_err(|error| ApiError::invalid(error.to_string()))?;
    let mut config = read_config(&mut body)?;
    if version.before(44)
        && let Some(health) = &mut config.healthcheck
    {
        health.start_interval = 0;
    }
    let host = body.object("HostConfig")?.unwrap_or_default();
    let host = read_host(host, version, warnings)?;
    let endpoints = read_endpoints(&mut body, &host.network_mode, warnings)?;
    body.finish(warnings);
    let name = query.nonempty("name").map(str::to_owned);
    Ok(CreateContainer {
        name,
        platform,
        config,
        host,
        endpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::MAXIMUM;
    use serde_json::{Value, json};

    /// What docker 28 sends for `docker run --rm alpine:3.20 echo hi`, as captured.
    const PLAIN_RUN: &str = r#"{"Hostname":"","Domainname":"","User":"","AttachStdin":false,"AttachStdout":true,"AttachStderr":true,"Tty":false,"OpenStdin":false,"StdinOnce":false,"Env":null,"Cmd":["echo","hi"],"Image":"alpine:3.20","Volumes":{},"WorkingDir":"","Entrypoint":null,"OnBuild":null,"Labels":{},"HostConfig":{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"","Config":{}},"NetworkMode":"default","PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":true,"VolumeDriver":"","VolumesFrom":null,"ConsoleSize":[0,0],"CapAdd":null,"CapDrop":null,"CgroupnsMode":"","Dns":[],"DnsOptions":[],"DnsSearch":[],"ExtraHosts":null,"GroupAdd":null,"IpcMode":"","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"","Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"","UsernsMode":"","ShmSize":0,"Isolation":"","CpuShares":0,"Memory":0,"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":[],"BlkioDeviceWriteBps":[],"BlkioDeviceReadIOps":[],"BlkioDeviceWriteIOps":[],"CpuPeriod":0,"CpuQuota":0,"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],"DeviceCgroupRules":null,"DeviceRequests":null,"MemoryReservation":0,"MemorySwap":0,"MemorySwappiness":-1,"OomKillDisable":false,"PidsLimit":0,"Ulimits":[],"CpuCount":0,"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":null,"ReadonlyPaths":null},"NetworkingConfig":{"EndpointsConfig":{"default":{"IPAMConfig":null,"Links":null,"Aliases":null,"MacAddress":"","DriverOpts":null,"GwPriority":0,"NetworkID":"","EndpointID":"","Gateway":"","IPAddress":"","IPPrefixLen":0,"IPv6Gateway":"","GlobalIPv6Address":"","GlobalIPv6PrefixLen":0,"DNSNames":null}}}}"#;

    fn read(body: Value, version: &str) -> Result<(CreateContainer, Vec<String>), ApiError> {
        let mut warnings = Vec::new();
        let fields = Fields::from_value("", body).unwrap().unwrap();
        let version = ApiVersion::from_segment(version).unwrap();
        let request = read_create(fields, &Query::parse("name=web"), version, &mut warnings)?;
        Ok((request, warnings))
    }

    #[test]
    fn a_plain_run_sets_nothing_but_what_was_said() {
        let (request, warnings) = read(serde_json::from_str(PLAIN_RUN).unwrap(), "v1.51").unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let mut expected = CreateContainer {
            name: Some("web".to_owned()),
            ..CreateContainer::default()
        };
        expected.config.attach_stdout = true;
        expected.config.attach_stderr = true;
        expected.config.image = "alpine:3.20".to_owned();
        expected.config.cmd = Some(vec!["echo".to_owned(), "hi".to_owned()]);
        expected.host.auto_remove = true;
        expected.host.network_mode = "default".to_owned();
        expected.host.restart_policy.name = "no".to_owned();
        expected.host.resources.oom_kill_disable = Some(false);
        assert_eq!(request.config, expected.config);
        assert_eq!(request.host, expected.host);
        assert!(request.endpoints.is_empty() && request.name == expected.name);
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (host, name) in [
            (json!({"CpuCount": 1}), "HostConfig.CpuCount"),
            (
                json!({"DeviceRequests": [{"Count": -1}]}),
                "HostConfig.DeviceRequests",
            ),
            (
                json!({"Mounts": [{"Type": "volume", "ClusterOptions": {"x": 1}}]}),
                "ClusterOptions",
            ),
        ] {
            let error = read(json!({"Image": "a", "HostConfig": host}), "v1.51").unwrap_err();
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn unknown_fields_are_warned_of_and_case_does_not_matter() {
        let (request, warnings) = read(
            json!({"image": "a", "Foo": 1, "hostconfig": {"memory": 5, "Bar": true}}),
            "v1.51",
        )
        .unwrap();
        assert_eq!(request.config.image, "a");
        assert_eq!(request.host.resources.memory, 5);
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn older_clients_get_their_defaults() {
        let (request, _) = read(json!({"Image": "a"}), "v1.39").unwrap();
        assert_eq!(request.host.ipc_mode, "shareable");
        assert_eq!(request.host.cgroupns_mode, "host");
        let body = json!({"Image": "a", "HostConfig": {"AutoRemove": true}});
        let removes = |version: &str| read(body.clone(), version).unwrap().0.host.auto_remove;
        assert!(removes("v1.25") && !removes("v1.24"));
        assert!(MAXIMUM.at_least(41));
    }

    #[test]
    fn endpoints_and_ports() {
        let body = json!({
            "Image": "a",
            "HostConfig": {"NetworkMode": "bridge", "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}], "53/udp": null}},
            "NetworkingConfig": {"EndpointsConfig": {"default": {"MacAddress": "02:42:ac:11:00:02"}, "other": null}},
        });
        let (request, _) = read(body, "v1.51").unwrap();
        assert_eq!(request.host.port_bindings.len(), 2);
        assert_eq!(
            request.host.port_bindings[&"80/tcp".parse().unwrap()][0].host_port,
            "8080"
        );
        assert_eq!(
            request.endpoints["bridge"].mac_address.as_deref(),
            Some("02:42:ac:11:00:02")
        );
        assert!(request.endpoints.contains_key("other"));
    }
}

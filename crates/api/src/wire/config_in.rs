//! Reads Docker's `Config` and `Healthcheck`.

use kekkai_engine::model::{ContainerConfig, HealthCheck};
use kekkai_types::PortKey;

use crate::http::{ApiError, Fields};

/// Takes the fields of `Config` out of a create request's body.
pub(crate) fn read_config(body: &mut Fields) -> Result<ContainerConfig, ApiError> {
    let exposed_ports = body
        .keys("ExposedPorts")?
        .iter()
        .map(|key| {
            key.parse()
                .map_err(|error: kekkai_types::ParsePortError| ApiError::invalid(error.to_string()))
        })
        .collect::<Result<Vec<PortKey>, _>>()?;
    Ok(ContainerConfig {
        hostname: body.nonempty("Hostname")?,
        domainname: body.nonempty("Domainname")?,
        user: body.nonempty("User")?,
        attach_stdin: body.bool("AttachStdin")?,
        attach_stdout: body.bool("AttachStdout")?,
        attach_stderr: body.bool("AttachStderr")?,
        exposed_ports,
        tty: body.bool("Tty")?,
        open_stdin: body.bool("OpenStdin")?,
        stdin_once: body.bool("StdinOnce")?,
        env: body.strings("Env")?,
        cmd: body.command("Cmd")?,
        entrypoint: body.command("Entrypoint")?,
        image: body.string("Image")?,
        volumes: body.keys("Volumes")?,
        working_dir: body.nonempty("WorkingDir")?,
        network_disabled: body.bool("NetworkDisabled")?,
        mac_address: body.nonempty("MacAddress")?,
        labels: body.string_map("Labels")?,
        stop_signal: body.nonempty("StopSignal")?,
        stop_timeout: body.optional_integer("StopTimeout")?,
        shell: body.command("Shell")?,
        healthcheck: body
            .object("Healthcheck")?
            .map(read_healthcheck)
            .transpose()?,
        on_build: body.strings("OnBuild")?,
        args_escaped: body.bool("ArgsEscaped")?,
    })
}

fn read_healthcheck(mut fields: Fields) -> Result<HealthCheck, ApiError> {
    Ok(HealthCheck {
        test: fields.strings("Test")?,
        interval: fields.integer("Interval")?,
        timeout: fields.integer("Timeout")?,
        start_period: fields.integer("StartPeriod")?,
        start_interval: fields.integer("StartInterval")?,
        retries: fields.integer("Retries")?,
    })
}

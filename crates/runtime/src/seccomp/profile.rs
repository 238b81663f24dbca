//! Profiles in Docker's JSON (`--security-opt seccomp=FILE`).
//!
//! What must stay true: a rule applies exactly where dockerd applies it: by capability, architecture and kernel
//! version; an unknown word is an error that names it, never ignored.

use kekkai_oci::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSyscallBuilder,
};
use serde::Deserialize;

use super::default::built;
use crate::PlanError;

/// The largest profile we read; Docker's own has 15 KB.
const LARGEST: usize = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    #[serde(default)]
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Syscall>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscall {
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// A profile in Docker's JSON for a container with these capabilities (names like `CAP_SYS_ADMIN`) on a machine of
/// this program's architecture, with `kernel` as `uname -r` says it.
///
/// # Errors
/// JSON that is not a profile, unknown actions or operators.
pub fn from_docker_profile(
    json: &[u8],
    capabilities: &[&str],
    kernel: &str,
) -> Result<LinuxSeccomp, PlanError> {
    let invalid = |reason: String| PlanError::Invalid {
        field: "seccomp profile",
        subject: String::new(),
        reason,
    };
    if json.len() > LARGEST {
        return Err(invalid(format!("it has more than {LARGEST} bytes")));
    }
    let profile: Profile =
        serde_json::from_slice(json).map_err(|error| invalid(error.to_string()))?;
    if profile.listener_path.is_some_and(|path| !path.is_empty()) {
        return Err(PlanError::Unsupported(
            "listenerPath of a seccomp profile".to_owned(),
        ));
    }
    let architectures = match (
        profile.architectures.unwrap_or_default(),
        profile.arch_map.unwrap_or_default(),
    ) {
        (given, map) if !given.is_empty() && !map.is_empty() => {
            return Err(invalid("both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'".to_owned()));
        }
        (given, map) if map.is_empty() => given,
        (_, map) => map
            .into_iter()
            .filter(|entry| entry.architecture == Arch::ScmpArchX86_64)
            .flat_map(|entry| {
                [
                    vec![entry.architecture],
                    entry.sub_architectures.unwrap_or_default(),
                ]
                .concat()
            })
            .collect(),
    };

    let mut calls = Vec::new();
    for call in profile.syscalls.unwrap_or_default() {
        let names = match (
            call.name.filter(|name| !name.is_empty()),
            call.names.unwrap_or_default(),
        ) {
            (Some(_), names) if !names.is_empty() => {
                return Err(invalid(
                    "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'".to_owned(),
                ));
            }
            (Some(name), _) => vec![name],
            (None, names) => names,
        };
        let includes = call.includes.unwrap_or_default();
        let excludes = call.excludes.unwrap_or_default();
        if !applies(&includes, &excludes, capabilities, kernel).map_err(invalid)? {
            continue;
        }
        let mut builder = LinuxSyscallBuilder::default()
            .names(names)
            .action(call.action);
        if let Some(errno) = call.errno_ret {
            builder = builder.errno_ret(errno);
        }
        if let Some(args) = call.args.filter(|args| !args.is_empty()) {
            builder = builder.args(args);
        }
        calls.push(built(builder.build()));
    }

    let mut builder = LinuxSeccompBuilder::default()
        .default_action(profile.default_action)
        .architectures(architectures)
        .syscalls(calls);
    if let Some(errno) = profile.default_errno_ret {
        builder = builder.default_errno_ret(errno);
    }
    if let Some(flags) = profile.flags.filter(|flags| !flags.is_empty()) {
        builder = builder.flags(flags);
    }
    let section = built(builder.build());
    super::compile(&section)?;
    Ok(section)
}

/// Whether a rule with these filters applies here.
fn applies(
    includes: &Filter,
    excludes: &Filter,
    capabilities: &[&str],
    kernel: &str,
) -> Result<bool, String> {
    const ARCHITECTURE: &str = "amd64";
    let held = |name: &String| capabilities.contains(&name.as_str());
    let here = |name: &String| name == ARCHITECTURE;
    let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();
    if list(&excludes.arches).iter().any(here) || list(&excludes.caps).iter().any(held) {
        return Ok(false);
    }
    if let Some(minimum) = &excludes.min_kernel
        && version(kernel)? >= version(minimum)?
    {
        return Ok(false);
    }
    let arches = list(&includes.arches);
    if !arches.is_empty() && !arches.iter().any(here) {
        return Ok(false);
    }
    if !list(&includes.caps).iter().all(held) {
        return Ok(false);
    }
    match &includes.min_kernel {
        Some(minimum) => Ok(version(kernel)? >= version(minimum)?),
        None => Ok(true),
    }
}

/// Version and major revision of a kernel: `6.18.44-foo` is (6, 18).
fn version(text: &str) -> Result<(u32, u32), String> {
    let mut numbers = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(version)), Some(Ok(revision))) => Ok((version, revision)),
        _ => Err(format!("invalid kernel version: {text:?}")),
    }
}

//! `update`.

use kekkai_client::Request;
use serde_json::{Map, Value as Json};

use super::create_options::{
    check_bytes, check_cpus, check_swap_bytes, check_uint16, nano_cpus, restart_policy,
};
use super::texts;
use crate::cli::command::Outcome;
use crate::cli::failure::join;
use crate::cli::flags::{Flag, Matches, int, one, text as text_flag};
use crate::cli::{Cli, Failure, output};

pub(crate) const FLAGS: &[Flag] = &[
    one(
        "blkio-weight",
        "uint16",
        "Weight of block I/O, 10 to 1000; 0 switches it off",
    )
    .default("0")
    .check(check_uint16),
    int("cpu-period", "Period of the CPU quota, in microseconds"),
    int("cpu-quota", "CPU time in each period, in microseconds"),
    int(
        "cpu-rt-period",
        "Period of the real-time CPU quota, in microseconds",
    ),
    int(
        "cpu-rt-runtime",
        "Real-time CPU time in each period, in microseconds",
    ),
    int("cpu-shares", "Share of CPU time against other containers").short('c'),
    one("cpus", "decimal", "Number of CPUs").check(check_cpus),
    text_flag("cpuset-cpus", "CPUs to run on (0-3, 0,1)"),
    text_flag("cpuset-mems", "Memory nodes to use (0-3, 0,1)"),
    one("memory", "bytes", "Limit of memory")
        .short('m')
        .check(check_bytes),
    one(
        "memory-reservation",
        "bytes",
        "Memory to keep below when the host runs short",
    )
    .check(check_bytes),
    one(
        "memory-swap",
        "bytes",
        "Limit of memory and swap together; -1 for no limit on swap",
    )
    .check(check_swap_bytes),
    int("pids-limit", "Most processes (-1 for no limit)"),
    text_flag("restart", "When to start it again after it exits"),
];

pub(crate) async fn update(cli: &Cli, matches: &Matches) -> Outcome {
    let mut body = Map::new();
    for (flag, key) in [
        ("blkio-weight", "BlkioWeight"),
        ("cpu-period", "CpuPeriod"),
        ("cpu-quota", "CpuQuota"),
        ("cpu-rt-period", "CpuRealtimePeriod"),
        ("cpu-rt-runtime", "CpuRealtimeRuntime"),
        ("cpu-shares", "CpuShares"),
        ("pids-limit", "PidsLimit"),
    ] {
        if matches.is_set(flag) {
            body.insert(key.to_owned(), Json::from(matches.int(flag)));
        }
    }
    for (flag, key) in [
        ("memory", "Memory"),
        ("memory-reservation", "MemoryReservation"),
        ("memory-swap", "MemorySwap"),
    ] {
        if matches.is_set(flag) {
            let bytes = match matches.text(flag) {
                "-1" => -1,
                text => kekkai_types::size::parse_ram(text).unwrap_or(0),
            };
            body.insert(key.to_owned(), Json::from(bytes));
        }
    }
    for (flag, key) in [("cpuset-cpus", "CpusetCpus"), ("cpuset-mems", "CpusetMems")] {
        if matches.is_set(flag) {
            body.insert(key.to_owned(), Json::from(matches.text(flag)));
        }
    }
    if matches.is_set("cpus") {
        body.insert(
            "NanoCpus".to_owned(),
            Json::from(nano_cpus(matches.text("cpus")).map_err(Failure::new)?),
        );
    }
    if matches.is_set("restart") {
        body.insert(
            "RestartPolicy".to_owned(),
            restart_policy(matches.text("restart")).map_err(Failure::new)?,
        );
    }
    if body.is_empty() {
        return Err(Failure::new(
            "you must provide one or more flags when using this command",
        ));
    }
    let client = cli.client().await?;
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    for name in &matches.args {
        let request = Request::post("/containers/")
            .segment(name, "/update")
            .json(&body)?;
        let answer = async { client.send(request).await?.json::<Json>().await };
        match answer.await {
            Ok(answer) => {
                output::line(name)?;
                warnings.extend(texts(&answer["Warnings"]).into_iter().map(str::to_owned));
            }
            Err(error) => failures.push(error.to_string()),
        }
    }
    if !warnings.is_empty() {
        output::print(&warnings.join("\n"))?;
    }
    join(&failures)
}

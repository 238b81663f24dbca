//! `top`: the processes of a container, read from /proc by ourselves, in the columns of `ps -ef`, `ps aux` or `-o LIST`.

use std::collections::HashMap;
use std::fs;

use crate::EngineError;
use crate::model::TopResult;

/// Kernel clock ticks per second that /proc uses; 100 on every Linux that we run on.
const TICKS: u64 = 100;

/// One process as /proc tells it.
#[derive(Debug, Default)]
struct Process {
    pid: u32,
    ppid: u32,
    uid: u32,
    gid: u32,
    comm: String,
    cmdline: String,
    state: char,
    tty: i32,
    session_leader: bool,
    foreground: bool,
    nice: i64,
    threads: u64,
    cpu_ticks: u64,
    start_ticks: u64,
    vsz_kib: u64,
    rss_kib: u64,
    locked: bool,
}

/// What all rows share.
struct Moment {
    /// Seconds since the boot.
    uptime: f64,
    /// Unix time of the boot.
    boot: i64,
    now: i64,
    mem_total_kib: u64,
    users: HashMap<u32, String>,
    zone: jiff::tz::TimeZone,
}

fn read(pid: u32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let fields: Vec<&str> = stat.get(close + 2..)?.split(' ').collect();
    let number = |index: usize| {
        fields
            .get(index)
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or(0)
    };
    let unsigned = |index: usize| u64::try_from(number(index)).unwrap_or(0);
    let line = |key: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
    };
    let first =
        |key: &str| line(key).and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok());
    // The second number of a Uid or Gid line is the effective one.
    let effective =
        |key: &str| line(key).and_then(|text| text.split_whitespace().nth(1)?.parse().ok());
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<String> = cmdline
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let comm = stat.get(open + 1..close)?.to_owned();
    Some(Process {
        pid,
        ppid: u32::try_from(number(1)).unwrap_or(0),
        uid: effective("Uid").unwrap_or(0),
        gid: effective("Gid").unwrap_or(0),
        cmdline: if words.is_empty() {
            format!("[{comm}]")
        } else {
            words.join(" ")
        },
        comm,
        state: fields
            .first()
            .and_then(|text| text.chars().next())
            .unwrap_or('?'),
        tty: i32::try_from(number(4)).unwrap_or(0),
        session_leader: number(3) == i64::from(pid),
        foreground: number(5) > 0 && number(5) == number(2),
        nice: number(16),
        threads: unsigned(17),
        cpu_ticks: unsigned(11) + unsigned(12),
        start_ticks: unsigned(19),
        vsz_kib: unsigned(20) / 1024,
        rss_kib: first("VmRSS").unwrap_or(0),
        locked: first("VmLck").unwrap_or(0) > 0,
    })
}

impl Moment {
    fn now() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let uptime = text("/proc/uptime")
            .split(' ')
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or(0.0);
        let now = kekkai_types::Timestamp::now().unix_seconds();
        let boot = text("/proc/stat")
            .lines()
            .find_map(|line| line.strip_prefix("btime ")?.parse().ok())
            .unwrap_or(now);
        let mem_total_kib = text("/proc/meminfo")
            .lines()
            .find_map(|line| {
                line.strip_prefix("MemTotal:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse()
                    .ok()
            })
            .unwrap_or(1);
        let users = text("/etc/passwd")
            .lines()
            .filter_map(|line| {
                let mut parts = line.split(':');
                let name = parts.next()?.to_owned();
                Some((parts.nth(1)?.parse().ok()?, name))
            })
            .collect();
        Self {
            uptime,
            boot,
            now,
            mem_total_kib,
            users,
            zone: jiff::tz::TimeZone::system(),
        }
    }

    /// A user's name as ps shows it: long ones by number.
    fn user(&self, uid: u32) -> String {
        self.users
            .get(&uid)
            .filter(|name| name.len() <= 32)
            .cloned()
            .unwrap_or_else(|| uid.to_string())
    }

    fn started(&self, process: &Process) -> i64 {
        self.boot + i64::try_from(process.start_ticks / TICKS).unwrap_or(0)
    }

    fn start_text(&self, process: &Process) -> String {
        let started = self.started(process);
        let Ok(moment) = jiff::Timestamp::from_second(started) else {
            return "?".to_owned();
        };
        let zoned = moment.to_zoned(self.zone.clone());
        let same_year = jiff::Timestamp::from_second(self.now)
            .is_ok_and(|now| now.to_zoned(self.zone.clone()).year() == zoned.year());
        let form = match self.now - started {
            ..86_400 => "%H:%M",
            _ if same_year => "%b%d",
            _ => "%Y",
        };
        zoned.strftime(form).to_string()
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn cpu_percent(&self, process: &Process) -> f64 {
        let alive = self.uptime - process.start_ticks as f64 / TICKS as f64;
        if alive <= 0.0 {
            0.0
        } else {
            process.cpu_ticks as f64 / TICKS as f64 * 100.0 / alive
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    fn column(&self, name: &str, process: &Process) -> String {
        let seconds = process.cpu_ticks / TICKS;
        match name {
            "UID" | "USER" => self.user(process.uid),
            "GID" => process.gid.to_string(),
            "UIDN" => process.uid.to_string(),
            "PID" => process.pid.to_string(),
            "PPID" => process.ppid.to_string(),
            "C" => format!("{:.0}", self.cpu_percent(process).min(99.0).floor()),
            "STIME" | "START" => self.start_text(process),
            "TTY" | "TT" => tty(process.tty),
            "TIME" => format!(
                "{:02}:{:02}:{:02}",
                seconds / 3600,
                seconds / 60 % 60,
                seconds % 60
            ),
            "TIMEB" => format!("{}:{:02}", seconds / 60, seconds % 60),
            "ELAPSED" => elapsed(u64::try_from(self.now - self.started(process)).unwrap_or(0)),
            "CMD" | "COMMANDF" => process.cmdline.clone(),
            "COMMAND" => process.comm.clone(),
            "%CPU" => format!("{:.1}", self.cpu_percent(process)),
            "%MEM" => format!(
                "{:.1}",
                process.rss_kib as f64 * 100.0 / self.mem_total_kib as f64
            ),
            "VSZ" => process.vsz_kib.to_string(),
            "RSS" => process.rss_kib.to_string(),
            "NI" => process.nice.to_string(),
            "NLWP" => process.threads.to_string(),
            "S" => process.state.to_string(),
            _ => state(process),
        }
    }
}

fn state(process: &Process) -> String {
    let mut text = process.state.to_string();
    for (present, letter) in [
        (process.nice < 0, '<'),
        (process.nice > 0, 'N'),
        (process.locked, 'L'),
        (process.session_leader, 's'),
        (process.threads > 1, 'l'),
        (process.foreground, '+'),
    ] {
        if present {
            text.push(letter);
        }
    }
    text
}

fn tty(number: i32) -> String {
    let device = u32::try_from(number).unwrap_or(0);
    let (major, minor) = (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00);
    match major {
        _ if device == 0 => "?".to_owned(),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        4 => format!("ttyS{}", minor - 64),
        _ => "?".to_owned(),
    }
}

fn elapsed(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes:02}:{:02}", seconds % 60),
        (0, _) => format!("{hours:02}:{minutes:02}:{:02}", seconds % 60),
        _ => format!("{days}-{hours:02}:{minutes:02}:{:02}", seconds % 60),
    }
}

/// A column: how it is titled, and what is in it.
type Column = (&'static str, &'static str);

const FULL: [Column; 8] = [
    ("UID", "UID"),
    ("PID", "PID"),
    ("PPID", "PPID"),
    ("C", "C"),
    ("STIME", "STIME"),
    ("TTY", "TTY"),
    ("TIME", "TIME"),
    ("CMD", "CMD"),
];

const AUX: [Column; 11] = [
    ("USER", "USER"),
    ("PID", "PID"),
    ("%CPU", "%CPU"),
    ("%MEM", "%MEM"),
    ("VSZ", "VSZ"),
    ("RSS", "RSS"),
    ("TTY", "TTY"),
    ("STAT", "STAT"),
    ("START", "START"),
    ("TIME", "TIMEB"),
    ("COMMAND", "COMMANDF"),
];

const SHORT: [Column; 4] = [
    ("PID", "PID"),
    ("TTY", "TTY"),
    ("TIME", "TIME"),
    ("CMD", "COMMAND"),
];

/// The columns of `-o LIST`.
fn named(word: &str) -> Option<Column> {
    Some(match word {
        "pid" | "tgid" => ("PID", "PID"),
        "ppid" => ("PPID", "PPID"),
        "user" | "euser" | "uname" => ("USER", "USER"),
        "uid" | "euid" => ("UID", "UIDN"),
        "gid" | "egid" => ("GID", "GID"),
        "comm" | "ucmd" | "ucomm" => ("COMMAND", "COMMAND"),
        "args" | "command" => ("COMMAND", "COMMANDF"),
        "cmd" => ("CMD", "CMD"),
        "pcpu" | "%cpu" => ("%CPU", "%CPU"),
        "pmem" | "%mem" => ("%MEM", "%MEM"),
        "c" => ("C", "C"),
        "vsz" | "vsize" => ("VSZ", "VSZ"),
        "rss" | "rssize" => ("RSS", "RSS"),
        "tty" | "tt" | "tname" => ("TT", "TT"),
        "stat" => ("STAT", "STAT"),
        "s" | "state" => ("S", "S"),
        "start" | "stime" | "start_time" => ("STIME", "STIME"),
        "time" | "cputime" => ("TIME", "TIME"),
        "etime" => ("ELAPSED", "ELAPSED"),
        "ni" | "nice" => ("NI", "NI"),
        "nlwp" | "thcount" => ("NLWP", "NLWP"),
        _ => return None,
    })
}

/// Which columns `ps` would show for these arguments.
fn columns(arguments: &str) -> Result<Vec<Column>, EngineError> {
    let mut chosen: Vec<Column> = Vec::new();
    let mut words = arguments.split_whitespace();
    let refuse = |what: &str| EngineError::Unsupported(format!("ps argument {what:?} of top"));
    let mut base: Option<&[Column]> = None;
    while let Some(word) = words.next() {
        let list = match word {
            "-ef" | "-fe" | "-f" | "-eF" | "-F" => {
                base = Some(&FULL);
                continue;
            }
            "aux" | "-aux" | "axu" | "u" | "ux" | "auxw" | "auxww" => {
                base = Some(&AUX);
                continue;
            }
            "-e" | "-A" | "-a" | "ax" | "-ax" | "x" | "a" => {
                base = base.or(Some(&SHORT));
                continue;
            }
            "-w" | "-ww" | "ww" | "w" => continue,
            "-o" | "o" | "--format" | "-eo" | "-Ao" | "axo" | "-axo" => {
                words.next().unwrap_or_default().to_owned()
            }
            other => match ["--format=", "-eo", "-Ao", "-o"]
                .iter()
                .find_map(|prefix| other.strip_prefix(prefix))
            {
                Some(list) if !list.is_empty() => list.to_owned(),
                _ if other.starts_with("--") => {
                    return Err(EngineError::System(
                        "ps: error: unknown gnu long option".to_owned(),
                    ));
                }
                _ => return Err(refuse(other)),
            },
        };
        for name in list.split(',').filter(|name| !name.is_empty()) {
            // A title of its own (`pid=ID`) would hide which column the pids are in.
            chosen.push(named(name).ok_or_else(|| refuse(name))?);
        }
    }
    if chosen.is_empty() {
        chosen = base.unwrap_or(&FULL).to_vec();
    }
    if chosen.iter().all(|(title, _)| *title != "PID") {
        return Err(EngineError::System(
            "Couldn't find PID field in ps output".to_owned(),
        ));
    }
    Ok(chosen)
}

/// The processes `pids`, with the columns of these `ps` arguments. Blocks on /proc only.
pub(crate) fn top(pids: &[u32], arguments: &str) -> Result<TopResult, EngineError> {
    let columns = columns(arguments)?;
    let moment = Moment::now();
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    let processes = pids
        .into_iter()
        .filter_map(read)
        .map(|process| {
            columns
                .iter()
                .map(|(_, what)| moment.column(what, &process))
                .collect()
        })
        .collect();
    Ok(TopResult {
        titles: columns
            .iter()
            .map(|(title, _)| (*title).to_owned())
            .collect(),
        processes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process() {
        let result = top(&[std::process::id()], "").unwrap();
        assert_eq!(
            result.titles,
            ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        );
        assert_eq!(result.processes[0][1], std::process::id().to_string());
        assert!(
            result.processes[0][7].contains("engine"),
            "{:?}",
            result.processes
        );
        let result = top(&[std::process::id()], "-o pid,comm,%mem").unwrap();
        assert_eq!(result.titles, ["PID", "COMMAND", "%MEM"]);
        assert_eq!(top(&[1], "aux").unwrap().titles.len(), 11);
    }

    #[test]
    fn arguments() {
        assert_eq!(
            top(&[], "-o comm").unwrap_err().to_string(),
            "Couldn't find PID field in ps output"
        );
        assert_eq!(
            top(&[], "--foo").unwrap_err().to_string(),
            "ps: error: unknown gnu long option"
        );
        assert!(
            top(&[], "-o pid,bogus")
                .unwrap_err()
                .to_string()
                .contains("bogus")
        );
        assert_eq!(tty(34816), "pts/0");
        assert_eq!(elapsed(90_061), "1-01:01:01");
    }
}

//! The rows of the table, one function each.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kekkai_tests::Registry;
use kekkai_tests::fixture::Fixtures;

use crate::Options;
use crate::engine::{Engine, IMAGE};
use crate::report::{Report, Row, at_least, at_most};
use crate::sample::{Samples, in_turns, ms, time};
use crate::{floor, memory};

/// Names for `--only`.
pub(crate) const NAMES: [&str; 9] = [
    "idle", "run", "none", "loaded", "exec", "parallel", "memory", "start", "ps",
];

/// One row's work.
type Step = fn(&mut Bench<'_>) -> Result<()>;

struct Bench<'a> {
    options: &'a Options,
    docker: Option<Engine>,
    kekkai: Option<Engine>,
    report: Report,
}

/// Measures everything that was asked for.
pub(crate) fn run(options: &Options) -> Result<Report> {
    let fixtures = Fixtures::build()?;
    let registry = Registry::start(&fixtures)?;
    let docker = if options.no_docker {
        None
    } else {
        Some(Engine::docker(&registry)?)
    };
    let kekkai = if options.no_kekkai {
        None
    } else {
        Some(Engine::kekkai(&registry)?)
    };
    let mut bench = Bench {
        options,
        docker,
        kekkai,
        report: Report::default(),
    };
    bench.facts(registry.has_real_images);
    let wants = |name: &str| options.only.is_empty() || options.only.iter().any(|o| o == name);
    let steps: [(&str, Step); 9] = [
        ("idle", |b| b.idle()),
        ("run", |b| b.run_bridge()),
        ("none", |b| b.run_none()),
        ("loaded", |b| b.loaded()),
        ("exec", |b| b.exec()),
        ("parallel", |b| b.parallel()),
        ("memory", |b| b.memory()),
        ("start", |b| b.start()),
        ("ps", |b| b.ps()),
    ];
    for (name, step) in steps {
        if wants(name) {
            eprintln!("measuring: {name}");
            if let Err(error) = step(&mut bench) {
                // The other rows are still worth having.
                bench
                    .report
                    .notes
                    .push(format!("`{name}` could not be measured: {error:#}"));
            }
            for engine in bench.engines() {
                engine.sweep()?;
            }
        }
    }
    if let Some(mut daemon) = bench.kekkai.take().and_then(|e| e.daemon) {
        let left = daemon.tear_down()?;
        if !left.is_empty() {
            bench
                .report
                .notes
                .push(format!("left over: {}", left.join("; ")));
        }
    }
    Ok(bench.report)
}

fn ratio(docker: Option<&Samples>, kekkai: Option<&Samples>) -> Option<f64> {
    Some(docker?.median().as_secs_f64() / kekkai?.median().as_secs_f64())
}

fn times(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |v| format!("{v:.1} ×"))
}

impl Bench<'_> {
    fn engines(&self) -> Vec<&Engine> {
        self.docker.iter().chain(self.kekkai.iter()).collect()
    }

    fn facts(&mut self, real: bool) {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let version = read("/proc/version");
        let kernel = version.split_whitespace().nth(2).unwrap_or("?").to_owned();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        let load = read("/proc/loadavg");
        let load = load
            .split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" ");
        let image = if real {
            "alpine 3.20"
        } else {
            "the busybox fixture"
        };
        let mut facts = vec![format!(
            "{cpus} CPUs, Linux {kernel}, load before the run {load}; containers of {image}"
        )];
        facts.extend(self.engines().iter().map(|e| e.version()));
        self.report.facts = facts;
    }

    /// The same words through each engine's command line, in turns.
    fn turns(
        &self,
        count: usize,
        pause: Duration,
        words: &[&str],
    ) -> Result<(Option<Samples>, Option<Samples>)> {
        let engines = self.engines();
        let commands: Vec<Box<dyn Fn() -> Command + '_>> = engines
            .iter()
            .map(|e| Box::new(move || e.command(words)) as Box<dyn Fn() -> Command>)
            .collect();
        let commands: Vec<&dyn Fn() -> Command> = commands.iter().map(|c| &**c).collect();
        let samples = in_turns(count, pause, &commands)?;
        let mut of = engines.iter().map(|e| e.name).zip(samples);
        let mut docker = None;
        let mut kekkai = None;
        for (name, samples) in of.by_ref() {
            *(if name == "docker" {
                &mut docker
            } else {
                &mut kekkai
            }) = Some(samples);
        }
        Ok((docker, kekkai))
    }

    /// Rows back to back and spaced, judged by the spaced ratio's and the other's worse.
    fn compare(
        &mut self,
        what: &str,
        words: &[&str],
        counts: (usize, usize),
        floor: f64,
        aim: f64,
    ) -> Result<()> {
        for (count, pause, how) in [
            (counts.0, 0, "back to back"),
            (counts.1, 100, "100 ms between"),
        ] {
            let (docker, kekkai) = self.turns(
                self.options.count(count),
                Duration::from_millis(pause),
                words,
            )?;
            let value = ratio(docker.as_ref(), kekkai.as_ref());
            let words = |s: &Option<Samples>| s.as_ref().map_or_else(|| "–".into(), Samples::words);
            self.report.rows.push(Row {
                what: format!("{what}, {how} (n = {})", self.options.count(count)),
                docker: words(&docker),
                kekkai: words(&kekkai),
                result: times(value),
                target: format!("≥ {floor}, ≥ {aim}"),
                verdict: at_least(value, floor, aim),
            });
        }
        Ok(())
    }

    fn run_bridge(&mut self) -> Result<()> {
        self.compare(
            "`run --rm alpine true`, default bridge",
            &["run", "--rm", IMAGE, "true"],
            (100, 100),
            40.0,
            80.0,
        )
    }

    fn run_none(&mut self) -> Result<()> {
        let words = ["run", "--rm", "--network", "none", IMAGE, "true"];
        self.compare(
            "`run --rm --network none alpine true`",
            &words,
            (100, 100),
            30.0,
            60.0,
        )
    }

    fn exec(&mut self) -> Result<()> {
        for engine in self.engines() {
            time(engine.command(&[
                "run",
                "-d",
                "--name",
                "kkbench-exec",
                IMAGE,
                "sleep",
                "100000",
            ]))?;
        }
        self.compare(
            "`exec CONTAINER true`",
            &["exec", "kkbench-exec", "true"],
            (100, 100),
            25.0,
            50.0,
        )
    }

    /// 500 starts, one every 100 ms, with two busy loops beside them.
    fn loaded(&mut self) -> Result<()> {
        let engine = self.kekkai.as_ref().context("Kekkai only")?;
        let spin = || {
            Command::new("sh")
                .args(["-c", "while :; do :; done"])
                .stdout(Stdio::null())
                .spawn()
        };
        let mut loops: Vec<Child> = vec![spin()?, spin()?];
        let count = self.options.count(500);
        let mut samples = Samples::default();
        let outcome = (|| -> Result<()> {
            let begin = Instant::now();
            for i in 0..count {
                // A schedule, not a pause: a slow start does not thin out the load.
                let due = begin + Duration::from_millis(100) * i as u32;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                samples.0.push(time(engine.command(&[
                    "run",
                    "--rm",
                    "--network",
                    "none",
                    IMAGE,
                    "true",
                ]))?);
            }
            Ok(())
        })();
        for child in &mut loops {
            child.kill()?;
            child.wait()?;
        }
        outcome?;
        let p99 = samples.quantile(0.99);
        self.report.rows.push(Row {
            what: format!("the same, {count} starts, one every 100 ms, two busy loops beside them"),
            docker: "not asked".into(),
            kekkai: samples.words(),
            result: format!("p99 {} ms", ms(p99)),
            target: "≤ 25 ms, ≤ 12 ms".into(),
            verdict: at_most(Some(p99.as_secs_f64() * 1e3), 25.0, 12.0),
        });
        Ok(())
    }

    /// 100 containers started by 8 parallel clients.
    fn parallel(&mut self) -> Result<()> {
        let count = self.options.count(100);
        let mut rates = [None, None];
        for round in 0..2 {
            for engine in self.engines() {
                let begin = Instant::now();
                let failures: Vec<anyhow::Error> = std::thread::scope(|scope| {
                    let workers: Vec<_> = (0..8)
                        .map(|worker| {
                            scope.spawn(move || -> Result<()> {
                                for i in (worker..count).step_by(8) {
                                    let name = format!("kkbench-p{round}-{i}");
                                    time(engine.command(&[
                                        "run", "-d", "--name", &name, IMAGE, "sleep", "100000",
                                    ]))?;
                                }
                                Ok(())
                            })
                        })
                        .collect();
                    workers
                        .into_iter()
                        .filter_map(|w| w.join().ok()?.err())
                        .collect()
                });
                let rate = count as f64 / begin.elapsed().as_secs_f64();
                if let Some(failure) = failures.into_iter().next() {
                    return Err(failure);
                }
                // The better of two rounds for each.
                let slot = &mut rates[usize::from(engine.name == "kekkai")];
                *slot = Some(slot.unwrap_or(0.0f64).max(rate));
                engine.sweep()?;
            }
        }
        let value = Some(rates[1].unwrap_or(0.0) / rates[0].unwrap_or(f64::NAN))
            .filter(|v| v.is_finite() && *v > 0.0);
        let words = |r: Option<f64>| r.map_or_else(|| "–".into(), |r| format!("{r:.1} per s"));
        self.report.rows.push(Row {
            what: format!(
                "{count} containers by 8 parallel clients (`run -d`), better of two rounds"
            ),
            docker: words(rates[0]),
            kekkai: words(rates[1]),
            result: times(value),
            target: "≥ 20, ≥ 50".into(),
            verdict: at_least(value, 20.0, 50.0),
        });
        Ok(())
    }

    fn measure(engine: &Engine) -> Result<memory::Memory> {
        memory::of(
            &engine.processes(),
            engine.daemon.as_ref().map(|d| d.base.as_path()),
        )
    }

    fn idle(&mut self) -> Result<()> {
        std::thread::sleep(Duration::from_secs(2));
        let mut words = [None, None];
        let mut ours = None;
        for engine in self.engines() {
            let m = Self::measure(engine)?;
            let mb = |b: i64| b as f64 / 1e6;
            words[usize::from(engine.name == "kekkai")] = Some(format!(
                "{:.1} MB resident, {:.1} MB proportional, {:.1} MB tmpfs and memfd",
                mb(m.rss),
                mb(m.pss),
                mb(m.tmpfs + m.memfd)
            ));
            if engine.name == "kekkai" {
                ours = Some(mb(m.rss));
            }
        }
        let [docker, kekkai] = words.map(|w| w.unwrap_or_else(|| "–".into()));
        self.report.rows.push(Row {
            what: "resident memory with no container".into(),
            docker,
            kekkai,
            result: ours.map_or_else(|| "–".into(), |v| format!("{v:.1} MB")),
            target: "≤ 20 MB, ≤ 12 MB".into(),
            verdict: at_most(ours, 20.0, 12.0),
        });
        Ok(())
    }

    /// Memory per idle container.
    fn memory(&mut self) -> Result<()> {
        let count = self.options.count(200);
        let mut words = [None, None];
        let mut ours = None;
        for engine in self.engines() {
            // Pools fill up before the first look, so that they are not counted as containers.
            time(engine.command(&["run", "--rm", IMAGE, "true"]))?;
            std::thread::sleep(Duration::from_secs(3));
            let before = Self::measure(engine)?;
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..4)
                    .map(|worker| {
                        scope.spawn(move || -> Result<()> {
                            for i in (worker..count).step_by(4) {
                                let name = format!("kkbench-m{i}");
                                time(engine.command(&[
                                    "run", "-d", "--name", &name, IMAGE, "sleep", "100000",
                                ]))?;
                            }
                            Ok(())
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .try_for_each(|w| w.join().unwrap_or_else(|_| bail!("a worker panicked")))
            })?;
            std::thread::sleep(Duration::from_secs(3));
            let after = Self::measure(engine)?;
            let each = |a: i64, b: i64| (a - b) as f64 / count as f64 / 1024.0;
            let engine_kb = each(after.engine(), before.engine());
            words[usize::from(engine.name == "kekkai")] = Some(format!(
                "{engine_kb:.1} KB (PSS {:.1}, memfd {:.1}, tmpfs {:.1}); kernel {:.0} KB",
                each(after.pss, before.pss),
                each(after.memfd, before.memfd),
                each(after.tmpfs, before.tmpfs),
                each(after.kernel, before.kernel)
            ));
            if engine.name == "kekkai" {
                ours = Some(engine_kb);
            }
            engine.sweep()?;
        }
        let [docker, kekkai] = words.map(|w| w.unwrap_or_else(|| "–".into()));
        self.report.rows.push(Row {
            what: format!("engine memory per idle container, over {count}"),
            docker,
            kekkai,
            result: ours.map_or_else(|| "–".into(), |v| format!("{v:.1} KB")),
            target: "≤ 64 KB, ≤ 40 KB".into(),
            verdict: at_most(ours, 64.0, 40.0),
        });
        Ok(())
    }

    /// `POST …/start` until 204, over the kernel's floor.
    fn start(&mut self) -> Result<()> {
        let count = self.options.count(100);
        let mut words = [None, None];
        let mut ours = None;
        for engine in self.engines() {
            for i in 0..count {
                time(engine.command(&[
                    "create",
                    "--name",
                    &format!("kkbench-s{i}"),
                    IMAGE,
                    "true",
                ]))?;
            }
            let mut connection = BufReader::new(UnixStream::connect(&engine.socket)?);
            let mut samples = Samples::default();
            for i in 0..count {
                std::thread::sleep(Duration::from_millis(100));
                samples
                    .0
                    .push(post_start(&mut connection, &format!("kkbench-s{i}"))?);
            }
            words[usize::from(engine.name == "kekkai")] = Some(samples.words());
            if engine.name == "kekkai" {
                ours = Some(samples.median());
            }
            engine.sweep()?;
        }
        let floor = floor::start_p50();
        if let Err(error) = &floor {
            self.report
                .notes
                .push(format!("the floor program did not run: {error:#}"));
        }
        let floor = floor.ok();
        let value = ours
            .zip(floor)
            .map(|(o, f)| o.as_secs_f64() / f.as_secs_f64());
        let [docker, kekkai] = words.map(|w| w.unwrap_or_else(|| "–".into()));
        self.report.rows.push(Row {
            what: format!("`POST …/start` until 204, 100 ms between (n = {count}), over START p50 of `floor/start.c` ({})", floor.map_or_else(|| "?".into(), |f| format!("{} ms", ms(f)))),
            docker,
            kekkai,
            result: times(value),
            target: "≤ 3, ≤ 2".into(),
            verdict: at_most(value, 3.0, 2.0),
        });
        Ok(())
    }

    /// `ps -a` with 1,000 containers that do not run.
    fn ps(&mut self) -> Result<()> {
        let count = self.options.count(1000);
        for engine in self.engines() {
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..4)
                    .map(|worker| {
                        scope.spawn(move || -> Result<()> {
                            for i in (worker..count).step_by(4) {
                                let name = format!("kkbench-l{i}");
                                // Ours have run and ended; Docker's were only created, or this would take minutes.
                                if engine.name == "kekkai" {
                                    time(engine.command(&[
                                        "run",
                                        "--network",
                                        "none",
                                        "--name",
                                        &name,
                                        IMAGE,
                                        "true",
                                    ]))?;
                                } else {
                                    time(
                                        engine.command(&["create", "--name", &name, IMAGE, "true"]),
                                    )?;
                                }
                            }
                            Ok(())
                        })
                    })
                    .collect();
                workers
                    .into_iter()
                    .try_for_each(|w| w.join().unwrap_or_else(|_| bail!("a worker panicked")))
            })?;
        }
        let (docker, kekkai) = self.turns(
            self.options.count(50),
            Duration::from_millis(20),
            &["ps", "-a"],
        )?;
        let ours = kekkai.as_ref().map(|s| s.median().as_secs_f64() * 1e3);
        let words = |s: &Option<Samples>| s.as_ref().map_or_else(|| "–".into(), Samples::words);
        self.report.rows.push(Row {
            what: format!("`ps -a` with {count} stopped containers (Docker's: created)"),
            docker: words(&docker),
            kekkai: words(&kekkai),
            result: ours.map_or_else(|| "–".into(), |v| format!("{v:.1} ms")),
            target: "≤ 30 ms, ≤ 10 ms".into(),
            verdict: at_most(ours, 30.0, 10.0),
        });
        Ok(())
    }
}

/// One start over a connection that is kept, as a long-lived client has it.
fn post_start(connection: &mut BufReader<UnixStream>, name: &str) -> Result<Duration> {
    let request = format!(
        "POST /v1.44/containers/{name}/start HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n"
    );
    let begin = Instant::now();
    connection.get_mut().write_all(request.as_bytes())?;
    let mut status = String::new();
    connection.read_line(&mut status)?;
    let took = begin.elapsed();
    let mut length = 0u64;
    loop {
        let mut line = String::new();
        connection.read_line(&mut line)?;
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim_end().is_empty() {
            break;
        }
    }
    let mut body = String::new();
    connection.by_ref().take(length).read_to_string(&mut body)?;
    if !status.contains(" 204 ") {
        bail!("start of {name}: {} {body}", status.trim());
    }
    Ok(took)
}

//! Turns rows and columns into tests, keeps one world per daemon, and looks for leftovers when all is done.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::case::{Case, Ctx, On};
use crate::registry::shared_folder;
use crate::world::{Cli, Target, World, docker_cli_absence, dockerd_absence};

/// A world that comes up when its first case does.
#[derive(Debug)]
struct Lazy {
    target: Target,
    world: Mutex<Option<Result<Arc<World>, String>>>,
}

impl Lazy {
    fn get(&self) -> Result<Arc<World>, String> {
        let mut world = self
            .world
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let start = || {
            World::start(self.target)
                .map(Arc::new)
                .map_err(|e| format!("{e:#}"))
        };
        world.get_or_insert_with(start).clone()
    }
}

/// A failure's words, out of a panic.
pub fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
        .unwrap_or_else(|| "panicked".into())
}

/// Runs a case, and once more if it fails: four cases and two engines share two cores, and what passes alone is told
/// aloud as a flake, not as a failure.
fn run(case: Case, lazy: &Lazy, cli: Cli) -> Result<(), Failed> {
    let Err(first) = attempt(case, lazy, cli) else {
        return Ok(());
    };
    let words = first.message().unwrap_or_default().to_owned();
    let second = attempt(case, lazy, cli);
    if second.is_ok() {
        println!("FLAKY: {} failed once and passed then: {words}", case.name);
    }
    second
}

fn attempt(case: Case, lazy: &Lazy, cli: Cli) -> Result<(), Failed> {
    let world = lazy.get().map_err(|e| format!("no world for it: {e}"))?;
    let ctx = Ctx::new(&world, cli);
    let result = catch_unwind(AssertUnwindSafe(|| (case.steps)(&ctx)));
    if std::env::var_os("KEKKAI_TEST_KEEP").is_none() || result.is_ok() {
        ctx.clean_up();
    }
    result.map_err(|panic| Failed::from(words_of(&*panic)))
}

/// Runs the cases in their three columns; the exit code is cargo's idea of a test's.
pub fn main(cases: &[Case]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Four at a time: most of a case is waiting for somebody's daemon.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let dockerd = Arc::new(Lazy {
        target: Target::Dockerd,
        world: Mutex::default(),
    });
    let ours = Arc::new(Lazy {
        target: Target::Kekkai,
        world: Mutex::default(),
    });
    let no_dockerd = docker_cli_absence().or_else(dockerd_absence);
    let no_docker = docker_cli_absence();
    let listing = arguments.list;
    let say = |what: &str, why: &Option<String>| {
        if let (Some(why), false) = (why, listing) {
            eprintln!("SKIPPED: {what}: {why}");
        }
    };
    say("every case against Docker's own daemon", &no_dockerd);
    say("every case with the docker command line", &no_docker);
    let real_images = shared_folder("images").is_some();
    say(
        "the real images",
        &(!real_images).then(|| "there is no ../shared/images".to_owned()),
    );

    // KEKKAI_TEST_COLUMNS=dockerd,docker,kekkai picks columns.
    let wanted = std::env::var("KEKKAI_TEST_COLUMNS").unwrap_or_default();
    let wants = |column: &str| wanted.is_empty() || wanted.split(',').any(|w| w == column);
    let columns = [
        ("dockerd", &dockerd, Cli::Docker, &no_dockerd),
        ("docker", &ours, Cli::Docker, &no_docker),
        ("kekkai", &ours, Cli::Kekkai, &None),
    ];
    let mut trials = Vec::new();
    for (column, lazy, cli, absent) in columns {
        for case in cases.iter().copied() {
            let fits = match case.on {
                On::All => true,
                On::Ours => lazy.target == Target::Kekkai,
                On::OurCli => lazy.target == Target::Kekkai && cli == Cli::Kekkai,
                On::Api => cli == Cli::Docker || no_docker.is_some(),
            };
            if fits && wants(column) {
                let lazy = Arc::clone(lazy);
                let trial = Trial::test(format!("{column}::{}", case.name), move || {
                    run(case, &lazy, cli)
                });
                trials.push(
                    trial.with_ignored_flag(absent.is_some() || (case.real_images && !real_images)),
                );
            }
        }
    }
    // The panic's words are in the report of failures; printed as they happen they would tear it apart.
    std::panic::set_hook(Box::new(|_| {}));
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(std::panic::take_hook());
    let mut failed = conclusion.has_failed();
    for lazy in [dockerd, ours] {
        let world = lazy.world.lock().ok().and_then(|mut w| w.take());
        let Some(Ok(world)) = world else { continue };
        let Ok(world) = Arc::try_unwrap(world) else {
            continue;
        };
        let target = world.target;
        let left = world.tear_down();
        if target == Target::Kekkai && !listing {
            if left.is_empty() {
                println!(
                    "left over by {} cases: nothing",
                    conclusion.num_passed + conclusion.num_failed
                );
            } else {
                println!("LEFT OVER:\n  {}", left.join("\n  "));
                // After a failed case its remains are the lesser news.
                failed = true;
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

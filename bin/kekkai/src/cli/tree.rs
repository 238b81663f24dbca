//! All commands, and what they are called.

use super::command::{Arity, Command};
use super::commands::{
    attach, containers, copy, create_options, events, exec, images, info, inspect, lists, login,
    logs, prune, pull, resource_lists, run, stats, system, update, version, volumes,
};
use super::completion;
use super::flags::{Flag, list, switch, text};

macro_rules! run {
    ($path:path) => {
        |cli, matches| Box::pin($path(cli, matches))
    };
}

/// Flags that stand before the command.
pub(super) const GLOBAL_FLAGS: &[Flag] = &[
    text("config", "Directory of the client's configuration").default("\"~/.docker\""),
    text("context", "Context of the daemon to talk to (overrides KEKKAI_HOST, DOCKER_HOST and the current context)").short('c'),
    switch("debug", "Debug mode").short('D'),
    list("host", "Socket of the daemon to talk to").short('H'),
    text("log-level", "Least level of messages (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")").short('l').default("\"info\""),
    switch("tls", "Use TLS; implied by --tlsverify"),
    text("tlscacert", "Trust only certificates signed by this authority").default("\"~/.docker/ca.pem\""),
    text("tlscert", "Our TLS certificate").default("\"~/.docker/cert.pem\""),
    text("tlskey", "Its key").default("\"~/.docker/key.pem\""),
    switch("tlsverify", "Use TLS and verify the daemon"),
    switch("version", "Print the version and quit").short('v'),
];

static ATTACH: Command = Command::new(
    "attach",
    "[OPTIONS] CONTAINER",
    "Connect to the input and output of a running container",
    Arity::Exactly(1),
    run!(attach::attach),
)
.flags(attach::FLAGS)
.paths(&["container attach", "attach"]);
static CP: Command = Command::new(
    "cp",
    "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\ncp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    "Copy files between a container and here",
    Arity::Exactly(2),
    run!(copy::copy),
)
.long("Copy files between a container and here\n\nWith '-' as the source, a tar archive is read from stdin and unpacked into a\ndirectory of the container. With '-' as the destination, a tar archive of the\nsource is written to stdout.")
.flags(copy::FLAGS)
.paths(&["container cp", "cp"]);
static CREATE: Command = Command::new(
    "create",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a container",
    Arity::AtLeast(1),
    run!(run::create),
)
.flags(create_options::CREATE_FLAGS)
.flags_first()
.paths(&["container create", "create"]);
static DIFF: Command = Command::new(
    "diff",
    "CONTAINER",
    "Show what changed in a container's files",
    Arity::Exactly(1),
    run!(containers::diff),
)
.paths(&["container diff", "diff"]);
static EVENTS: Command = Command::new(
    "events",
    "[OPTIONS]",
    "Show what happens in the engine as it happens",
    Arity::None,
    run!(events::events),
)
.flags(events::FLAGS)
.paths(&["system events", "events"]);
static EXEC: Command = Command::new(
    "exec",
    "[OPTIONS] CONTAINER COMMAND [ARG...]",
    "Run a command in a running container",
    Arity::AtLeast(2),
    run!(exec::exec),
)
.flags(exec::FLAGS)
.flags_first()
.paths(&["container exec", "exec"]);
static HISTORY: Command = Command::new(
    "history",
    "[OPTIONS] IMAGE",
    "Show how an image was made",
    Arity::Exactly(1),
    run!(lists::history),
)
.flags(lists::HISTORY_FLAGS)
.paths(&["image history", "history"]);
static IMAGES: Command = Command::new(
    "images",
    "[OPTIONS] [REPOSITORY[:TAG]]",
    "List images",
    Arity::AtMost(1),
    run!(lists::images),
)
.flags(lists::IMAGES_FLAGS)
.paths(&["image ls", "image list", "images"]);
static IMAGE_LS: Command = IMAGES.named("ls").aliases(&["list"]);
static INFO: Command = Command::new(
    "info",
    "[OPTIONS]",
    "Show facts about the whole system",
    Arity::None,
    run!(info::info),
)
.flags(version::FLAGS)
.paths(&["system info", "info"]);
static INSPECT: Command = Command::new(
    "inspect",
    "[OPTIONS] NAME|ID [NAME|ID...]",
    "Show everything about objects",
    Arity::AtLeast(1),
    run!(inspect::any),
)
.flags(inspect::FLAGS);
static KILL: Command = Command::new(
    "kill",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Kill running containers",
    Arity::AtLeast(1),
    run!(containers::kill),
)
.flags(containers::KILL_FLAGS)
.paths(&["container kill", "kill"]);
static LOAD: Command = Command::new(
    "load",
    "[OPTIONS]",
    "Load images from a tar archive or STDIN",
    Arity::None,
    run!(images::load),
)
.flags(images::LOAD_FLAGS)
.paths(&["image load", "load"]);
static LOGIN: Command = Command::new(
    "login",
    "[OPTIONS] [SERVER]",
    "Log in to a registry",
    Arity::AtMost(1),
    run!(login::login),
)
.long("Log in to a registry.\nWithout a server, to Docker Hub.")
.flags(login::FLAGS);
static LOGOUT: Command = Command::new(
    "logout",
    "[SERVER]",
    "Log out of a registry",
    Arity::AtMost(1),
    run!(login::logout),
)
.long("Log out of a registry.\nWithout a server, of Docker Hub.");
static LOGS: Command = Command::new(
    "logs",
    "[OPTIONS] CONTAINER",
    "Show the output of a container",
    Arity::Exactly(1),
    run!(logs::logs),
)
.flags(logs::FLAGS)
.paths(&["container logs", "logs"]);
static PAUSE: Command = Command::new(
    "pause",
    "CONTAINER [CONTAINER...]",
    "Freeze all processes of containers",
    Arity::AtLeast(1),
    run!(containers::pause),
)
.paths(&["container pause", "pause"]);
static PORT: Command = Command::new(
    "port",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    "Show published ports of a container",
    Arity::Between(1, 2),
    run!(containers::port),
)
.paths(&["container port", "port"]);
static PS: Command = Command::new(
    "ps",
    "[OPTIONS]",
    "List containers",
    Arity::None,
    run!(lists::ps),
)
.flags(lists::PS_FLAGS)
.paths(&["container ls", "container list", "container ps", "ps"]);
static CONTAINER_LS: Command = PS.named("ls").aliases(&["list", "ps"]);
static PULL: Command = Command::new(
    "pull",
    "[OPTIONS] NAME[:TAG|@DIGEST]",
    "Download an image from a registry",
    Arity::Exactly(1),
    run!(pull::pull),
)
.flags(pull::FLAGS)
.paths(&["image pull", "pull"]);
static RENAME: Command = Command::new(
    "rename",
    "CONTAINER NEW_NAME",
    "Give a container another name",
    Arity::Exactly(2),
    run!(containers::rename),
)
.paths(&["container rename", "rename"]);
static RESTART: Command = Command::new(
    "restart",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Stop and start containers",
    Arity::AtLeast(1),
    run!(containers::restart),
)
.flags(containers::STOP_FLAGS)
.paths(&["container restart", "restart"]);
static RM: Command = Command::new(
    "rm",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Remove containers",
    Arity::AtLeast(1),
    run!(containers::remove),
)
.aliases(&["remove"])
.flags(containers::RM_FLAGS)
.paths(&["container rm", "container remove", "rm"]);
static RMI: Command = Command::new(
    "rmi",
    "[OPTIONS] IMAGE [IMAGE...]",
    "Remove images",
    Arity::AtLeast(1),
    run!(images::remove),
)
.flags(images::RM_FLAGS)
.paths(&["image rm", "image remove", "rmi"]);
static IMAGE_RM: Command = RMI.named("rm").aliases(&["remove"]);
static RUN: Command = Command::new(
    "run",
    "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    "Create a container from an image and run it",
    Arity::AtLeast(1),
    run!(run::run),
)
.flags(create_options::RUN_FLAGS)
.flags_first()
.paths(&["container run", "run"]);
static START: Command = Command::new(
    "start",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Start stopped containers",
    Arity::AtLeast(1),
    run!(run::start),
)
.flags(run::START_FLAGS)
.paths(&["container start", "start"]);
static STATS: Command = Command::new(
    "stats",
    "[OPTIONS] [CONTAINER...]",
    "Show what containers use, as they use it",
    Arity::AtLeast(0),
    run!(stats::stats),
)
.flags(stats::FLAGS)
.paths(&["container stats", "stats"]);
static STOP: Command = Command::new(
    "stop",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Stop running containers",
    Arity::AtLeast(1),
    run!(containers::stop),
)
.flags(containers::STOP_FLAGS)
.paths(&["container stop", "stop"]);
static TAG: Command = Command::new(
    "tag",
    "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    "Give an image a further name",
    Arity::Exactly(2),
    run!(images::tag),
)
.paths(&["image tag", "tag"]);
static TOP: Command = Command::new(
    "top",
    "CONTAINER [ps OPTIONS]",
    "Show the processes of a container",
    Arity::AtLeast(1),
    run!(containers::top),
)
.flags_first()
.paths(&["container top", "top"]);
static UNPAUSE: Command = Command::new(
    "unpause",
    "CONTAINER [CONTAINER...]",
    "Thaw all processes of containers",
    Arity::AtLeast(1),
    run!(containers::unpause),
)
.paths(&["container unpause", "unpause"]);
static UPDATE: Command = Command::new(
    "update",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Change the limits of containers",
    Arity::AtLeast(1),
    run!(update::update),
)
.flags(update::FLAGS)
.paths(&["container update", "update"]);
static VERSION: Command = Command::new(
    "version",
    "[OPTIONS]",
    "Show the versions of client and daemon",
    Arity::None,
    run!(version::version),
)
.flags(version::FLAGS);
static WAIT: Command = Command::new(
    "wait",
    "CONTAINER [CONTAINER...]",
    "Wait until containers stop and print their exit statuses",
    Arity::AtLeast(1),
    run!(containers::wait),
)
.paths(&["container wait", "wait"]);

static CONTAINER_INSPECT: Command = Command::new(
    "inspect",
    "[OPTIONS] CONTAINER [CONTAINER...]",
    "Show everything about containers",
    Arity::AtLeast(1),
    run!(inspect::container),
)
.flags(inspect::CONTAINER_FLAGS);
static CONTAINER_PRUNE: Command = Command::new(
    "prune",
    "[OPTIONS]",
    "Remove all stopped containers",
    Arity::None,
    run!(prune::prune_containers),
)
.flags(prune::CONTAINER_FLAGS);
static IMAGE_INSPECT: Command = Command::new(
    "inspect",
    "[OPTIONS] IMAGE [IMAGE...]",
    "Show everything about images",
    Arity::AtLeast(1),
    run!(inspect::image),
)
.flags(inspect::IMAGE_FLAGS);
static IMAGE_PRUNE: Command = Command::new(
    "prune",
    "[OPTIONS]",
    "Remove unused images",
    Arity::None,
    run!(prune::prune_images),
)
.flags(prune::IMAGE_FLAGS);
static VOLUME_CREATE: Command = Command::new(
    "create",
    "[OPTIONS] [VOLUME]",
    "Create a volume",
    Arity::AtMost(1),
    run!(volumes::create),
)
.flags(volumes::CREATE_FLAGS);
static VOLUME_INSPECT: Command = Command::new(
    "inspect",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Show everything about volumes",
    Arity::AtLeast(1),
    run!(inspect::volume),
)
.flags(inspect::VOLUME_FLAGS);
static VOLUME_LS: Command = Command::new(
    "ls",
    "[OPTIONS]",
    "List volumes",
    Arity::None,
    run!(resource_lists::volumes),
)
.aliases(&["list"])
.flags(resource_lists::VOLUME_LS_FLAGS)
.paths(&["volume ls", "volume list"]);
static VOLUME_PRUNE: Command = Command::new(
    "prune",
    "[OPTIONS]",
    "Remove unused volumes",
    Arity::None,
    run!(prune::prune_volumes),
)
.flags(prune::VOLUME_FLAGS);
static VOLUME_RM: Command = Command::new(
    "rm",
    "[OPTIONS] VOLUME [VOLUME...]",
    "Remove volumes",
    Arity::AtLeast(1),
    run!(volumes::remove),
)
.aliases(&["remove"])
.long("Remove volumes. A volume that a container uses stays.")
.flags(volumes::RM_FLAGS)
.paths(&["volume rm", "volume remove"]);
static NETWORK_INSPECT: Command = Command::new(
    "inspect",
    "[OPTIONS] NETWORK [NETWORK...]",
    "Show everything about networks",
    Arity::AtLeast(1),
    run!(inspect::network),
)
.flags(inspect::NETWORK_FLAGS);
static NETWORK_LS: Command = Command::new(
    "ls",
    "[OPTIONS]",
    "List networks",
    Arity::None,
    run!(resource_lists::networks),
)
.aliases(&["list"])
.flags(resource_lists::NETWORK_LS_FLAGS)
.paths(&["network ls", "network list"]);
static SYSTEM_DF: Command = Command::new(
    "df",
    "[OPTIONS]",
    "Show what takes room on the disk",
    Arity::None,
    run!(system::disk_usage),
)
.flags(system::DF_FLAGS);
static SYSTEM_PRUNE: Command = Command::new(
    "prune",
    "[OPTIONS]",
    "Remove what is not used",
    Arity::None,
    run!(prune::prune_system),
)
.flags(prune::SYSTEM_FLAGS);
static SYSTEM_STOP: Command = Command::new(
    "stop",
    "",
    "Stop all containers, then the daemon",
    Arity::None,
    run!(system::stop),
);
static COMPLETION: Command = Command::new(
    "completion",
    "bash|zsh|fish",
    "Print the completion script of a shell",
    Arity::Exactly(1),
    run!(completion::script),
)
.long("Print the completion script of a shell.\n\n  bash:  source <(kekkai completion bash)\n  zsh:   kekkai completion zsh > \"${fpath[1]}/_kekkai\"\n  fish:  kekkai completion fish > ~/.config/fish/completions/kekkai.fish");
static COMPLETE: Command = Command::new(
    "__complete",
    "",
    "",
    Arity::AtLeast(0),
    run!(completion::complete),
)
.flags_first();

macro_rules! missing {
    ($($constant:ident $name:literal),* $(,)?) => { $(static $constant: Command = Command::missing($name);)* };
}
missing! {
    BAKE "bake", BUILD "build", BUILDER "builder", BUILDX "buildx", CHECKPOINT "checkpoint", COMMIT "commit",
    COMPOSE "compose", CONFIG "config", CONTEXT "context", EXPORT "export", IMPORT "import", MANIFEST "manifest",
    NODE "node", PLUGIN "plugin", PUSH "push", SAVE "save", SEARCH "search", SECRET "secret", SERVICE "service",
    STACK "stack", SWARM "swarm", TRUST "trust", CONNECT "connect", DISCONNECT "disconnect", NETWORK_CREATE "create",
    NETWORK_PRUNE "prune", NETWORK_RM "rm", VOLUME_UPDATE "update",
}

static CONTAINER: Command = Command::group(
    "container",
    "Manage containers",
    &[
        &ATTACH,
        &COMMIT,
        &CP,
        &CREATE,
        &DIFF,
        &EXEC,
        &EXPORT,
        &CONTAINER_INSPECT,
        &KILL,
        &LOGS,
        &CONTAINER_LS,
        &PAUSE,
        &PORT,
        &CONTAINER_PRUNE,
        &RENAME,
        &RESTART,
        &RM,
        &RUN,
        &START,
        &STATS,
        &STOP,
        &TOP,
        &UNPAUSE,
        &UPDATE,
        &WAIT,
    ],
);
static IMAGE: Command = Command::group(
    "image",
    "Manage images",
    &[
        &BUILD,
        &HISTORY,
        &IMPORT,
        &IMAGE_INSPECT,
        &LOAD,
        &IMAGE_LS,
        &IMAGE_PRUNE,
        &PULL,
        &PUSH,
        &IMAGE_RM,
        &SAVE,
        &TAG,
    ],
);
static NETWORK: Command = Command::group(
    "network",
    "Manage networks",
    &[
        &CONNECT,
        &NETWORK_CREATE,
        &DISCONNECT,
        &NETWORK_INSPECT,
        &NETWORK_LS,
        &NETWORK_PRUNE,
        &NETWORK_RM,
    ],
);
static SYSTEM: Command = Command::group(
    "system",
    "Manage the engine",
    &[&SYSTEM_DF, &EVENTS, &INFO, &SYSTEM_PRUNE, &SYSTEM_STOP],
);
static VOLUME: Command = Command::group(
    "volume",
    "Manage volumes",
    &[
        &VOLUME_CREATE,
        &VOLUME_INSPECT,
        &VOLUME_LS,
        &VOLUME_PRUNE,
        &VOLUME_RM,
        &VOLUME_UPDATE,
    ],
);
/// Only for the help: `main` dispatches it.
static DAEMON: Command = Command::new(
    "daemon",
    "[OPTIONS]",
    "Run the engine's daemon",
    Arity::AtLeast(0),
    run!(completion::complete),
);

/// Commands in the help's first block, in the order it shows them.
pub(super) static COMMON: &[&Command] = &[
    &RUN, &EXEC, &PS, &PULL, &IMAGES, &LOGIN, &LOGOUT, &VERSION, &INFO,
];
/// Groups.
pub(super) static MANAGEMENT: &[&Command] = &[&CONTAINER, &IMAGE, &NETWORK, &SYSTEM, &VOLUME];
/// All others.
pub(super) static OTHER: &[&Command] = &[
    &ATTACH,
    &COMPLETION,
    &CP,
    &CREATE,
    &DAEMON,
    &DIFF,
    &EVENTS,
    &HISTORY,
    &INSPECT,
    &KILL,
    &LOAD,
    &LOGS,
    &PAUSE,
    &PORT,
    &RENAME,
    &RESTART,
    &RM,
    &RMI,
    &START,
    &STATS,
    &STOP,
    &TAG,
    &TOP,
    &UNPAUSE,
    &UPDATE,
    &WAIT,
];
/// Commands that are not in the help.
static HIDDEN: &[&Command] = &[
    &COMPLETE,
    &BAKE,
    &BUILD,
    &BUILDER,
    &BUILDX,
    &CHECKPOINT,
    &COMMIT,
    &COMPOSE,
    &CONFIG,
    &CONTEXT,
    &EXPORT,
    &IMPORT,
    &MANIFEST,
    &NODE,
    &PLUGIN,
    &PUSH,
    &SAVE,
    &SEARCH,
    &SECRET,
    &SERVICE,
    &STACK,
    &SWARM,
    &TRUST,
];

/// Every command of the top level.
pub(super) fn top() -> impl Iterator<Item = &'static Command> + Clone {
    COMMON
        .iter()
        .chain(MANAGEMENT)
        .chain(OTHER)
        .chain(HIDDEN)
        .copied()
}

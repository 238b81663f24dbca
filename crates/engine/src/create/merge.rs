//! The request's `Config` over the image's, by Docker's rules.

use kekkai_oci::image_documents::ContainerConfig as ImageDefaults;

use crate::EngineError;
use crate::model::{ContainerConfig, HealthCheck};

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

fn non_empty(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Fills in what the request leaves to the image. Afterwards nothing refers to the image any more.
///
/// # Errors
/// No command at all.
pub(crate) fn merge(
    mut config: ContainerConfig,
    image: &ImageDefaults,
) -> Result<ContainerConfig, EngineError> {
    if config.user.as_deref().unwrap_or_default().is_empty() {
        config.user = non_empty(&image.user);
    }
    for port in image
        .exposed_ports
        .keys()
        .filter_map(|port| port.parse().ok())
    {
        if !config.exposed_ports.contains(&port) {
            config.exposed_ports.push(port);
        }
    }
    config.exposed_ports.sort_unstable();
    let own = config.env.len();
    for entry in &image.env {
        if !config.env[..own].iter().any(|mine| key(mine) == key(entry)) {
            config.env.push(entry.clone());
        }
    }
    for (label, value) in &image.labels {
        config
            .labels
            .entry(label.clone())
            .or_insert_with(|| value.clone());
    }
    if config.entrypoint.as_ref().is_none_or(Vec::is_empty) {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if config.working_dir.as_deref().unwrap_or_default().is_empty() {
        config.working_dir = non_empty(&image.working_dir);
    }
    for volume in image.volumes.keys() {
        if !config.volumes.contains(volume) {
            config.volumes.push(volume.clone());
        }
    }
    if config.stop_signal.as_deref().unwrap_or_default().is_empty() {
        config.stop_signal = non_empty(&image.stop_signal);
    }
    if config.stop_timeout.is_none() {
        config.stop_timeout = image.stop_timeout;
    }
    if config.shell.is_none() && !image.shell.is_empty() {
        config.shell = Some(image.shell.clone());
    }
    merge_healthcheck(&mut config, image);
    if config
        .entrypoint
        .as_ref()
        .is_some_and(|words| words.as_slice() == [""])
    {
        config.entrypoint = None;
    }
    let words =
        config.entrypoint.as_ref().map_or(0, Vec::len) + config.cmd.as_ref().map_or(0, Vec::len);
    if words == 0 {
        return Err(EngineError::Invalid("no command specified".to_owned()));
    }
    Ok(config)
}

fn merge_healthcheck(config: &mut ContainerConfig, image: &ImageDefaults) {
    let Some(theirs) = &image.healthcheck else {
        return;
    };
    let mine = config.healthcheck.get_or_insert_with(HealthCheck::default);
    if mine.test.is_empty() {
        mine.test.clone_from(&theirs.test);
    }
    for (value, default) in [
        (&mut mine.interval, theirs.interval),
        (&mut mine.timeout, theirs.timeout),
        (&mut mine.start_period, theirs.start_period),
    ] {
        if *value == 0 {
            *value = default;
        }
    }
    if mine.retries == 0 {
        mine.retries = theirs.retries;
    }
}

/// Program and arguments of a merged configuration.
pub(crate) fn command(config: &ContainerConfig) -> (String, Vec<String>) {
    let mut words = config
        .entrypoint
        .iter()
        .flatten()
        .chain(config.cmd.iter().flatten())
        .cloned();
    (words.next().unwrap_or_default(), words.collect())
}

/// `base` with the entries of `over`, each replacing the one of its key in place; a bare `KEY` removes.
pub(crate) fn overlay_env(mut base: Vec<String>, over: &[String]) -> Vec<String> {
    for entry in over {
        let place = base.iter().position(|have| key(have) == key(entry));
        match (entry.contains('='), place) {
            (true, Some(at)) => base[at].clone_from(entry),
            (true, None) => base.push(entry.clone()),
            (false, Some(at)) => {
                base.remove(at);
            }
            (false, None) => {}
        }
    }
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Option<Vec<String>> {
        Some(list.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn commands() {
        let image = ImageDefaults {
            entrypoint: words(&["/e"]),
            cmd: words(&["c"]),
            ..Default::default()
        };
        let run = |entrypoint, cmd| {
            merge(
                ContainerConfig {
                    entrypoint,
                    cmd,
                    ..Default::default()
                },
                &image,
            )
            .map(|config| command(&config))
        };
        assert_eq!(run(None, None).unwrap(), ("/e".into(), vec!["c".into()]));
        assert_eq!(
            run(None, words(&["x", "y"])).unwrap(),
            ("/e".into(), vec!["x".into(), "y".into()])
        );
        assert_eq!(run(words(&["/f"]), None).unwrap(), ("/f".into(), vec![]));
        assert_eq!(
            run(words(&[""]), words(&["x"])).unwrap(),
            ("x".into(), vec![])
        );
        assert_eq!(
            run(words(&[]), words(&["x"])).unwrap(),
            ("x".into(), vec![])
        );
        assert!(run(words(&[""]), None).is_err());
    }

    #[test]
    fn environment() {
        let image = ImageDefaults {
            env: vec!["A=1".into(), "B=2".into()],
            ..Default::default()
        };
        let config = ContainerConfig {
            env: vec!["B=3".into(), "A".into()],
            cmd: words(&["x"]),
            ..Default::default()
        };
        assert_eq!(merge(config, &image).unwrap().env, ["B=3", "A"]);
        assert_eq!(
            overlay_env(
                vec!["P=1".into(), "H=2".into()],
                &["H=3".into(), "P".into(), "Z=".into()]
            ),
            ["H=3", "Z="]
        );
    }
}

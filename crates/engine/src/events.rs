//! What happened: the last events in a ring, and everyone who listens. Text for the wire is made by who needs it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use kekkai_types::Timestamp;
use tokio::sync::{broadcast, mpsc};

use crate::model::{Event, EventKind, EventsRequest, Filters};

/// How many past events are kept: four times as many as dockerd, because they come that much faster.
const KEPT: usize = 1024;
/// How far a listener may lag before it loses events.
const LAG: usize = 1024;

/// The bus of one engine.
#[derive(Debug)]
pub(crate) struct EventBus {
    past: Mutex<VecDeque<Event>>,
    live: broadcast::Sender<Event>,
}

impl Default for EventBus {
    fn default() -> Self {
        Self {
            past: Mutex::default(),
            live: broadcast::channel(LAG).0,
        }
    }
}

impl EventBus {
    /// Tells an event that happens now.
    pub(crate) fn publish(
        &self,
        kind: EventKind,
        action: &str,
        actor: &str,
        attributes: Vec<(String, String)>,
    ) {
        self.publish_event(Event {
            kind,
            action: Arc::from(action),
            actor: Arc::from(actor),
            attributes: Arc::from(attributes),
            time: Timestamp::now(),
        });
    }

    /// Tells an event.
    pub(crate) fn publish_event(&self, event: Event) {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(event.clone());
        // Under the lock, so that a new listener sees each event exactly once. Nobody listening is fine.
        let _ = self.live.send(event);
    }

    /// How many listen.
    pub(crate) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// Past and coming events that satisfy the request.
    pub(crate) fn subscribe(&self, request: &EventsRequest) -> mpsc::Receiver<Event> {
        let filter = EventFilter::new(&request.filters);
        let (past, mut live) = {
            let past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
            let kept: Vec<Event> = match request.since {
                Some(since) => past
                    .iter()
                    .filter(|event| {
                        event.time >= since && request.until.is_none_or(|until| event.time <= until)
                    })
                    .filter(|event| filter.matches(event))
                    .cloned()
                    .collect(),
                None => Vec::new(),
            };
            (kept, self.live.subscribe())
        };
        let (sender, receiver) = mpsc::channel(64);
        let until = request.until;
        tokio::spawn(async move {
            for event in past {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            let end = async {
                match until {
                    Some(until) => tokio::time::sleep(until.since(Timestamp::now())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(end);
            loop {
                tokio::select! {
                    () = &mut end => return,
                    () = sender.closed() => return,
                    event = live.recv() => match event {
                        Ok(event) if filter.matches(&event) => {
                            if sender.send(event).await.is_err() {
                                return;
                            }
                        }
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Lagged(lost)) => {
                            tracing::warn!(lost, "a listener for events is too slow");
                        }
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                }
            }
        });
        receiver
    }
}

/// Docker's filters over events: keys are joined by "and", values of one key by "or".
#[derive(Debug)]
struct EventFilter(BTreeMap<String, Vec<String>>);

impl EventFilter {
    /// Keys that dockerd does not know either it ignores, and so do we.
    fn new(filters: &Filters) -> Self {
        const KEYS: [&str; 10] = [
            "action",
            "container",
            "daemon",
            "event",
            "image",
            "label",
            "network",
            "scope",
            "type",
            "volume",
        ];
        let known = filters
            .0
            .iter()
            .filter(|(key, _)| KEYS.contains(&key.as_str()));
        Self(
            known
                .map(|(key, values)| (key.clone(), values.clone()))
                .collect(),
        )
    }

    fn matches(&self, event: &Event) -> bool {
        let attribute = |name: &str| {
            event
                .attributes
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        // By id, prefix of the id, or name, and only for events of that kind.
        let actor = |value: &String, kind: EventKind| {
            event.kind == kind
                && (event.actor.as_ref() == value.as_str()
                    || value.len() >= 2 && event.actor.starts_with(value.as_str())
                    || attribute("name") == Some(value.trim_start_matches('/')))
        };
        self.0.iter().all(|(key, values)| {
            values.iter().any(|value| match key.as_str() {
                "type" => event.kind.as_str() == value,
                "event" | "action" => {
                    event.action.as_ref() == value.as_str()
                        || event.action.split(':').next() == Some(value.as_str())
                }
                "scope" => value == "local",
                "label" => match value.split_once('=') {
                    Some((name, wanted)) => attribute(name) == Some(wanted),
                    None => attribute(value).is_some(),
                },
                "container" => {
                    actor(value, EventKind::Container)
                        || event.kind != EventKind::Container
                            && attribute("container")
                                .is_some_and(|id| id.starts_with(value.as_str()))
                }
                "image" => {
                    actor(value, EventKind::Image)
                        || event.kind == EventKind::Container
                            && attribute("image").is_some_and(|image| {
                                image == value || image.split(':').next() == Some(value)
                            })
                        || event.kind == EventKind::Image
                            && attribute("name")
                                .is_some_and(|name| name.split(':').next() == Some(value))
                }
                "volume" => actor(value, EventKind::Volume),
                "network" => actor(value, EventKind::Network),
                "daemon" => event.kind == EventKind::Daemon,
                _ => false,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(pairs: &[(&str, &str)]) -> Filters {
        let mut map = BTreeMap::new();
        for (key, value) in pairs {
            map.entry((*key).to_owned())
                .or_insert_with(Vec::new)
                .push((*value).to_owned());
        }
        Filters(map)
    }

    #[tokio::test]
    async fn past_then_live_each_once() {
        let bus = EventBus::default();
        let start = Timestamp::now();
        for number in 0..KEPT + 44 {
            bus.publish(
                EventKind::Container,
                "create",
                &format!("{number:04}"),
                vec![("name".into(), "a".into())],
            );
        }
        let request = EventsRequest {
            since: Some(start),
            ..Default::default()
        };
        let mut receiver = bus.subscribe(&request);
        bus.publish(EventKind::Container, "die", "last", Vec::new());
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("last") {
            seen.push(receiver.recv().await.unwrap().actor.to_string());
        }
        assert_eq!(seen.len(), KEPT + 1);
        assert_eq!(seen[0], "0044");
    }

    #[test]
    fn filtering() {
        let event = Event {
            kind: EventKind::Container,
            action: Arc::from("exec_create: sh -c true"),
            actor: Arc::from("abcdef"),
            attributes: Arc::from(vec![
                ("image".to_owned(), "alpine:3.20".to_owned()),
                ("name".to_owned(), "web".to_owned()),
            ]),
            time: Timestamp::now(),
        };
        let matches = |pairs: &[(&str, &str)]| EventFilter::new(&filters(pairs)).matches(&event);
        assert!(matches(&[("event", "exec_create"), ("container", "web")]));
        assert!(matches(&[
            ("image", "alpine"),
            ("type", "image"),
            ("type", "container")
        ]));
        assert!(!matches(&[("label", "x")]));
        assert!(!matches(&[("volume", "web")]));
        assert!(matches(&[("foo", "x")]));
    }

    #[tokio::test]
    async fn until_ends_it() {
        let bus = EventBus::default();
        let mut receiver = bus.subscribe(&EventsRequest {
            until: Some(Timestamp::now()),
            ..Default::default()
        });
        assert!(receiver.recv().await.is_none());
    }
}

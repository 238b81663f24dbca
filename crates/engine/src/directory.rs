//! Who exists: containers by id and name, exec sessions by id. Every lock here is held for a look-up only.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kekkai_types::{ContainerId, ContainerName, ExecId};

use crate::EngineError;
use crate::container::Container;
use crate::exec::ExecSession;

/// The containers and exec sessions of an engine.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    containers: Mutex<Containers>,
    execs: Mutex<HashMap<ExecId, Arc<ExecSession>>>,
}

#[derive(Debug, Default)]
struct Containers {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Reserved and bound names; a reserved one has no entry in `by_id` yet.
    names: HashMap<Arc<str>, ContainerId>,
}

impl Directory {
    fn containers(&self) -> MutexGuard<'_, Containers> {
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<ExecId, Arc<ExecSession>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name for `id`; the error says who has it.
    pub(crate) fn reserve(&self, name: &Arc<str>, id: ContainerId) -> Result<(), EngineError> {
        let mut containers = self.containers();
        if let Some(holder) = containers.names.get(name) {
            return Err(EngineError::NameInUse {
                name: name.to_string(),
                holder: *holder,
            });
        }
        containers.names.insert(Arc::clone(name), id);
        Ok(())
    }

    /// Gives a name back, if `id` has it.
    pub(crate) fn release(&self, name: &str, id: ContainerId) {
        let mut containers = self.containers();
        if containers.names.get(name) == Some(&id) {
            containers.names.remove(name);
        }
    }

    /// Makes a container known.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.containers().by_id.insert(container.id, container);
    }

    /// Forgets a container; its name is given back separately.
    pub(crate) fn remove(&self, id: ContainerId) {
        self.containers().by_id.remove(&id);
    }

    /// Renames under the lock: both or nothing.
    pub(crate) fn rename(
        &self,
        container: &Container,
        new: &ContainerName,
    ) -> Result<Arc<str>, EngineError> {
        let mut containers = self.containers();
        let mut shared = container.lock();
        if let Some(holder) = containers.names.get(new.as_str()) {
            return Err(EngineError::NameInUse {
                name: new.to_string(),
                holder: *holder,
            });
        }
        let old = Arc::clone(&shared.name);
        let name: Arc<str> = Arc::from(new.as_str());
        containers.names.remove(&old);
        containers.names.insert(Arc::clone(&name), container.id);
        shared.name = name;
        Ok(old)
    }

    /// The container of an exact id.
    pub(crate) fn get(&self, id: ContainerId) -> Option<Arc<Container>> {
        self.containers().by_id.get(&id).cloned()
    }

    /// The container that `text` means: a name (with or without slash), an id, or a unique prefix of one.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Container>, EngineError> {
        let containers = self.containers();
        let none = || EngineError::NoSuchContainer(text.to_owned());
        if let Ok(id) = text.parse::<ContainerId>()
            && let Some(container) = containers.by_id.get(&id)
        {
            return Ok(Arc::clone(container));
        }
        let bare = text.strip_prefix('/').unwrap_or(text);
        if let Some(container) = containers
            .names
            .get(bare)
            .and_then(|id| containers.by_id.get(id))
        {
            return Ok(Arc::clone(container));
        }
        let (low, high) = prefix_range(text).ok_or_else(none)?;
        let mut matching = containers.by_id.range(low..=high);
        match (matching.next(), matching.next()) {
            (Some((_, container)), None) => Ok(Arc::clone(container)),
            (Some(_), Some(_)) => Err(EngineError::AmbiguousId(text.to_owned())),
            (None, _) => Err(none()),
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.containers().by_id.values().cloned().collect()
    }

    /// Makes an exec session known.
    pub(crate) fn insert_exec(&self, session: Arc<ExecSession>) {
        self.execs().insert(session.id, session);
    }

    /// The session of an exact id.
    pub(crate) fn exec(&self, id: ExecId) -> Option<Arc<ExecSession>> {
        self.execs().get(&id).cloned()
    }

    /// The session that `text` means: an id or a unique prefix of one.
    pub(crate) fn find_exec(&self, text: &str) -> Result<Arc<ExecSession>, EngineError> {
        let execs = self.execs();
        let none = || EngineError::NoSuchExec(text.to_owned());
        if let Ok(id) = text.parse::<ExecId>() {
            return execs.get(&id).cloned().ok_or_else(none);
        }
        if text.is_empty() {
            return Err(none());
        }
        let mut matching = execs
            .values()
            .filter(|session| session.id.to_string().starts_with(text));
        match (matching.next(), matching.next()) {
            (Some(session), None) => Ok(Arc::clone(session)),
            _ => Err(none()),
        }
    }

    /// Forgets sessions that `keep` does not want.
    pub(crate) fn retain_execs(&self, keep: impl Fn(&ExecSession) -> bool) {
        self.execs().retain(|_, session| keep(session));
    }
}

/// The first and last id that begin with these hexadecimal digits; `None` when they are none.
fn prefix_range(prefix: &str) -> Option<(ContainerId, ContainerId)> {
    if prefix.is_empty() || prefix.len() > 64 {
        return None;
    }
    let low = format!("{prefix:0<64}").parse().ok()?;
    let high = format!("{prefix:f<64}").parse().ok()?;
    Some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let (low, high) = prefix_range("ab").unwrap();
        let id: ContainerId = format!("abcd{}", "0".repeat(60)).parse().unwrap();
        assert!(low <= id && id <= high);
        assert!(prefix_range("xyz").is_none());
        assert!(prefix_range("").is_none());
    }
}

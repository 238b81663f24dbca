//! The rules by which `docker rmi` untags or deletes. Pure: a plan is computed, the store carries it out.

use kekkai_types::{Digest, Reference};

use crate::catalog::Catalog;
use crate::error::ImageError;
use crate::model::{ImageUser, RemoveOptions};

/// What a removal does.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RemovalPlan {
    /// Names that go, in order.
    pub(crate) untag: Vec<Reference>,
    /// The image, if it goes too.
    pub(crate) delete: Option<Digest>,
}

/// What removing `text` would do.
///
/// # Errors
/// [`ImageError::InUse`] in Docker's words, and those of [`Catalog::resolve`].
pub(crate) fn plan(
    catalog: &Catalog,
    text: &str,
    options: RemoveOptions,
    users: &dyn Fn(&Digest) -> Vec<ImageUser>,
) -> Result<RemovalPlan, ImageError> {
    let (id, name) = catalog.resolve(text)?;
    let users = users(id);
    let mut names = catalog.names_of(id);
    let mut plan = RemovalPlan::default();
    let mut untagged = false;
    if let Some(name) = name {
        if !options.force
            && is_single(&names)
            && let Some(user) = users.first()
        {
            return Err(ImageError::InUse {
                what: "remove repository reference",
                subject: format!("{text:?}"),
                remedy: "must force",
                why: format!(
                    "container {} is using its referenced image {}",
                    user.container.short(),
                    id.short()
                ),
            });
        }
        let repository = name.repository();
        names.retain(|other| *other != name);
        let by_digest = name.digest().is_some();
        plan.untag.push(name);
        let tagged = names
            .iter()
            .any(|other| other.digest().is_none() && other.repository() == repository);
        if !by_digest && !tagged {
            // Digests of a repository that has no tag left go with the tag.
            names.retain(|other| {
                let goes = other.digest().is_some() && other.repository() == repository;
                if goes {
                    plan.untag.push(other.clone());
                }
                !goes
            });
        }
        if !names.is_empty() {
            return Ok(plan);
        }
        untagged = true;
    } else if is_single(&names) {
        if let Some(conflict) = hard(id, &users) {
            return Err(conflict);
        }
        if !options.force
            && let Some(conflict) = stopped(id, &users)
        {
            return Err(conflict);
        }
        plan.untag.append(&mut names);
    }

    let conflict = hard(id, &users).or_else(|| {
        if options.force {
            return None;
        }
        if names.is_empty() {
            stopped(id, &users)
        } else {
            Some(referenced(id))
        }
    });
    match conflict {
        // The name is gone and the image stays for who uses it.
        Some(_) if untagged => return Ok(plan),
        Some(conflict) => return Err(conflict),
        None => {}
    }
    plan.untag.append(&mut names);
    plan.delete = Some(id.clone());
    Ok(plan)
}

/// Whether all names are one tag and digests of its repository.
fn is_single(names: &[Reference]) -> bool {
    let mut tags = names.iter().filter(|name| name.digest().is_none());
    let one = tags.next();
    if tags.next().is_some() {
        return false;
    }
    match one.or(names.first()) {
        None => true,
        Some(one) => names
            .iter()
            .all(|name| name.repository() == one.repository()),
    }
}

fn delete(id: &Digest, remedy: &'static str, why: String) -> ImageError {
    ImageError::InUse {
        what: "delete",
        subject: id.short().to_owned(),
        remedy,
        why,
    }
}

fn hard(id: &Digest, users: &[ImageUser]) -> Option<ImageError> {
    let user = users.iter().find(|user| user.running)?;
    Some(delete(
        id,
        "cannot be forced",
        format!(
            "image is being used by running container {}",
            user.container.short()
        ),
    ))
}

fn stopped(id: &Digest, users: &[ImageUser]) -> Option<ImageError> {
    let user = users.first()?;
    Some(delete(
        id,
        "must be forced",
        format!(
            "image is being used by stopped container {}",
            user.container.short()
        ),
    ))
}

fn referenced(id: &Digest) -> ImageError {
    delete(
        id,
        "must be forced",
        "image is referenced in multiple repositories".to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kekkai_oci::image_documents::ImageConfig;
    use kekkai_types::{ContainerId, Timestamp};

    use super::*;
    use crate::catalog::ImageRecord;

    fn id() -> Digest {
        format!("sha256:{}", "a".repeat(64)).parse().unwrap()
    }

    fn removed(
        names: &[&str],
        text: &str,
        force: bool,
        user: Option<bool>,
    ) -> Result<(Vec<String>, bool), String> {
        let mut catalog = Catalog::default();
        let record = ImageRecord {
            manifest: None,
            layer_blobs: vec![],
            layer_sizes: vec![],
            last_tagged: Timestamp::ZERO,
            hidden: false,
        };
        catalog.put(&id(), record, Arc::new(ImageConfig::default()));
        for name in names {
            catalog.name(
                name.replace("@d", &format!("@sha256:{}", "b".repeat(64)))
                    .parse()
                    .unwrap(),
                &id(),
            );
        }
        let users = |_: &Digest| {
            let container = ContainerId::from_bytes([0xcc; 32]);
            user.map(|running| ImageUser {
                container,
                running,
                image_name: String::new(),
            })
            .into_iter()
            .collect()
        };
        match plan(&catalog, text, RemoveOptions { force }, &users) {
            Ok(plan) => Ok((
                plan.untag
                    .iter()
                    .map(|name| name.familiar().replace(&"b".repeat(64), "b"))
                    .collect(),
                plan.delete.is_some(),
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn by_name() {
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            removed(&["a:1"], "a:1", false, None),
            Ok((list(&["a:1"]), true))
        );
        assert_eq!(
            removed(&["a:1", "a:2"], "a:1", false, None),
            Ok((list(&["a:1"]), false))
        );
        assert_eq!(
            removed(&["a:1", "a@d"], "a:1", false, None),
            Ok((list(&["a:1", "a@sha256:b"]), true))
        );
        assert_eq!(
            removed(&["a:1", "b:1", "a@d"], "a:1", false, None),
            Ok((list(&["a:1", "a@sha256:b"]), false))
        );
        assert_eq!(
            removed(&["a:1", "a:2"], "a:1", false, Some(true)),
            Ok((list(&["a:1"]), false))
        );
        assert_eq!(
            removed(&["a:1"], "a:1", false, Some(false)).unwrap_err(),
            "conflict: unable to remove repository reference \"a:1\" (must force) - container cccccccccccc is using its referenced image aaaaaaaaaaaa"
        );
        assert_eq!(
            removed(&["a:1"], "a:1", true, Some(false)),
            Ok((list(&["a:1"]), true))
        );
        assert_eq!(
            removed(&["a:1"], "a:1", true, Some(true)),
            Ok((list(&["a:1"]), false)),
            "untagged, kept for its user"
        );
    }

    #[test]
    fn by_id() {
        assert!(removed(&["a:1"], "aaa", false, None).unwrap().1);
        assert_eq!(
            removed(&["a:1", "b:1"], "aaa", false, None).unwrap_err(),
            "conflict: unable to delete aaaaaaaaaaaa (must be forced) - image is referenced in multiple repositories"
        );
        assert_eq!(
            removed(&["a:1", "b:1"], "aaa", true, None).unwrap().0.len(),
            2
        );
        assert_eq!(
            removed(&["a:1"], "aaa", false, Some(false)).unwrap_err(),
            "conflict: unable to delete aaaaaaaaaaaa (must be forced) - image is being used by stopped container cccccccccccc"
        );
        assert_eq!(
            removed(&["a:1"], "aaa", true, Some(true)).unwrap_err(),
            "conflict: unable to delete aaaaaaaaaaaa (cannot be forced) - image is being used by running container cccccccccccc"
        );
    }
}

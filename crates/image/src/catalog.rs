//! What the database knows about images, in memory: names, configurations, and how a word that a person typed finds
//! one. Pure: reading and writing rows is the store's.
//!
//! What must stay true: every name points to an image that is here; an [`Image`] handed out is a value that no later
//! change touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kekkai_oci::image_documents::ImageConfig;
use kekkai_types::{DiffId, Digest, Platform, Reference, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::ImageError;
use crate::model::{HistoryLine, Image, ListFilter};

/// The document of a row in `images`; the key is the digest of the configuration, whose bytes are a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// The manifest it came with, a blob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) manifest: Option<Digest>,
    /// The blobs its layers came in, where they are kept, lowest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) layer_blobs: Vec<Digest>,
    /// Sizes of the unpacked layers, lowest first, bytes.
    pub(crate) layer_sizes: Vec<u64>,
    /// When a name was last put on it.
    pub(crate) last_tagged: Timestamp,
    /// Whether it was removed by force while containers that do not run were made from it: nobody sees it, and its
    /// layers stay until the last of them is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hidden: bool,
}

#[derive(Debug)]
struct Known {
    record: ImageRecord,
    config: Arc<ImageConfig>,
    names: BTreeSet<Reference>,
    image: Arc<Image>,
}

/// All images and names.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    images: BTreeMap<Digest, Known>,
    names: BTreeMap<Reference, Digest>,
    /// Layers of hidden images.
    hidden: BTreeMap<Digest, Vec<DiffId>>,
}

impl Catalog {
    /// Adds an image or replaces what is known about it; its names stay.
    pub(crate) fn put(&mut self, id: &Digest, record: ImageRecord, config: Arc<ImageConfig>) {
        let names = self
            .images
            .remove(id)
            .map(|known| known.names)
            .unwrap_or_default();
        self.hidden.remove(id);
        if record.hidden {
            self.hidden
                .insert(id.clone(), config.rootfs.diff_ids.clone());
            return;
        }
        let image = Arc::new(describe(id, &record, &config, &names));
        self.images.insert(
            id.clone(),
            Known {
                record,
                config,
                names,
                image,
            },
        );
    }

    /// Points `name` at `id`, away from whatever it pointed to.
    pub(crate) fn name(&mut self, name: Reference, id: &Digest) {
        self.unname(&name);
        if let Some(known) = self.images.get_mut(id) {
            known.names.insert(name.clone());
            known.refresh(id);
            self.names.insert(name, id.clone());
        }
    }

    /// Takes `name` away.
    pub(crate) fn unname(&mut self, name: &Reference) {
        let Some(id) = self.names.remove(name) else {
            return;
        };
        if let Some(known) = self.images.get_mut(&id) {
            known.names.remove(name);
            known.refresh(&id);
        }
    }

    /// Forgets the image and its names.
    pub(crate) fn remove(&mut self, id: &Digest) {
        if let Some(known) = self.images.remove(id) {
            for name in &known.names {
                self.names.remove(name);
            }
        }
    }

    /// Ids of the images that nobody sees.
    pub(crate) fn hidden(&self) -> Vec<Digest> {
        self.hidden.keys().cloned().collect()
    }

    /// Forgets a hidden image.
    pub(crate) fn remove_hidden(&mut self, id: &Digest) {
        self.hidden.remove(id);
    }

    /// The image of an exact id.
    pub(crate) fn get(&self, id: &Digest) -> Option<&Arc<Image>> {
        self.images.get(id).map(|known| &known.image)
    }

    /// Its row.
    pub(crate) fn record(&self, id: &Digest) -> Option<&ImageRecord> {
        self.images.get(id).map(|known| &known.record)
    }

    /// What a name points to.
    pub(crate) fn named(&self, name: &Reference) -> Option<&Digest> {
        self.names.get(name)
    }

    /// Names of an image.
    pub(crate) fn names_of(&self, id: &Digest) -> Vec<Reference> {
        self.images
            .get(id)
            .map(|known| known.names.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Every image.
    pub(crate) fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values().map(|known| &known.image)
    }

    /// Blobs that an image needs.
    pub(crate) fn blobs(&self) -> BTreeSet<Digest> {
        let mut all = BTreeSet::new();
        for (id, known) in &self.images {
            all.insert(id.clone());
            all.extend(
                known
                    .record
                    .manifest
                    .iter()
                    .chain(&known.record.layer_blobs)
                    .cloned(),
            );
        }
        all.extend(self.hidden.keys().cloned());
        // Digests of indexes that were pulled by name.
        all.extend(self.names.keys().filter_map(|name| name.digest().cloned()));
        all
    }

    /// The layers of every image, hidden ones included.
    pub(crate) fn chains(&self) -> Vec<Vec<DiffId>> {
        self.images
            .values()
            .map(|known| &known.image.layers)
            .chain(self.hidden.values())
            .cloned()
            .collect()
    }

    /// The image that a person means: an exact id, a name, or the beginning of an id, in this order.
    ///
    /// # Errors
    /// [`ImageError::NotFound`], [`ImageError::Ambiguous`], [`ImageError::Reference`].
    pub(crate) fn resolve(&self, text: &str) -> Result<(&Digest, Option<Reference>), ImageError> {
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        let hexadecimal = !bare.is_empty()
            && bare.len() <= 64
            && bare.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if bare.len() == 64 && hexadecimal {
            let found = format!("sha256:{bare}")
                .parse::<Digest>()
                .ok()
                .and_then(|id| self.images.get_key_value(&id));
            return found
                .map(|(id, _)| (id, None))
                .ok_or_else(|| ImageError::NotFound(text.to_owned()));
        }
        let parsed = if text.starts_with("sha256:") {
            None
        } else {
            Some(Reference::parse_normalized(text))
        };
        let name = match parsed {
            Some(Ok(reference)) => Some(reference.with_default_tag()),
            Some(Err(error)) if !hexadecimal => return Err(error.into()),
            _ => None,
        };
        if let Some(name) = &name {
            // With a tag and a digest, the digest decides.
            let exact = match name.digest() {
                Some(digest) if name.tag().is_some() => name.with_digest(digest.clone()),
                _ => name.clone(),
            };
            if let Some(id) = self.names.get(&exact) {
                return Ok((id, Some(exact)));
            }
        }
        if hexadecimal {
            let mut fitting = self.images.keys().filter(|id| id.hex().starts_with(bare));
            match (fitting.next(), fitting.next()) {
                (Some(id), None) => return Ok((id, None)),
                (Some(_), Some(_)) => return Err(ImageError::Ambiguous(bare.to_owned())),
                (None, _) => {}
            }
        }
        Err(ImageError::NotFound(
            name.map_or_else(|| text.to_owned(), |name| name.familiar()),
        ))
    }

    /// Every image that passes `filter`, newest first.
    pub(crate) fn list(&self, filter: &ListFilter) -> Vec<Arc<Image>> {
        let mut images: Vec<Arc<Image>> = self
            .images
            .values()
            .filter(|known| passes(known, filter))
            .map(|known| {
                if filter.references.is_empty() {
                    return Arc::clone(&known.image);
                }
                // Only the names that were asked for are shown.
                let shown =
                    |name: &&Reference| filter.references.iter().any(|pattern| fits(pattern, name));
                let names: BTreeSet<Reference> =
                    known.names.iter().filter(shown).cloned().collect();
                Arc::new(describe(
                    &known.image.id,
                    &known.record,
                    &known.config,
                    &names,
                ))
            })
            .collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        images
    }
}

impl Known {
    fn refresh(&mut self, id: &Digest) {
        self.image = Arc::new(describe(id, &self.record, &self.config, &self.names));
    }
}

fn describe(
    id: &Digest,
    record: &ImageRecord,
    config: &Arc<ImageConfig>,
    names: &BTreeSet<Reference>,
) -> Image {
    let shown = |digests: bool| {
        let mut list: Vec<String> = names
            .iter()
            .filter(|name| name.digest().is_some() == digests)
            .map(Reference::familiar)
            .collect();
        list.sort();
        list
    };
    Image {
        id: id.clone(),
        config: Arc::clone(config),
        layers: config.rootfs.diff_ids.clone(),
        layer_sizes: record.layer_sizes.clone(),
        repo_tags: shown(false),
        repo_digests: shown(true),
        size: record
            .layer_sizes
            .iter()
            .fold(0, |sum, size| sum.saturating_add(*size)),
        created: config
            .created
            .as_deref()
            .and_then(|created| created.parse().ok()),
        last_tagged: record.last_tagged,
        platform: Platform::new(&config.os, &config.architecture, &config.variant),
        manifest: record.manifest.clone(),
    }
}

fn passes(known: &Known, filter: &ListFilter) -> bool {
    let image = &known.image;
    let labels = &image.config.config.labels;
    let labelled = |wanted: &String| match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    };
    let created = image.created.unwrap_or(Timestamp::ZERO);
    (filter.references.is_empty()
        || known
            .names
            .iter()
            .any(|name| filter.references.iter().any(|pattern| fits(pattern, name))))
        && filter
            .dangling
            .is_none_or(|dangling| image.is_dangling() == dangling)
        && filter.labels.iter().all(labelled)
        && filter.before.is_none_or(|moment| created < moment)
        && filter.since.is_none_or(|moment| created > moment)
        && filter.until.is_none_or(|moment| created < moment)
}

/// Whether a pattern is about a name: with or without its tag, as people see it or in full.
fn fits(pattern: &str, name: &Reference) -> bool {
    let bare = name.familiar_repository();
    [
        name.familiar(),
        bare.clone(),
        name.to_string(),
        name.repository(),
    ]
    .iter()
    .any(|text| glob(pattern, text))
}

/// Shell patterns: `*` and `?` stop at a slash, `[a-z]` and `[^a]` are sets, a backslash takes the next one as it is.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    fn at(pattern: &[u8], text: &[u8], budget: &mut u32) -> bool {
        // A pattern of many stars must not cost more than it is worth.
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return false;
        }
        match (pattern.first(), text.first()) {
            (None, rest) => rest.is_none(),
            (Some(b'*'), _) => {
                at(&pattern[1..], text, budget)
                    || text.first().is_some_and(|byte| *byte != b'/')
                        && at(pattern, &text[1..], budget)
            }
            (Some(b'?'), Some(byte)) => *byte != b'/' && at(&pattern[1..], &text[1..], budget),
            (Some(b'['), Some(byte)) => match set(&pattern[1..], *byte) {
                Some((fits, rest)) => fits && at(rest, &text[1..], budget),
                None => false,
            },
            (Some(b'\\'), Some(byte)) if pattern.len() > 1 => {
                pattern[1] == *byte && at(&pattern[2..], &text[1..], budget)
            }
            (Some(one), Some(byte)) => one == byte && at(&pattern[1..], &text[1..], budget),
            (Some(_), None) => false,
        }
    }
    /// Whether `byte` is in the set that begins here, and what follows the set.
    fn set(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
        let (negated, mut rest) = match pattern.first()? {
            b'^' | b'!' => (true, &pattern[1..]),
            _ => (false, pattern),
        };
        let mut found = false;
        loop {
            match rest {
                [b']', after @ ..] => return Some((found != negated, after)),
                [low, b'-', high, after @ ..] if *high != b']' => {
                    found |= (*low..=*high).contains(&byte);
                    rest = after;
                }
                [one, after @ ..] => {
                    found |= *one == byte;
                    rest = after;
                }
                [] => return None,
            }
        }
    }
    at(pattern.as_bytes(), text.as_bytes(), &mut 20_000)
}

/// How an image came to be, newest step first, as `docker history` shows it.
pub(crate) fn history(image: &Image) -> Vec<HistoryLine> {
    let mut sizes = image.layer_sizes.iter();
    let mut lines: Vec<HistoryLine> = image
        .config
        .history
        .iter()
        .map(|step| HistoryLine {
            id: "<missing>".to_owned(),
            created: step
                .created
                .as_deref()
                .and_then(|created| created.parse().ok()),
            created_by: step.created_by.clone(),
            tags: Vec::new(),
            size: if step.empty_layer {
                0
            } else {
                sizes.next().copied().unwrap_or(0)
            },
            comment: step.comment.clone(),
        })
        .collect();
    lines.reverse();
    if let Some(newest) = lines.first_mut() {
        newest.id = image.id.to_string();
        newest.tags.clone_from(&image.repo_tags);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> Digest {
        format!("sha256:{}", digit.to_string().repeat(64))
            .parse()
            .unwrap()
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        for (digit, created) in [('a', "2024-01-01T00:00:00Z"), ('b', "2025-01-01T00:00:00Z")] {
            let config = ImageConfig {
                os: "linux".into(),
                architecture: "amd64".into(),
                created: Some(created.into()),
                ..ImageConfig::default()
            };
            let record = ImageRecord {
                manifest: None,
                layer_blobs: vec![],
                layer_sizes: vec![3, 4],
                last_tagged: Timestamp::ZERO,
                hidden: false,
            };
            catalog.put(&id(digit), record, Arc::new(config));
        }
        for (name, digit) in [
            ("alpine", 'a'),
            ("alpine:3", 'a'),
            ("me/app:x", 'b'),
            ("localhost:5000/app:x", 'b'),
        ] {
            catalog.name(
                name.parse::<Reference>().unwrap().with_default_tag(),
                &id(digit),
            );
        }
        catalog
    }

    #[test]
    fn what_a_word_means() {
        let catalog = catalog();
        for (word, digit) in [
            ("alpine", 'a'),
            ("alpine:3", 'a'),
            ("aaaa", 'a'),
            ("sha256:bb", 'b'),
            ("me/app:x", 'b'),
        ] {
            assert_eq!(*catalog.resolve(word).unwrap().0, id(digit), "{word}");
        }
        assert_eq!(*catalog.resolve(&"a".repeat(64)).unwrap().0, id('a'));
        for (word, error) in [
            ("busybox", "No such image: busybox:latest"),
            ("cccc", "No such image: cccc:latest"),
            (
                "Alpine",
                "invalid reference format: repository name (Alpine) must be lowercase",
            ),
        ] {
            assert_eq!(catalog.resolve(word).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn names_move() {
        let mut catalog = catalog();
        let name: Reference = "alpine:latest".parse().unwrap();
        catalog.name(name.clone(), &id('b'));
        assert_eq!(catalog.get(&id('a')).unwrap().repo_tags, ["alpine:3"]);
        assert_eq!(
            catalog.get(&id('b')).unwrap().repo_tags,
            ["alpine:latest", "localhost:5000/app:x", "me/app:x"]
        );
        catalog.remove(&id('b'));
        assert!(catalog.named(&name).is_none());
    }

    #[test]
    fn lists() {
        let catalog = catalog();
        let ids = |filter: ListFilter| {
            catalog
                .list(&filter)
                .iter()
                .map(|image| image.id.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(ids(ListFilter::default()), [id('b'), id('a')]);
        let by = |pattern: &str| ListFilter {
            references: vec![pattern.to_owned()],
            ..ListFilter::default()
        };
        assert_eq!(ids(by("alpine")), [id('a')]);
        assert_eq!(ids(by("alp*:3")), [id('a')]);
        assert_eq!(ids(by("*/app")), [id('b')]);
        assert_eq!(ids(by("*")), [id('a')]);
        assert_eq!(
            ids(ListFilter {
                dangling: Some(true),
                ..ListFilter::default()
            }),
            []
        );
        assert_eq!(catalog.list(&by("alpine:3"))[0].repo_tags, ["alpine:3"]);
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("a*c", "abc", true),
            ("a*c", "a/c", false),
            ("a?c", "abc", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[", "[", false),
            (r"\*", "*", true),
            ("", "", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
        assert!(!glob(&"*a".repeat(50), &"a".repeat(49)));
    }
}

//! `layer.json`: what is known of an unpacked layer besides its files.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use kekkai_archive::{Applied, MissingLink};
use kekkai_types::DiffId;
use serde::{Deserialize, Serialize};

use crate::{LayerInfo, SnapshotError};

/// Version of the document. A newer one is not understood, and its layer is taken as absent.
const VERSION: u32 = 1;

/// The document. Paths are escaped, see [`escape`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    version: u32,
    diff_id: DiffId,
    size: u64,
    entries: u64,
    root: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    implied: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    missing_links: Vec<(String, String)>,
}

/// A layer, published or about to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) info: LayerInfo,
    /// Whether the stream said what the root is like.
    pub(crate) root: bool,
    pub(crate) implied: Vec<PathBuf>,
    pub(crate) missing_links: Vec<MissingLink>,
}

/// Paths are bytes and JSON is text: what is no printable ASCII, and `%`, is written as `%XX`.
fn escape(path: &Path) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

fn unescape(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(*byte);
        }
    }
    Some(OsString::from_vec(bytes).into())
}

impl Layer {
    pub(crate) fn new(diff_id: DiffId, applied: Applied) -> Self {
        Self {
            info: LayerInfo {
                diff_id,
                size: applied.size,
                entries: applied.entries,
            },
            root: applied.root,
            implied: applied.implied,
            missing_links: applied.missing_links,
        }
    }

    /// Whether it may look different over its parents than alone (pitfall 17).
    pub(crate) fn leans(&self) -> bool {
        !self.implied.is_empty() || !self.missing_links.is_empty()
    }

    /// Writes the document to a new file.
    pub(crate) fn write(&self, path: &Path) -> Result<(), SnapshotError> {
        let document = Document {
            version: VERSION,
            diff_id: self.info.diff_id.clone(),
            size: self.info.size,
            entries: self.info.entries,
            root: self.root,
            implied: self.implied.iter().map(|path| escape(path)).collect(),
            missing_links: self
                .missing_links
                .iter()
                .map(|link| (escape(&link.path), escape(&link.target)))
                .collect(),
        };
        let failed = |source| SnapshotError::Io {
            operation: "write",
            path: path.to_owned(),
            source,
        };
        let text = serde_json::to_vec(&document).map_err(|e| failed(e.into()))?;
        fs::File::create_new(path)
            .and_then(|mut file| file.write_all(&text))
            .map_err(failed)
    }

    /// Reads the document of a published layer.
    pub(crate) fn read(path: &Path) -> Result<Self, SnapshotError> {
        let damaged = |message: String| SnapshotError::Damaged {
            path: path.to_owned(),
            message,
        };
        let text = fs::read(path).map_err(|e| damaged(e.to_string()))?;
        let document: Document =
            serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if document.version != VERSION {
            return Err(damaged(format!(
                "version {} is not known",
                document.version
            )));
        }
        let path_of = |text: &String| {
            unescape(text).ok_or_else(|| damaged("a path is not escaped".to_owned()))
        };
        Ok(Self {
            info: LayerInfo {
                diff_id: document.diff_id,
                size: document.size,
                entries: document.entries,
            },
            root: document.root,
            implied: document
                .implied
                .iter()
                .map(path_of)
                .collect::<Result<_, _>>()?,
            missing_links: document
                .missing_links
                .iter()
                .map(|(path, target)| {
                    Ok(MissingLink {
                        path: path_of(path)?,
                        target: path_of(target)?,
                    })
                })
                .collect::<Result<_, SnapshotError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read() {
        let directory = tempfile::tempdir().unwrap();
        let odd = PathBuf::from(OsString::from_vec(b"a%/\xff b".to_vec()));
        let layer = Layer {
            info: LayerInfo {
                diff_id: format!("sha256:{}", "1".repeat(64)).parse().unwrap(),
                size: 5,
                entries: 2,
            },
            root: true,
            implied: vec![odd.clone()],
            missing_links: vec![MissingLink {
                path: odd.clone(),
                target: "t".into(),
            }],
        };
        let path = directory.path().join("layer.json");
        layer.write(&path).unwrap();
        assert_eq!(Layer::read(&path).unwrap(), layer);
        fs::write(&path, "").unwrap();
        assert!(matches!(
            Layer::read(&path),
            Err(SnapshotError::Damaged { .. })
        ));
    }
}

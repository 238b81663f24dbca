//! What a manifest is, and which one of an index fits.

use kekkai_oci::image_documents::{Descriptor, ImageIndex, ImageManifest, ManifestProbe, media};
use kekkai_types::Platform;

use crate::DistributionError;

/// Longest manifest or index, bytes. The distribution specification asks registries to take at least this much.
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Most layers of an image: overlayfs stacks no more.
const MAX_LAYERS: usize = 500;
/// Most manifests of an index.
const MAX_MANIFESTS: usize = 10_000;

/// A parsed manifest.
#[derive(Debug, Clone)]
pub enum Manifest {
    /// An index or a manifest list.
    Index(ImageIndex),
    /// One image.
    Image(Box<ImageManifest>),
}

/// Parses a manifest. `content_type` is what the registry called it, or empty.
///
/// # Errors
/// [`DistributionError::Schema1`] for what nobody reads any more, [`DistributionError::Manifest`] for what is no manifest
/// of an image, or could be read as two things (CVE-2021-41190).
pub fn parse_manifest(
    name: &str,
    content_type: &str,
    bytes: &[u8],
) -> Result<Manifest, DistributionError> {
    let bad = |detail: String| DistributionError::Manifest {
        context: format!("invalid manifest of {name}"),
        detail,
    };
    if matches!(
        content_type,
        media::DOCKER_SCHEMA1 | media::DOCKER_SCHEMA1_SIGNED
    ) {
        return Err(DistributionError::Schema1(name.to_owned()));
    }
    let probe: ManifestProbe =
        serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if probe.schema_version == 1 || probe.fs_layers.is_some() {
        return Err(DistributionError::Schema1(name.to_owned()));
    }
    let known = |kind: &str| media::is_index(kind) || media::is_manifest(kind);
    let kind = match (known(content_type), probe.media_type.as_str()) {
        (true, inner) if known(inner) && inner != content_type => {
            return Err(bad(format!(
                "it claims to be {inner} and was served as {content_type}"
            )));
        }
        (true, _) => content_type.to_owned(),
        (false, "") => match (&probe.manifests, &probe.config) {
            (Some(_), None) => media::OCI_INDEX.to_owned(),
            (None, Some(_)) => media::OCI_MANIFEST.to_owned(),
            _ => return Err(bad("neither an image nor an index".to_owned())),
        },
        (false, inner) => inner.to_owned(),
    };
    if probe.manifests.is_some() && (probe.config.is_some()) {
        return Err(bad("it has both manifests and a config".to_owned()));
    }
    if media::is_index(&kind) {
        let index: ImageIndex =
            serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
        if index.manifests.len() > MAX_MANIFESTS {
            return Err(bad(format!("{} manifests", index.manifests.len())));
        }
        return Ok(Manifest::Index(index));
    }
    if !media::is_manifest(&kind) {
        return Err(bad(format!("unsupported media type {kind}")));
    }
    let manifest: ImageManifest =
        serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    if manifest.layers.len() > MAX_LAYERS {
        return Err(bad(format!(
            "max depth exceeded: {} layers",
            manifest.layers.len()
        )));
    }
    if !media::is_config(&manifest.config.media_type) {
        return Err(DistributionError::Manifest {
            context: format!("{name} is no image"),
            detail: format!(
                "invalid media type {:?} of its config",
                manifest.config.media_type
            ),
        });
    }
    if let Some(odd) = manifest
        .layers
        .iter()
        .find(|layer| !media::is_layer(&layer.media_type))
    {
        return Err(bad(format!(
            "unsupported media type {:?} of a layer",
            odd.media_type
        )));
    }
    Ok(Manifest::Image(Box::new(manifest)))
}

/// The manifest of `index` that fits `wanted` best.
///
/// # Errors
/// [`DistributionError::NoPlatform`].
pub fn select<'a>(
    index: &'a ImageIndex,
    wanted: &Platform,
) -> Result<&'a Descriptor, DistributionError> {
    let rank = |descriptor: &Descriptor| match &descriptor.platform {
        Some(platform) => platform.platform().rank_for(wanted),
        // An index without platforms says nothing; the image's own configuration will.
        None => media::is_manifest(&descriptor.media_type).then_some(u8::MAX),
    };
    index
        .manifests
        .iter()
        .filter_map(|descriptor| Some((rank(descriptor)?, descriptor)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, descriptor)| descriptor)
        .ok_or_else(|| DistributionError::NoPlatform(wanted.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    #[test]
    fn kinds() {
        let config = format!(
            r#"{{"mediaType":"{}","digest":"{}","size":2}}"#,
            media::OCI_CONFIG,
            digest('a')
        );
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        assert!(matches!(
            parse_manifest("x", "", image.as_bytes()),
            Ok(Manifest::Image(_))
        ));
        assert!(matches!(
            parse_manifest("x", media::OCI_MANIFEST, image.as_bytes()),
            Ok(Manifest::Image(_))
        ));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(
            parse_manifest("x", "application/json", index.as_bytes()),
            Ok(Manifest::Index(_))
        ));
        for schema1 in [r#"{"schemaVersion":1,"fsLayers":[]}"#, r#"{"fsLayers":[]}"#] {
            assert!(matches!(
                parse_manifest("x", "", schema1.as_bytes()),
                Err(DistributionError::Schema1(_))
            ));
        }
        let both = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"manifests":[]}}"#);
        for bad in [
            both.as_str(),
            "",
            "[]",
            "{}",
            r#"{"schemaVersion":2,"mediaType":"text/plain"}"#,
            r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"x","size":1}}"#,
        ] {
            assert!(parse_manifest("x", "", bad.as_bytes()).is_err(), "{bad}");
            assert!(
                parse_manifest("x", media::OCI_MANIFEST, bad.as_bytes()).is_err(),
                "{bad}"
            );
        }
        let claims = image.replacen(
            '{',
            &format!(r#"{{"mediaType":"{}","#, media::OCI_MANIFEST),
            1,
        );
        assert!(parse_manifest("x", media::OCI_INDEX, claims.as_bytes()).is_err());
    }

    #[test]
    fn platforms() {
        let entry = |c, platform: &str| {
            format!(
                r#"{{"mediaType":"{}","digest":"{}","size":1,"platform":{platform}}}"#,
                media::OCI_MANIFEST,
                digest(c)
            )
        };
        let index: ImageIndex = serde_json::from_str(&format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{},{}]}}"#,
            entry('a', r#"{"os":"unknown","architecture":"unknown"}"#),
            entry('b', r#"{"os":"linux","architecture":"arm","variant":"v6"}"#),
            entry('c', r#"{"os":"linux","architecture":"arm","variant":"v7"}"#),
            entry('d', r#"{"os":"linux","architecture":"amd64"}"#),
        ))
        .unwrap();
        let pick =
            |text: &str| select(&index, &text.parse().unwrap()).map(|d| d.digest.to_string());
        assert_eq!(pick("linux/amd64").unwrap(), digest('d'));
        assert_eq!(pick("linux/arm").unwrap(), digest('c'));
        assert_eq!(pick("linux/arm/v6").unwrap(), digest('b'));
        assert_eq!(
            pick("linux/arm64").unwrap_err().to_string(),
            "no matching manifest for linux/arm64 in the manifest list entries"
        );
    }
}

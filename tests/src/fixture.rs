//! Images built in code from Debian's static busybox, so that the suites need no network and no file of anyone's.
//!
//! All but the images for faults of the wire is deterministic: the same busybox gives the same digests.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// `sha256:<hex>` of the bytes.
pub fn digest(bytes: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, bytes);
    let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}")
}

/// How a layer's tar is compressed, which also decides its media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Uncompressed tar.
    None,
    /// gzip, what nearly every image has.
    Gzip,
    /// zstd, the OCI newcomer.
    Zstd,
}

/// A layer ready to serve.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Digest of the tar itself.
    pub diff_id: String,
    /// Digest of the bytes served.
    pub digest: String,
    /// The bytes served.
    pub bytes: Arc<[u8]>,
    /// How they are compressed.
    pub compression: Compression,
}

impl Layer {
    /// Compresses a finished tar.
    pub fn new(tar: &[u8], compression: Compression) -> Self {
        let bytes = match compression {
            Compression::None => tar.to_vec(),
            Compression::Gzip => {
                let mut out =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(tar).expect("memory write");
                out.finish().expect("memory write")
            }
            Compression::Zstd => zstd::bulk::compress(tar, 3).expect("zstd of memory"),
        };
        Self {
            diff_id: digest(tar),
            digest: digest(&bytes),
            bytes: bytes.into(),
            compression,
        }
    }
}

/// Writes tars with full control over names, so that hostile ones can be written too.
pub struct TarBuilder(tar::Builder<Vec<u8>>);

impl std::fmt::Debug for TarBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TarBuilder")
    }
}

impl Default for TarBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Attributes of an entry; the defaults are root's plain file.
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
}

/// Root's, with these permission bits.
pub fn mode(mode: u32) -> Attr {
    Attr {
        mode,
        uid: 0,
        gid: 0,
    }
}

impl TarBuilder {
    /// An empty archive.
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(
        &mut self,
        path: &str,
        kind: tar::EntryType,
        attr: Attr,
        link: Option<&str>,
        data: &[u8],
    ) -> &mut Self {
        let mut header = tar::Header::new_gnu();
        // Names are written raw: `set_path` would refuse the hostile ones that some tests are about.
        {
            let gnu = header.as_gnu_mut().expect("a gnu header");
            let name = path.as_bytes();
            assert!(name.len() <= 100, "fixture path too long: {path}");
            gnu.name[..name.len()].copy_from_slice(name);
            if let Some(link) = link {
                assert!(link.len() <= 100, "fixture link too long: {link}");
                gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
            }
        }
        header.set_entry_type(kind);
        header.set_mode(attr.mode);
        header.set_uid(attr.uid);
        header.set_gid(attr.gid);
        header.set_mtime(1_704_164_645);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.0.append(&header, data).expect("memory write");
        self
    }

    /// A directory.
    pub fn dir(&mut self, path: &str, attr: Attr) -> &mut Self {
        self.entry(
            &format!("{path}/"),
            tar::EntryType::Directory,
            attr,
            None,
            b"",
        )
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, attr: Attr, data: &[u8]) -> &mut Self {
        self.entry(path, tar::EntryType::Regular, attr, None, data)
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(
            path,
            tar::EntryType::Symlink,
            mode(0o777),
            Some(target),
            b"",
        )
    }

    /// A hard link.
    pub fn hardlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, tar::EntryType::Link, mode(0o644), Some(target), b"")
    }

    /// A FIFO.
    pub fn fifo(&mut self, path: &str) -> &mut Self {
        self.entry(path, tar::EntryType::Fifo, mode(0o622), None, b"")
    }

    /// A character device.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        let mut header = tar::Header::new_gnu();
        header.set_path(path).expect("short path");
        header.set_entry_type(tar::EntryType::Char);
        header.set_mode(0o666);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_704_164_645);
        header.set_size(0);
        header.set_device_major(major).expect("gnu header");
        header.set_device_minor(minor).expect("gnu header");
        header.set_cksum();
        self.0.append(&header, &b""[..]).expect("memory write");
        self
    }

    /// A regular file with PAX records in front of it (extended attributes).
    pub fn file_with_pax(
        &mut self,
        path: &str,
        attr: Attr,
        data: &[u8],
        pax: &[(&str, &[u8])],
    ) -> &mut Self {
        self.0
            .append_pax_extensions(pax.iter().copied())
            .expect("memory write");
        self.file(path, attr, data)
    }

    /// The archive's bytes.
    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().expect("memory write")
    }
}

/// Which family of media types an image is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// OCI image manifest.
    Oci,
    /// Docker image manifest version 2, schema 2.
    Docker,
}

/// One image: config, manifest and layers.
#[derive(Clone, Debug)]
pub struct Image {
    /// The config's bytes.
    pub config: Arc<[u8]>,
    /// The manifest's bytes.
    pub manifest: Arc<[u8]>,
    /// The manifest's media type.
    pub media_type: &'static str,
    /// Its layers, lowest first.
    pub layers: Vec<Layer>,
    /// Architecture in Go's word.
    pub architecture: &'static str,
}

impl Image {
    /// Writes config and manifest over layers. `config` is the OCI `config` object (Env, Cmd, …).
    pub fn new(
        layers: Vec<Layer>,
        config: &Value,
        flavour: Flavour,
        architecture: &'static str,
    ) -> Self {
        let diff_ids: Vec<&str> = layers.iter().map(|l| l.diff_id.as_str()).collect();
        let history: Vec<Value> = layers
            .iter()
            .enumerate()
            .map(|(i, _)| json!({"created": "2024-01-02T03:04:05Z", "created_by": format!("fixture layer {i}")}))
            .collect();
        let document = json!({
            "architecture": architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": config, "rootfs": {"type": "layers", "diff_ids": diff_ids}, "history": history,
        });
        let config: Arc<[u8]> = serde_json::to_vec(&document).expect("a value").into();
        let (media_type, config_type) = match flavour {
            Flavour::Oci => (
                "application/vnd.oci.image.manifest.v1+json",
                "application/vnd.oci.image.config.v1+json",
            ),
            Flavour::Docker => (
                "application/vnd.docker.distribution.manifest.v2+json",
                "application/vnd.docker.container.image.v1+json",
            ),
        };
        let described: Vec<Value> = layers
            .iter()
            .map(|l| {
                let kind = match (flavour, l.compression) {
                    (Flavour::Oci, Compression::None) => "application/vnd.oci.image.layer.v1.tar",
                    (Flavour::Oci, Compression::Gzip) => {
                        "application/vnd.oci.image.layer.v1.tar+gzip"
                    }
                    (Flavour::Oci, Compression::Zstd) => {
                        "application/vnd.oci.image.layer.v1.tar+zstd"
                    }
                    (Flavour::Docker, Compression::None) => {
                        "application/vnd.docker.image.rootfs.diff.tar"
                    }
                    (Flavour::Docker, _) => "application/vnd.docker.image.rootfs.diff.tar.gzip",
                };
                json!({"mediaType": kind, "digest": l.digest, "size": l.bytes.len()})
            })
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type,
            "config": {"mediaType": config_type, "digest": digest(&config), "size": config.len()},
            "layers": described,
        });
        let manifest = serde_json::to_vec(&manifest).expect("a value").into();
        Self {
            config,
            manifest,
            media_type,
            layers,
            architecture,
        }
    }

    /// The image id as Docker with graph drivers shows it: the digest of the config.
    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// The digest of the manifest, what `NAME@sha256:…` names.
    pub fn manifest_digest(&self) -> String {
        digest(&self.manifest)
    }

    /// A docker-archive as `docker save` wrote them for years: manifest.json, config, `<id>/layer.tar`.
    pub fn docker_archive(&self, repo_tags: &[&str]) -> Vec<u8> {
        let mut tar = TarBuilder::new();
        let config_name = format!("{}.json", &self.id()[7..]);
        tar.file(&config_name, mode(0o644), &self.config);
        let mut names = Vec::new();
        for layer in &self.layers {
            // Written raw: the archive's layers may be compressed or not, readers sniff.
            let name = format!("{}/layer.tar", &layer.diff_id[7..71]);
            tar.file(&name, mode(0o644), &layer.bytes);
            names.push(name);
        }
        let manifest = json!([{"Config": config_name, "RepoTags": repo_tags, "Layers": names}]);
        tar.file(
            "manifest.json",
            mode(0o644),
            &serde_json::to_vec(&manifest).expect("a value"),
        );
        tar.finish()
    }

    /// A tar of an OCI layout whose index names this image.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let mut tar = TarBuilder::new();
        tar.file(
            "oci-layout",
            mode(0o644),
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        );
        tar.dir("blobs", mode(0o755))
            .dir("blobs/sha256", mode(0o755));
        let mut put = |bytes: &[u8]| {
            tar.file(
                &format!("blobs/sha256/{}", &digest(bytes)[7..]),
                mode(0o644),
                bytes,
            );
        };
        put(&self.config);
        put(&self.manifest);
        for layer in &self.layers {
            put(&layer.bytes);
        }
        let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{
            "mediaType": self.media_type, "digest": self.manifest_digest(), "size": self.manifest.len(),
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(':').next()},
        }]});
        tar.file(
            "index.json",
            mode(0o644),
            &serde_json::to_vec(&index).expect("a value"),
        );
        tar.finish()
    }
}

/// Every fixture image by `repository:tag`.
#[derive(Debug)]
pub struct Fixtures {
    /// Images by `repository:tag`.
    pub images: BTreeMap<String, Image>,
    /// Indexes by `repository:tag`: the bytes, and the images inside.
    pub indexes: BTreeMap<String, (Arc<[u8]>, Vec<Image>)>,
}

fn applets(busybox: &Path) -> Result<Vec<String>> {
    let out = Command::new(busybox)
        .arg("--list")
        .output()
        .context("busybox --list (Debian: busybox-static)")?;
    Ok(String::from_utf8_lossy(&out.stdout)
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Where Debian puts the static busybox.
pub fn busybox_path() -> Result<std::path::PathBuf> {
    let given = std::env::var_os("KEKKAI_TEST_BUSYBOX").map(std::path::PathBuf::from);
    given
        .into_iter()
        .chain(["/usr/bin/busybox".into(), "/bin/busybox".into()])
        .find(|p| p.exists())
        .context("no busybox: apt-get install busybox-static")
}

/// The tar of the base layer: busybox, its applets, and the few files a shell expects.
fn base_tar(busybox: &Path) -> Result<Vec<u8>> {
    let program = std::fs::read(busybox)?;
    let mut tar = TarBuilder::new();
    for dir in [
        "bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "usr/sbin", "var", "var/log",
    ] {
        tar.dir(dir, mode(0o755));
    }
    tar.symlink("sbin", "bin");
    tar.dir("root", mode(0o700)).dir("tmp", mode(0o1777));
    tar.dir(
        "home/alice",
        Attr {
            mode: 0o755,
            uid: 1000,
            gid: 1000,
        },
    );
    tar.file("bin/busybox", mode(0o755), &program);
    for applet in applets(busybox)? {
        if applet != "busybox" {
            tar.symlink(&format!("bin/{applet}"), "busybox");
        }
    }
    tar.file("etc/passwd", mode(0o644), b"root:x:0:0:root:/root:/bin/sh\nbin:x:1:1:bin:/bin:/bin/false\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n");
    tar.file("etc/group", mode(0o644), b"root:x:0:\nbin:x:1:\ntty:x:5:\nwheel:x:10:alice\nalice:x:1000:\nextra:x:2000:alice\nnogroup:x:65534:\n");
    tar.file("etc/notexec", mode(0o644), b"not a program\n");
    tar.file(
        "bin/garbage",
        mode(0o755),
        b"\x7fgarbage that no kernel runs\n",
    );
    tar.file(
        "bin/noshebang",
        mode(0o755),
        b"echo a script without an interpreter line\n",
    );
    tar.file("bin/badinterp", mode(0o755), b"#!/no/such/interpreter\n");
    Ok(tar.finish())
}

fn default_config() -> Value {
    json!({"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]})
}

impl Fixtures {
    /// Builds all of them; about a tenth of a second.
    pub fn build() -> Result<Self> {
        use Compression::{Gzip, None as Plain, Zstd};
        use Flavour::{Docker, Oci};
        let base = base_tar(&busybox_path()?)?;
        let gz = Layer::new(&base, Gzip);
        let mut images = BTreeMap::new();
        let mut put = |name: &str, image: Image| {
            images.insert(name.to_owned(), image);
        };
        put(
            "box:latest",
            Image::new(vec![gz.clone()], &default_config(), Oci, "amd64"),
        );
        put(
            "box:docker",
            Image::new(vec![gz.clone()], &default_config(), Docker, "amd64"),
        );
        put(
            "box:zstd",
            Image::new(
                vec![Layer::new(&base, Zstd)],
                &default_config(),
                Oci,
                "amd64",
            ),
        );
        put(
            "box:plain",
            Image::new(
                vec![Layer::new(&base, Plain)],
                &default_config(),
                Oci,
                "amd64",
            ),
        );

        // What `docker run hello-world` is: one layer, one program, no shell wanted.
        put(
            "hello:latest",
            Image::new(
                vec![gz.clone()],
                &json!({"Env": ["PATH=/bin"], "Cmd": ["/bin/echo", "Hello from a fixture!"]}),
                Oci,
                "amd64",
            ),
        );

        // Every field of an image config that a run inherits.
        put(
            "conf:latest",
            Image::new(
                vec![gz.clone(), Layer::new(&conf_tar(), Gzip)],
                &json!({
                    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "FROM_IMAGE=yes", "OVERRIDDEN=image"],
                    "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo default command"],
                    "WorkingDir": "/work/dir", "User": "alice", "StopSignal": "SIGUSR1",
                    "Labels": {"maker": "fixture", "both": "image"},
                    "ExposedPorts": {"80/tcp": {}, "53/udp": {}}, "Volumes": {"/vol": {}},
                }),
                Oci,
                "amd64",
            ),
        );

        let (lower, upper) = whiteout_tars();
        put(
            "layers:latest",
            Image::new(
                vec![
                    gz.clone(),
                    Layer::new(&lower, Gzip),
                    Layer::new(&upper, Zstd),
                ],
                &default_config(),
                Oci,
                "amd64",
            ),
        );

        for (name, tar) in hostile_tars() {
            put(
                &format!("{name}:latest"),
                Image::new(
                    vec![gz.clone(), Layer::new(&tar, Gzip)],
                    &default_config(),
                    Oci,
                    "amd64",
                ),
            );
        }

        // A digest of the diff that the tar does not have: caught only by who hashes what is unpacked.
        // (Its content is new, or an engine that knows layers by their diff would have no need to fetch it.)
        let unseen = || {
            let mut tar = TarBuilder::new();
            tar.file("unseen", mode(0o644), &noise(60_000));
            Layer::new(&tar.finish(), Gzip)
        };
        let mut lying = unseen();
        lying.diff_id = digest(b"something else");
        put(
            "lyingdiff:latest",
            Image::new(vec![gz.clone(), lying], &default_config(), Oci, "amd64"),
        );

        // Bytes with a right digest that no inflater reads to the end.
        let mut corrupt = unseen();
        let mut bytes = corrupt.bytes.to_vec();
        let middle = bytes.len() / 2;
        for b in &mut bytes[middle..middle + 64] {
            *b ^= 0x5a;
        }
        corrupt.digest = digest(&bytes);
        corrupt.bytes = bytes.into();
        put(
            "corruptgzip:latest",
            Image::new(vec![gz.clone(), corrupt], &default_config(), Oci, "amd64"),
        );

        // A gzip stream that ends early, its digest being that of what is there.
        let mut short = unseen();
        let bytes = short.bytes[..short.bytes.len() / 2].to_vec();
        short.digest = digest(&bytes);
        short.bytes = bytes.into();
        put(
            "shortgzip:latest",
            Image::new(vec![gz.clone(), short], &default_config(), Oci, "amd64"),
        );

        // For faults of the wire: each has a layer that no daemon has seen before, or none of it would be fetched.
        for fault in [
            "wrongblob",
            "wrongmanifest",
            "truncated",
            "flaky",
            "redirect",
            "slow",
            "ratelimited",
        ] {
            let mut tar = TarBuilder::new();
            tar.file("once", mode(0o644), &noise(600_000));
            let layers = vec![gz.clone(), Layer::new(&tar.finish(), Gzip)];
            put(
                &format!("once-{fault}:latest"),
                Image::new(layers, &default_config(), Oci, "amd64"),
            );
        }

        // An index over two architectures, and one that has nothing for us.
        let other = Image::new(
            vec![Layer::new(&conf_tar(), Gzip)],
            &default_config(),
            Oci,
            "arm64",
        );
        let ours = images["box:latest"].clone();
        let mut indexes = BTreeMap::new();
        indexes.insert(
            "multi:latest".to_owned(),
            (index(&[&other, &ours]), vec![other.clone(), ours]),
        );
        indexes.insert("foreign:latest".to_owned(), (index(&[&other]), vec![other]));
        Ok(Self { images, indexes })
    }

    /// The image of that name; names are those of `build`.
    pub fn image(&self, name: &str) -> &Image {
        self.images
            .get(name)
            .unwrap_or_else(|| panic!("no fixture image {name}"))
    }
}

fn index(images: &[&Image]) -> Arc<[u8]> {
    let manifests: Vec<Value> = images
        .iter()
        .map(|i| {
            json!({"mediaType": i.media_type, "digest": i.manifest_digest(), "size": i.manifest.len(),
                "platform": {"os": "linux", "architecture": i.architecture}})
        })
        .collect();
    let document = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    serde_json::to_vec(&document).expect("a value").into()
}

/// Bytes nobody has seen before and nothing compresses.
fn noise(length: usize) -> Vec<u8> {
    use std::hash::{BuildHasher, Hasher};
    let mut bytes = Vec::with_capacity(length + 8);
    // A fresh RandomState is keyed by the kernel's random numbers.
    let state = std::collections::hash_map::RandomState::new();
    let mut counter = 0u64;
    while bytes.len() < length {
        let mut hasher = state.build_hasher();
        hasher.write_u64(counter);
        bytes.extend_from_slice(&hasher.finish().to_le_bytes());
        counter += 1;
    }
    bytes.truncate(length);
    bytes
}

fn conf_tar() -> Vec<u8> {
    let mut tar = TarBuilder::new();
    tar.dir(
        "vol",
        Attr {
            mode: 0o750,
            uid: 1000,
            gid: 1000,
        },
    );
    tar.file(
        "vol/seed",
        Attr {
            mode: 0o640,
            uid: 1000,
            gid: 1000,
        },
        b"from the image\n",
    );
    tar.symlink("vol/link", "seed");
    // Some bytes that do not compress away, so that corrupting the middle hits a deflate block.
    let noise: Vec<u8> = (0u32..20_000)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    tar.file("noise", mode(0o644), &noise);
    tar.finish()
}

fn whiteout_tars() -> (Vec<u8>, Vec<u8>) {
    let mut lower = TarBuilder::new();
    lower
        .dir("a", mode(0o755))
        .file("a/kept", mode(0o644), b"kept\n")
        .file("a/gone", mode(0o644), b"gone\n");
    lower
        .dir("opaque", mode(0o755))
        .file("opaque/below", mode(0o644), b"below\n");
    lower
        .dir("tree", mode(0o755))
        .dir("tree/sub", mode(0o755))
        .file("tree/sub/x", mode(0o644), b"x\n");
    lower
        .dir("replaced", mode(0o755))
        .file("replaced/inside", mode(0o644), b"inside\n");
    lower.file("becomesdir", mode(0o644), b"file\n");
    lower
        .dir("realdir", mode(0o755))
        .symlink("linkdir", "realdir");
    lower
        .file("hard1", mode(0o644), b"hard\n")
        .hardlink("hard2", "hard1");
    lower.file("setuid", mode(0o4755), b"suid\n");
    lower.file(
        "owned",
        Attr {
            mode: 0o600,
            uid: 1000,
            gid: 2000,
        },
        b"owned\n",
    );
    lower.fifo("pipe");
    lower.char_device("devnull", 1, 3);
    lower.file_with_pax(
        "xattr",
        mode(0o644),
        b"x\n",
        &[("SCHILY.xattr.user.colour", b"blue")],
    );
    lower.file_with_pax(
        "capped",
        mode(0o755),
        b"#!/bin/sh\n",
        // cap_net_raw+ep as the kernel stores it, version 2.
        &[(
            "SCHILY.xattr.security.capability",
            &[
                1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ],
        )],
    );
    let mut upper = TarBuilder::new();
    upper
        .dir("a", mode(0o711))
        .file("a/.wh.gone", mode(0o644), b"")
        .file("a/new", mode(0o644), b"new\n");
    upper
        .dir("opaque", mode(0o755))
        .file("opaque/above", mode(0o644), b"above\n");
    upper.file("opaque/.wh..wh..opq", mode(0o644), b"");
    upper.file(".wh.tree", mode(0o644), b"");
    upper.file("replaced", mode(0o644), b"now a file\n");
    upper
        .dir("becomesdir", mode(0o755))
        .file("becomesdir/in", mode(0o644), b"in\n");
    // An entry below a symlink of the lower layer lands where the link points, beneath the root.
    upper.file("linkdir/through", mode(0o644), b"through\n");
    (lower.finish(), upper.finish())
}

/// Layers that try to write outside their root; each must be refused or land inside.
fn hostile_tars() -> Vec<(&'static str, Vec<u8>)> {
    let mut dotdot = TarBuilder::new();
    dotdot.file(
        "../../../../../../../../tmp/kekkai-escaped-dotdot",
        mode(0o644),
        b"escaped\n",
    );
    let mut inner = TarBuilder::new();
    inner.dir("x", mode(0o755)).file(
        "x/../../../../../../../../../tmp/kekkai-escaped-inner",
        mode(0o644),
        b"escaped\n",
    );
    let mut absolute = TarBuilder::new();
    absolute.file("/tmp/kekkai-escaped-absolute", mode(0o644), b"inside\n");
    let mut symlink = TarBuilder::new();
    symlink
        .symlink("out", "/tmp")
        .file("out/kekkai-escaped-symlink", mode(0o644), b"inside\n");
    let mut relative = TarBuilder::new();
    relative
        .symlink("up", "../../../../../../../../../tmp")
        .file("up/kekkai-escaped-relative", mode(0o644), b"inside\n");
    let mut hardlink = TarBuilder::new();
    hardlink.hardlink("stolen", "../../../../../../../../etc/shadow");
    let mut hardlink_through = TarBuilder::new();
    hardlink_through
        .symlink("etcout", "/etc")
        .hardlink("stolen", "etcout/hostname");
    vec![
        ("evil-dotdot", dotdot.finish()),
        ("evil-inner", inner.finish()),
        ("evil-absolute", absolute.finish()),
        ("evil-symlink", symlink.finish()),
        ("evil-relative", relative.finish()),
        ("evil-hardlink", hardlink.finish()),
        ("evil-hardlink-through", hardlink_through.finish()),
    ]
}

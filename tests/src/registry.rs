//! A registry of a few hundred lines: the read half of the distribution specification over HTTP/1.1, a thread per
//! connection, with faults on demand. It serves the fixtures, and an OCI layout (`../shared/images`) as `library/…`.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::fixture::{Fixtures, digest};

/// What a repository does wrong; chosen by the first component of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Blobs come back with one byte flipped.
    WrongBlob,
    /// Manifests asked for by digest come back different.
    WrongManifest,
    /// Blob bodies end half-way, the connection with them, every time.
    Truncated,
    /// As `Truncated`, but only the first request of each blob: a client that resumes or retries gets through.
    Flaky,
    /// Manifests are 64 MiB of JSON.
    HugeManifest,
    /// A manifest body that never ends.
    EndlessManifest,
    /// Blobs are redirected to another path.
    Redirect,
    /// Everything is 500.
    Broken,
    /// 429 once per blob with `Retry-After: 0`, then served.
    RateLimited,
    /// Blob bodies at about 256 KiB per second.
    Slow,
}

/// Who may read; a registry has one answer for everything it holds, and gives it at `/v2/` already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Anybody.
    Open,
    /// 401 unless `Authorization: Basic user:secret`.
    Basic,
    /// 401 with a Bearer challenge to `/token`, which wants `user:secret`.
    Token,
    /// A bearer token for anybody who asks, as Docker Hub has it.
    Anonymous,
}

impl Fault {
    fn of(repository: &str) -> Self {
        match repository.split('/').next().unwrap_or_default() {
            "wrongblob" => Self::WrongBlob,
            "wrongmanifest" => Self::WrongManifest,
            "truncated" => Self::Truncated,
            "flaky" => Self::Flaky,
            "hugemanifest" => Self::HugeManifest,
            "endlessmanifest" => Self::EndlessManifest,
            "redirect" => Self::Redirect,
            "broken" => Self::Broken,
            "ratelimited" => Self::RateLimited,
            "slow" => Self::Slow,
            _ => Self::None,
        }
    }
}

#[derive(Clone, Debug)]
enum Blob {
    Memory(Arc<[u8]>),
    File(PathBuf, u64),
}

impl Blob {
    fn len(&self) -> u64 {
        match self {
            Self::Memory(b) => b.len() as u64,
            Self::File(_, len) => *len,
        }
    }
    fn bytes(&self) -> Result<Vec<u8>> {
        Ok(match self {
            Self::Memory(b) => b.to_vec(),
            Self::File(p, _) => std::fs::read(p)?,
        })
    }
}

#[derive(Debug, Default)]
struct Store {
    /// `repository-leaf:tag` or digest → media type and bytes.
    manifests: HashMap<String, (String, Arc<[u8]>)>,
    blobs: HashMap<String, Blob>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    door: Door,
    address: SocketAddr,
    stopping: AtomicBool,
    blob_requests: AtomicU64,
    /// What each faulty repository has been asked before, for faults that heal.
    seen: Mutex<HashMap<String, u32>>,
}

/// A running registry; it stops when dropped.
#[derive(Debug)]
pub struct Registry {
    doors: Vec<Arc<Shared>>,
    /// Whether the layout of `../shared/images` is among what it serves.
    pub has_real_images: bool,
}

/// `../shared/images` beside the repository, where there is one.
pub fn shared_folder(name: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.parent()?;
    let path = root.join("shared").join(name);
    path.exists().then_some(path)
}

impl Registry {
    /// Serves the fixtures under any first path component that names a fault (or none), and the real images.
    pub fn start(fixtures: &Fixtures) -> Result<Self> {
        let mut store = Store::default();
        for (name, image) in &fixtures.images {
            store.put_image(Some(name), image);
        }
        for (name, (bytes, images)) in &fixtures.indexes {
            for image in images {
                store.put_image(None, image);
            }
            let kind = "application/vnd.oci.image.index.v1+json".to_owned();
            store
                .manifests
                .insert(name.clone(), (kind.clone(), bytes.clone()));
            store.manifests.insert(digest(bytes), (kind, bytes.clone()));
        }
        let layout = shared_folder("images");
        if let Some(layout) = &layout {
            store
                .put_layout(layout)
                .with_context(|| format!("reading {}", layout.display()))?;
        }
        let store = Arc::new(store);
        let doors = [Door::Open, Door::Basic, Door::Token, Door::Anonymous];
        let doors = doors
            .into_iter()
            .map(|door| listen(store.clone(), door))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            doors,
            has_real_images: layout.is_some(),
        })
    }

    /// `127.0.0.1:PORT` of the door that is open.
    pub fn host(&self) -> String {
        self.host_of(Door::Open)
    }

    /// `127.0.0.1:PORT` of that door.
    pub fn host_of(&self, door: Door) -> String {
        self.doors
            .iter()
            .find(|d| d.door == door)
            .expect("every door is open")
            .address
            .to_string()
    }

    /// How many blob bodies were asked for so far.
    pub fn blob_requests(&self) -> u64 {
        self.doors
            .iter()
            .map(|d| d.blob_requests.load(Ordering::Relaxed))
            .sum()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        for door in &self.doors {
            door.stopping.store(true, Ordering::Relaxed);
            drop(TcpStream::connect(door.address));
        }
    }
}

fn listen(store: Arc<Store>, door: Door) -> Result<Arc<Shared>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let shared = Arc::new(Shared {
        store,
        door,
        address: listener.local_addr()?,
        stopping: AtomicBool::new(false),
        blob_requests: AtomicU64::new(0),
        seen: Mutex::default(),
    });
    let serving = shared.clone();
    std::thread::Builder::new()
        .name("registry".into())
        .spawn(move || {
            for connection in listener.incoming() {
                if serving.stopping.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(connection) = connection else { continue };
                let shared = serving.clone();
                // A client that goes away mid-body is a case, not an error.
                std::thread::spawn(move || drop(serve(&shared, connection)));
            }
        })?;
    Ok(shared)
}

impl Store {
    fn put_image(&mut self, name: Option<&str>, image: &crate::fixture::Image) {
        let manifest = (image.media_type.to_owned(), image.manifest.clone());
        if let Some(name) = name {
            self.manifests.insert(name.to_owned(), manifest.clone());
        }
        self.manifests.insert(image.manifest_digest(), manifest);
        self.blobs
            .insert(image.id(), Blob::Memory(image.config.clone()));
        for layer in &image.layers {
            self.blobs
                .insert(layer.digest.clone(), Blob::Memory(layer.bytes.clone()));
        }
    }

    fn put_layout(&mut self, layout: &Path) -> Result<()> {
        let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
        let read =
            |digest: &str| std::fs::read(layout.join("blobs").join(digest.replace(':', "/")));
        let mut queue: Vec<(Option<String>, Value)> = Vec::new();
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            queue.push((name.map(str::to_owned), entry.clone()));
        }
        while let Some((name, entry)) = queue.pop() {
            let Some(digest) = entry["digest"].as_str() else {
                continue;
            };
            let Ok(bytes) = read(digest) else { continue };
            let document: Value = serde_json::from_slice(&bytes)?;
            for child in document["manifests"].as_array().into_iter().flatten() {
                queue.push((None, child.clone()));
            }
            let kind = entry["mediaType"]
                .as_str()
                .unwrap_or("application/vnd.oci.image.manifest.v1+json")
                .to_owned();
            let bytes: Arc<[u8]> = bytes.into();
            if let Some(name) = name {
                if name == "alpine:3.20" {
                    self.manifests
                        .insert("alpine:latest".into(), (kind.clone(), bytes.clone()));
                }
                self.manifests.insert(name, (kind.clone(), bytes.clone()));
            }
            self.manifests.insert(digest.to_owned(), (kind, bytes));
        }
        for entry in std::fs::read_dir(layout.join("blobs/sha256"))? {
            let entry = entry?;
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            self.blobs
                .entry(name)
                .or_insert(Blob::File(entry.path(), entry.metadata()?.len()));
        }
        Ok(())
    }
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

fn read_request(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    // Bodies (POST of a token) are small and not needed.
    let length: u64 = headers
        .get("content-length")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    std::io::copy(&mut reader.take(length), &mut std::io::sink())?;
    Ok(Some(Request {
        method,
        path,
        headers,
    }))
}

fn reply(
    out: &mut TcpStream,
    status: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    head_only: bool,
) -> Result<()> {
    let mut text =
        format!("HTTP/1.1 {status}\r\nDocker-Distribution-Api-Version: registry/2.0\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    text += &format!("Content-Length: {}\r\n\r\n", body.len());
    out.write_all(text.as_bytes())?;
    if !head_only {
        out.write_all(body)?;
    }
    Ok(())
}

fn errors(code: &str, message: &str) -> Vec<u8> {
    serde_json::to_vec(&json!({"errors": [{"code": code, "message": message, "detail": {}}]}))
        .expect("a value")
}

/// base64 of `user:secret`.
const CREDENTIALS: &str = "dXNlcjpzZWNyZXQ=";

fn serve(shared: &Shared, connection: TcpStream) -> Result<()> {
    connection.set_nodelay(true)?;
    let mut out = connection.try_clone()?;
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_request(&mut reader)? {
        if !answer(shared, &request, &mut out)? {
            break;
        }
    }
    Ok(())
}

/// Whether the request may go on; otherwise the challenge has been written.
fn authorized(
    shared: &Shared,
    repository: &str,
    request: &Request,
    out: &mut TcpStream,
) -> Result<bool> {
    let given = request
        .headers
        .get("authorization")
        .map_or("", String::as_str);
    let host = shared.address.to_string();
    let challenge = match shared.door {
        Door::Basic if given != format!("Basic {CREDENTIALS}") => {
            "Basic realm=\"fixtures\"".to_owned()
        }
        // The ping before a pull carries a token for whatever scope; a repository wants its own.
        Door::Token | Door::Anonymous
            if !given.starts_with("Bearer token-for-")
                || (!repository.is_empty()
                    && given != format!("Bearer token-for-{repository}")) =>
        {
            let kind = if shared.door == Door::Token {
                "token"
            } else {
                "anonymous-token"
            };
            let scope = if repository.is_empty() {
                String::new()
            } else {
                format!(",scope=\"repository:{repository}:pull\"")
            };
            format!("Bearer realm=\"http://{host}/{kind}\",service=\"fixtures\"{scope}")
        }
        _ => return Ok(true),
    };
    let body = errors("UNAUTHORIZED", "authentication required");
    let headers = [
        ("WWW-Authenticate", challenge.as_str()),
        ("Content-Type", "application/json"),
    ];
    reply(
        out,
        "401 Unauthorized",
        &headers,
        &body,
        request.method == "HEAD",
    )?;
    Ok(false)
}

fn answer(shared: &Shared, request: &Request, out: &mut TcpStream) -> Result<bool> {
    let json_type = ("Content-Type", "application/json");
    let head = request.method == "HEAD";
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    if path == "/v2/" || path == "/v2" {
        if authorized(shared, "", request, out)? {
            reply(out, "200 OK", &[json_type], b"{}", head)?;
        }
        return Ok(true);
    }
    if path == "/token" || path == "/anonymous-token" {
        let given = request
            .headers
            .get("authorization")
            .map_or("", String::as_str);
        if path == "/token" && given != format!("Basic {CREDENTIALS}") {
            reply(
                out,
                "401 Unauthorized",
                &[json_type],
                &errors("UNAUTHORIZED", "incorrect username or password"),
                head,
            )?;
            return Ok(true);
        }
        let scope = query
            .split('&')
            .find_map(|p| p.strip_prefix("scope="))
            .unwrap_or_default();
        let scope = scope
            .replace("%3A", ":")
            .replace("%2F", "/")
            .replace("%2C", ",");
        let repository = scope.split(':').nth(1).unwrap_or_default();
        let body = json!({"token": format!("token-for-{repository}"), "expires_in": 300});
        reply(
            out,
            "200 OK",
            &[json_type],
            &serde_json::to_vec(&body)?,
            head,
        )?;
        return Ok(true);
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        reply(out, "404 Not Found", &[], b"404 page not found\n", head)?;
        return Ok(true);
    };
    let split = rest.rsplit_once("/manifests/").map(|(n, r)| (n, r, true));
    let Some((repository, reference, manifest)) =
        split.or_else(|| rest.rsplit_once("/blobs/").map(|(n, r)| (n, r, false)))
    else {
        reply(
            out,
            "404 Not Found",
            &[json_type],
            &errors("UNSUPPORTED", "no such route"),
            head,
        )?;
        return Ok(true);
    };
    let fault = Fault::of(repository);
    if fault == Fault::Broken {
        reply(
            out,
            "500 Internal Server Error",
            &[json_type],
            &errors("UNKNOWN", "it is broken"),
            head,
        )?;
        return Ok(true);
    }
    if !authorized(shared, repository, request, out)? {
        return Ok(true);
    }
    if manifest {
        serve_manifest(shared, fault, repository, reference, head, out)
    } else {
        shared.blob_requests.fetch_add(1, Ordering::Relaxed);
        serve_blob(shared, fault, repository, reference, request, out)
    }
}

fn serve_manifest(
    shared: &Shared,
    fault: Fault,
    repository: &str,
    reference: &str,
    head: bool,
    out: &mut TcpStream,
) -> Result<bool> {
    let json_type = ("Content-Type", "application/json");
    let leaf = repository.rsplit('/').next().unwrap_or_default();
    let key = if reference.starts_with("sha256:") {
        reference.to_owned()
    } else {
        format!("{leaf}:{reference}")
    };
    let Some((kind, bytes)) = shared.store.manifests.get(&key) else {
        let body = errors("MANIFEST_UNKNOWN", "manifest unknown");
        reply(out, "404 Not Found", &[json_type], &body, head)?;
        return Ok(true);
    };
    if fault == Fault::EndlessManifest {
        write!(
            out,
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        if !head {
            let chunk = vec![b' '; 1 << 16];
            // Bounded all the same: a client that reads for ever must fail its test, not this machine.
            for _ in 0..4096 {
                write!(out, "{:x}\r\n", chunk.len())?;
                out.write_all(&chunk)?;
                out.write_all(b"\r\n")?;
            }
        }
        return Ok(false);
    }
    let mut bytes = bytes.to_vec();
    if fault == Fault::HugeManifest {
        bytes.resize(64 << 20, b' ');
    }
    let name = digest(&bytes);
    if fault == Fault::WrongManifest && reference.starts_with("sha256:") {
        bytes.push(b'\n');
    }
    let headers = [
        ("Content-Type", kind.as_str()),
        ("Docker-Content-Digest", name.as_str()),
    ];
    reply(out, "200 OK", &headers, &bytes, head)?;
    Ok(true)
}

fn serve_blob(
    shared: &Shared,
    fault: Fault,
    repository: &str,
    reference: &str,
    request: &Request,
    out: &mut TcpStream,
) -> Result<bool> {
    let head = request.method == "HEAD";
    let Some(blob) = shared.store.blobs.get(reference) else {
        let body = errors("BLOB_UNKNOWN", "blob unknown to registry");
        reply(
            out,
            "404 Not Found",
            &[("Content-Type", "application/json")],
            &body,
            head,
        )?;
        return Ok(true);
    };
    if fault == Fault::Redirect {
        let target = format!("http://{}/v2/plain/box/blobs/{reference}", shared.address);
        reply(
            out,
            "307 Temporary Redirect",
            &[("Location", &target)],
            b"",
            head,
        )?;
        return Ok(true);
    }
    let first = {
        let mut seen = shared.seen.lock().expect("no panics under this lock");
        let count = seen.entry(format!("{repository} {reference}")).or_insert(0);
        *count += 1;
        *count == 1
    };
    if fault == Fault::RateLimited && first {
        let body = errors("TOOMANYREQUESTS", "slow down");
        reply(
            out,
            "429 Too Many Requests",
            &[("Retry-After", "0")],
            &body,
            head,
        )?;
        return Ok(true);
    }
    let start = request
        .headers
        .get("range")
        .and_then(|r| r.strip_prefix("bytes="))
        .and_then(|r| r.split('-').next())
        .and_then(|r| r.parse::<u64>().ok())
        .filter(|s| *s < blob.len());
    let mut status = "200 OK".to_owned();
    let mut range = String::new();
    if let Some(start) = start {
        status = "206 Partial Content".to_owned();
        range = format!(
            "Content-Range: bytes {start}-{}/{}\r\n",
            blob.len() - 1,
            blob.len()
        );
    }
    let start = start.unwrap_or(0);
    let length = blob.len() - start;
    write!(
        out,
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\nAccept-Ranges: bytes\r\n{range}Docker-Content-Digest: {reference}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    if head {
        return Ok(true);
    }
    let config = blob.len() < 64 << 10;
    let cut = fault == Fault::Truncated || (fault == Fault::Flaky && first);
    match blob {
        Blob::File(path, _) if fault == Fault::None => {
            let mut file = std::fs::File::open(path)?;
            file.seek(SeekFrom::Start(start))?;
            std::io::copy(&mut file, out)?;
        }
        _ => {
            let mut bytes = blob.bytes()?.split_off(start as usize);
            if fault == Fault::WrongBlob && !config {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            if cut && !config {
                out.write_all(&bytes[..bytes.len() / 2])?;
                return Ok(false);
            }
            if fault == Fault::Slow {
                for piece in bytes.chunks(16 << 10) {
                    out.write_all(piece)?;
                    std::thread::sleep(std::time::Duration::from_millis(60));
                }
            } else {
                out.write_all(&bytes)?;
            }
        }
    }
    Ok(true)
}

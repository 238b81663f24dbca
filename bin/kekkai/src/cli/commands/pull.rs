//! `pull`, and the progress display that `run`, `load` and others share.

use std::fmt::Write as _;
use std::time::Duration;

use kekkai_client::{
    AuthEntry, Client, CredentialStore, Query, Reply, Request, encode_registry_auth,
};
use serde_json::Value as Json;

use super::text;
use crate::cli::command::Outcome;
use crate::cli::flags::{Flag, Matches, switch, text as text_flag};
use crate::cli::reference::ImageName;
use crate::cli::{Cli, Failure, output, terminal, units};

pub(crate) const FLAGS: &[Flag] = &[
    switch("all-tags", "Pull every tag of the repository").short('a'),
    switch(
        "disable-content-trust",
        "Skip the verification of image signatures",
    )
    .default("true"),
    text_flag("platform", "Platform of the image (os[/arch[/variant]])"),
    switch("quiet", "Do not show the progress").short('q'),
];

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    Stdout,
    Stderr,
    Nowhere,
}

impl Show {
    fn is_terminal(self) -> bool {
        match self {
            Self::Stdout => terminal::stdout_is_terminal(),
            Self::Stderr => terminal::stderr_is_terminal(),
            Self::Nowhere => false,
        }
    }

    fn width(self) -> usize {
        use std::os::fd::AsFd;
        let (_, columns) = match self {
            Self::Stderr => terminal::size_of(std::io::stderr().as_fd()),
            _ => terminal::size(),
        };
        if columns == 0 {
            200
        } else {
            usize::from(columns)
        }
    }

    fn write(self, text: &str) -> std::io::Result<()> {
        match self {
            Self::Stdout => output::print(text),
            Self::Stderr => {
                output::to_stderr(text);
                Ok(())
            }
            Self::Nowhere => Ok(()),
        }
    }
}

/// The credentials for an image's registry, as the API's header takes them.
pub(crate) fn registry_auth(cli: &Cli, image: &ImageName) -> Result<String, Failure> {
    let found = CredentialStore::new(&cli.config).get(image.auth_key());
    let entry = match found {
        Ok(entry) => entry.unwrap_or_default(),
        Err(error) => {
            output::to_stderr(&format!("WARNING: {error}\n"));
            AuthEntry::default()
        }
    };
    Ok(encode_registry_auth(&entry)?)
}

/// Pulls one image and shows how it goes.
pub(crate) async fn pull_image(
    cli: &Cli,
    client: &Client,
    image: &ImageName,
    platform: &str,
    show: Show,
) -> Result<(), Failure> {
    let reference = if image.digest.is_empty() {
        &image.tag
    } else {
        &image.digest
    };
    let query = Query::new()
        .with("fromImage", &image.repository)
        .with_text("tag", reference)
        .with_text("platform", platform);
    let request = Request::post("/images/create")
        .query(query)
        .header("X-Registry-Auth", &registry_auth(cli, image)?);
    let reply = client.send(request).await?;
    show_progress(reply, show).await
}

pub(crate) async fn pull(cli: &Cli, matches: &Matches) -> Outcome {
    if matches.on("all-tags") {
        return Err(Failure::new("kekkai does not have pull --all-tags yet"));
    }
    let bare = ImageName::parse_bare(&matches.args[0])?;
    let image = ImageName::parse(&matches.args[0])?;
    let quiet = matches.on("quiet");
    if bare.tag.is_empty() && bare.digest.is_empty() && !quiet {
        output::line("Using default tag: latest")?;
    }
    let client = cli.client().await?;
    let show = if quiet { Show::Nowhere } else { Show::Stdout };
    pull_image(cli, client, &image, matches.text("platform"), show).await?;
    output::line(&canonical(&image))?;
    Ok(0)
}

/// The full name, registry included.
fn canonical(image: &ImageName) -> String {
    let path = match image.repository.strip_prefix(&format!("{}/", image.domain)) {
        Some(path) => path.to_owned(),
        None if image.domain == "docker.io" && !image.repository.contains('/') => {
            format!("library/{}", image.repository)
        }
        None => image.repository.clone(),
    };
    let mut name = format!("{}/{path}", image.domain);
    if !image.tag.is_empty() {
        let _ = write!(name, ":{}", image.tag);
    }
    if !image.digest.is_empty() {
        let _ = write!(name, "@{}", image.digest);
    }
    name
}

/// The longest line of progress, in bytes.
const MAX_LINE: usize = 1 << 20;

/// A stream of JSON objects, one after another.
#[derive(Debug)]
pub(crate) struct JsonLines {
    reply: Reply,
    buffer: Vec<u8>,
    end: bool,
}

impl JsonLines {
    pub(crate) fn new(reply: Reply) -> Self {
        Self {
            reply,
            buffer: Vec::new(),
            end: false,
        }
    }

    /// The next object; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Json>, Failure> {
        loop {
            let mut stream = serde_json::Deserializer::from_slice(&self.buffer).into_iter::<Json>();
            match stream.next() {
                Some(Ok(value)) => {
                    let used = stream.byte_offset();
                    self.buffer.drain(..used);
                    return Ok(Some(value));
                }
                Some(Err(error)) if !error.is_eof() => return Err(Failure::new(error.to_string())),
                _ if self.end => return Ok(None),
                _ => {}
            }
            if self.buffer.len() > MAX_LINE {
                return Err(Failure::new("the daemon sent a message that is too long"));
            }
            match self.reply.chunk().await? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None => self.end = true,
            }
        }
    }
}

/// How often the terminal is repainted at most: progress comes in far faster than anyone reads.
const REPAINT: Duration = Duration::from_millis(40);

/// Shows a stream of progress messages.
///
/// # Errors
/// The stream says that something failed, or breaks off.
pub(crate) async fn show_progress(reply: Reply, show: Show) -> Result<(), Failure> {
    let mut messages = JsonLines::new(reply);
    let terminal = show.is_terminal();
    let mut painter = Painter {
        show,
        width: show.width(),
        rows: Vec::new(),
        painted: 0,
        dirty: false,
    };
    let mut last_paint = None::<tokio::time::Instant>;
    loop {
        let due = last_paint.map_or_else(tokio::time::Instant::now, |at| at + REPAINT);
        let message = tokio::select! {
            biased;
            message = messages.next() => message?,
            () = tokio::time::sleep_until(due), if painter.dirty => {
                painter.paint()?;
                last_paint = Some(tokio::time::Instant::now());
                continue;
            }
        };
        let Some(message) = message else { break };
        let error = message["errorDetail"]["message"]
            .as_str()
            .or_else(|| message["error"].as_str());
        if let Some(error) = error {
            painter.paint()?;
            if message["errorDetail"]["code"].as_i64() == Some(401) {
                return Err(Failure::new("authentication is required"));
            }
            return Err(Failure::new(error));
        }
        if show == Show::Nowhere {
            continue;
        }
        if terminal {
            painter.take(&message)?;
            if last_paint.is_some_and(|at| at.elapsed() >= REPAINT) && painter.dirty {
                painter.paint()?;
                last_paint = Some(tokio::time::Instant::now());
            }
        } else {
            show.write(&plain_line(&message))?;
        }
    }
    painter.paint()?;
    Ok(())
}

/// A message for a file or pipe: no bars.
fn plain_line(message: &Json) -> String {
    let has_bar = message["progressDetail"]["current"].as_i64().unwrap_or(0) > 0
        || message["progressDetail"]["total"].as_i64().unwrap_or(0) > 0;
    let stream = text(message, "stream");
    if !stream.is_empty() {
        return stream.to_owned();
    }
    let status = text(message, "status");
    if has_bar || status.is_empty() {
        return String::new();
    }
    match text(message, "id") {
        "" => format!("{status}\n"),
        id => format!("{id}: {status}\n"),
    }
}

/// One line per layer, repainted in place.
struct Painter {
    show: Show,
    width: usize,
    rows: Vec<(String, String)>,
    /// How many rows are on the screen.
    painted: usize,
    dirty: bool,
}

impl Painter {
    fn take(&mut self, message: &Json) -> std::io::Result<()> {
        let stream = text(message, "stream");
        if !stream.is_empty() {
            self.flush_rows()?;
            return self.show.write(stream);
        }
        let (id, status) = (text(message, "id"), text(message, "status"));
        if status.is_empty() {
            return Ok(());
        }
        if id.is_empty() {
            self.flush_rows()?;
            return self.show.write(&format!("{status}\n"));
        }
        let line = match bar(&message["progressDetail"], self.width) {
            Some(bar) => format!("{status} {bar}"),
            None => status.to_owned(),
        };
        match self.rows.iter_mut().find(|(known, _)| known == id) {
            Some((_, old)) => *old = line,
            None => self.rows.push((id.to_owned(), line)),
        }
        self.dirty = true;
        Ok(())
    }

    fn paint(&mut self) -> std::io::Result<()> {
        if !self.dirty {
            return Ok(());
        }
        let mut text = String::new();
        if self.painted > 0 {
            let _ = write!(text, "\x1b[{}A", self.painted);
        }
        for (id, line) in &self.rows {
            let _ = write!(text, "\r\x1b[2K{id}: {line}\n");
        }
        self.painted = self.rows.len();
        self.dirty = false;
        self.show.write(&text)
    }

    /// Rows above other text stay as they are.
    fn flush_rows(&mut self) -> std::io::Result<()> {
        self.paint()?;
        self.rows.clear();
        self.painted = 0;
        Ok(())
    }
}

/// The bar of a download: `[====>      ]  1.2MB/3.4MB`.
fn bar(detail: &Json, width: usize) -> Option<String> {
    let current = detail["current"].as_i64().unwrap_or(0);
    let total = detail["total"].as_i64().unwrap_or(0);
    if current <= 0 && total <= 0 {
        return None;
    }
    if !text(detail, "units").is_empty() {
        return Some(format!("{current} {}", text(detail, "units")));
    }
    let shown = units::size4(current);
    if total <= 0 {
        return Some(format!("{shown:>8}"));
    }
    if current > total {
        return Some(format!("{shown:>8}"));
    }
    let numbers = format!("{shown:>8}/{}", units::size4(total));
    if width <= 110 {
        return Some(numbers);
    }
    let filled = usize::try_from((i128::from(current) * 100 / i128::from(total)) / 2)
        .unwrap_or(0)
        .min(50);
    let blanks = 50 - filled;
    Some(format!(
        "[{}>{}] {numbers}",
        "=".repeat(filled),
        " ".repeat(blanks)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plain_lines_have_no_bars() {
        assert_eq!(
            plain_line(&json!({"status": "Pulling fs layer", "id": "a", "progressDetail": {}})),
            "a: Pulling fs layer\n"
        );
        assert_eq!(
            plain_line(
                &json!({"status": "Downloading", "id": "a", "progressDetail": {"current": 1, "total": 2}})
            ),
            ""
        );
        assert_eq!(
            plain_line(&json!({"stream": "Loaded image: x\n"})),
            "Loaded image: x\n"
        );
    }

    #[test]
    fn bars() {
        assert_eq!(bar(&json!({}), 200), None);
        assert_eq!(
            bar(&json!({"current": 50, "total": 100}), 80).unwrap(),
            "     50B/100B"
        );
        let wide = bar(&json!({"current": 50, "total": 100}), 200).unwrap();
        assert!(
            wide.starts_with("[=========================>                         ]"),
            "{wide}"
        );
    }

    #[test]
    fn names_in_full() {
        let name = |text: &str| canonical(&ImageName::parse(text).unwrap());
        assert_eq!(name("alpine"), "docker.io/library/alpine:latest");
        assert_eq!(name("a/b:c"), "docker.io/a/b:c");
        assert_eq!(name("localhost:5000/x"), "localhost:5000/x:latest");
    }
}

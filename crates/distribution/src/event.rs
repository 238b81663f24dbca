//! Progress of a pull or a load, in the shape that Docker's clients draw.

use std::sync::Arc;

/// One line of progress: `{"status": …, "id": …, "progressDetail": {"current": …, "total": …}}` on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullEvent {
    /// The layer (first twelve digits of its digest), or the tag in the first line; `None` for lines about the whole.
    pub id: Option<String>,
    /// Docker's word: `Pulling fs layer`, `Downloading`, `Pull complete`, …
    pub status: String,
    /// How far it is.
    pub progress: Option<PullProgress>,
    /// Whether `status` is raw text of a `{"stream": …}` line instead (load).
    pub stream: bool,
}

/// Bytes done, of bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullProgress {
    /// Bytes so far.
    pub current: u64,
    /// Bytes in all, where known.
    pub total: Option<u64>,
}

/// Takes events. It is called from several threads, must not block, and may drop events that only tell progress.
pub type ProgressSink = Arc<dyn Fn(PullEvent) + Send + Sync>;

/// A sink for callers that want none.
#[must_use]
pub fn no_progress() -> ProgressSink {
    Arc::new(|_| {})
}

impl PullEvent {
    /// A line about the whole.
    #[must_use]
    pub fn message(status: impl Into<String>) -> Self {
        Self {
            id: None,
            status: status.into(),
            progress: None,
            stream: false,
        }
    }

    /// A line about one layer.
    #[must_use]
    pub fn layer(id: impl Into<String>, status: impl Into<String>) -> Self {
        Self {
            id: Some(id.into()),
            status: status.into(),
            progress: None,
            stream: false,
        }
    }

    /// A line of raw text, as `load` sends it.
    #[must_use]
    pub fn stream(text: impl Into<String>) -> Self {
        Self {
            id: None,
            status: text.into(),
            progress: None,
            stream: true,
        }
    }

    /// The same with numbers.
    #[must_use]
    pub fn at(mut self, current: u64, total: Option<u64>) -> Self {
        self.progress = Some(PullProgress { current, total });
        self
    }
}

impl PullProgress {
    /// Docker's bar, as its daemon renders it into `progress`: `[==>      ]  1.05MB/3.6MB`.
    #[must_use]
    pub fn bar(&self) -> String {
        let human = kekkai_types::size::human_size;
        let total = self.total.unwrap_or(0);
        if total == 0 {
            return format!("{:>8}", human(self.current));
        }
        if self.current > total {
            return format!("{:>8}", human(self.current));
        }
        let filled = usize::try_from((u128::from(self.current) * 100 / u128::from(total)) / 2)
            .unwrap_or(50)
            .min(50);
        let spaces = 50 - filled;
        let mut bar = String::with_capacity(80);
        bar.push('[');
        bar.push_str(&"=".repeat(filled));
        bar.push('>');
        if spaces > 1 {
            bar.push_str(&" ".repeat(spaces - 1));
        }
        bar.push_str("] ");
        format!("{bar} {:>8}/{}", human(self.current), human(total))
    }
}

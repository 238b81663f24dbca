//! `POST /containers/{id}/attach` and `GET /containers/{id}/logs`.

use std::sync::Arc;

use kekkai_engine::AttachStreams;
use kekkai_engine::model::{AttachOptions, LogOptions};
use kekkai_types::Timestamp;

use crate::http::{ApiError, ApiVersion, Call, Reply};
use crate::routes::Api;
use crate::stream::{Framing, HeadReader, Session, frames_body, raw_head, upgrade_head};

/// What a takeover's answer depends on.
pub(super) struct Client {
    upgrade: bool,
    version: ApiVersion,
    head_reader: HeadReader,
}

impl Client {
    pub(super) fn of(call: &Call) -> Self {
        Self {
            upgrade: call.headers.contains_key(::http::header::UPGRADE),
            version: call.version,
            head_reader: HeadReader::of(call.header("user-agent")),
        }
    }

    /// The head of the answer.
    pub(super) fn head(&self, framing: Framing) -> String {
        if self.upgrade {
            upgrade_head(framing, self.version)
        } else {
            raw_head()
        }
    }
}

/// Hands a connection over to a session.
pub(super) fn session(api: &Api, streams: AttachStreams, client: &Client) -> Reply {
    let framing = Framing::for_terminal(streams.tty);
    let spill_directory = api.settings().spill_directory.clone();
    let session = Session {
        head: client.head(framing),
        head_reader: client.head_reader,
        streams,
        framing,
        spill_directory,
    };
    Reply::hijack(move |hijacked| session.run(hijacked))
}

/// Attaches the client to a container. The session exists in the keeper before the head is sent, so a client that
/// starts the container after it misses nothing.
pub(super) async fn attach(api: Arc<Api>, mut call: Call, id: String) -> Result<Reply, ApiError> {
    let options = AttachOptions {
        logs: call.query.bool("logs"),
        stream: call.query.bool("stream"),
        stdin: call.query.bool("stdin"),
        stdout: call.query.bool("stdout"),
        stderr: call.query.bool("stderr"),
        detach_keys: call.query.nonempty("detachKeys").map(str::to_owned),
    };
    // What is in front of the stream must be read before the connection changes hands.
    call.bytes().await?;
    let client = Client::of(&call);
    let streams = api.engine().attach(&id, options).await?;
    Ok(session(&api, streams, &client))
}

/// Gives a container's log.
pub(super) async fn logs(api: Arc<Api>, call: Call, id: String) -> Result<Reply, ApiError> {
    let options = LogOptions {
        follow: call.query.bool("follow"),
        stdout: call.query.bool("stdout"),
        stderr: call.query.bool("stderr"),
        since: moment(&call, "since")?,
        until: moment(&call, "until")?,
        tail: tail(call.query.get("tail")),
        timestamps: call.query.bool("timestamps"),
        details: call.query.bool("details"),
    };
    if !options.stdout && !options.stderr {
        return Err(ApiError::invalid(
            "Bad parameters: you must choose at least one stream",
        ));
    }
    let (output, tty) = api.engine().logs(&id, options).await?;
    let framing = Framing::for_terminal(tty);
    Ok(Reply::body(
        framing.content_type(call.version),
        frames_body(output, framing),
    ))
}

/// A moment in `since` or `until`; zero and absence mean none.
fn moment(call: &Call, name: &str) -> Result<Option<Timestamp>, ApiError> {
    call.query
        .nonempty(name)
        .filter(|text| *text != "0")
        .map(|text| Timestamp::parse_relative(text, Timestamp::now()))
        .transpose()
        .map_err(|error| ApiError::invalid(error.to_string()))
}

/// A number of lines; everything that is none means all, as in dockerd.
fn tail(text: &str) -> Option<u64> {
    text.parse().ok()
}

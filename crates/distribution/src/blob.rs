//! The bytes of a blob as they come, bounded by what its descriptor says.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use kekkai_types::Digest;

use crate::DistributionError;
use crate::client::{Ask, Repository, content_length};
use crate::transport::Answer;

/// How often a broken transfer is taken up again without a byte of progress.
const TRIES: u32 = 5;

/// A blob on its way. The bytes are not verified here: whoever keeps them does it.
#[derive(Debug)]
pub struct BlobStream {
    repository: Repository,
    digest: Digest,
    size: u64,
    got: u64,
    answer: Option<Answer>,
    /// Bytes at the beginning of the answer that we have already.
    skip: u64,
    failures: u32,
}

impl BlobStream {
    pub(crate) async fn open(
        repository: Repository,
        digest: Digest,
        size: u64,
    ) -> Result<Self, DistributionError> {
        let mut stream = Self {
            repository,
            digest,
            size,
            got: 0,
            answer: None,
            skip: 0,
            failures: 0,
        };
        stream.connect().await?;
        Ok(stream)
    }

    /// How many bytes it has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn ask(&self) -> Ask {
        let path = format!(
            "/v2/{}/blobs/{}",
            self.repository.0.repository_path(),
            self.digest
        );
        Ask {
            path,
            accept: "*/*",
            from: self.got,
        }
    }

    async fn connect(&mut self) -> Result<(), DistributionError> {
        let answer = self.repository.0.ask(&self.ask()).await?;
        let ranged = answer.head.status == StatusCode::PARTIAL_CONTENT;
        // A server that does not know ranges begins anew.
        self.skip = if ranged { 0 } else { self.got };
        let promised = content_length(&answer).map(|length| {
            if ranged {
                length.saturating_add(self.got)
            } else {
                length
            }
        });
        if let Some(promised) = promised
            && promised > self.size
        {
            return Err(self.too_large());
        }
        self.answer = Some(answer);
        Ok(())
    }

    fn too_large(&self) -> DistributionError {
        DistributionError::TooLarge {
            context: format!("blob {}", self.digest),
            limit: self.size,
        }
    }

    /// The next bytes; `None` once all have come.
    ///
    /// # Errors
    /// [`DistributionError::TooLarge`], [`DistributionError::Truncated`], or what the transport says after several tries.
    pub async fn next(&mut self) -> Result<Option<Bytes>, DistributionError> {
        loop {
            let Some(answer) = &mut self.answer else {
                self.connect().await?;
                continue;
            };
            let broken = match answer.chunk().await {
                Ok(Some(mut chunk)) => {
                    let known = usize::try_from(self.skip)
                        .unwrap_or(usize::MAX)
                        .min(chunk.len());
                    self.skip -= known as u64;
                    let chunk = chunk.split_off(known);
                    if chunk.is_empty() {
                        continue;
                    }
                    self.got += chunk.len() as u64;
                    if self.got > self.size {
                        return Err(self.too_large());
                    }
                    self.failures = 0;
                    return Ok(Some(chunk));
                }
                Ok(None) if self.got == self.size => return Ok(None),
                Ok(None) => DistributionError::Truncated {
                    context: format!("blob {}", self.digest),
                    expected: self.size,
                    got: self.got,
                },
                Err(error) => self.repository.0.transport_error(&self.ask(), error),
            };
            self.answer = None;
            self.failures += 1;
            if self.failures >= TRIES {
                return Err(broken);
            }
            tracing::debug!(digest = %self.digest, got = self.got, error = %broken, "taking up a transfer again");
            tokio::time::sleep(Duration::from_millis(100 << self.failures)).await;
        }
    }
}

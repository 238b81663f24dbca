//! Decompression of a stream whose compression is known only from its first bytes.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use crate::ArchiveError;

/// Bytes of output buffered; large enough that a file is written in few calls.
const OUTPUT_BUFFER: usize = 128 * 1024;
/// Bytes needed to tell the formats apart.
const LONGEST_MAGIC: usize = 6;
/// Largest window of a zstd frame, as a power of two: 128 MiB, zstd's own default bound.
const ZSTD_WINDOW_LOG: u32 = 27;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, any number of members.
    Gzip,
    /// RFC 8878, any number of frames.
    Zstd,
}

impl Compression {
    /// What `beginning`, the first six bytes of a stream (or all, if it is shorter), says.
    ///
    /// # Errors
    /// [`ArchiveError::Compression`] when it is a known format that is not supported.
    pub fn detect(beginning: &[u8]) -> Result<Self, ArchiveError> {
        match beginning {
            [0x1f, 0x8b, 0x08, ..] => Ok(Self::Gzip),
            // A frame, or a skippable frame.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Err(ArchiveError::Compression("bzip2")),
            [0xfd, b'7', b'z', b'X', b'Z', 0x00] => Err(ArchiveError::Compression("xz")),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err(ArchiveError::Compression("lz4")),
            _ => Ok(Self::None),
        }
    }
}

type Input<R> = Chain<Cursor<Vec<u8>>, R>;

/// A decompressed stream. It ends with an error when the compressed one is damaged or cut.
pub struct Decoder<R: BufRead>(Inner<R>);

enum Inner<R: BufRead> {
    None(Input<R>),
    Gzip(Box<BufReader<MultiGzDecoder<Input<R>>>>),
    Zstd(Box<BufReader<zstd::stream::read::Decoder<'static, Input<R>>>>),
}

impl<R: BufRead> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Decoder").field(&self.compression()).finish()
    }
}

impl<R: BufRead> Decoder<R> {
    /// Reads the first bytes of `input` and chooses.
    ///
    /// # Errors
    /// [`ArchiveError::Read`], or [`ArchiveError::Compression`] for a format that is not supported.
    pub fn new(mut input: R) -> Result<Self, ArchiveError> {
        let mut beginning = Vec::with_capacity(LONGEST_MAGIC);
        (&mut input)
            .take(LONGEST_MAGIC as u64)
            .read_to_end(&mut beginning)
            .map_err(ArchiveError::Read)?;
        let compression = Compression::detect(&beginning)?;
        let input = Cursor::new(beginning).chain(input);
        Ok(Self(match compression {
            Compression::None => Inner::None(input),
            Compression::Gzip => Inner::Gzip(Box::new(BufReader::with_capacity(
                OUTPUT_BUFFER,
                MultiGzDecoder::new(input),
            ))),
            Compression::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(input).map_err(ArchiveError::Read)?;
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG)
                    .map_err(ArchiveError::Read)?;
                Inner::Zstd(Box::new(BufReader::with_capacity(OUTPUT_BUFFER, decoder)))
            }
        }))
    }

    /// What was found.
    pub fn compression(&self) -> Compression {
        match self.0 {
            Inner::None(_) => Compression::None,
            Inner::Gzip(_) => Compression::Gzip,
            Inner::Zstd(_) => Compression::Zstd,
        }
    }

    /// The compressed stream, positioned wherever decompression stopped reading it.
    pub fn get_mut(&mut self) -> &mut R {
        match &mut self.0 {
            Inner::None(input) => input.get_mut().1,
            Inner::Gzip(decoder) => decoder.get_mut().get_mut().get_mut().1,
            Inner::Zstd(decoder) => decoder.get_mut().get_mut().get_mut().1,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(input) => input.read(buffer),
            Inner::Gzip(decoder) => decoder.read(buffer),
            Inner::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: BufRead> BufRead for Decoder<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.0 {
            Inner::None(input) => input.fill_buf(),
            Inner::Gzip(decoder) => decoder.fill_buf(),
            Inner::Zstd(decoder) => decoder.fill_buf(),
        }
    }

    fn consume(&mut self, amount: usize) {
        match &mut self.0 {
            Inner::None(input) => input.consume(amount),
            Inner::Gzip(decoder) => decoder.consume(amount),
            Inner::Zstd(decoder) => decoder.consume(amount),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn inflate(data: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decoder::new(data)
            .map_err(io::Error::other)?
            .read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn by_magic() {
        assert_eq!(inflate(b"plain").unwrap(), b"plain");
        assert_eq!(inflate(b"").unwrap(), b"");
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(inflate(&two).unwrap(), b"one two");
        let zstd = zstd::encode_all(&b"three"[..], 3).unwrap();
        assert_eq!(
            inflate(&[&zstd[..], &zstd[..]].concat()).unwrap(),
            b"threethree"
        );
    }

    #[test]
    fn damaged() {
        let whole = gzip(&vec![7; 100_000]);
        assert!(inflate(&whole[..whole.len() - 3]).is_err(), "cut");
        let mut wrong = whole.clone();
        let last = wrong.len() - 5;
        wrong[last] ^= 1;
        assert!(inflate(&wrong).is_err(), "wrong checksum");
        let whole = zstd::encode_all(&vec![7; 100_000][..], 3).unwrap();
        assert!(inflate(&whole[..whole.len() - 3]).is_err(), "cut zstd");
    }

    #[test]
    fn refused_by_name() {
        for (bytes, name) in [
            (&b"BZh91AY"[..], "bzip2"),
            (&b"\xfd7zXZ\0\0"[..], "xz"),
            (&b"\x04\x22\x4d\x18.."[..], "lz4"),
        ] {
            let error = Decoder::new(bytes).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}

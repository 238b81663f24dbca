//! One function for each parser of outside data, for libFuzzer and for a short random walk in the ordinary tests.
//!
//! What must stay true: a target never fails for bad input, only for a panic, an escape, or a value that does not come
//! back as it went in.

#![forbid(unsafe_code)]

use std::io::{BufReader, Read, Write};
use std::os::fd::AsFd;

use kekkai_archive::{Compression, Limits, apply_layer};
use kekkai_keeper::log::{LogConfig, LogDriver, LogQuery, LogReader};
use kekkai_keeper::protocol;
use kekkai_types::Reference;

/// Image references: what parses must print as something that parses to the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(first) = Reference::parse_normalized(text) {
        let again = Reference::parse_normalized(&first.to_string());
        assert_eq!(again.ok().as_ref(), Some(&first), "{text:?}");
    }
}

/// A layer: decompressed and applied to an empty directory, beside which nothing may appear.
pub fn layer_tar(data: &[u8]) {
    let Ok(outside) = tempfile::tempdir() else {
        return;
    };
    let root = outside.path().join("root");
    if std::fs::create_dir(&root).is_err() {
        return;
    }
    let limits = Limits {
        entries: 200,
        bytes: 1 << 20,
        extension: 1 << 14,
        depth: 16,
        ..Limits::default()
    };
    let Ok(directory) = std::fs::File::open(&root) else {
        return;
    };
    // Bad layers are refused; that is not this target's business.
    drop(apply_layer(directory.as_fd(), BufReader::new(data), limits));
    drop(Compression::detect(data));
    let beside = std::fs::read_dir(outside.path()).map_or(1, Iterator::count);
    assert_eq!(
        beside, 1,
        "something was written outside of the layer's root"
    );
}

/// Indexes, manifests and image configs.
pub fn image_documents(data: &[u8]) {
    use kekkai_oci::image_documents::{ImageConfig, ImageIndex, ImageManifest};
    drop(serde_json::from_slice::<ImageIndex>(data));
    drop(serde_json::from_slice::<ImageManifest>(data));
    drop(serde_json::from_slice::<ImageConfig>(data));
}

/// Seccomp profiles in Docker's JSON.
pub fn seccomp_profile(data: &[u8]) {
    drop(kekkai_runtime::seccomp::from_docker_profile(
        data,
        &["CAP_SYS_ADMIN"],
        "6.1.0",
    ));
}

/// Log files that a crash, a full disk or somebody else has written: the first byte picks the driver.
pub fn log_reader(data: &[u8]) {
    let Some((driver, data)) = data.split_first() else {
        return;
    };
    let Ok(folder) = tempfile::tempdir() else {
        return;
    };
    let path = folder.path().join("container.log");
    if std::fs::write(&path, data).is_err() {
        return;
    }
    let driver = if driver & 1 == 0 {
        LogDriver::Local
    } else {
        LogDriver::JsonFile
    };
    let config = LogConfig::new(driver, path);
    for tail in [None, Some(3)] {
        let query = LogQuery {
            tail,
            ..LogQuery::default()
        };
        if let Ok(mut reader) = LogReader::open(&config, query) {
            // Every entry takes at least a byte of the file.
            let mut entries = 0;
            while let Ok(Some(_)) = reader.next_entry() {
                entries += 1;
                assert!(entries <= data.len(), "more entries than bytes");
            }
        }
    }
}

/// Packets of the keeper's protocol.
pub fn keeper_protocol(data: &[u8]) {
    if let Ok((header, body)) = protocol::Header::decode(data) {
        drop(protocol::decode_body::<protocol::Request>(
            header.version,
            body,
        ));
        drop(protocol::decode_body::<protocol::Response>(
            header.version,
            body,
        ));
        drop(protocol::decode_body::<protocol::Event>(
            header.version,
            body,
        ));
    }
    let _ = protocol::Frame::parse(data);
}

/// Runs a target over the files named on the command line, or over standard input.
pub fn replay(target: fn(&[u8])) -> std::io::Result<()> {
    let mut names = std::env::args_os().skip(1).peekable();
    if names.peek().is_none() {
        let mut data = Vec::new();
        std::io::stdin().lock().read_to_end(&mut data)?;
        target(&data);
    }
    for name in names {
        target(&std::fs::read(&name)?);
        writeln!(std::io::stdout(), "{}: fine", name.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// xorshift64*: a walk that is the same every time.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> usize {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
        }
    }

    /// Seeds, and mutations of them: flips, cuts, doublings, splices.
    fn walk(seeds: &[&[u8]], rounds: usize, target: fn(&[u8])) {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for round in 0..rounds {
            let mut data = seeds[round % seeds.len()].to_vec();
            if round >= seeds.len() {
                for _ in 0..=random.next() % 4 {
                    let at = random.next() % (data.len() + 1);
                    match random.next() % 5 {
                        0 if at < data.len() => data[at] ^= 1 << (random.next() % 8),
                        1 if at < data.len() => data[at] = random.next() as u8,
                        2 => data.truncate(at),
                        3 => {
                            let piece = data[at..].to_vec();
                            data.extend_from_slice(&piece[..piece.len().min(600)]);
                        }
                        _ => {
                            let other = seeds[random.next() % seeds.len()];
                            let from = random.next() % (other.len() + 1);
                            data.splice(at..at, other[from..].iter().copied().take(64));
                        }
                    }
                }
            }
            target(&data);
        }
    }

    #[test]
    fn references() {
        let seeds: &[&[u8]] = &[
            b"alpine",
            b"library/alpine:3.20",
            b"localhost:5000/a/b_c.d-e:tag@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            b"[::1]:5000/x",
            b"EXAMPLE.org/x__y",
        ];
        walk(seeds, 40_000, reference);
    }

    #[test]
    fn documents() {
        let seeds: &[&[u8]] = &[
            br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":7,"platform":{"os":"linux","architecture":"amd64"}}]}"#,
            br#"{"architecture":"amd64","os":"linux","config":{"Env":["A=b"],"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}}},"rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]},"history":[{"created":"2024-01-02T03:04:05Z"}]}"#,
        ];
        walk(seeds, 20_000, image_documents);
    }

    #[test]
    fn profiles() {
        let seeds: &[&[u8]] = &[
            br#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],"syscalls":[{"names":["read","clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"op":"SCMP_CMP_MASKED_EQ"}],"includes":{"caps":["CAP_SYS_ADMIN"]}}]}"#,
        ];
        walk(seeds, 20_000, seccomp_profile);
    }

    #[test]
    fn packets() {
        let mut seeds = vec![vec![1u8, b'x']];
        for kind in [
            protocol::Kind::Request,
            protocol::Kind::Response,
            protocol::Kind::Event,
        ] {
            let mut packet = protocol::Header {
                version: protocol::VERSION,
                kind,
                flags: 0,
                sequence: 7,
            }
            .encode()
            .to_vec();
            packet.extend((0u8..80).map(|i| i.wrapping_mul(37)));
            seeds.push(packet);
        }
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        walk(&seeds, 60_000, keeper_protocol);
    }

    #[test]
    fn logs() {
        let seeds: &[&[u8]] = &[
            b"\x01{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\"2024-01-02T03:04:05.123456789Z\"}\n{\"log\":\"x\",\"stream\":\"stderr\",\"time\":\"2024-01-02T03:04:05Z\"}\n",
            b"\x00\x00\x00\x00\x20\x08\x01\x12\x05hello\x00\x00\x00\x20",
        ];
        walk(seeds, 1_500, log_reader);
    }

    #[test]
    fn layers() {
        // An entry's header with a right checksum would be luck; the writer makes the seeds.
        let mut header = [0u8; 512];
        header[..5].copy_from_slice(b"dir/a");
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(b"00000000005");
        header[136..147].copy_from_slice(b"14545050245");
        header[148..156].copy_from_slice(b"        ");
        header[156] = b'0';
        header[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let mut tar = header.to_vec();
        tar.extend_from_slice(b"hello");
        tar.resize(1024 + 1024, 0);
        walk(
            &[&tar, b"\x1f\x8b\x08\x00junk", b"\x28\xb5\x2f\xfdjunk"],
            600,
            layer_tar,
        );
    }
}

//! Pull, load, tag, rmi, and what a registry can do wrong.

use kekkai_tests::Case;
use kekkai_tests::case::On;

/// Loads an archive, whose name must not collide with another case's.
fn archive(c: &kekkai_tests::Ctx<'_>, image: &str, kind: &str) -> Vec<u8> {
    let image = c.world.fixtures.image(image);
    let tag = c.fill("@n:loaded");
    match kind {
        "docker" => image.docker_archive(&[&tag]),
        _ => image.oci_archive(&format!("docker.io/library/{tag}")),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("pull/and-again", |c| {
            let name = c.fill("@reg/@n/box:latest");
            let out = c.run(&format!("pull {name}")).ok();
            let digest = c.world.fixtures.image("box:latest").manifest_digest();
            assert!(out.stdout.contains(&c.fill("latest: Pulling from @n/box\n")), "{}", out.stdout);
            assert!(out.stdout.contains(&format!("Digest: {digest}\nStatus: Downloaded newer image for {name}\n{name}\n")), "{}", out.stdout);
            c.run(&format!("pull {name}")).ok().out_has(&format!("Status: Image is up to date for {name}\n"));
            c.run(&format!("pull -q {name}")).ok().out(&format!("{name}\n"));
            c.run(&format!("rmi {name}")).ok();
        }),
        Case::new("pull/every-form", |c| {
            for tag in ["latest", "docker", "zstd", "plain"] {
                let name = c.fill(&format!("@reg/@n/box:{tag}"));
                c.run(&format!("pull {name}")).ok();
                c.run(&format!("run --rm {name} echo {tag}")).ok().out(&format!("{tag}\n"));
                c.run(&format!("rmi {name}")).ok();
            }
        }),
        Case::new("pull/index-by-platform", |c| {
            c.run("pull @reg/@n/multi").ok();
            c.run("run --rm @reg/@n/multi uname -m").ok().out("x86_64\n");
            c.run("rmi @reg/@n/multi").ok();
            c.run("pull @reg/@n/foreign").code(1).err_has("no matching manifest for linux/amd64");
        }),
        Case::new("pull/by-digest", |c| {
            let digest = c.world.fixtures.image("box:latest").manifest_digest();
            let name = c.fill(&format!("@reg/@n/box@{digest}"));
            c.run(&format!("pull {name}")).ok().out_has(&format!("Digest: {digest}\n"));
            c.run(&format!("run --rm {name} echo yes")).ok().out("yes\n");
            c.run(&format!("rmi {name}")).ok();
        }),
        Case::new("pull/unknown", |c| {
            c.run("pull @reg/@n/nosuch").code(1).err_has_one(&["manifest unknown", "not found"]);
            c.run("pull @reg/@n/box:nosuch").code(1).err_has_one(&["manifest unknown", "not found"]);
            c.run("run --rm @reg/@n/nosuch true").code(125).err_has("Unable to find image");
            c.run("pull UPPER").code(1).err_has("invalid reference format").err_has("must be lowercase");
            c.run("pull 127.0.0.1:1/none").code(1).err_has("connection refused");
        }),
        Case::new("pull/wrong-blob", |c| {
            c.run("pull @reg/wrongblob/@n/once-wrongblob").code(1).err_has_one(&["filesystem layer verification failed for digest sha256:", "verification", "digest"]);
            c.run("image inspect @reg/wrongblob/@n/once-wrongblob").code(1);
        }),
        Case::new("pull/wrong-manifest", |c| {
            let digest = c.world.fixtures.image("once-wrongmanifest:latest").manifest_digest();
            c.run(&format!("pull @reg/wrongmanifest/@n/once-wrongmanifest@{digest}")).code(1).err_has_one(&["manifest verification failed for digest", "verification", "digest"]);
        }),
        Case::new("pull/truncated-layer", |c| {
            c.run("pull @reg/truncated/@n/once-truncated").code(1).err_has_one(&["unexpected EOF", "truncated", "ended early", "incomplete"]);
        }),
        Case::new("pull/flaky-recovers", |c| {
            c.run("pull @reg/flaky/@n/once-flaky").ok();
            c.run("rmi @reg/flaky/@n/once-flaky").ok();
        }),
        Case::new("pull/corrupt-gzip", |c| {
            c.run("pull @reg/@n/corruptgzip").code(1).err_has_one(&["gzip", "flate", "corrupt", "deflate"]);
            c.run("pull @reg/@n/shortgzip").code(1).err_has_one(&["unexpected EOF", "gzip", "truncated", "incomplete deflate"]);
        }),
        Case::new("pull/wrong-diff-id", |c| {
            c.run("pull @reg/@n/lyingdiff").code(1).err_has_one(&["layers from manifest don't match image configuration", "diff", "uncompressed layer"]);
        }),
        Case::new("pull/huge-manifest", |c| {
            c.run("pull @reg/hugemanifest/@n/box").code(1);
        }),
        Case::new("pull/endless-manifest", |c| {
            c.run("pull @reg/endlessmanifest/@n/box").code(1);
        }),
        Case::new("pull/server-error", |c| {
            c.run("pull @reg/broken/@n/box").code(1).err_has_one(&["500", "it is broken", "unknown"]);
        }),
        Case::new("pull/rate-limited-once", |c| {
            // dockerd gives up at the first 429.
            c.run("pull @reg/ratelimited/@n/once-ratelimited").ok();
            c.run("rmi @reg/ratelimited/@n/once-ratelimited").ok();
        }).on(On::Ours),
        Case::new("pull/redirected-blobs", |c| {
            c.run("pull @reg/redirect/@n/once-redirect").ok();
            c.run("rmi @reg/redirect/@n/once-redirect").ok();
        }),
        Case::new("pull/all-at-once", |c| {
            let pulls: Vec<_> = (0..4).map(|i| c.spawn(&format!("pull @reg/@n/x{i}/layers"))).collect();
            for pull in pulls {
                pull.finish(std::time::Duration::from_secs(90)).ok();
            }
            for i in 0..4 {
                c.run(&format!("rmi @reg/@n/x{i}/layers")).ok();
            }
        }),
        Case::new("pull/interrupted-client", |c| {
            let pull = c.spawn("pull @reg/slow/@n/once-slow");
            std::thread::sleep(std::time::Duration::from_millis(700));
            pull.signal(rustix::process::Signal::INT);
            pull.finish(std::time::Duration::from_secs(20)).fails();
            c.run("image inspect @reg/slow/@n/once-slow").code(1);
        }),
        Case::new("pull/hostile-layers", |c| {
            for name in ["evil-dotdot", "evil-inner", "evil-absolute", "evil-symlink", "evil-relative", "evil-hardlink", "evil-hardlink-through"] {
                let image = c.fill(&format!("@reg/@n/{name}"));
                if c.run(&format!("pull {image}")).code == 0 {
                    c.run(&format!("run --rm {image} sh -c '! cat /stolen 2>/dev/null | grep -q root:'")).ok();
                    c.run(&format!("rmi {image}")).ok();
                }
                let escaped = std::fs::read_dir("/tmp").unwrap().flatten().any(|e| e.file_name().to_string_lossy().starts_with("kekkai-escaped"));
                assert!(!escaped, "{name} wrote outside its root");
            }
        }),
        Case::new("pull/hostile-layers-refused", |c| {
            for name in ["evil-dotdot", "evil-inner", "evil-hardlink"] {
                c.run(&format!("pull @reg/@n/{name}")).code(1);
            }
        }),
        Case::new("login/basic-and-token", |c| {
            for door in ["@regbasic", "@regtoken"] {
                let config = [("DOCKER_CONFIG", "@share/config")];
                // By the API: docker's command line asks a person for a password here.
                let answer = c.api("POST", &format!("/v1.44/images/create?fromImage={door}/@n/box&tag=latest"));
                let text = String::from_utf8_lossy(&answer.body).to_lowercase();
                assert!(["no basic auth credentials", "authentication required", "unauthorized", "authorization failed"].iter().any(|w| text.contains(w)), "{} {text}", answer.status);
                c.run_env(&format!("login -u user -p wrong {door}"), &config).code(1).err_has_one(&["unauthorized", "401"]);
                c.run_env(&format!("login -u user -p secret {door}"), &config).ok().out_has("Login Succeeded");
                let written = std::fs::read_to_string(c.share("config/config.json")).unwrap();
                assert!(written.contains("dXNlcjpzZWNyZXQ="), "{written}");
                c.run_env(&format!("pull {door}/@n/box"), &config).ok();
                c.run_env(&format!("rmi {door}/@n/box"), &config).ok();
                c.run_env(&format!("logout {door}"), &config).ok().out_has("Removing login credentials for");
                let written = std::fs::read_to_string(c.share("config/config.json")).unwrap();
                assert!(!written.contains("dXNlcjpzZWNyZXQ="), "{written}");
            }
        }),
        Case::new("login/password-on-stdin", |c| {
            let mut command = c.command("login -u user --password-stdin @regbasic");
            command.env("DOCKER_CONFIG", c.share("config2"));
            kekkai_tests::command::Running::start(command, "login".into(), Some(b"secret\n")).finish(std::time::Duration::from_secs(60)).ok().out_has("Login Succeeded");
        }),
        Case::new("pull/anonymous-token", |c| {
            c.run("pull @reganon/@n/box").ok();
            c.run("rmi @reganon/@n/box").ok();
        }),
        Case::new("pull/short-name-by-the-mirror", |c| {
            c.run("pull hello:latest").ok().out_has("latest: Pulling from library/hello").out_has("docker.io/library/hello:latest\n");
            c.run("run --rm hello").ok().out("Hello from a fixture!\n");
            c.run("rmi hello").ok();
        }).on(On::Ours),
        Case::new("pull/real-images", |c| {
            for (name, command, out) in [("busybox", "echo hi", "hi\n"), ("alpine:3.20", "cat /etc/alpine-release", "3.20"), ("hello-world", "", "Hello from Docker!"), ("busybox:uclibc", "true", ""), ("busybox:musl", "true", "")] {
                c.run(&format!("pull {name}")).ok();
                c.run(&format!("run --rm {name} {command}")).ok().out_has(out);
                c.run(&format!("rmi {name}")).ok();
            }
        }).on(On::Ours).real_images(),
        Case::new("pull/real-debian", |c| {
            c.run("run --rm debian:bookworm-slim sh -c 'grep -c . /etc/debian_version; dpkg -l | grep -c ^ii'").ok();
            c.run("rmi debian:bookworm-slim").ok();
        }).on(On::Ours).real_images(),
        Case::new("load/docker-archive", |c| {
            c.run_in("load", &archive(c, "box:plain", "docker")).ok().out(&c.fill("Loaded image: @n:loaded\n"));
            c.run("run --rm @n:loaded echo loaded").ok().out("loaded\n");
            c.run("rmi @n:loaded").ok().out_has(&c.fill("Untagged: @n:loaded\n"));
        }),
        Case::new("load/oci-archive", |c| {
            std::fs::write(c.share("image.tar"), archive(c, "layers:latest", "oci")).unwrap();
            c.run("load -i @share/image.tar").ok().out_has("Loaded image");
            c.run("run --rm @n:loaded cat /replaced").ok().out("now a file\n");
            c.run("load -q -i @share/image.tar").ok();
        }).on(On::Ours),
        Case::new("load/gzipped", |c| {
            use std::io::Write;
            let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gz.write_all(&archive(c, "box:latest", "docker")).unwrap();
            c.run_in("load", &gz.finish().unwrap()).ok().out_has(&c.fill("Loaded image: @n:loaded\n"));
        }),
        Case::new("load/bad", |c| {
            c.run("load -i @share/nosuch.tar").code(1).err_has("no such file or directory");
            c.run_in("load", b"this is no tar at all, not even near one").code(1);
            let mut cut = archive(c, "box:latest", "docker");
            cut.truncate(cut.len() / 2);
            c.run_in("load", &cut).code(1);
            c.run("image inspect @n:loaded").code(1);
        }),
        Case::new("tag/and-rmi", |c| {
            c.run("tag @box @n:one").ok().out("");
            c.run("tag @box @n/deep:two").ok();
            let id = c.world.fixtures.image("box:latest").id();
            // An image store names an image by its config or by its manifest; both are its id to `run`.
            assert_eq!(c.run("image inspect --format '{{.Id}}' @n:one").ok().text().len(), id.len());
            c.run("run --rm @n:one echo tagged").ok().out("tagged\n");
            c.run("rmi @n:one").ok().out(&c.fill("Untagged: @n:one\n"));
            c.run("rmi @n:one").code(1).err_has(&c.fill("No such image: @n:one"));
            c.run("image rm @n/deep:two").ok().out(&c.fill("Untagged: @n/deep:two\n"));
            c.run("tag nosuchimage:x @n:y").code(1).err_has("No such image: nosuchimage:x");
            c.run("tag @box 'Bad:Ref:x'").code(1).err_has("invalid reference format");
        }),
        Case::new("rmi/in-use", |c| {
            c.run_in("load", &archive(c, "conf:latest", "docker")).ok();
            c.run("create --name @n @n:loaded").ok();
            // While another name keeps the image, the tag may go.
            let out = c.run("rmi @n:loaded");
            if out.code != 0 {
                out.code(1).err_has("conflict: unable to remove repository reference").err_has("(must force)");
            }
        }),
        Case::new("images/list-and-format", |c| {
            c.run("tag @box @n:one").ok();
            c.run("images @n").ok().check("header and a row", |o| {
                o.lines().len() == 2 && o.stdout.starts_with("REPOSITORY") && o.stdout.contains("IMAGE ID") && o.lines()[1].starts_with(&c.name)
            });
            c.run("images --format '{{.Repository}}:{{.Tag}}' @n").ok().out(&c.fill("@n:one\n"));
            c.run("image ls -q @n").ok().check("12 digits", |o| o.text().len() == 12);
            c.run("images --no-trunc -q @n").ok().check("a digest", |o| o.text().starts_with("sha256:") && o.text().len() == 71);
            c.run("images --filter reference=@n --format json").ok().check("json", |o| o.json()["Tag"] == "one");
            c.run("images --digests @n").ok().out_has("DIGEST");
            c.run("images @nnone").ok().check("only a header", |o| o.lines().len() == 1);
            c.run("images --filter nosuch=1").code(1).err_has("invalid filter 'nosuch'");
        }),
        Case::new("images/filters", |c| {
            c.run("tag @conf @n:one").ok();
            c.run("images -q --filter label=maker=fixture --filter reference=@n").ok().check("one", |o| o.lines().len() == 1);
            c.run("images -q --filter label=maker=other --filter reference=@n").ok().out("");
            c.run("images -q --filter dangling=true --filter reference=@n").ok().out("");
        }),
        Case::new("images/inspect", |c| {
            let image = c.run("image inspect @conf").ok().json()[0].clone();
            let config = &image["Config"];
            assert_eq!(config["Entrypoint"], serde_json::json!(["/bin/sh", "-c"]));
            assert_eq!(config["WorkingDir"], "/work/dir");
            assert_eq!(config["Labels"]["maker"], "fixture");
            assert_eq!(config["ExposedPorts"], serde_json::json!({"53/udp": {}, "80/tcp": {}}));
            assert_eq!((&image["Architecture"], &image["Os"]), (&"amd64".into(), &"linux".into()));
            assert_eq!(image["Created"], "2024-01-02T03:04:05Z");
            assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(2));
            assert!(image["Size"].as_u64().unwrap() > 500_000);
            assert!(image["RepoTags"].as_array().unwrap().contains(&"kkt/conf:latest".into()));
            c.run("image inspect nosuchimage").code(1).out("[]\n").err_has("No such image: nosuchimage");
            c.run("inspect --type image @conf").ok();
            c.run("image inspect --format '{{json .Config.Cmd}}' @conf").ok().out("[\"echo default command\"]\n");
        }),
        Case::new("images/by-short-id", |c| {
            let id = c.run("images -q @box").ok().text().to_owned();
            c.run(&format!("run --rm {id} echo by id")).ok().out("by id\n");
            c.run(&format!("image inspect --format '{{{{.Id}}}}' {}", &id[..8])).ok().out_has(&id);
        }),
        Case::new("images/api-statuses", |c| {
            assert_eq!(c.api("GET", "/v1.44/images/nosuch/json").status, 404);
            assert_eq!(c.api("DELETE", "/v1.44/images/nosuch").status, 404);
            assert_eq!(c.api("POST", "/v1.44/images/nosuch/tag?repo=x").status, 404);
            assert_eq!(c.api("POST", "/v1.44/images/@box/tag?repo=BAD").status, 400);
            assert!(c.api("POST", "/v1.44/images/create").status >= 400);
            let answer = c.api("GET", "/v1.44/images/json");
            assert_eq!(answer.status, 200);
            assert!(answer.json().as_array().is_some_and(|a| a.iter().any(|i| i["RepoTags"].to_string().contains("kkt/box"))));
        }).on(On::Api),
    ]
}

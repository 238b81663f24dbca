//! Volumes, copy-up, `cp`, and what a layered image looks like from inside.

use kekkai_tests::Case;
use kekkai_tests::case::On;

/// Lists a tar: name and type of each entry.
fn listing(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().display().to_string())
        .collect()
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("volume/named", |c| {
            c.run("volume create @n").ok().out(&c.fill("@n\n"));
            c.run("run --rm -v @n:/data @box sh -c 'echo kept > /data/file'")
                .ok();
            c.run("run --rm -v @n:/data:ro @box cat /data/file")
                .ok()
                .out("kept\n");
            c.run("run --rm -v @n:/data:ro @box touch /data/x")
                .code(1)
                .err_has("Read-only file system");
            c.run("volume rm @n").ok().out(&c.fill("@n\n"));
        }),
        Case::new("volume/made-by-run", |c| {
            c.run("run --rm -v @n:/data @box true").ok();
            let volume = c.run("volume inspect @n").ok().json()[0].clone();
            assert_eq!(volume["Driver"], "local");
            assert_eq!(volume["Scope"], "local");
            assert!(volume["Mountpoint"].as_str().unwrap().ends_with("/_data"));
            c.run("volume create @n").ok();
        }),
        Case::new("volume/copy-up", |c| {
            c.run("run --rm -v @n:/vol @conf 'cat /vol/seed; stat -c \"%a %u %g\" /vol; stat -c \"%a %u %g\" /vol/seed; readlink /vol/link'")
                .ok()
                .out("from the image\n750 1000 1000\n640 1000 1000\nseed\n");
            // Only into an empty one.
            c.run("run --rm -v @n:/vol @conf 'echo changed > /vol/seed'")
                .ok();
            c.run("run --rm -v @n:/vol @conf 'cat /vol/seed'")
                .ok()
                .out("changed\n");
        }),
        Case::new("volume/nocopy", |c| {
            c.run("run --rm -v @n:/vol:nocopy @conf 'ls /vol | wc -l'")
                .ok()
                .out("0\n");
        }),
        Case::new("volume/mount-syntax", |c| {
            c.run("run --rm --mount type=volume,src=@n,dst=/data @box sh -c 'echo x > /data/x'")
                .ok();
            c.run("run --rm --mount source=@n,target=/data,readonly @box cat /data/x")
                .ok()
                .out("x\n");
            c.run("run --rm --mount type=volume,src=@n2,dst=/vol,volume-nocopy @conf 'ls /vol | wc -l'").ok().out("0\n");
        }),
        Case::new("volume/of-the-image", |c| {
            c.run("run --name @n @conf 'cat /vol/seed'")
                .ok()
                .out("from the image\n");
            let mount = c.inspect("@n")["Mounts"][0].clone();
            assert_eq!(
                (&mount["Type"], &mount["Destination"], &mount["RW"]),
                (&"volume".into(), &"/vol".into(), &true.into())
            );
            assert_eq!(mount["Name"].as_str().unwrap().len(), 64);
            c.run("rm -v @n").ok();
        }),
        Case::new("volume/in-use", |c| {
            c.run("create --name @n -v @nv:/data @box true").ok();
            c.run("volume rm @nv")
                .code(1)
                .err_has("volume is in use - [");
            assert_eq!(c.api("DELETE", "/v1.44/volumes/@nv").status, 409);
            c.run("rm @n").ok();
            c.run("volume rm @nv").ok();
            c.run("volume rm @nv")
                .code(1)
                .err_has(&c.fill("no such volume"));
        }),
        Case::new("volume/named-outlives-rm-v", |c| {
            c.run("run --name @n -v @nv:/data @box true").ok();
            c.run("rm -v @n").ok();
            c.run("volume inspect @nv").ok();
        }),
        Case::new("volume/ls-and-format", |c| {
            c.run("volume create --label a=@n @n").ok();
            c.run("volume ls -q --filter label=a=@n")
                .ok()
                .out(&c.fill("@n\n"));
            c.run("volume ls --filter name=@n --format '{{.Name}} {{.Driver}}'")
                .ok()
                .out(&c.fill("@n local\n"));
            c.run("volume ls --filter name=@n")
                .ok()
                .check("a header", |o| {
                    o.stdout.starts_with("DRIVER") && o.stdout.contains("VOLUME NAME")
                });
            c.run("volume ls --filter name=@n --format json")
                .ok()
                .check("json", |o| o.json()["Name"] == c.name.as_str());
            c.run("volume inspect --format '{{.Name}}' @n")
                .ok()
                .out(&c.fill("@n\n"));
            c.run("volume ls --filter dangling=true -q")
                .ok()
                .out_has(&c.name);
        }),
        Case::new("volume/prune", |c| {
            c.run("volume create --label p=@n @n").ok();
            c.run("volume prune -a -f --filter label=p=@n")
                .ok()
                .out_has("Deleted Volumes:\n")
                .out_has(&c.name)
                .out_has("Total reclaimed space: ");
            c.run("volume inspect @n")
                .code(1)
                .out("[]\n")
                .err_has("no such volume");
        }),
        Case::new("volume/bad", |c| {
            c.run("volume create 'bad name'")
                .code(1)
                .err_has("includes invalid characters for a local volume name");
            c.run("volume create -d nosuch @n")
                .code(1)
                .err_has("nosuch");
            c.run("volume rm @nnone").code(1).err_has("no such volume");
        }),
        Case::new("volume/volumes-from-is-handled-or-refused", |c| {
            c.run("create --name @n -v @nv:/data @box true").ok();
            let out = c.run("run --rm --volumes-from @n @box sh -c 'touch /data/x && echo shared'");
            if out.code != 0 {
                out.err_has("volumes-from");
            }
        }),
        Case::new("cp/out-and-in", |c| {
            c.run("run --name @n @box sh -c 'mkdir /d; echo one > /d/f; ln -s f /d/l; chmod 640 /d/f'").ok();
            c.run("cp @n:/d/f @share/f").ok();
            assert_eq!(std::fs::read_to_string(c.share("f")).unwrap(), "one\n");
            c.run("cp @n:/d @share/copied").ok();
            assert_eq!(
                std::fs::read_to_string(c.share("copied/f")).unwrap(),
                "one\n"
            );
            assert_eq!(
                std::fs::read_link(c.share("copied/l")).unwrap().to_str(),
                Some("f")
            );
            std::fs::write(c.share("new"), "new\n").unwrap();
            c.run("cp @share/new @n:/d/").ok();
            c.run("cp @share/new @n:/d/renamed").ok();
            std::fs::create_dir(c.share("tree")).unwrap();
            std::fs::write(c.share("tree/x"), "x\n").unwrap();
            c.run("cp @share/tree @n:/d").ok();
            c.run("cp @share/tree/. @n:/d/flat").check("any", |_| true);
            c.run("start @n").ok();
            c.run("wait @n").ok();
            c.run("cp @n:/d/renamed -").ok().check("a tar", |o| {
                o.stdout.contains("renamed") && o.stdout.contains("new\n")
            });
            c.run("cp @n:/d/tree/x @share/x2").ok();
            assert_eq!(std::fs::read_to_string(c.share("x2")).unwrap(), "x\n");
        }),
        Case::new("cp/running", |c| {
            c.run("run -d --name @n @box sleep 60").ok();
            std::fs::write(c.share("f"), "from outside\n").unwrap();
            c.run("cp @share/f @n:/tmp/f").ok();
            c.run("exec @n sh -c 'cat /tmp/f; stat -c %U /tmp/f'")
                .ok()
                .out("from outside\nroot\n");
            c.run("exec @n sh -c 'echo inside > /tmp/g'").ok();
            c.run("cp @n:/tmp/g @share/g").ok();
            assert_eq!(std::fs::read_to_string(c.share("g")).unwrap(), "inside\n");
        }),
        Case::new("cp/into-volume-and-tar-stdin", |c| {
            c.run("run -d --name @n -v @nv:/data @box sleep 60").ok();
            std::fs::write(c.share("f"), "v\n").unwrap();
            c.run("cp @share/f @n:/data/f").ok();
            c.run("exec @n cat /data/f").ok().out("v\n");
            let mut tar = kekkai_tests::fixture::TarBuilder::new();
            tar.file("fromtar", kekkai_tests::fixture::mode(0o600), b"t\n");
            c.run_in("cp - @n:/data", &tar.finish()).ok();
            c.run("exec @n sh -c 'cat /data/fromtar; stat -c %a /data/fromtar'")
                .ok()
                .out("t\n600\n");
        }),
        Case::new("cp/errors", |c| {
            c.run("create --name @n @box true").ok();
            c.run("cp @n:/nosuch @share/x")
                .code(1)
                .err_has("Could not find the file /nosuch in container");
            c.run("cp @share/nosuch @n:/x")
                .code(1)
                .err_has("no such file or directory");
            std::fs::write(c.share("f"), "f").unwrap();
            c.run("cp @share/f @n:/nosuch/dir/")
                .code(1)
                .err_has("no such");
            c.run("cp @share/f @nnone:/x")
                .code(1)
                .err_has("No such container");
            c.run("cp @n:/etc @nother:/x")
                .code(1)
                .err_has("copying between containers is not supported");
        }),
        Case::new("cp/cannot-leave-the-root", |c| {
            c.run("run --name @n @box sh -c 'ln -s /../../../../../../../../etc /out; ln -s ../../../../../../../../tmp /tmpout'").ok();
            c.run("cp @n:/out/passwd @share/p").ok();
            assert!(
                std::fs::read_to_string(c.share("p"))
                    .unwrap()
                    .contains("alice"),
                "it is the container's own file"
            );
            std::fs::write(c.share("mark"), "mark").unwrap();
            c.run("cp @share/mark @n:/tmpout/kekkai-cp-escaped").ok();
            assert!(!std::path::Path::new("/tmp/kekkai-cp-escaped").exists());
            c.run("cp @n:/tmp/kekkai-cp-escaped @share/back").ok();
        }),
        Case::new("cp/archive-api", |c| {
            c.run("run --name @n @box sh -c 'mkdir /d; echo x > /d/f'")
                .ok();
            let head = c.api("HEAD", "/v1.44/containers/@n/archive?path=/d/f");
            assert_eq!(head.status, 200);
            assert!(head.header("x-docker-container-path-stat").is_some());
            let tar = c.api("GET", "/v1.44/containers/@n/archive?path=/d");
            assert_eq!(listing(&tar.body), ["d/", "d/f"]);
            assert_eq!(
                c.api("GET", "/v1.44/containers/@n/archive?path=/nosuch")
                    .status,
                404
            );
            assert_eq!(
                c.api("GET", "/v1.44/containers/@nnone/archive?path=/")
                    .status,
                404
            );
            assert_eq!(c.api("GET", "/v1.44/containers/@n/archive").status, 400);
        })
        .on(On::Api),
        Case::new("layers/whiteouts", |c| {
            c.run("run --rm @layers sh -c 'cd /; ls a opaque; ls -d tree; cat replaced; cat becomesdir/in; stat -c %a a'")
                .code(0)
                .out("a:\nkept\nnew\n\nopaque:\nabove\nnow a file\nin\n711\n")
                .err_has("tree: No such file");
        }),
        Case::new("layers/kinds", |c| {
            c.run("run --rm @layers sh -c '[ hard1 -ef hard2 ] && echo linked; stat -c \"%a %h\" hard1; stat -c %a setuid; stat -c \"%a %u %g\" owned; test -p pipe && echo fifo; stat -c \"%F %t %T\" devnull'")
                .ok()
                .out("linked\n644 2\n4755\n600 1000 2000\nfifo\ncharacter special file 1 3\n");
        }),
        Case::new("layers/entry-through-a-symlink-of-a-lower-layer", |c| {
            // Docker's overlay2 unpacks layers apart and makes `linkdir` a directory; we apply the layer over its parents.
            c.run("run --rm @layers sh -c 'cat realdir/through; readlink linkdir'")
                .ok()
                .out("through\nrealdir\n");
        })
        .on(On::Ours),
        Case::new("layers/writes-stay-in-the-container", |c| {
            c.run("run --rm @layers sh -c 'rm -r /a /bin/wget; echo new > /replaced; chmod 777 /owned'").ok();
            c.run("run --rm @layers sh -c 'cat /a/kept /replaced; stat -c %a /owned; test -e /bin/wget && echo there'").ok().out("kept\nnow a file\n600\nthere\n");
        }),
        Case::new("layers/rename-of-a-lower-directory", |c| {
            c.run("run --rm @layers sh -c 'mv /a /b && cat /b/kept && ls -d /a'")
                .code(1)
                .out("kept\n")
                .err_has("No such file");
        }),
    ]
}

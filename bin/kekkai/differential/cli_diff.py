#!/usr/bin/env python3
"""Runs every case through the real docker CLI and through kekkai against one daemon, and compares what both print.

usage: cli_diff.py KEKKAI [SOCKET [SOCKET_OF_KEKKAI]]   (default: the peers' dockerd for both)

Each case is a line of shell in which $D is the CLI under test and $N a name prefix of its own. Texts are compared after
the program's name, ids and times are made equal. Leaves nothing behind: everything it makes is called cli-diff-*.
"""
import os, re, subprocess, sys, tempfile

kekkai = sys.argv[1]
socket = sys.argv[2] if len(sys.argv) > 2 else "/srv/peers.run/docker.sock"
host = f"unix://{socket}"
own_host = f"unix://{sys.argv[3]}" if len(sys.argv) > 3 else host
only = os.environ.get("ONLY")

CASES = r'''
$D run --rm alpine true
$D run --rm alpine false
$D run --rm alpine sh -c 'echo out; echo err >&2; exit 7'
echo x | $D run --rm -i alpine cat
$D run --rm -i alpine cat </dev/null
seq 200000 | $D run --rm -i alpine sha256sum
$D run --rm alpine seq 100000 | sha256sum
$D run --rm alpine sh -c 'seq 30000; seq 30000 >&2' 2>&1 >/dev/null | sha256sum
$D run --rm alpine nosuch
$D run --rm alpine /etc
$D run --rm --name $N-n alpine sh -c 'kill -9 $$'
$D run --rm -e A=1 -e B -e C= -w /tmp -u 1000:1000 alpine sh -c 'env | grep -v HOSTNAME | sort; pwd; id'
B=fromhere $D run --rm -e B alpine sh -c 'echo $B'
$D run --rm --entrypoint echo alpine a b
$D run --rm -h myhost alpine hostname
$D run --rm --network none alpine ip -o a
$D run --rm --read-only alpine touch /x
$D run --rm --tmpfs /t:size=1m alpine sh -c 'mount | grep /t'
$D run --rm -v /etc/hostname:/x:ro alpine sh -c 'cat /x; mount | grep -c " /x "'
$D run --rm --mount type=bind,src=/etc/hostname,dst=/x,ro alpine cat /x
$D run --rm --ulimit nofile=100:200 alpine sh -c 'ulimit -n'
$D run --rm --memory 64m alpine cat /sys/fs/cgroup/memory/memory.limit_in_bytes
$D run --rm --add-host a:1.2.3.4 alpine grep 1.2.3.4 /etc/hosts
$D run --rm -l a=b alpine true
$D run -d --name $N-d alpine sleep 100 >/dev/null; $D ps --filter name=$N-d --format '{{.Names}} {{.Image}} {{.Command}} {{.State}} {{.Ports}} {{.Labels}} {{.Networks}} {{.Mounts}} {{.LocalVolumes}}'; $D exec $N-d echo hi; $D exec $N-d false; echo $?; $D exec $N-d nosuch; echo $?; echo q | $D exec -i $N-d cat; $D exec -e X=1 -w /tmp -u 1 $N-d sh -c 'echo $X; pwd; id -u'; $D exec -d $N-d true; $D top $N-d -o pid,args | wc -l; $D kill $N-d; $D wait $N-d; $D rm $N-d; $D rm $N-d
$D run -d --name $N-p -p 127.0.0.1:0:80 -p 53:53/udp alpine sleep 100 2>&1 | wc -c; $D port $N-p 80 | wc -l; $D port $N-p 81; $D port $N-p x; $D rm -f $N-p
$D create --name $N-c -it alpine sh | wc -c; $D start $N-c; $D inspect -f '{{.State.Status}} {{.Config.Tty}} {{.Config.OpenStdin}}' $N-c; $D pause $N-c; $D ps --filter name=$N-c --format '{{.State}}'; $D unpause $N-c; $D rename $N-c $N-c2; $D stop -t 0 $N-c2; $D inspect -f '{{.State.ExitCode}}' $N-c2; $D restart -t 0 $N-c2; $D rm $N-c2; $D rm -f $N-c2
$D run --name $N-l alpine sh -c 'echo a; echo b; echo c'; $D logs $N-l; $D logs --tail 1 $N-l; $D logs -n 0 $N-l; $D logs -t $N-l | wc -l; $D logs --since 1h --until 1h $N-l; $D logs --since x $N-l; $D rm $N-l
$D run --name $N-s alpine sh -c 'echo a; exit 3'; $D start -a $N-s; echo $?; $D start $N-s; $D wait $N-s; $D rm $N-s
$D run --rm --cidfile /tmp/$N-cid alpine true; wc -c </tmp/$N-cid; $D run --rm --cidfile /tmp/$N-cid alpine true; rm -f /tmp/$N-cid
mkdir -p /tmp/$N/s/d; echo f >/tmp/$N/s/d/f; ln -s d/f /tmp/$N/s/l; $D create --name $N-cp alpine sleep 1 >/dev/null; $D cp /tmp/$N/s $N-cp:/new; $D cp /tmp/$N/s/. $N-cp:/new2; $D cp /tmp/$N/s $N-cp:/tmp; $D cp /tmp/$N/s/d/f $N-cp:/renamed; $D cp /tmp/$N/s/d/f $N-cp:/nodir/; $D cp /tmp/$N/s/d/f $N-cp:/nodir/x; $D cp /tmp/$N/s $N-cp:/renamed; $D cp /tmp/$N/s/l $N-cp:/link; $D cp -L /tmp/$N/s/l $N-cp:/file; $D cp $N-cp:/new /tmp/$N/out; $D cp $N-cp:/new /tmp/$N/; $D cp $N-cp:/new/. /tmp/$N/dot; $D cp $N-cp:/link /tmp/$N/; $D cp $N-cp:/file /tmp/$N/ff; $D cp $N-cp:/tmp - | tar t | sort; tar c -C /tmp/$N s | $D cp - $N-cp:/tmp/; $D cp $N-cp:/nosuch /tmp/$N/; $D cp $N-cp:/new /tmp/$N/nosuch/x;  $D cp a b; $D cp $N-cp:/a $N-cp:/b; (cd /tmp/$N; find . | sort; readlink link; cat ff); $D diff $N-cp | sort; $D rm $N-cp; rm -rf /tmp/$N
$D volume create $N-v; $D volume ls --filter name=$N-v; $D volume ls -q --filter name=$N-v; $D volume inspect -f '{{.Name}} {{.Driver}} {{.Labels}} {{.Options}}' $N-v; $D run --rm -v $N-v:/x alpine sh -c 'echo 1 >/x/a'; $D run --rm -v $N-v:/x alpine cat /x/a; $D volume rm $N-v; $D volume rm $N-v; $D volume rm -f $N-v
$D volume create --label a=b --name $N-w; $D volume create $N-w --name x; $D volume inspect $N-w | grep -v CreatedAt; $D volume rm $N-w
$D tag alpine $N-img:1; $D images $N-img; $D images $N-img --no-trunc; $D images -q $N-img; $D images --digests $N-img; $D images $N-img --format '{{.ID}}: {{.Repository}} {{.Tag}} {{.Size}} {{.Digest}}'; $D image ls $N-img --format json; $D rmi $N-img:1; $D rmi $N-img:1; $D rmi -f $N-img:1; $D tag alpine BAD; $D tag alpine a@sha256:622ebe91adc9fe9f1615f1393bdb3449c95e243d4a7b54a8b0b2659158f8b5e3
$D images --filter reference=alpine; $D images --filter dangling=foo; $D images --format '{{json .}}' alpine:3.20; $D images a b
$D history alpine; $D history -q alpine; $D history --no-trunc alpine; $D history -H=false alpine; $D history --format json alpine; $D history --format '{{.CreatedBy}}' alpine
$D network ls; $D network ls -q --no-trunc; $D network ls --format json; $D network ls --filter driver=bridge --format '{{.Name}} {{.IPv6}}'; $D network inspect bridge -f '{{.Name}} {{.Driver}} {{.Scope}} {{.Options}}'; $D network inspect nosuch
$D inspect nosuch; $D inspect nosuch -f x; $D inspect --type foo x; $D inspect --type container alpine; $D inspect alpine -f '{{.RepoTags}} {{.Os}} {{.Config.Cmd}}'; $D inspect alpine --format json; $D inspect alpine
$D container inspect nosuch; $D image inspect nosuch; $D volume inspect nosuch; $D image inspect alpine
$D create --name $N-i -p 80:8080 -v /etc:/e:ro --label x=y -e A=b --memory 64m --restart on-failure:3 alpine sleep 1 >/dev/null; for f in '{{.Name}}' '{{.Config.Env}}' '{{.Config.Labels}}' '{{.HostConfig.Binds}}' '{{.HostConfig.PortBindings}}' '{{json .HostConfig.PortBindings}}' '{{.HostConfig.RestartPolicy}}' '{{.HostConfig.RestartPolicy.Name}}' '{{.Mounts}}' '{{json .Mounts}}' '{{range .Mounts}}{{.Source}}:{{.Destination}} {{end}}' '{{.State}}' '{{.NetworkSettings.Ports}}' '{{.NetworkSettings.Networks.bridge.IPAddress}}' '{{.HostConfig.LogConfig}}' '{{.Config.Healthcheck}}' '{{.Config.Healthcheck.Test}}' '{{.HostConfig.Memory}}' '{{.HostConfig.PidsLimit}}' '{{.HostConfig.OomKillDisable}}' '{{.State.Health}}' '{{.Foo}}' '{{.Config.Foo}}' '{{index .Config.Env 0}}' '{{index .Config.Env 9}}' '{{len .Config.Env}}' '{{upper .Name}}' '{{.Config.Cmd}}' '{{.Config.Entrypoint}}' '{{with .State}}{{.Status}}{{end}}' '{{if .State.Running}}y{{else}}n{{end}}' '{{printf "%s-%d" .Name .HostConfig.Memory}}' '{{.HostConfig.NanoCPUs}}' '{{.HostConfig.CpusetCpus}}' '{{.Config.ExposedPorts}}' '{{range $k, $v := .HostConfig.PortBindings}}{{$k}}={{(index $v 0).HostPort}}{{end}}' '{{join .Config.Env ","}}' '{{.Config.StopSignal}}' '{{.HostConfig.Ulimits}}' '{{.HostConfig.Sysctls}}' '{{.GraphDriver.Name}}' '{{.HostConfig.Init}}' '{{println .Name}}' '{{.Config}}' '{{json .State}}'; do $D inspect -f "$f" $N-i; done; $D inspect $N-i | sed 's/[0-9a-f]\{64\}/ID/g'; $D rm $N-i
$D create --name $N-h --health-cmd true --health-interval 3s alpine sleep 1 >/dev/null; $D inspect -f '{{.Config.Healthcheck}} {{json .Config.Healthcheck}}' $N-h; $D rm $N-h
$D ps --foo; $D ps foo; $D foo; $D container foo; $D run; $D run -e; $D run --foo; $D run -X; $D run --memory x alpine; $D ps -n x; $D ps --filter foo; $D ps --filter foo=bar; $D ps --format '{{.Foo}}'; $D ps --format '{{'
$D rm nosuch; $D rm -f nosuch; $D stop nosuch; $D stop -t x nosuch; $D kill nosuch; $D start nosuch; $D restart nosuch; $D wait nosuch; $D logs nosuch; $D port nosuch; $D top nosuch; $D rename nosuch x; $D exec nosuch true; $D attach nosuch; $D pause nosuch; $D unpause nosuch; $D cp nosuch:/x .; $D rmi nosuch; $D tag nosuch x; $D history nosuch; $D volume rm nosuch; $D diff nosuch; $D stats --no-stream nosuch; $D update --memory 10m nosuch; $D update nosuch; $D start -a a b
$D run --rm --restart always alpine true; $D run --pull foo alpine; $D run -a stdout -d alpine; $D run -it alpine true </dev/null; $D run --pull never nosuch; $D create --pull never nosuch; $D run BAD; $D run --rm --network container:nosuch alpine true
$D run -p 1-3:1-2 alpine; $D run --mount foo alpine; $D run -v /a:/b:/c:/d alpine; $D run --cpus x alpine; $D run --security-opt foo alpine; $D run --dns x alpine; $D run --add-host x alpine; $D run --env-file /nosuch alpine; $D run --device x alpine; $D run --restart :3 alpine; $D run --ulimit x alpine; $D run --pid foo alpine; $D run --no-healthcheck --health-cmd x alpine; $D run --log-driver none --log-opt a=b alpine; $D run --network-alias x alpine; $D run --mac-address x alpine
$D version -f '{{.Server.Version}} {{.Server.ApiVersion}}'; $D info -f '{{.Driver}} {{.NCPU}} {{json .Plugins.Volume}}'; $D info -f '{{.SecurityOptions}}'
$D load -i /nosuch; $D load </dev/null; $D load -i /srv/peers.tmp/cli-alpine.tar
$D events --since 1s --until 0s --format '{{.Type}}' | wc -l; $D events --since x
$D logout nosuch.example; echo p | $D login --password-stdin; $D login -u a -p b nosuch.example </dev/null 2>&1 | head -1
$D container ls --filter name=nosuchname; $D container list -q --filter name=nosuchname; $D ps -a --filter name=nosuchname --size; $D ps --filter name=nosuchname --format 'table {{.ID}}\t{{.Label "a.b-c"}}\t{{upper .Names}}'; $D ps --filter name=nosuchname --format json
$D system df --format '{{.Type}}'; $D system df | head -1
$D --context nosuch ps; $D -H unix:///nosuch -c x ps; $D -H foo://x ps; $D --log-level foo ps
'''

HELP = """attach cp create events exec history images info inspect kill load login logout logs pause port ps pull rename
restart rm rmi run start stats stop tag top unpause update version wait diff""".split()


def clean(text, name):
    text = text.replace(name, "NAME")
    text = re.sub(r"\b[0-9a-f]{64}\b", "ID64", text)
    text = re.sub(r"\b[0-9a-f]{12}\b", "ID12", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?Z?", "TIME", text)
    text = re.sub(r"(About|Less than) an? \w+|\b\d+ (second|minute)s?\b", "SPAN", text)
    text = re.sub(r"Kekkai|Docker", "PROG", text)
    text = re.sub(r"kekkai|docker", "prog", text)
    return text


def run(cli, case, name):
    env = dict(os.environ, DOCKER_HOST=host if cli == "docker" else own_host, D=cli, N=name, DOCKER_CONFIG=tempfile.mkdtemp(prefix="cli-diff-config-"))
    env.pop("KEKKAI_HOST", None)
    done = subprocess.run(["bash", "-c", case], env=env, capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", env["DOCKER_CONFIG"]], check=False)
    return [clean(part.decode(errors="replace"), name) for part in (done.stdout, done.stderr)] + [done.returncode]


def show(label, theirs, ours):
    import difflib
    for line in difflib.unified_diff(theirs.splitlines(), ours.splitlines(), f"docker {label}", f"kekkai {label}", lineterm="", n=1):
        print("    " + line)


bad = 0
for number, case in enumerate(line for line in CASES.splitlines() if line.strip()):
    if only and only not in case:
        continue
    theirs = run("docker", case, f"cli-diff-a{number}")
    ours = run(kekkai, case, f"cli-diff-b{number}")
    if theirs != ours:
        bad += 1
        print(f"DIFFERENT {case[:160]}")
        for label, a, b in zip(("stdout", "stderr"), theirs, ours):
            show(label, a, b)
        if theirs[2] != ours[2]:
            print(f"    status {theirs[2]} {ours[2]}")


def flags(text):
    return sorted(re.findall(r"^ {2,6}((?:-\w, )?--[\w-]+(?: [\w-]+)?) ", text, re.M))


if not only:
    for command in HELP:
        theirs, ours = (subprocess.run([cli, command, "--help"], capture_output=True, text=True, env=dict(os.environ, DOCKER_HOST=host)).stdout for cli in ("docker", kekkai))
        missing = [flag for flag in flags(theirs) if flag not in flags(ours)]
        added = [flag for flag in flags(ours) if flag not in flags(theirs)]
        first = clean(theirs.split("\n")[0], "\0") == clean(ours.split("\n")[0], "\0")
        if missing or added or not first:
            bad += 1
            print(f"DIFFERENT flags of {command}: missing {missing} added {added} usage {first}")
print(f"{bad} different")
sys.exit(bad > 0)

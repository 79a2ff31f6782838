"""What `scripts/run` does with a command, with a stand-in for the proxy.

The stand-in speaks CONNECT and TLS as the real one does. It knows no rules: it counts.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from invariant_addon.interception import launch, order, proxy, proxy_log, summary
from invariant_addon.interception.certificates import ensure

ADDON = Path(__file__).parents[2] / "addon"

STAND_IN = """
import json, os, socket, ssl, sys, time
options = dict(v.split("=", 1) for n, v in zip(sys.argv, sys.argv[1:]) if n == "--set")
assert "PYTHONPATH" not in os.environ
if "--options" in sys.argv:
    if options.get("behave") == "mistyped":
        sys.exit("/bin/mitmdump: Failed to parse option behave: not an integer: mistyped")
    print(*("# One of them.\\n" + name + ": 1" for name in
            ["behave", "confdir", "invariant_certs", "invariant_workers"]), sep="\\n\\n")
    sys.exit()
mode = sys.argv[sys.argv.index("--mode") + 1]
print("stand-in says hello", *sys.argv[1:], flush=True)
if any(argument.endswith("names.inv") for argument in sys.argv):
    print("[20:04:46.559] rule file names gives no verdict: line 4: pii needs x", flush=True)
if options.get("behave") == "dies":
    sys.exit("stand-in: no such port")
if options.get("behave") == "refuses":
    sys.exit(open(options["invariant_certs"] + "/refusal.log").read())
if options.get("behave") in ("silent", "mistyped"):
    time.sleep(60)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(options["invariant_certs"], "leaf.pem"))
listener = socket.create_server(("127.0.0.1", int(mode.rpartition(":")[2])))
calls = dict.fromkeys(["seen", "judged", "blocked", "not_scanned", "failed"], 0)
calls["seen"] = calls["judged"] = 5  # from before
pending = 0
while True:
    plain, _ = listener.accept()
    try:
        assert plain.recv(4096).startswith(b"CONNECT api.openai.com:443 ")
        plain.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        with context.wrap_socket(plain, server_side=True) as tls:
            path = tls.recv(4096).split()[1]
            if path == b"/exit":
                sys.exit("out of luck")
            if path == b"/late":
                calls["seen"] += 1
                pending = 3  # questions after which it is counted
            elif path != b"/.invariant/health":
                calls["seen"] += 1
                kinds = {b"/bad": "blocked", b"/part": "partial", b"/list": "harmless",
                         b"/gone": "unfinished"}
                kind = kinds.get(path, "judged")
                calls[kind] = calls.get(kind, 0) + 1
                if path == b"/mask":
                    calls["masked"] = calls.get("masked", 0) + 1
            elif pending:
                pending -= 1
                calls["blocked"] += not pending
            answer = {"invariant": "0", "pid": os.getpid(), "ready": True, "rules": 1,
                      "calls": calls, "pending": min(pending, 1)}
            body = json.dumps(answer).encode()
            head = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n"
            tls.sendall(head % len(body) + body)
    except (OSError, AssertionError):
        plain.close()
"""
REFUSAL = """\
[03:38:20.989] Loading script /addon/invariant.py
[03:38:21.046] error in script /addon/invariant.py
Traceback (most recent call last):
  File "/addon/invariant_addon/settings.py", line 197, in _at_least
    check(got)
    ~~~~~^^^^^
ValueError: of this nobody wants to hear

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/addon/invariant_addon/settings.py", line 197, in _at_least
    raise exceptions.OptionsError(f"{name}: got {got}, expected {least} or more")
mitmproxy.exceptions.OptionsError: invariant_workers: got -1, expected 0 or more
[03:38:21.048] HTTP(S) proxy listening at 127.0.0.1:54127.
Error logged during startup, exiting...
"""
CALL = """
import sys, urllib.request
for path in sys.argv[1:]:
    try:
        urllib.request.urlopen("https://api.openai.com" + path, timeout=5).read()
    except OSError as error:
        print("call failed:", error)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a run of this command as a program of its own."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    (tmp_path / "call.py").write_text(CALL)
    driver = tmp_path / "driver.py"
    driver.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.append({str(ADDON)!r})
        from invariant_addon.interception import launch, proxy
        launch.MITMDUMP = ({sys.executable!r}, {str(tmp_path / "stand_in.py")!r})
        launch.START_SECONDS = 1.0 if any('silent' in a for a in sys.argv) else 20.0
        proxy._STOP_SECONDS = 2.0
        sys.exit(launch.main(sys.argv[1:]))
        """)
    )

    def run(
        *command: str, options: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        own = [f"--set=invariant_certs={tmp_path / 'certs dir'}"]
        return subprocess.Popen(
            [sys.executable, "-I", driver, *own, *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a terminal of pytest's is not its terminal
            env={
                **os.environ,
                "XDG_STATE_HOME": str(tmp_path / "state"),
                "PYTHONPATH": "/nowhere",
                **(environment or {}),
            },
        )

    return run


def finish(run: subprocess.Popen[str], text: str = "") -> tuple[int, str, str]:
    out, err = run.communicate(text, timeout=20)
    return run.returncode, out, err


def calling(tmp_path: Path, *paths: str) -> tuple[str, ...]:
    return (sys.executable, str(tmp_path / "call.py"), *paths)


def stand_ins(tmp_path: Path) -> list[str]:
    found = subprocess.run(
        ["ps", "-eww", "-o", "args"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [line for line in found if str(tmp_path / "stand_in.py") in line]


def test_how_much_was_judged_is_said(start: Start, tmp_path: Path) -> None:
    """Never silently unscanned: a picture that no rule reads is told in the sum as well."""
    _, _, err = finish(start(*calling(tmp_path, "/v1", "/part", "/list", "/gone")))
    assert "4 calls: 1 judged and passed, 0 blocked, 0 not scanned" in err
    assert ", 1 judged in part, 1 with nothing to judge, 1 that ended too soon" in err


def test_a_rule_that_gives_no_verdict_is_said_before_the_command_runs(
    start: Start, tmp_path: Path
) -> None:
    """Else all that is to be seen is that each call is refused; the proxy's log is a file."""
    rules = tmp_path / "names.inv"
    rules.write_text("")
    _, _, err = finish(start(*calling(tmp_path, "/v1"), options=("--rules", str(rules))))
    said = "invariant: WARNING: rule file names gives no verdict: line 4: pii needs x"
    assert said in err.splitlines()


def test_what_was_masked_is_said(start: Start, tmp_path: Path) -> None:
    """Else a mask rule that works looks like one that never fires."""
    _, _, err = finish(start(*calling(tmp_path, "/v1", "/mask")))
    assert "2 calls: 2 judged and passed, 0 blocked, 0 not scanned, of these 1 masked" in err


def test_calls_come_through_and_are_counted(start: Start, tmp_path: Path) -> None:
    """The whole point: an unchanged program, guarded, and one line that says so."""
    code, out, err = finish(start(*calling(tmp_path, "/v1", "/bad", "/v1")))
    assert (code, out) == (0, "")
    assert "3 calls: 2 judged and passed, 1 blocked, 0 not scanned" in err
    assert "in part" not in err and "nothing to judge" not in err
    assert "made a certificate in" in err
    assert stand_ins(tmp_path) == []


def test_no_call_at_all_is_said_loudly(start: Start) -> None:
    """A runtime that ignores the proxy succeeds: silence would look like safety."""
    code, _, err = finish(start(sys.executable, "-c", ""))
    assert code == 0
    assert "NOT ONE CALL" in err
    assert "aiohttp" in err


def test_input_output_and_exit_code_are_the_commands_own(start: Start) -> None:
    """It must be possible to put `scripts/run --` before any command of a script."""
    echo = "import sys; print(sys.stdin.read().upper()); print('e', file=sys.stderr); sys.exit(7)"
    code, out, err = finish(start(sys.executable, "-c", echo), "hello")
    assert (code, out) == (7, "HELLO\n")
    assert "e\n" in err
    assert "stand-in says hello" not in out + err, "the proxy stays off the command's terminal"


def test_a_command_killed_by_a_signal_counts_as_in_a_shell(start: Start) -> None:
    """128 + n is what scripts around it know how to read, and a person reads the name."""
    code, _, err = finish(start("sh", "-c", "kill -KILL $$"))
    assert code == 137
    assert "invariant: sh was ended by SIGKILL\n" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_command_and_nothing_is_left(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    """A service manager stops what it started: this program, and it only."""
    waits = "import signal, sys, time\n" + textwrap.dedent("""
        def end(number, frame): print('told', number); sys.exit(3)
        for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(s, end)
        print('up', flush=True); time.sleep(30)""")
    run = start(sys.executable, "-c", waits)
    assert run.stdout
    assert run.stdout.readline() == "up\n"
    run.send_signal(number)
    code, out, _ = finish(run)
    assert (code, out) == (3, f"told {int(number)}\n")
    assert stand_ins(tmp_path) == []


def test_ctrl_c_reaches_the_command_once(start: Start, tmp_path: Path) -> None:
    """The terminal tells both of us; a program that takes the second one for "now!" would die."""
    counts = "import signal, time\n" + textwrap.dedent("""
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(1))
        print('up', flush=True); time.sleep(1); print('interrupts:', len(seen))""")
    driver = [str(tmp_path / "driver.py"), f"--set=invariant_certs={tmp_path / 'certs'}", "--"]
    terminal = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    run = subprocess.Popen(
        [
            *(sys.executable, "-c", terminal, sys.executable, "-I", *driver),
            *(sys.executable, "-c", counts),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    assert run.stdin
    assert run.stdout
    while (line := run.stdout.readline()) and line.strip() != "up":
        pass
    run.stdin.write("\x03")
    run.stdin.flush()
    out, _ = run.communicate(timeout=20)
    assert "interrupts: 1" in out
    assert run.returncode == 0


def test_a_signal_while_the_proxy_starts_ends_it_all(start: Start, tmp_path: Path) -> None:
    """Ctrl-C in the first second is the commonest one."""
    run = start("touch", str(tmp_path / "ran"), options=("--set=behave=silent",))
    deadline = time.monotonic() + 5
    while not stand_ins(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.terminate()
    code, _, err = finish(run)
    assert code == 143
    assert "was not run" in err
    assert stand_ins(tmp_path) == []
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("behave", "said"), [("dies", "stand-in: no such port"), ("silent", "did not answer")]
)
def test_a_proxy_that_does_not_come_up_is_explained(
    start: Start, tmp_path: Path, behave: str, said: str
) -> None:
    """The command must not run unguarded, and whoever ran it must learn why."""
    code, _, err = finish(
        start("touch", str(tmp_path / "ran"), options=(f"--set=behave={behave}",))
    )
    assert code == launch.FAILED
    assert said in err
    assert f"the log is {tmp_path / 'state'}" in err
    assert not (tmp_path / "ran").exists()
    assert stand_ins(tmp_path) == []


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("behave=mistyped", "behave: not an integer: mistyped"),
        ("behav=x", "behav: there is no such option; did you mean behave?"),
        ("xyz=1", "xyz: there is no such option"),
    ],
)
def test_an_option_that_cannot_be_is_said_at_once(
    start: Start, tmp_path: Path, option: str, said: str
) -> None:
    """mitmproxy waits for ever with the one, and takes the other for a later script's."""
    began = time.monotonic()
    code, _, err = finish(start("touch", str(tmp_path / "ran"), options=(f"--set={option}",)))
    assert time.monotonic() - began < 10
    assert code == launch.FAILED
    (line,) = [line for line in err.splitlines() if "made a certificate" not in line]
    assert line == f"invariant: {said}; touch was not run"
    assert not (tmp_path / "ran").exists()
    assert stand_ins(tmp_path) == []


def test_a_refused_option_is_one_line(start: Start, tmp_path: Path) -> None:
    """A traceback around it says nothing to whoever typed it."""
    (tmp_path / "certs dir").mkdir()
    (tmp_path / "certs dir" / "refusal.log").write_text(REFUSAL)
    _, _, err = finish(start("true", options=("--set=behave=refuses",)))
    (line,) = [line for line in err.splitlines() if "made a certificate" not in line]
    assert line == "invariant: invariant_workers: got -1, expected 0 or more; true was not run"


def test_what_matters_in_a_log_comes_first() -> None:
    """Our own questions after its health fill a log; what went wrong is one line among them."""
    probe = textwrap.dedent("""\
        [03:40:39.209][127.0.0.1:505] client connect
        127.0.0.1:505: GET https://api.openai.com/.invariant/health
                      << 200 OK 126b
        [03:40:39.385][127.0.0.1:505] client disconnect
        """)
    call = (
        "127.0.0.1:77: GET https://api.openai.com/v1/models\n              << 502 Bad Gateway 1b\n"
    )
    lines = (probe * 20 + REFUSAL + probe + call + probe * 20).splitlines()
    assert proxy_log.essence(lines) == [
        "invariant_workers: got -1, expected 0 or more",
        *call.splitlines(),
    ]


def test_an_error_of_several_lines_stays_whole() -> None:
    """Where in a rule it is stands below the message."""
    lines = [
        "[03:40:39.1] Loading script invariant.py",
        "[03:40:39.2] rule file x cannot be used: unexpected token",
        'raise "x" if: ((',
        "              ^",
        "[03:40:39.3] the worker ended",
    ]
    assert proxy_log.essence(lines) == [
        "rule file x cannot be used: unexpected token",
        'raise "x" if: ((',
        "              ^",
        "the worker ended",
    ]


def test_a_bug_keeps_its_name() -> None:
    """Only what was written for the person stands for itself."""
    lines = ["[03:40:39.1] error in script x", "Traceback (most recent call last):", "  File 1"]
    assert proxy_log.essence([*lines, "AttributeError: no 'x'"]) == ["AttributeError: no 'x'"]
    assert proxy_log.refused_option([*lines, "AttributeError: no 'x'"]) is None
    assert proxy_log.refused_option(REFUSAL.splitlines()) == (
        "invariant_workers: got -1, expected 0 or more"
    )


def test_an_exit_is_no_error() -> None:
    """Python prints a traceback for it, after the line that says why."""
    exits = ["Task exception was never retrieved", "Traceback (most recent call last):"]
    lines = ["[03:40:39.1] no worker", f"[03:40:39.2] {exits[0]}", exits[1], "SystemExit: 1"]
    assert proxy_log.essence(lines) == ["no worker"]


def test_the_newest_lines_are_kept() -> None:
    """The last thing that a proxy says is the likeliest reason for its end."""
    lines = [f"[03:40:39.1] line {n}" for n in range(50)]
    assert proxy_log.essence(lines, 3) == ["line 47", "line 48", "line 49"]
    assert proxy_log.essence(["[03:40:39.1] it failed", *lines], 3) == [
        "it failed",
        "line 48",
        "line 49",
    ]


def test_a_call_that_has_just_ended_is_counted(start: Start, tmp_path: Path) -> None:
    """The command has all of its reply, and ends, before the proxy has counted the call."""
    code, _, err = finish(start(*calling(tmp_path, "/late")))
    assert code == 0
    assert "1 call: 0 judged and passed, 1 blocked" in err


def test_a_proxy_that_died_meanwhile_is_reported(start: Start, tmp_path: Path) -> None:
    """The SDK says only "Connection error."; here is why."""
    code, out, err = finish(start(*calling(tmp_path, "/exit", "/v1")))
    assert code == 0
    assert out.count("call failed") == 2
    assert "the proxy ended (exit code 1) before the command did" in err
    assert "out of luck" in err and "health" not in err


def test_its_log_is_private(start: Start, tmp_path: Path) -> None:
    """It names hosts and paths that somebody called."""
    _, _, err = finish(start("true"))
    (log,) = (tmp_path / "state" / "invariant").glob("run-*.log")
    assert str(log) in err
    assert log.stat().st_mode & 0o777 == 0o600
    assert "stand-in says hello" in log.read_text()


def test_rules_and_options_reach_the_proxy(start: Start, tmp_path: Path) -> None:
    """Rules by absolute path: the proxy may look at them again later."""
    rules = tmp_path / "a rule.txt"
    rules.write_text("")
    finish(start("true", options=("--rules", str(rules), "--set", "invariant_workers=1")))
    (log,) = (tmp_path / "state" / "invariant").glob("run-*.log")
    told = log.read_text()
    assert f"--set invariant_rules={rules}" in told
    assert "--set invariant_workers=1" in told


def test_what_would_bypass_is_taken_out_and_said(start: Start, tmp_path: Path) -> None:
    """The person set it on purpose, some day, for something else."""
    base = {"NO_PROXY": "openai.com", "no_proxy": "", "HTTPS_PROXY": "http://u:secret@corp:1"}
    _, _, err = finish(start(*calling(tmp_path, "/v1"), environment=base))
    assert "taken out of NO_PROXY, calls would go past the proxy: openai.com" in err
    assert "HTTPS_PROXY was http://corp:1" in err
    assert "secret" not in err
    assert "1 call: 1 judged" in err


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("no-such-command-here",), 127, "command not found"),
        ((__file__,), 126, "not executable"),
    ],
)
def test_a_command_that_cannot_run_starts_nothing(
    start: Start, tmp_path: Path, command: tuple[str, ...], code: int, said: str
) -> None:
    """Found out before a proxy is started for it."""
    got, _, err = finish(start(*command))
    assert got == code
    assert said in err
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["python", "my agent.py"],
            "put the command behind --: scripts/run -- python 'my agent.py'",
        ),
        (["--rule", "x", "python"], "unrecognized arguments: --rule x python"),
        (["x", "--", "true"], "unrecognized arguments: x"),
        ([], "no command: put it behind --"),
        (["--"], "no command"),
        (["--set", "x", "--", "true"], "--set: got 'x', expected option=value"),
        (["--rules", "/nowhere", "--", "true"], "--rules: got '/nowhere', expected a file"),
    ],
)
def test_a_wrong_call_says_what_was_expected(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Every mistake has its own sentence, and exit code 2."""
    assert order.parse(arguments) == 2
    assert said in capsys.readouterr().err


def test_what_follows_the_dashes_is_the_commands(tmp_path: Path) -> None:
    """Options of the command are not ours, whatever they are called."""
    found = order.parse(["--set", "a=b=c", "--", "cmd", "--set", "x", "--", "-h"])
    assert found == order.Order(("cmd", "--set", "x", "--", "-h"), ("a=b=c",))
    assert found.values("a") == ["b=c"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("node", "NODE_OPTIONS"),
        ("/usr/bin/python3.13", "aiohttp"),
        ("npx", "NODE_OPTIONS"),
        ("bun", "node:https"),
        ("docker", "container"),
        ("codex", "ChatGPT"),
        ("./agent", "base_url"),
    ],
)
def test_the_hint_fits_the_command(command: str, said: str) -> None:
    """Nobody reads a list of all reasons."""
    assert said in summary.hint([command])


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"invariant": 1, "pid": "x"}'])
def test_another_programs_answer_is_not_taken_for_ours(body: bytes) -> None:
    """Port 8080 is popular."""
    with pytest.raises(ValueError):
        proxy.read_health(body)


def test_nobody_there_is_no_health(tmp_path: Path) -> None:
    """The usual case at the first run: it must be quick and quiet."""
    ca = ensure(tmp_path).ca
    assert proxy.probe(proxy._free_port(), ca) is None


def test_a_program_that_drips_is_not_asked_for_ever(tmp_path: Path) -> None:
    """A byte now and then is never silent for long enough: the doctor never came back."""
    ca = ensure(tmp_path).ca
    over = threading.Event()

    def drip(listener: socket.socket) -> None:
        taken, _ = listener.accept()
        with taken, contextlib.suppress(OSError):
            while not over.wait(0.05):
                taken.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        try:
            assert proxy.probe(listener.getsockname()[1], ca, timeout=0.5) is None
        finally:
            over.set()
            dripping.join(10)


def test_old_logs_go(tmp_path: Path) -> None:
    """A folder that only grows is noticed when the disk is full."""
    for n in range(30):
        (tmp_path / f"run-{n:02}-x.log").touch()
        os.utime(tmp_path / f"run-{n:02}-x.log", (n, n))
    (tmp_path / "own.log").touch()
    newest = proxy_log.open_log(tmp_path, "now")
    kept = sorted(p.name for p in tmp_path.glob("run-*"))
    assert len(kept) == 20
    assert newest.name in kept
    assert "run-29-x.log" in kept
    assert (tmp_path / "own.log").exists()


def test_logs_go_where_the_system_wants_them(tmp_path: Path) -> None:
    """A relative XDG_STATE_HOME is to be ignored, says the specification."""
    assert launch.state_folder({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "invariant"
    assert launch.state_folder({"XDG_STATE_HOME": "here"}).parts[-3:] == (
        ".local",
        "state",
        "invariant",
    )


def test_the_nearest_rules_of_the_project_are_found(tmp_path: Path) -> None:
    """They lie with the code, wherever in it one works."""
    inner = tmp_path / "src" / "deep"
    inner.mkdir(parents=True)
    assert order.project_rules(inner) is None
    (tmp_path / order.PROJECT_RULES).write_text("outer")
    assert order.project_rules(inner) == tmp_path / order.PROJECT_RULES
    (tmp_path / "src" / order.PROJECT_RULES).write_text("inner")
    assert order.project_rules(inner) == tmp_path / "src" / order.PROJECT_RULES


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give away")
def test_somebody_elses_rules_are_not_the_projects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder that all may write to, anybody could stop my calls."""
    file = tmp_path / order.PROJECT_RULES
    file.write_text("raise")
    os.chown(file, 12345, -1)
    assert order.project_rules(tmp_path) is None
    assert "somebody else's" in capsys.readouterr().err

"""What `scripts/run` does with a command, with a stand-in for the proxy.

The stand-in speaks CONNECT and TLS as the real one does. It knows no rules: it counts.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from invariant_addon.interception import launch, proxy
from invariant_addon.interception.certificates import ensure

ADDON = Path(__file__).parents[2] / "addon"

STAND_IN = """
import json, os, socket, ssl, sys, time
options = dict(v.split("=", 1) for n, v in zip(sys.argv, sys.argv[1:]) if n == "--set")
mode = sys.argv[sys.argv.index("--mode") + 1]
print("stand-in says hello", *sys.argv[1:], flush=True)
assert "PYTHONPATH" not in os.environ
if options.get("behave") == "dies":
    sys.exit("stand-in: no such option")
if options.get("behave") == "silent":
    time.sleep(60)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(os.path.join(options["invariant_certs"], "leaf.pem"))
listener = socket.create_server(("127.0.0.1", int(mode.rpartition(":")[2])))
calls = dict.fromkeys(["seen", "judged", "blocked", "not_scanned", "failed"], 0)
calls["seen"] = calls["judged"] = 5  # from before
while True:
    plain, _ = listener.accept()
    try:
        assert plain.recv(4096).startswith(b"CONNECT api.openai.com:443 ")
        plain.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\n")
        with context.wrap_socket(plain, server_side=True) as tls:
            path = tls.recv(4096).split()[1]
            if path == b"/exit":
                sys.exit(1)
            if path != b"/.invariant/health":
                calls["seen"] += 1
                calls["blocked" if path == b"/bad" else "judged"] += 1
            answer = {"invariant": "0", "pid": os.getpid(), "ready": True, "rules": 1,
                      "calls": calls}
            body = json.dumps(answer).encode()
            head = b"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n"
            tls.sendall(head % len(body) + body)
    except (OSError, AssertionError):
        plain.close()
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
        launch.START_SECONDS = 2.0 if any('silent' in a for a in sys.argv) else 20.0
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


def test_calls_come_through_and_are_counted(start: Start, tmp_path: Path) -> None:
    """The whole point: an unchanged program, guarded, and one line that says so."""
    code, out, err = finish(start(*calling(tmp_path, "/v1", "/bad", "/v1")))
    assert (code, out) == (0, "")
    assert "3 calls: 2 judged and passed, 1 blocked, 0 not scanned" in err
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
    """128 + n is what scripts around it know how to read."""
    assert finish(start("sh", "-c", "kill -KILL $$"))[0] == 137


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
    ("behave", "said"), [("dies", "stand-in: no such option"), ("silent", "did not answer")]
)
def test_a_proxy_that_does_not_come_up_is_explained(
    start: Start, tmp_path: Path, behave: str, said: str
) -> None:
    """The command must not run unguarded, and a typing error in --set must be seen at once."""
    code, _, err = finish(
        start("touch", str(tmp_path / "ran"), options=(f"--set=behave={behave}",))
    )
    assert code == launch.FAILED
    assert said in err
    assert "the last lines of" in err
    assert not (tmp_path / "ran").exists()
    assert stand_ins(tmp_path) == []


def test_a_proxy_that_died_meanwhile_is_reported(start: Start, tmp_path: Path) -> None:
    """The SDK says only "Connection error."; here is why."""
    code, out, err = finish(start(*calling(tmp_path, "/exit", "/v1")))
    assert code == 0
    assert out.count("call failed") == 2
    assert "the proxy ended before the command did" in err


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
        (["python", "agent.py"], "unrecognized arguments"),
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
    assert launch.parse(arguments) == 2
    assert said in capsys.readouterr().err


def test_what_follows_the_dashes_is_the_commands(tmp_path: Path) -> None:
    """Options of the command are not ours, whatever they are called."""
    order = launch.parse(["--set", "a=b=c", "--", "cmd", "--set", "x", "--", "-h"])
    assert order == launch.Order(("cmd", "--set", "x", "--", "-h"), ("a=b=c",))
    assert order.values("a") == ["b=c"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("node", "22.21"),
        ("/usr/bin/python3.13", "aiohttp"),
        ("npx", "Node"),
        ("bun", "node:https"),
        ("docker", "container"),
        ("codex", "ChatGPT"),
        ("./agent", "base_url"),
    ],
)
def test_the_hint_fits_the_command(command: str, said: str) -> None:
    """Nobody reads a list of all reasons."""
    assert said in launch.hint([command])


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"invariant": 1, "pid": "x"}'])
def test_another_programs_answer_is_not_taken_for_ours(body: bytes) -> None:
    """Port 8080 is popular."""
    with pytest.raises(ValueError):
        proxy.read_health(body)


def test_nobody_there_is_no_health(tmp_path: Path) -> None:
    """The usual case at the first run: it must be quick and quiet."""
    ca = ensure(tmp_path).ca
    assert proxy.probe(proxy._free_port(), ca) is None


def test_old_logs_go(tmp_path: Path) -> None:
    """A folder that only grows is noticed when the disk is full."""
    for n in range(30):
        (tmp_path / f"run-{n:02}-x.log").touch()
        os.utime(tmp_path / f"run-{n:02}-x.log", (n, n))
    (tmp_path / "own.log").touch()
    newest = proxy.open_log(tmp_path, "now")
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

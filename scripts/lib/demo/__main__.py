"""What `scripts/demo ROOT` runs: a fake OpenAI, a real agent under the real scripts/run.

Everything it writes is in one temporary folder, and goes with it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

from fake_openai import FakeOpenAI
from scenes import PRECIOUS, SCENES, Stage
from screen import Screen
from session import Session, SessionError

HERE = Path(__file__).resolve().parent
BLOCKED = 3  # of all calls in the four scenes
_CALLS = re.compile(r"invariant: \d+ calls: \d+ judged and passed, (\d+) blocked")
_TRAFFIC = re.compile(r"\[[\d:.]+\]\[|127\.0\.0\.1:| +<< ")  # mitmdump's own


def main(root: Path) -> int:
    screen = Screen(sys.stdout)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup stays nohup
            signal.signal(number, _stop)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="invariant-demo-") as name,
            FakeOpenAI(Path(name, "openai")) as openai,
        ):
            return play(screen, root, Path(name), openai)
    except KeyboardInterrupt:
        screen.say("stopped", "dim")
        return 130
    except BrokenPipeError:  # `scripts/demo | head`: nobody looks any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        screen.say(f"The demo could not run: {error}", "red")
        return 1


def play(screen: Screen, root: Path, folder: Path, openai: FakeOpenAI) -> int:
    began = time.monotonic()
    introduce(screen)
    work = prepare(folder / "work")
    session = Session(
        command(root, folder, openai),
        work,
        environment(root, folder),
        on_note=lambda line: show_note(screen, line),
    )
    stage = Stage(screen, openai, session, work / "files")
    try:
        session.start()
        for scene in SCENES:
            scene(stage)
        screen.title("That was it")
        code = session.finish()
    except SessionError as error:
        screen.say(f"The demo broke off: {error}.", "red")
        if not any("the last lines of" in note for note in session.notes):
            show_logs(screen, folder)
        return 1
    finally:
        session.stop()
    counted = next(filter(None, map(_CALLS.match, session.notes)), None)
    stage.check(code == 0, f"scripts/run ends with 0, and not {code}")
    stage.check(
        counted is not None and int(counted[1]) == BLOCKED,
        f"the proxy counts {BLOCKED} blocked calls",
    )
    if stage.problems:
        screen.say(f"Points that did not go as told: {len(stage.problems)}, see above.", "red")
        show_logs(screen, folder)
        return 1
    conclude(screen, time.monotonic() - began)
    return 0


def introduce(screen: Screen) -> None:
    screen.say(
        "A real agent (openai SDK, nothing changed in it) talks to OpenAI through a real proxy. "
        "Only OpenAI is fake: it runs on this machine, so no key and no network is needed."
    )
    screen.say("")
    screen.show("  $ scripts/run --rules rules.inv -- python agent.py")


def conclude(screen: Screen, seconds: float) -> None:
    screen.say(f"All four scenes went as told ({seconds:.0f} s). Nothing is left behind.", "green")
    screen.say("")
    screen.say("The rules and the agent are in scripts/lib/demo: rules.inv, agent.py.")
    screen.say("Next, with rules and a program of your own:")
    screen.say("")
    screen.show("  scripts/run --rules my.inv -- python agent.py")


def prepare(work: Path) -> Path:
    """The agent's folder: what a user would have in it."""
    files = work / "files"
    files.mkdir(parents=True)
    (files / "notes.txt").write_text("buy milk\n")
    (files / PRECIOUS).write_text("Ada, Grace, Barbara\n" * 50)
    for name in ("agent.py", "rules.inv"):
        shutil.copyfile(HERE / name, work / name)
    return work


def command(root: Path, folder: Path, openai: FakeOpenAI) -> list[str]:
    """What introduce() shows, and five settings that a user does not need."""
    return [
        str(root / "scripts" / "run"),
        *("--rules", "rules.inv"),
        *("--set", f"invariant_certs={folder / 'certs'}"),
        *("--set", f"invariant_data={folder / 'data'}"),
        *("--set", "invariant_traces=false"),  # they would go with the folder
        *("--set", f"map_remote=|https://api.openai.com/|https://127.0.0.1:{openai.port}/"),
        *("--set", f"ssl_verify_upstream_trusted_ca={openai.ca}"),
        *("--", "python", "agent.py"),
    ]


def environment(root: Path, folder: Path) -> dict[str, str]:
    """This one, without what would lead the agent elsewhere (OPENAI_BASE_URL, ALL_PROXY, ...).

    PYTHON goes too: by now the environments are there, and `python` means another one below.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "PYTHON")) and not name.lower().endswith("_proxy")
    }
    clients = root / ".venv-clients" / "bin"
    return kept | {
        "PATH": f"{clients}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "OPENAI_API_KEY": "none-is-needed",
        "XDG_STATE_HOME": str(folder / "state"),
    }


def show_note(screen: Screen, line: str) -> None:
    """What scripts/run says, but for files that go with the temporary folder."""
    if not line.startswith("invariant: made a certificate"):
        screen.say(line.partition("; log: ")[0], "dim", hang="  ")


def show_logs(screen: Screen, folder: Path) -> None:
    """The end of the proxy's log, before it goes with the folder."""
    for log in (folder / "state").glob("invariant/run-*.log"):
        screen.say("The last lines of the proxy's log:")
        lines = log.read_text(errors="replace").splitlines()
        for line in [line for line in lines if not _TRAFFIC.match(line)][-15:]:
            screen.show(f"  {line}")


def _stop(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

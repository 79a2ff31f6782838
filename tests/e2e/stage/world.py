"""A machine of its own, with an internet: run me as root under `unshare --mount --net`.

    python world.py rows|system|table FOLDER

There is a public address with a host for api.openai.com, its regional names and other.example
(one TLS server that says which name it was asked for), a name server that knows them, and one name
that resolves to 127.0.0.1. /etc and the trust stores are copies. Nothing of the real machine is
reached or changed. The last line that it prints is JSON: what was seen.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).parents[3] / "addon")]

from cryptography import x509

from stage.authority import make_authority
from stage.proxy import ADDON, MITMDUMP, clean_environment

PUBLIC, NAMES = "203.0.113.10", "203.0.113.53"
HEALTH = "/.invariant/health"
ROOT = Path(__file__).resolve().parents[3]
COPIED = (
    "/etc",
    "/usr/local/share/ca-certificates",
    "/var/lib/dpkg",
    "/var/lib/ca-certificates-java",
)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self._set_up()
        self.authority = make_authority(folder / "public")
        threading.Thread(target=self._serve_names, daemon=True).start()
        threading.Thread(target=self._serve, daemon=True).start()

    def _set_up(self) -> None:
        run("mount", "--make-rprivate", "/")
        copies = self.folder / "copies"
        copies.mkdir()
        run("mount", "-t", "tmpfs", "none", str(copies))
        for path in COPIED:
            if Path(path).is_dir():
                copy = copies / path.strip("/").replace("/", "_")
                run("cp", "-a", path, str(copy))
                run("mount", "--bind", str(copy), path)
        Path("/etc/resolv.conf").unlink(missing_ok=True)
        Path("/etc/resolv.conf").write_text(f"nameserver {NAMES}\n")
        run("ip", "link", "set", "lo", "up")
        for address in (PUBLIC, NAMES):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")

    # -- the internet

    def _serve_names(self) -> None:
        """A name server: A records for what is known, "no such name" for the rest."""
        known = {
            "api.openai.com": PUBLIC,
            "eu.api.openai.com": PUBLIC,
            "other.example": PUBLIC,
            "rebind.example": "127.0.0.1",
        }
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind((NAMES, 53))
            while True:
                query, client = server.recvfrom(512)
                with contextlib.suppress(Exception):
                    server.sendto(answer(query, known), client)

    def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.chain)
        context.sni_callback = lambda _socket, name, _context: self.asked.append(str(name))
        listener = socket.create_server((PUBLIC, 443), backlog=64)
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=self._talk, args=(plain, context), daemon=True).start()

    def _talk(self, plain: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError), plain:
            plain.settimeout(20)
            with context.wrap_socket(plain, server_side=True) as tls:
                while head := tls.recv(65536):
                    host = head.lower().split(b"\r\nhost:")[1].split(b"\r\n")[0].strip()
                    body = json.dumps({"public": host.decode()}).encode()
                    size = b"content-length: %d" % len(body)
                    tls.sendall(b"HTTP/1.1 200 OK\r\n" + size + b"\r\n\r\n" + body)


def answer(query: bytes, known: dict[str, str]) -> bytes:
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode().lower())
        at += size + 1
    name, (kind,) = ".".join(labels), struct.unpack(">H", query[at + 1 : at + 3])
    question = query[12 : at + 5]
    records = b""
    if kind == 1 and name in known:
        records = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04"
        records += socket.inet_aton(known[name])
    code = 0 if name in known else 3
    counts = struct.pack(">HHHHH", 0x8180 | code, 1, 1 if records else 0, 0, 0)
    return query[:2] + counts + question + records


def run(*command: str) -> str:
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return ended.stdout


@contextlib.contextmanager
def mitmdump(world: World, *options: str) -> Iterator[Path]:
    """Our proxy on 8080. Its certificates' folder."""
    certs = world.folder / "certs"
    log = world.folder / "mitmdump.log"
    with log.open("ab") as out:
        child = subprocess.Popen(
            [
                *(MITMDUMP, "-s", ADDON, "--set", f"confdir={world.folder / 'conf'}"),
                *("--set", f"invariant_certs={certs}", "--set", "invariant_workers=2"),
                *("--set", "invariant_starter_rules=false"),
                *("--set", f"ssl_verify_upstream_trusted_ca={world.authority.ca}", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean_environment(world.folder),
        )
    try:
        wait(lambda: listeners(8080) == ["127.0.0.1"], f"8080: {listeners(8080)}")
        yield certs
    finally:
        child.terminate()
        child.wait(20)


def wait(holds, what: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.1)


def listeners(port: int) -> list[str]:
    lines = run("ss", "-Hltn", f"sport = :{port}").splitlines()
    return sorted({line.split()[3].rpartition(":")[0].strip("[]") for line in lines})


def seen_issuer(connect: str, sni: str | None) -> str:
    """Who signed what a client of the proxy is shown: "ours", "theirs", or what went wrong."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", 8080), timeout=15) as plain:
            plain.sendall(f"CONNECT {connect} HTTP/1.1\r\nHost: {connect}\r\n\r\n".encode())
            if b" 200 " not in plain.recv(4096).split(b"\r\n")[0]:
                return "refused"
            with context.wrap_socket(plain, server_hostname=sni) as tls:
                der = tls.getpeercert(binary_form=True)
    except OSError as error:
        return type(error).__name__
    issuer = x509.load_der_x509_certificate(der or b"").issuer.rfc4514_string()
    return "ours" if "nvariant" in issuer else "theirs" if "test CA" in issuer else issuer


def rows(world: World) -> object:
    with mitmdump(world):
        table = {
            f"{connect} / {sni}": seen_issuer(f"{connect}:443", sni)
            for connect, sni in (
                ("api.openai.com", "api.openai.com"),
                ("api.openai.com.", "api.openai.com"),
                ("API.OPENAI.COM", "api.openai.com"),
                ("other.example", "other.example"),
                ("other.example", "api.openai.com"),
                ("api.openai.com", "other.example"),
                ("api.openai.com", None),
                (PUBLIC, "api.openai.com"),
                (PUBLIC, "other.example"),
                (PUBLIC, None),
                ("other.example", None),
            )
        }
        bound = listeners(8080)
        # From another address of this machine's network, and to one of its open addresses.
        with contextlib.suppress(OSError), socket.create_connection((PUBLIC, 8080), timeout=3):
            bound.append("reached from outside")
        with socket.create_connection(("127.0.0.1", 8080), timeout=15) as plain:
            request = "GET / HTTP/1.1\r\nHost: rebind.example:8080\r\nConnection: close\r\n\r\n"
            plain.sendall(request.encode())
            circle = plain.recv(4096).split(b"\r\n")[0].decode()
        onboarding = ""
        with socket.create_connection(("127.0.0.1", 8080), timeout=15) as plain:
            request = "GET http://mitm.it/cert/pem HTTP/1.1\r\nHost: mitm.it\r\n\r\n"
            plain.sendall(request.encode())
            onboarding = plain.recv(4096).split(b"\r\n")[0].decode()
    return {
        "rows": table,
        "bound": bound,
        "circle": circle,
        "onboarding": onboarding,
        "outsider": outsider(world),
    }


def outsider(world: World) -> dict[str, str]:
    """A client on another machine (a network of its own), and an open port."""
    seen = {}
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        wait(lambda: Path(f"/proc/{holder.pid}/comm").read_text().strip() == "sleep", "unshare")
        run("ip", "link", "add", "ours", "type", "veth", "peer", "theirs", "netns", str(holder.pid))
        run("ip", "address", "add", "10.99.0.1/24", "dev", "ours")
        run("ip", "link", "set", "ours", "up")
        enter = ("nsenter", "-t", str(holder.pid), "-n")
        run(*enter, "ip", "address", "add", "10.99.0.2/24", "dev", "theirs")
        run(*enter, "ip", "link", "set", "theirs", "up")
        call = (
            *("curl", "-s", "-o", "/dev/null", "-w", "%{http_connect}", "--max-time", "10"),
            *("-x", "http://10.99.0.1:8080", "-k", "https://api.openai.com" + HEALTH),
        )
        for peers in ("", "10.99.0.0/24"):
            options = ["--listen-host", "0.0.0.0"]
            options += ["--set", f"invariant_peers={peers}"] if peers else []
            with open_port(world, options):
                ended = subprocess.run(
                    [*enter, *call], capture_output=True, text=True, check=False, timeout=30
                )
                seen[peers or "nobody"] = ended.stdout
    finally:
        holder.kill()
        holder.wait()
    return seen


@contextlib.contextmanager
def open_port(world: World, options: list[str]) -> Iterator[None]:
    log = world.folder / "open.log"
    with log.open("ab") as out:
        child = subprocess.Popen(
            [
                *(MITMDUMP, "-s", ADDON, "--set", f"confdir={world.folder / 'conf'}"),
                *("--set", f"invariant_certs={world.folder / 'certs'}"),
                *("--set", "invariant_starter_rules=false", "--set", "invariant_workers=2"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=clean_environment(world.folder),
        )
    try:
        wait(lambda: listeners(8080) == ["0.0.0.0"], f"8080: {listeners(8080)}")
        yield
    finally:
        child.terminate()
        child.wait(20)


# -- the whole machine --------------------------------------------------------------------------


def snapshot() -> dict[str, str]:
    """Every file and link of what can be changed, with what is in it."""
    found = {}
    for top in ("/etc", "/usr/local/share/ca-certificates"):
        for path in sorted(Path(top).rglob("*")):
            if path.is_symlink():
                found[str(path)] = f"-> {path.readlink()}"
            elif path.is_file():
                status = path.stat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = f"{status.st_mode:o} {status.st_uid} {digest}"
    if shutil.which("nft"):
        found["nft"] = run("nft", "list", "ruleset")
    return found


def script(world: World, name: str, *arguments: str, env: dict[str, str] | None = None) -> object:
    """One of scripts/, as a user would call it; with this world's folder for the certificates."""
    module = {"system": "system", "doctor": "doctor", "off": "stop"}[name]
    ended = subprocess.run(
        [
            *(sys.executable, "-I", "-c"),
            f"import sys; sys.path.append({str(ROOT / 'addon')!r}); "
            f"from invariant_addon.interception.{module} import main; sys.exit(main(sys.argv[1:]))",
            *(*arguments, "--certs", str(world.folder / "certs")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
        env=env or clean_environment(world.folder),
        stdin=subprocess.DEVNULL,
    )
    return [ended.returncode, ended.stdout + ended.stderr]


def turn_on(world: World, *more: str) -> object:
    return script(
        world,
        "system",
        "on",
        *("--set", "invariant_workers=2"),
        *("--set", f"ssl_verify_upstream_trusted_ca={world.authority.ca}", *more),
    )


def get(url: str, *more: str) -> str:
    ended = subprocess.run(
        ["curl", "-sS", "--max-time", "15", *more, url],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(Path("/nonexistent")),
    )
    return ended.stdout or ended.stderr


def system(world: World) -> object:
    """on, look, kill, look, off, look."""
    if shutil.which("update-ca-certificates"):
        run("update-ca-certificates")  # what an update would change anyway
    Path("/etc/hosts").write_text("127.0.0.1 localhost")  # no end of line
    seen: dict[str, object] = {}
    before = snapshot()
    seen["dry"] = turn_on(world, "--dry-run")
    seen["dry changed"] = difference(before, snapshot())
    seen["on"] = turn_on(world)
    seen["changed"] = sorted(difference(before, snapshot()))
    seen["bound"] = listeners(443)
    seen["health"] = get("https://api.openai.com" + HEALTH)
    world.asked.clear()
    seen["call"] = get("https://api.openai.com/v1/models")
    seen["regional"] = get("https://eu.api.openai.com/v1/models")
    seen["asked"] = list(world.asked)
    seen["other"] = get("https://other.example/", "--cacert", str(world.authority.ca))
    seen["doctor"] = script(world, "doctor", "--json")
    seen["status"] = script(world, "system", "status")
    record = json.loads((world.folder / "certs" / "system.json").read_text())
    os.kill(record["pid"], 9)
    wait(lambda: listeners(443) == [PUBLIC], "the proxy to die")
    seen["dead call"] = get("https://api.openai.com/v1/models")
    seen["dead status"] = script(world, "system", "status")
    seen["off"] = script(world, "off")
    seen["left"] = difference(before, snapshot())
    seen["off again"] = script(world, "system", "off")
    return seen


def difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [p for p in before.keys() | after.keys() if before.get(p) != after.get(p)]


def nft(world: World) -> object:
    """The same by the firewall."""
    run("useradd", "--system", "guardian")
    seen: dict[str, object] = {}
    before = snapshot()
    seen["on"] = turn_on(world, "--way", "nft", "--user", os.environ["WORLD_USER"])
    seen["call"] = get("https://api.openai.com" + HEALTH)
    seen["other"] = get("https://other.example/", "--cacert", str(world.authority.ca))
    seen["status"] = script(world, "system", "status")
    seen["log"] = (world.folder / "certs" / "system.log").read_text()[-5000:]
    seen["off"] = script(world, "system", "off")
    seen["left"] = difference(before, snapshot())
    return seen


# -- the table of runtimes ----------------------------------------------------------------------


def table(world: World) -> object:
    """Each runtime: under scripts/run's variables, with scripts/system on, and that with trust."""
    from invariant_addon.interception import certificates, environment, runtimes, trust

    python = os.environ.get("WORLD_PYTHON", "python3")
    programs = [*runtimes.usual(python), *more_programs(world, python, runtimes.URL)]
    base = clean_environment(world.folder)
    for name in ("NODE_EXTRA_CA_CERTS", "NODE_OPTIONS", "NODE_USE_ENV_PROXY", "DENO_CERT"):
        base.pop(name, None)
    seen: dict[str, dict[str, str]] = {}

    def note(column: str, given: dict[str, str]) -> None:
        for one in runtimes.look(programs, given):
            seen.setdefault(one.runtime, {})[column] = one.way.value

    with mitmdump(world) as certs:
        made = certificates.ensure(certs)
        trusted = trust.write_trust(made, base, java=True)
        url = "http://127.0.0.1:8080"
        note("scripts/run", environment.guarded_environment(base, url, trusted))
    turn_on(world)
    note("scripts/system on", base)
    ca = str(world.folder / "certs" / "ca.pem")
    bundle = str(trusted.bundle)
    own = {"SSL_CERT_FILE": bundle, "REQUESTS_CA_BUNDLE": bundle, "NODE_EXTRA_CA_CERTS": ca}
    note("system, and variables", {**base, **own, "DENO_CERT": ca})
    script(world, "system", "off")
    return seen


GO = """
package main
import ("fmt"; "io"; "net/http")
func main() {
    reply, err := http.Get("URL")
    if err != nil { fmt.Println(err); return }
    body, _ := io.ReadAll(reply.Body)
    fmt.Println(string(body))
}
"""


def more_programs(world: World, python: str, url: str) -> list[Any]:
    """What takes more than a line: SDKs, a compiled program, a browser. If they are there."""
    from invariant_addon.interception.runtimes import Runtime

    code = f"import openai; print(openai.OpenAI(api_key='x')._client.get({url!r}).text)"
    found = [Runtime("openai-python (first)", (python, "-c", code), ("openai",))]
    if other := os.environ.get("WORLD_PYTHON_2"):
        found.append(Runtime("openai-python (second)", (other, "-c", code), ("openai",)))
    if shutil.which("go"):
        source = world.folder / "get.go"
        source.write_text(GO.replace("URL", url))
        env = {**os.environ, "GOCACHE": str(world.folder / "go"), "GO111MODULE": "off"}
        binary = str(world.folder / "get")
        subprocess.run(["go", "build", "-o", binary, source], check=True, env=env, timeout=240)
        found.append(Runtime("go net/http", (binary,)))
    browser = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", url)
    return [*found, Runtime("chromium", browser)]


VERBS = {"rows": rows, "system": system, "nft": nft, "table": table}

if __name__ == "__main__":
    here = Path(sys.argv[2])
    print(json.dumps(VERBS[sys.argv[1]](World(here))), flush=True)
    os._exit(0)  # its servers wait for ever

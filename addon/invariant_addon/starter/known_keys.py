"""Text -> where it holds keys and tokens whose form says what they are, and private keys.

Beginnings and lengths are the issuers' own (their documentation, and what gitleaks and
detect-secrets collected of it); the kinds are the names that rules use.

A finding never depends on what follows it: see secrets.py. Lengths are therefore the shortest that
is issued: a longer token is found by its first part, and then covered to its end (`whole`).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator

type Span = tuple[int, int]
type Search = Callable[[str], Iterator[Span]]

_PEM_WINDOW = 2000
_PEM_LONGEST = 2**16
"""Characters up to the END line; an RSA key of 16384 bits has about 13,000."""
_PEM_BODY = 60
"""Base64 characters: an Ed25519 key has 64, what documentation shows before its dots has fewer."""
_MAX_JWT_PART = 4096

_STAND_IN = re.compile(
    r"example|your|placeholder|dummy|redacted|changeme|replace|insert|sample|fake|secret|"
    r"[x*.]{5}|12345678|abcdefgh|0123456|(.)\1{6}",
    re.IGNORECASE | re.DOTALL,
)
_PUBLISHED = re.compile(
    r"16C7e42F292c6912E77|1B4a2e77838347a7E420|"  # docs.github.com
    r"2YotnFZFEjr1zCsi|tGzv3JOkF0XG5Qx2|gX1fBat3bV|7Fjfp0ZBr1KtDRbn|"  # RFC 6749
    r"Eby8vdM02xNOcqFlqUwJ|C2y6yDjf5/R.ob0N8A7C|"  # the emulators of Azure Storage and Cosmos DB
    r"DaGmWKa4JsXZ-HjGw7IS|pdFZKVeTuE8sk7oOcHrz|HdqTcvCH1vGWJxfSeofS"  # Google, Slack, Telegram
)


def is_stand_in(text: str) -> bool:
    """Whether documentation writes this in the place of a secret."""
    return _STAND_IN.search(text) is not None or _PUBLISHED.search(text) is not None


def whole(text: str, found: Iterable[Span], rest: re.Pattern[str]) -> Iterator[Span]:
    """Each to the end of what goes on there, so that masking it leaves nothing of it.

    found: in order; what lies in one that was covered already is none of its own.
    """
    covered = 0
    for start, end in found:
        if end <= covered:
            continue
        following = rest.match(text, end)
        covered = following.end() if following else end
        while covered > end and text[covered - 1] in ".:!?":  # the end of a sentence
            covered -= 1
        yield start, covered


def count_digits(text: str) -> int:
    return len(_DIGIT.findall(text))


def is_token(body: str) -> bool:
    return len(set(body)) >= min(8, len(body) // 2) and not is_stand_in(body)


_ANY, _ALNUM, _HEX, _BASE64 = "[A-Za-z0-9_-]", "[A-Za-z0-9]", "[0-9a-f]", "[A-Za-z0-9+/]"
_TOKENS: dict[str, dict[str, str]] = {
    "openai": {
        **{f"sk-{kind}-": _ANY + "{32}" for kind in ("proj", "svcacct", "admin")},
        "sk-": _ALNUM + "{32}",
    },
    "openrouter": {"sk-or-v1-": _HEX + "{64}"},
    "anthropic": {"sk-ant-": _ANY + "{32}"},
    "groq": {"gsk_": _ALNUM + "{48}"},
    "xai": {"xai-": _ALNUM + "{60}"},
    "perplexity": {"pplx-": _ALNUM + "{40}"},
    "replicate": {"r8_": _ALNUM + "{37}"},
    "huggingface": {"hf_": _ALNUM + "{34}"},
    "langchain": dict.fromkeys(("lsv2_pt_", "lsv2_sk_"), _HEX + "{32}"),
    "nvidia": {"nvapi-": _ANY + "{60}"},
    "tavily": {"tvly-": _ANY + "{28}"},
    "github": {
        **{f"gh{letter}_": _ALNUM + "{36}" for letter in "pousr"},
        "github_pat_": "[A-Za-z0-9_]{40}",
    },
    "gitlab": {
        f"gl{kind}-": _ANY + "{20}"
        for kind in ("pat", "dt", "rt", "ptt", "cbt", "oas", "soat", "ft", "imt", "agent", "ffct")
    },
    "aws": dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA"), "[A-Z0-9]{16}"),
    "azure": {
        "AccountKey=": _BASE64 + "{86}==",
        "SharedAccessKey=": _BASE64 + "{43}=",
    },
    "google": {"AIza": _ANY + "{35}", "GOCSPX-": _ANY + "{28}", "ya29.": _ANY + "{60}"},
    "cloudflare": {
        **dict.fromkeys(("cfk_", "cfut_", "cfat_"), _ALNUM + "{40}"),
        "v1.0-": _HEX + "{24}-" + _HEX + "{146}",
    },
    "digitalocean": {f"do{letter}_v1_": _HEX + "{64}" for letter in "por"},
    "databricks": {"dapi": _HEX + "{32}"},
    "vault": {f"hv{letter}.": _ANY + "{24}" for letter in "sbr"},
    "doppler": {f"dp.{kind}.": _ALNUM + "{40}" for kind in ("pt", "ct", "sa", "scim", "audit")},
    "pulumi": {"pul-": _HEX + "{40}"},
    "tailscale": {
        f"tskey-{kind}-": _ALNUM + "{8,20}+-" + _ALNUM + "{30}"
        for kind in ("auth", "api", "client")
    },
    "netlify": {"nfp_": _ALNUM + "{36}"},
    "supabase": {"sbp_": _HEX + "{40}", "sb_secret_": _ANY + "{31}"},
    "slack": {
        **{f"xox{letter}-": "[A-Za-z0-9-]{24}" for letter in "abcdeoprs"},
        "xapp-": "[0-9]-[A-Za-z0-9-]{24}",
        "hooks.slack.com/services/T": r"[A-Z0-9]{8,12}+/B[A-Z0-9]{8,12}+/[A-Za-z0-9]{20}",
    },
    "discord": {"discord.com/api/webhooks/": "[0-9]{17,20}+/" + _ANY + "{60}"},
    "stripe": {
        **dict.fromkeys(("sk_live_", "rk_live_"), _ALNUM + "{24}"),
        "whsec_": _ALNUM + "{24}",
    },
    "square": {
        "sq0atp-": _ANY + "{22}",
        "sq0csp-": _ANY + "{43}",
        **dict.fromkeys(("EAAAl", "EAAAE"), _ANY + "{59}"),
    },
    "shopify": {f"shp{kind}_": "[0-9A-Fa-f]{32}" for kind in ("at", "ca", "pa", "ss")},
    "twilio": {"SK": _HEX + "{32}"},
    "sendgrid": {"SG.": _ANY + "{22}[.]" + _ANY + "{43}"},
    "mailgun": {"key-": _HEX + "{32}"},
    "resend": {"re_": _ALNUM + "{8}_" + _ALNUM + "{24}"},
    "linear": {"lin_api_": _ALNUM + "{40}"},
    "notion": {"ntn_": _ALNUM + "{40}", "secret_": _ALNUM + "{43}"},
    "airtable": {"pat": _ALNUM + "{14}[.]" + _HEX + "{64}"},
    "atlassian": dict.fromkeys(("ATATT3", "ATCTT3"), "[A-Za-z0-9_=-]{150}"),
    "figma": {"figd_": _ANY + "{40}"},
    "postman": {"PMAK-": _HEX + "{24}-" + _HEX + "{34}"},
    "grafana": {"glsa_": _ALNUM + "{32}_[0-9A-Fa-f]{8}", "glc_eyJ": _BASE64 + "{40}"},
    "newrelic": {"NRAK-": "[A-Z0-9]{27}"},
    "sentry": {"sntrys_eyJ": _BASE64 + "{60}", "sntryu_": _HEX + "{64}"},
    "npm": {"npm_": _ALNUM + "{36}"},
    "pypi": {"pypi-AgE": _ANY + "{60}"},
    "rubygems": {"rubygems_": _HEX + "{48}"},
    "docker": dict.fromkeys(("dckr_pat_", "dckr_oat_"), _ANY + "{27}"),
    "age": {"AGE-SECRET-KEY-1": "[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"},
}
_WITH_MIDDLE = {
    "azure": {"Q~": (r"[A-Za-z0-9_~.]{3}[0-9]", r"[A-Za-z0-9_~.-]{31}")},  # of an application
    "telegram": {":AA": ("[0-9]{8}", _ANY + "{33}")},
    "terraform": {".atlasv1.": (_ALNUM + "{14}", _ANY + "{60}")},
}
"""Kind -> what is known of a token in its middle -> what stands before it, and after."""
_BEFORE_MIDDLE = {
    "Q~": re.compile(r"[A-Za-z0-9_~.]{4}\Z"),
    ":AA": re.compile(r"[0-9]*\Z"),
    ".atlasv1.": re.compile(r"[A-Za-z0-9]*\Z"),
}
"""Where such a token begins, in the _MAX_BEFORE characters before its middle."""

_REST = re.compile(_ANY + "*+")
_REST_OF = {
    **dict.fromkeys(
        ("azure", "atlassian", "grafana", "sentry"), re.compile(r"[A-Za-z0-9+/=_~.-]*+")
    ),
    "gitlab": re.compile(_ANY + r"*+(?:\.[0-9a-z]{2}\.[0-9a-z]{7,9})?"),
    "slack": re.compile("[A-Za-z0-9+/=%_-]*+"),  # xoxd-... is a cookie's value
}
"""What a token may go on with after the part that it was found by."""
_MAX_BEFORE = 16

_DIGIT = re.compile("[0-9]")
_WITHOUT_DIGITS = {"AKIA", "hf_"}
"""Whose tokens may well have no digit. Elsewhere that is a word: ASIAPACIFIC..., sk-your-key-..."""
_BEFORE = {
    # The id in a signed address is no key: each download from a release shows one.
    **dict.fromkeys(("AKIA", "ASIA"), re.compile(r"(?<!credential=)(?<!credential%3d)\Z")),
    # These forms alone are the names of caches, and pieces of images.
    "key-": re.compile(r"mailgun[^\n]{0,99}\Z|\bapi:\Z"),
    **dict.fromkeys(("EAAAl", "EAAAE"), re.compile(r"(?<![+/=])\Z")),
}
"""What must stand before a token, in lower case."""


def _token(beginning: str, body: str) -> re.Pattern[str]:
    """Both of fixed length, so that a match is complete or not there. The beginning comes first,
    so that `re` can search for it; what must not stand before it is looked at afterwards."""
    b = re.escape(beginning)
    hexadecimal = "[0-9A-Fa-f]{2}"
    before = (
        rf"(?:(?<![A-Za-z0-9]{b})"
        # A letter may be the end of an escape: \nsk-..., \u0022sk-..., %3Dsk-...
        rf"|(?<=\\[nrt]{b})|(?<=\\u00{hexadecimal}{b})|(?<=%{hexadecimal}{b}))"
    )
    return re.compile(b + before + body)


def _tokens(kind: str) -> Search:
    patterns = [(start, _token(start, body)) for start, body in _TOKENS.get(kind, {}).items()]
    for middle, (before, after) in _WITH_MIDDLE.get(kind, {}).items():
        m = re.escape(middle)
        patterns.append((middle, re.compile(f"{m}(?<={before}{m}){after}")))

    def search(text: str) -> Iterator[Span]:
        for start, pattern in patterns:
            if start in text:
                found = _beginnings(text, start, pattern)
                yield from whole(text, found, _REST_OF.get(kind, _REST))

    return search


def _beginnings(text: str, start: str, pattern: re.Pattern[str]) -> Iterator[Span]:
    """The part of each token that says what it is. start: how a match begins."""
    before = _BEFORE.get(start)
    for match in pattern.finditer(text):
        body = match[0].removeprefix(start)
        if not is_token(body) or not (start in _WITHOUT_DIGITS or count_digits(body)):
            continue
        at, end = match.span()
        if before and not before.search(text[max(0, at - 120) : at].lower()):
            continue
        if start == "AIza" and _is_of_firebase(text, at, end):
            continue
        if first := _BEFORE_MIDDLE.get(start):
            at -= len(first.search(text[max(0, at - _MAX_BEFORE) : at])[0])  # type: ignore[index]
        yield at, end


_LIKELY = [
    (start, re.compile(re.escape(start) + body))
    for starts in _TOKENS.values()
    for start, body in starts.items()
] + [
    (middle, re.compile(re.escape(middle) + after))
    for middles in _WITH_MIDDLE.values()
    for middle, (_, after) in middles.items()
]
_LIKELY.append(("eyJ", re.compile(rf"eyJ{_ANY}{{8,}}+\.{_ANY}{{8,}}+\.{_ANY}{{16}}")))


_LIKELY_IN_BASE64 = [each for each in _LIKELY if re.fullmatch("[A-Za-z0-9+/=]+", each[0])]


def may_hold_token(text: str, *, is_base64: bool = False) -> bool:
    """Whether a token may be in it, whatever stands before it: yes too often, and quick.

    is_base64: there is nothing else in it."""
    likely = _LIKELY_IN_BASE64 if is_base64 else _LIKELY
    return any(start in text and pattern.search(text) is not None for start, pattern in likely)


# Firebase: https://firebase.google.com/docs/projects/api-keys says that these keys are public.

_FIREBASE = re.compile(r"firebase|authdomain|projectid|messagingsenderid|current_key")
_API_KEY = re.compile(r"apikey[\\\"']{0,5}\s{0,4}[:=]\s{0,4}[\\\"'`]{1,5}\Z")
_FIELD = re.compile(r"[\\\"'`]{1,5}(?:,(?:\\+[nrt]|[\s\"'\\]){0,60}([A-Za-z]{4})|[^\s\\\"'`,])")


def _is_of_firebase(text: str, start: int, end: int) -> bool:
    """Whether its neighbours say so. The next field must be there to be read: until then nothing
    is said, because a finding has to stay one."""
    before = text[max(0, start - 400) : start].lower()
    if _FIREBASE.search(before):
        return True
    if not _API_KEY.search(before):
        return False
    following = _FIELD.match(text, end, end + 80)
    if following is None:
        return len(text) < end + 80
    return following[1] in ("auth", "proj", "data", "stor", "mess")


# PEM: https://www.rfc-editor.org/rfc/rfc7468, and the files of PuTTY

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}?PRIVATE KEY(?: BLOCK)?-----|\nPrivate-Lines: \d")
_PEM_BREAKS = re.compile(r"\\+[nrt]|[\s\\\"'+,]")
_PEM_RUN = re.compile(rf"[A-Za-z0-9/=]{{{_PEM_BODY}}}")
_PEM_END = re.compile(r"-----(?:E\Z|EN\Z|END\Z|END [A-Z0-9 ]{0,60}+-{0,5})")
_PEM_REST = re.compile(r"[A-Za-z0-9+/=]*+(?:(?:\\++[nrt]|[\s\\\"'+,>|])*+[A-Za-z0-9+/=]{16,}+)*+")


def _private_keys(text: str) -> Iterator[Span]:
    for match in _PEM.finditer(text.replace("\\nPrivate-L", " \nPrivate-L")):
        start = match.end()
        end = text.find("-----", start, start + _PEM_WINDOW)
        body = text[start : end if end >= 0 else start + _PEM_WINDOW]
        # Line breaks, also as JSON or source code writes them.
        runs = _PEM_RUN.findall(_PEM_BREAKS.sub("", body))
        if any(len(set(run)) >= 12 for run in runs):
            yield match.start(), _end_of_pem(text, start, start + len(body))


def _end_of_pem(text: str, start: int, seen: int) -> int:
    """After the END line; without one, where the base64 ends. seen: it goes this far in any case.

    Before a PEM's END there is no other line of dashes.
    """
    dashes = text.find("-----", start, start + _PEM_LONGEST)
    if dashes >= 0 and (end := _PEM_END.match(text, dashes)):
        return end.end()
    following = _PEM_REST.match(text, seen)
    return following.end() if following else seen


# JWT: https://www.rfc-editor.org/rfc/rfc7519

_JWT = _token("eyJ", rf"(?<![_-]eyJ)(?=({_ANY}{{8,}}+)\.({_ANY}{{8,}}+)\.{_ANY}{{16}})")
_JWT_REST = re.compile(rf"{_ANY}*+(?:\.{_ANY}{{16,}}+)*+")  # an encrypted one has five parts
_JWT_SHOWN: list[dict[str, object]] = [
    {"sub": "1234567890"},  # jwt.io
    {"loggedInAs": "admin", "iat": 1422779638},  # Wikipedia
    {"iss": "joe", "exp": 1300819380},  # RFC 7519
    {"iss": "supabase-demo"},  # each local Supabase has these two
    {"iss": "supabase", "role": "anon"},  # meant for web pages, as Firebase's key is
    {"aud": "release-assets.githubusercontent.com"},  # in the address of each download
]
"""Claims of those that are published."""


def _jwts(text: str) -> Iterator[Span]:
    if "eyJ" in text:
        yield from whole(text, _beginnings_of_jwts(text), _JWT_REST)


def _beginnings_of_jwts(text: str) -> Iterator[Span]:
    for match in _JWT.finditer(text):
        header, payload = _object("eyJ" + match[1]), _object(match[2])
        if "alg" not in header:
            continue
        if not any(shown.items() <= payload.items() for shown in _JWT_SHOWN):
            yield match.start(), match.end(2) + 17


def _object(part: str) -> dict[str, object]:
    """What a part of a token says, without what is in lists; nothing, if it cannot be read."""
    if len(part) > _MAX_JWT_PART:
        return {}
    try:
        held = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return {}
    if not isinstance(held, dict):
        return {}
    return {k: v for k, v in held.items() if isinstance(v, str | int | None)}


SEARCHES: dict[str, Search] = {
    **{kind: _tokens(kind) for kind in {**_TOKENS, **_WITH_MIDDLE}},
    "jwt": _jwts,
    "private_key": _private_keys,
}

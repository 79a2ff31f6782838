"""Text -> where it holds API keys, private keys and passwords.

Keys that are known by their form are in known_keys.py; here are values that are secret because of
what stands before them: a name, an option of a command, a login. values.py judges them.

A finding never depends on what follows it: each is decided by a window of fixed size after a known
beginning, or by what stands between two marks that are both there. So text added at the end adds
findings and takes none away (engines/finality.py relies on it), and time is linear. How far a
finding goes is another matter: it covers the whole value, and grows with it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from . import known_keys
from .beginnings import LOGIN, Judge, bare, chance, given_password, is_login, login_in_base64
from .known_keys import Search, Span, is_token, whole
from .values import SIZES, UUID, begins_like_chance, has_all_classes, is_given_password, is_password

MAX_SPANS = 16
"""Places of one kind in one text that are named: the first is reason enough."""


def find(text: str, kinds: Collection[str]) -> Iterator[Span]:
    """Start and end of what was found, kind by kind. ValueError: there is no such kind."""
    for kind in kinds:
        search = SEARCHES.get(kind)
        if search is None:
            raise ValueError(f"no such kind of secret: {kind}")
        for _, span in zip(range(MAX_SPANS), search(text), strict=False):
            yield span


def is_named_secret(name: str, value: str) -> bool:
    """Whether this is the value of a password, a key or a token, going by both."""
    lower = _lower(name[-64:])
    word = _WORD_END.search(lower)
    if word is None or not _is_name(lower, word.start(), word[0]):
        return False
    # As if it stood in a text, between its quotes.
    quoted = f"{name[-64:]}='{value[:400]}'"
    start = len(name[-64:]) + 2
    found = _value(quoted, start, word[0], quote=True, upper=False, before=lower)
    return found is not None


# names

_WORDS = r"secret|pass(?:word|wd|phrase)?|pwd|authorization|key(?:_base)?|token"
_WORD = re.compile(
    rf"{_WORDS}|bearer(?=[ ])|auth(?=\\{{0,4}}[\"'])|(?<=[ ])-[pau](?=[\\ '\"!-~])"
    r"|(?<=[ ]--)user(?=[ =])|:5432:"
)
_WORD_END = re.compile(rf"(?:{_WORDS})\Z")
_KEY_OF = re.compile(
    r"(?:api|access|secret|private|auth|account|master|signing|storage|encryption|openai|fernet|jwt"
    r"|app|license|subscription|supabase|role)[_ -]?\Z"
)
_TOKEN_OF = re.compile(
    r"(?:access|auth|api|bearer|refresh|personal|private|bot|deploy|npm|github|gitlab)[_ -]?\Z"
)
_OTHER_TOKEN = re.compile(
    r"(?:csrf|xsrf|next|page|continuation|sync|cancel|cancellation|client|device|push|fcm|resume|"
    r"registration|resumption|upload|lock|pagination|start|end|stop|pad|eos|bos|unk|mask|sep|cls|"
    r"special|security|request|idempotency|public|verification|authenticity)[_ -]\Z|"
    r"(?:[^a-z0-9:]|\A)_\Z|[a-z]\Z"
)
"""Tokens that open nothing: against forged forms, for the next page, of a language model."""
_ESCAPES = ("\\n", "\\r", "\\t")
_DEFAULT_OF = re.compile(r"\$\{\w{0,60}\Z")


def _is_name(lower: str, at: int, word: str) -> bool:
    before = lower[max(0, at - 20) : at]
    if before.endswith(_ESCAPES):
        before = ""
    if word.startswith("key"):
        return _KEY_OF.search(before) is not None
    if word == "token":
        return _TOKEN_OF.search(before) is not None or _OTHER_TOKEN.search(before) is None
    return word != "pass" or not before[-1:].isalpha()


# what stands between a name and its value

_GAP = re.compile(r"\\{0,4}[\"'`]?\]?[ \t]{0,8}(?:=>|:=|[:=>])[ \t]{0,8}")
_QUOTE = re.compile(r"\\{0,4}[\"'`]")
_QUOTED_GAPS = [
    re.compile(r"\\{0,4}[\"'`],[ ]{0,2}"),  # ("NAME", "value")
    re.compile(r"[?!]?:[ ]?[A-Za-z][A-Za-z0-9_.\[\] |]{2,24}?[ ]?=[ ]?"),  # name: str = "value"
]
_PAIR_GAP = re.compile(  # name: NAME, value: ...
    r"\\{0,4}[\"']?(?:,|\s|\\[nr]){1,40}\\{0,4}[\"']?value\\{0,4}[\"']?[ ]{0,4}[:=][ ]{0,4}"
)
_IS = re.compile(r"[ ]is:?[ ]")
_SPACE = re.compile(r"[ ]{1,4}")
_OPTION = re.compile(r"(?:--(?:[a-z0-9]{1,16}-){0,3}|(?:\b|\\n)set[ ]-\w{1,3}[ ]\w{0,20})\Z")
_NETRC = re.compile(r"\blogin\s{1,4}\S{1,64}\s{1,8}\Z")
_SCHEME = re.compile(r"(?:bearer|token|bot|apikey)[ ]{1,4}|base64:", re.IGNORECASE)
_BASIC = re.compile(r"basic[ ]{1,4}", re.IGNORECASE)


def _named(text: str) -> Iterator[Span]:
    yield from whole(text, _beginnings(text), _REST)
    yield from _logins(text)


_REST = re.compile(r"(?:[^\s\"'`\\&;,(){}<>|\[\]]|\\{1,4}+(?:/|u00[2-7][0-9A-Fa-f]))*+")
"""What a value may go on with; JSON in a text escapes some of it."""


def _beginnings(text: str) -> Iterator[Span]:
    lower = _lower(text)
    for match in _WORD.finditer(lower):
        at, end = match.span()
        word = match[0]
        if word[0] in "-:u":
            found = _after_option(text, at, word)
        elif word == "bearer":
            found = chance(text, end + 1, SIZES)
        elif word == "auth":
            found = _after_auth(text, end)
        elif not lower.startswith(_FOLLOW, end) or not _is_name(lower, at, word):
            continue
        elif _DEFAULT_OF.search(lower, max(0, at - 64), at):
            continue  # ${PASSWORD:-for development}
        else:
            found = _after_name(text, lower, at, end, word)
        if found and not _is_harmless(lower, at, found):
            yield found


_FOLLOW = tuple("\\\"'`] \t\n\r:=>?!,")


def _after_name(text: str, lower: str, at: int, end: int, word: str) -> Span | None:
    upper = text[at:end].isupper()
    before = lower[max(0, at - 80) : at]

    def value(start: int, quoted: bool, *, given: bool = False) -> Span | None:
        quote = _QUOTE.match(text, start)
        if quoted and quote is None:
            return None
        return _value(
            text,
            quote.end() if quote else start,
            word,
            quote=quote is not None,
            upper=upper,
            given=given,
            before=before,
        )

    following = text[end : end + 1]
    found = None
    if gap := _GAP.match(text, end):
        found = value(gap.end(), False)
    if not found and following in ",\"'`\\:?!":
        for pattern in _QUOTED_GAPS:
            if not found and (gap := pattern.match(text, end)):
                found = value(gap.end(), True)
    if not found and following in ",\"'\\ \r\n" and (gap := _PAIR_GAP.match(lower, end)):
        found = value(gap.end(), False)
    if not found and following.isspace():
        if word.startswith("pass") and (gap := _IS.match(lower, end)):
            found = bare(text, gap.end(), lambda v: is_password(v, plain=False))
        elif (gap := _SPACE.match(text, end)) and _OPTION.search(before):
            found = value(gap.end(), False, given=True)
        if not found and word == "password" and _NETRC.search(before):
            found = value(end + 1, False, given=True)
    return found


def _value(
    text: str,
    start: int,
    word: str,
    *,
    quote: bool,
    upper: bool,
    before: str,
    given: bool = False,
) -> Span | None:
    """The secret that begins here, if it is one.

    quote: after a quotation mark. upper: after NAME. given: after an option, so that it is a value
    in any case. before: what stands before the name's last word.
    """
    if word == "authorization" and (basic := _BASIC.match(text, start)):
        return login_in_base64(text, basic.end())
    if scheme := _SCHEME.match(text, start):
        start = scheme.end()
    if not _DIGIT_SOON.match(text, start):
        return None  # as nearly every time
    judge: Judge = is_given_password if given else is_password
    sizes: tuple[int, ...] = SIZES
    if word == "token" and not upper and not given and not _TOKEN_OF.search(before):
        sizes = SIZES[1:]  # in programs, a token is a word, too
    elif quote:
        if (whole := _QUOTED.match(text, start)) and judge(whole[1]):
            return whole.span(1)
    elif given or upper:
        if found := bare(text, start, judge):
            return found
    elif found := bare(text, start, lambda v: is_password(v, plain=False)):
        return found
    if word == "token" and text.startswith("0x", start):
        return None  # a contract's address
    if "heroku" in before and (whole := UUID.match(text, start)):
        return whole.span()
    return chance(text, start, sizes)


_DIGIT_SOON = re.compile(r"[^\s\"'`0-9]{0,60}+[0-9]|[A-Za-z+/]{12,60}+={1,2}+[^=A-Za-z]")
_QUOTED = re.compile(r"([^\s\"'`\\]{8,200}+)\\{0,4}[\"'`]")


_PUBLIC_BEFORE = re.compile(r"algolia|docsearch|appid")


def _is_harmless(lower: str, at: int, found: Span) -> bool:
    """Whether it is made to be published: sealed, or for searching from a web page."""
    if lower.startswith("ag", found[0]) and "encrypteddata" in lower[max(0, at - 3000) : at]:
        return True
    return lower.startswith("key", at) and bool(_PUBLIC_BEFORE.search(lower, max(0, at - 200), at))


# logins

_PROGRAMS = {
    "-p": re.compile(r"\b(?:mysql\w*|mariadb[\w-]*|sshpass|mongo\w*)\b"),
    "-p ": re.compile(r"\b(?:sshpass|(?:docker|podman|oc|az|registry|helm)[ ]login|mongo\w*)\b"),
    "-a ": re.compile(r"\bredis-cli\b"),
    "-u": re.compile(r"\bcurl\b"),
    "-u ": re.compile(r"\bcurl\b"),
    "user ": re.compile(r"\bcurl\b"),
    "user=": re.compile(r"\bcurl\b"),
}
"""Option -> the programs to which it gives a password, or (-u, --user) a login."""
_SHELL_USER = re.compile(r"[^\s:\"'`\\$]{0,64}:")
_PG_USER = re.compile(r"[^\s:/?@]{1,64}:[^\s:/@]{1,64}:")  # ~/.pgpass


def _logins(text: str) -> Iterator[Span]:
    for match in LOGIN.finditer(text):
        word = match["word"]
        if is_login(match) and (is_password(word) or begins_like_chance(word)):
            yield match.span("word")


def _after_option(text: str, at: int, option: str) -> Span | None:
    start = at + len(option)
    if option == ":5432:":
        user = _PG_USER.match(text, start)
        return given_password(text, user.end()) if user else None
    if text.startswith((" ", "="), start):
        option += text[start]
        start += 1
    programs = _PROGRAMS.get(option)
    if programs is None:
        return None
    if quote := _QUOTE.match(text, start):
        start = quote.end()
    if "u" in option:
        user = _SHELL_USER.match(text, start)
        if user is None:
            return None
        start = user.end()
    found = given_password(text, start)
    if not found:
        return None
    line = text[max(0, at - 200) : at].replace("\\n", "\n").rpartition("\n")[2]
    return found if programs.search(line) else None


def _after_auth(text: str, end: int) -> Span | None:
    gap = _GAP.match(text, end)
    quote = _QUOTE.match(text, gap.end()) if gap else None
    return login_in_base64(text, quote.end()) if quote else None


# Amazon's secret keys have no beginning of their own

_AWS_NAMED = re.compile(
    r"secret[_-]?(?:access[_-]?)?key\\{0,4}[\"']?\]?"
    r"[ \t]{0,8}(?:=>|:=|[:=> ])[ \t]{0,8}\\{0,4}[\"'`]?"
)
_AWS_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")
_AWS_REST = re.compile(r"(?:[A-Za-z0-9/+=]|\\/)*+")


def _aws(text: str) -> Iterator[Span]:
    yield from known_keys.SEARCHES["aws"](text)
    yield from whole(text, _aws_secrets(text), _AWS_REST)


def _aws_secrets(text: str) -> Iterator[Span]:
    for match in _AWS_NAMED.finditer(_lower(text)):
        start = match.end()
        value = _AWS_SECRET.match(text[start : start + 60].replace("\\/", "/"))
        if value and has_all_classes(value[0]) and is_token(value[0]):
            yield start, start + 40


def _lower(text: str) -> str:
    """As long as the text: these two are the only ones that would become longer, or ASCII."""
    return text.replace("\u0130", "\u0131").replace("\u212a", "\u0138").lower()


SEARCHES: dict[str, Search] = {**known_keys.SEARCHES, "aws": _aws, "named": _named}

"""A value -> whether it looks like a secret: like somebody's password, or like chance.

This knows nothing of where the value stands. What decides "begins like" looks at a beginning of
fixed length and stays true whatever follows; the others want the whole value (see secrets.py).
"""

from __future__ import annotations

import base64
import binascii
import re

from .known_keys import count_digits, is_stand_in

SIZES = (20, 32, 40)
"""A value is random if its first so many characters are: each length is decided for itself."""
WINDOW = re.compile(rf"[A-Za-z0-9+/=_-]{{{SIZES[0]},{SIZES[-1]}}}")
UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){2}", re.IGNORECASE)

# Small and capital letters, digits; the rest of ASCII is left out.
_CLASSES = {
    c: "a" if chr(c).islower() else "A" if chr(c).isupper() else "0" if chr(c).isdigit() else ""
    for c in range(128)
}
_SAME = re.compile(r"a+|A+|0+")
_PLAIN = re.compile(r"[A-Za-z0-9_-]+")
_SLUG = re.compile(r"[a-z]{2,}[-_][a-z]")
_SPECIAL = re.compile(r"[!@#$%^&*?~]")
_TEMPLATE = re.compile(r"[$%#{]\{|\{\{|%\(|[<>()\[\]\s]|://|\*\*\*|\.\.\.|@[\w-]{2,40}\.[a-z]{2}")
_VARIABLE = re.compile(r"\$[A-Za-z_][A-Za-z0-9_]*")
_LEET = str.maketrans("0134579@$", "oieastgas")
_TRIED = re.compile(
    r"pass|secret|admin|test|demo|mock|default|dummy|qwert|letmein|foo|valid|strong|secure|wrong|"
    r"login|welcome|change|user|hello|masked|must"
)
"""Words in the passwords of tests, tutorials and defaults; also written with digits: P@ssw0rd."""
_COUNTED = re.compile(r"123|abcd|xxx|asdf", re.IGNORECASE)
_HASH = re.compile(
    r"\$+(?:2[abxy]?|[156y]|argon2\w{0,2}|scrypt|pbkdf2[\w-]{0,12}|apr1)\$|"
    r"(?:pbkdf2|argon2|bcrypt|scrypt|sha\d{1,3}|md5|scram-sha)[\w-]{0,12}[$:-]|"
    r"\{(?:s?sha|crypt|bcrypt|ssha)\d{0,3}\}",
    re.IGNORECASE,
)
"""https://passlib.readthedocs.io/en/stable/modular_crypt_format.html, and digests of files."""
PUBLIC = re.compile(r"AIza|[psr]k_test_|pk_live_|phc_|sb_publishable_")
_OPERATOR = re.compile(r"[!=]=|&&|\|\||\?[.?]|[-=]>|::|\+\+|[/:@]")


def is_password(value: str, *, plain: bool = True) -> bool:
    """Whether somebody's password looks like this, and no name, path, template, hash or default.

    plain: also one of letters and digits only.
    """
    if _HASH.match(value):
        return False
    value = _VARIABLE.sub("", value)
    if len(value) < 10 or len(set(value)) < 8 or _is_shown(value):
        return False
    if _SPECIAL.search(value):
        return has_all_classes(value) and changes(value) >= 3
    if not plain or len(value) < 12 or not _PLAIN.fullmatch(value) or UUID.match(value):
        return False
    if _SLUG.match(value) and not has_all_classes(value):
        return False
    return count_digits(value) >= 2 and changes(value) >= 6


def is_given_password(value: str) -> bool:
    """The same where nothing but a password can stand, so that a shorter one will do."""
    if len(value) < 8 or len(set(value)) < 6 or value.startswith("$"):
        return False
    if _is_shown(_VARIABLE.sub("", value)):
        return False
    marks = 1 if _SPECIAL.search(value) else 0
    return len(set(value.translate(_CLASSES))) + marks >= 3 and changes(value) >= 3 - marks


def begins_like_password(value: str) -> bool:
    """Whether a beginning of it is a password already, and no program would go on like this."""
    value = _VARIABLE.split(value[:32])[0]
    if not _SPECIAL.search(value) or not has_all_classes(value):
        return False
    # Each of these stays once it is so: the first beginning that has them all decides.
    for size in range(10, len(value) + 1):
        start = value[:size]
        if (
            _SPECIAL.search(start)
            and len(set(start)) >= 8
            and has_all_classes(start)
            and changes(start) >= 3
        ):
            return not _OPERATOR.search(start) and is_password(start, plain=False)
    return False


def begins_like_chance(value: str, sizes: tuple[int, ...] = SIZES) -> bool:
    """Whether it begins as no word and no name in a program does: letters and digits, mixed."""
    if UUID.match(value) or _HASH.match(value) or PUBLIC.match(value):
        return False
    return any(_is_mixed(value[:size], size) for size in sizes)


def decoded(value: str) -> str | None:
    """The text that it is in base64, if it is one: of chance, 15 letters in a row do not come."""
    try:
        text = base64.b64decode(value[:20], validate=True).decode("ascii")
        if not text.isprintable() or len(text) < 8:
            return None
        whole = value + "=" * (-len(value) % 4)
        return base64.b64decode(whole, validate=True).decode("utf-8", "replace")
    except (ValueError, binascii.Error):
        return None


def has_all_classes(text: str) -> bool:
    return {"a", "A", "0"} <= set(text.translate(_CLASSES))


def changes(text: str) -> int:
    """How often the next letter or digit is of another class than the last one."""
    return len(_SAME.findall(text.translate(_CLASSES))) - 1


def _is_shown(value: str) -> bool:
    lower = value.lower()
    return (
        _TRIED.search(lower) is not None
        or _TRIED.search(lower.translate(_LEET)) is not None
        or _TEMPLATE.search(value) is not None
        or _COUNTED.search(value) is not None
        or PUBLIC.match(value) is not None
        or is_stand_in(value)
    )


def _is_mixed(window: str, size: int) -> bool:
    return (
        len(window) == size
        and count_digits(window) >= 2
        and len(set(window)) >= 9
        and changes(window) >= size * 7 // 20
        and not is_stand_in(window)
    )

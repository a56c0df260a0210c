"""What is sent as a key: made, checked for being whole, and reduced to what is kept of it.

``gs_``, 43 digits of base 62, and 6 that check them. The first part is 256 random bits. With
the prefix and the check, a scanner that looks for secrets finds one that was published, and
nothing else: ``gs_[0-9A-Za-z]{49}``.

What is kept is the SHA-256 of the whole. A slow or salted hash protects what people choose and
repeat; here whoever has the file would have to try 2²⁵⁶ numbers, whatever each of them costs,
and the service hashes with every request. SHA-256, since every machine has it:
``printf %s "$KEY" | sha256sum``.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib

_PREFIX = "gs_"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM = 43
_CHECK = 6
_FORM = re.compile(rf"{_PREFIX}[0-9A-Za-z]{{{_RANDOM + _CHECK}}}")


def make() -> str:
    """Return a new key."""
    begun = _PREFIX + _base62(secrets.randbits(256), _RANDOM)
    return begun + _check(begun)


def is_whole(token: str) -> bool:
    """Say whether this is a key, with no character lost or changed."""
    if not _FORM.fullmatch(token):
        return False
    return token[-_CHECK:] == _check(token[:-_CHECK])


def digest(token: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def _check(begun: str) -> str:
    return _base62(zlib.crc32(begun.encode()), _CHECK)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))

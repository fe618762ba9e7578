"""Who may use the app where it asks: user names and passwords, and HTTP's Basic authentication."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path


def users_of(auth: str) -> dict[str, str]:
    """Passwords by user name from `user:password`, or from a file of them, one a line.

    Empty lines and lines that begin with # are left out; empty text is nobody. ValueError if it is
    neither.
    """
    if not auth:
        return {}
    is_file = Path(auth).is_file()
    lines = Path(auth).read_text().splitlines() if is_file else [auth]
    users = {}
    for line in lines:
        written = line.strip()
        if is_file and (not written or written.startswith("#")):
            continue
        user, _, password = written.partition(":")
        if not user or not password:
            where = f"a line of {auth}" if is_file else "auth"
            raise ValueError(
                f"{where} is no user:password: give one, or a file of them, one a line."
            )
        users[user] = password
    if not users:
        raise ValueError(f"{auth} holds no user: write user:password, one a line.")
    return users


def is_user(users: Mapping[str, str], authorization: str) -> bool:
    """Whether an Authorization header is of one of the users, compared in constant time."""
    kind, _, coded = authorization.partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    equal = hmac.compare_digest(_digest(password), _digest(users.get(user, "")))
    return user in users and equal


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()

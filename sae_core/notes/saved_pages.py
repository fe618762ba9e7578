"""Pages that people save by a name: a prompt, a steering, a proof, as the address that has it all.

Addresses are relative to the app, so that they hold wherever it is served.
"""

import datetime
import re
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from sae_core.notes.feature_notes import one_line
from sae_core.notes.notes_file import NotesFile, Topic

MOST_NAME: Final = 100
MOST_ADDRESS: Final = 16_000
"""Characters of an address; a server takes 64 KB of a request's head."""
MOST_SAVED: Final = 500

TOPIC: Final = Topic(
    name="saved",
    version=1,
    tables=(
        "CREATE TABLE IF NOT EXISTS saved_pages (saved VARCHAR, name VARCHAR, address VARCHAR,"
        " made TIMESTAMP)",
    ),
)
_ADDRESS: Final = re.compile(r"(prompt|steer)\?[!-~]+")
_HOLDING: Final = frozenset({"text", "messages", "prompt", "edits"})
"""Parameters of which a page has one that is worth keeping."""


@dataclass(frozen=True, kw_only=True)
class SavedPage:
    """A page as it was when it was saved."""

    id: str
    name: str
    address: str
    """Relative to the app's root: `prompt?...` or `steer?...`."""
    made: datetime.datetime
    """In UTC."""

    @property
    def kind(self) -> str:
        """prompt, steering or proof."""
        page, _, query = self.address.partition("?")
        if page == "prompt":
            return "prompt"
        return "proof" if "proof" in parse_qs(query) else "steering"


class SavedPages:
    """The saved pages in one file."""

    def __init__(self, file: NotesFile) -> None:
        self.file = file

    def all(self) -> list[SavedPage]:
        """Every one, the newest first. ValueError with one sentence if the file cannot be read."""
        with self.file.reading(TOPIC) as connection:
            rows = connection.execute(
                "SELECT saved, name, address, made FROM saved_pages ORDER BY made DESC, saved"
            ).fetchall()
        return [
            SavedPage(id=saved, name=name, address=address, made=made)
            for saved, name, address, made in rows
        ]

    def save(self, name: str, address: str) -> str:
        """Keep an address under a name, in place of the one that has that name; returns its id.

        ValueError if it leads to no prompt or steering, is too long, or has no name.
        """
        line = one_line(name, MOST_NAME, "the name")
        if not line:
            raise ValueError("what is saved has no name: give it one.")
        if len(address) > MOST_ADDRESS:
            raise ValueError("this page's text is too long to be saved: shorten it.")
        held = _HOLDING & parse_qs(address.partition("?")[2]).keys()
        if not held or not _ADDRESS.fullmatch(address):
            raise ValueError("only a page of Prompt or Steer that holds something can be saved.")
        saved = secrets.token_hex(6)
        now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        with self.file.transaction(TOPIC) as connection:
            connection.execute("DELETE FROM saved_pages WHERE name = ?", [line])
            row = connection.execute("SELECT count(*) FROM saved_pages").fetchone()
            assert row is not None
            if row[0] >= MOST_SAVED:
                raise ValueError(f"{row[0]} pages are saved already: remove one of them.")
            connection.execute(
                "INSERT INTO saved_pages VALUES (?, ?, ?, ?)", [saved, line, address, now]
            )
        return saved

    def remove(self, saved: str) -> None:
        """Forget one, if it is there."""
        with self.file.transaction(TOPIC) as connection:
            connection.execute("DELETE FROM saved_pages WHERE saved = ?", [saved])

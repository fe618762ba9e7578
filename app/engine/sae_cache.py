"""Which SAEs are in the device's memory: loaded when first asked for, released when room is needed.

A request leases all the SAEs that it computes with at once, and gives them back when it is done. A
leased SAE is never released; of the others the least recently used goes first, and one whose
weights have changed on the disk is loaded anew. A request whose SAEs find no room beside leased
ones waits, holding nothing, so that two requests cannot block each other for good.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.engine.memory import gigabytes


@dataclass
class _Entry:
    bytes: int
    leases: int = 0
    loaded: bool = False
    weights: str = ""
    loading: threading.Lock = field(default_factory=threading.Lock)


class SAECache:
    """SAEs by name that take at most `limit` bytes together.

    `size(name)` says what one takes before it is loaded, `load(name)` puts it in place and says
    which weights it has, and `release(name)` takes it out again. Loading one SAE keeps nobody else
    waiting. `weights(name)` says which weights are on the disk now.
    """

    def __init__(
        self,
        limit: int,
        *,
        size: Callable[[str], int],
        load: Callable[[str], str],
        release: Callable[[str], None],
        patience: float,
        weights: Callable[[str], str] = lambda _name: "",
    ) -> None:
        self.limit = limit
        self._size = size
        self._load = load
        self._release = release
        self._patience = patience
        self._weights = weights
        self._changed = threading.Condition()
        # The least recently used comes first.
        self._entries: OrderedDict[str, _Entry] = OrderedDict()

    @contextmanager
    def leased(self, names: Iterable[str]) -> Iterator[None]:
        """Inside the block these SAEs are loaded and stay.

        ValueError when they are larger than the limit, or when leased ones leave them no room for
        `patience` seconds.
        """
        sizes = {name: self._bytes(name) for name in dict.fromkeys(names)}
        held = [name for name in sizes if name in self.loaded()]
        entries = self._take(sizes, {name: self._weights(name) for name in held})
        try:
            for name, entry in entries.items():
                # Whoever comes second waits for the first, and tries again if that failed.
                with entry.loading:
                    if not entry.loaded:
                        entry.weights = self._load(name)
                        entry.loaded = True
            yield
        finally:
            self._give_back(entries)

    def loaded(self) -> dict[str, tuple[int, bool]]:
        """Bytes of each loaded SAE, and whether a request uses it now; the latest used first."""
        with self._changed:
            return {
                name: (entry.bytes, entry.leases > 0)
                for name, entry in reversed(self._entries.items())
                if entry.loaded
            }

    def loading(self) -> bool:
        """Whether an SAE is being loaded."""
        with self._changed:
            return any(not entry.loaded for entry in self._entries.values())

    def _bytes(self, name: str) -> int:
        entry = self._entries.get(name)
        return entry.bytes if entry else self._size(name)

    def _take(self, sizes: dict[str, int], weights: dict[str, str]) -> dict[str, _Entry]:
        needed = sum(sizes.values())
        if needed > self.limit:
            several = len(sizes) > 1
            raise ValueError(
                f"SAE{'s' * several} {', '.join(sizes)} need{'s' * (not several)} "
                f"{gigabytes(needed)}{' together' * several}, more than the "
                f"{gigabytes(self.limit)} that SAEs may take: raise max_sae_memory, or choose "
                f"{'fewer' if several else 'a narrower one'}."
            )
        with self._changed:
            if not self._changed.wait_for(
                lambda: needed + self._leased_beside(sizes) <= self.limit, self._patience
            ):
                raise ValueError(
                    f"The SAEs in use leave no room for {', '.join(sizes)}: try again when "
                    "other requests are done, or raise max_sae_memory."
                )
            self._drop_outdated(weights)
            self._make_room(sizes)
            taken = {}
            for name, size in sizes.items():
                entry = self._entries.setdefault(name, _Entry(bytes=size))
                entry.leases += 1
                self._entries.move_to_end(name)
                taken[name] = entry
            return taken

    def _drop_outdated(self, weights: dict[str, str]) -> None:
        for name, now in weights.items():
            entry = self._entries.get(name)
            if entry is not None and entry.loaded and not entry.leases and entry.weights != now:
                del self._entries[name]
                self._release(name)

    def _leased_beside(self, names: Iterable[str]) -> int:
        others = (r for name, r in self._entries.items() if name not in set(names))
        return sum(entry.bytes for entry in others if entry.leases)

    def _make_room(self, sizes: dict[str, int]) -> None:
        idle = [name for name, r in self._entries.items() if not r.leases and name not in sizes]
        excess = sum(sizes.values()) - self.limit
        excess += sum(r.bytes for name, r in self._entries.items() if name not in sizes)
        for name in idle:
            if excess <= 0:
                return
            excess -= self._entries.pop(name).bytes
            self._release(name)

    def _give_back(self, entries: dict[str, _Entry]) -> None:
        with self._changed:
            for name, entry in entries.items():
                entry.leases -= 1
                self._entries.move_to_end(name)
                if not entry.loaded and not entry.leases:
                    del self._entries[name]
            self._changed.notify_all()

"""Which SAEs are in the device's memory: loaded when first asked for, released when room is needed.

A request leases all the SAEs that it computes with at once, and gives them back when it is done. A
leased SAE is never released; of the others the least recently used goes first. A request whose SAEs
find no room beside leased ones waits, holding nothing, so that two requests cannot block each other
for good.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from app.memory import gigabytes


@dataclass
class _Resident:
    bytes: int
    leases: int = 0
    loaded: bool = False
    loading: threading.Lock = field(default_factory=threading.Lock)


class Residents:
    """SAEs by name that take at most `limit` bytes together.

    `size(name)` says what one takes before it is loaded, `load(name)` puts it in place and
    `release(name)` takes it out again. Loading one SAE keeps nobody else waiting.
    """

    def __init__(
        self,
        limit: int,
        *,
        size: Callable[[str], int],
        load: Callable[[str], None],
        release: Callable[[str], None],
        patience: float,
    ) -> None:
        self.limit = limit
        self._size = size
        self._load = load
        self._release = release
        self._patience = patience
        self._changed = threading.Condition()
        # The least recently used comes first.
        self._residents: OrderedDict[str, _Resident] = OrderedDict()

    @contextmanager
    def leased(self, names: Iterable[str]) -> Iterator[None]:
        """Inside the block these SAEs are loaded and stay.

        ValueError when they are larger than the limit, or when leased ones leave them no room for
        `patience` seconds.
        """
        sizes = {name: self._bytes(name) for name in dict.fromkeys(names)}
        residents = self._take(sizes)
        try:
            for name, resident in residents.items():
                # Whoever comes second waits for the first, and tries again if that failed.
                with resident.loading:
                    if not resident.loaded:
                        self._load(name)
                        resident.loaded = True
            yield
        finally:
            self._give_back(residents)

    def loaded(self) -> dict[str, tuple[int, bool]]:
        """Bytes of each loaded SAE, and whether a request uses it now; the latest used first."""
        with self._changed:
            return {
                name: (resident.bytes, resident.leases > 0)
                for name, resident in reversed(self._residents.items())
                if resident.loaded
            }

    def loading(self) -> bool:
        """Whether an SAE is being loaded."""
        with self._changed:
            return any(not resident.loaded for resident in self._residents.values())

    def _bytes(self, name: str) -> int:
        resident = self._residents.get(name)
        return resident.bytes if resident else self._size(name)

    def _take(self, sizes: dict[str, int]) -> dict[str, _Resident]:
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
            self._make_room(sizes)
            taken = {}
            for name, size in sizes.items():
                resident = self._residents.setdefault(name, _Resident(bytes=size))
                resident.leases += 1
                self._residents.move_to_end(name)
                taken[name] = resident
            return taken

    def _leased_beside(self, names: Iterable[str]) -> int:
        others = (r for name, r in self._residents.items() if name not in set(names))
        return sum(resident.bytes for resident in others if resident.leases)

    def _make_room(self, sizes: dict[str, int]) -> None:
        idle = [name for name, r in self._residents.items() if not r.leases and name not in sizes]
        excess = sum(sizes.values()) - self.limit
        excess += sum(r.bytes for name, r in self._residents.items() if name not in sizes)
        for name in idle:
            if excess <= 0:
                return
            excess -= self._residents.pop(name).bytes
            self._release(name)

    def _give_back(self, residents: dict[str, _Resident]) -> None:
        with self._changed:
            for name, resident in residents.items():
                resident.leases -= 1
                self._residents.move_to_end(name)
                if not resident.loaded and not resident.leases:
                    del self._residents[name]
            self._changed.notify_all()

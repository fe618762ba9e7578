"""Generations of several people as one batch: their arms share each forward of a new token.

Each has its own prompt, edits, seed, temperature and length; it comes and goes at any token. A
newcomer's prompt is read by itself, in parts between which the others go on, and from then on its
arms are rows beside theirs (`sae_core.joined_cache`). Edits, conditions and random numbers are each
run's own (`sae_core.generation_run`), though they are made and drawn for all at once
(`sae_core.shared_generation_edits`), so that nobody's tokens depend on who else is there but for
the rounding of a product of more rows: 1e-5 of an activation in float32.

There is no thread for it. Whoever needs a token that is not there runs the next forward for all,
and the others find theirs when it is done.

Leaving waits for nobody: a generator that nobody holds any more is closed wherever the garbage
collector finds it, also in the thread that is running a forward, or one that holds the model's
lock. Nothing further is begun for who has left; what is being computed for all may end first.
"""

import math
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from sae_core.edits import Edit
from sae_core.generation import EditRecord, generate, seeds_of
from sae_core.generation_run import GenerationRun, GenerationStep, Sampler, draw_together
from sae_core.shared_generation_edits import JoinedEdits, Kept
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM

PROMPT_TOKENS: Final = {"cuda": 2048}
"""Tokens of a newcomer's prompt in one forward, for which the others wait."""
PROMPT_TOKENS_ELSEWHERE: Final = 128
LOOK_SECONDS: Final = 1.0
"""Who waits for room looks so often whether there is some: a garbage collection that lets somebody
leave in the instant between a look and the wait wakes nobody."""


class SharedGeneration:
    """Runs what is asked of it from several threads as one batch of a model.

    `most_bytes` bounds its keys and values: before anything is computed for them, those who find no
    room wait until others have left, in order of arrival and for at most `patience` seconds. Who is
    alone needs no room. None is no bound.
    """

    def __init__(
        self, lm: SplicedLM, most_bytes: int | None = None, *, patience: float = math.inf
    ) -> None:
        self._lm, self._most_bytes, self._patience = lm, most_bytes, patience
        self._row_bytes: int | None = None
        self._changed = threading.Condition()
        # Somebody may leave between any two steps of the code below, even in this thread with
        # `_changed` held. So these are dicts, to be changed by one step that asks for nothing, and
        # only copies are gone through.
        self._waiting: dict[_Member, None] = {}
        """Those who have found no room yet; who came first is first."""
        self._members: dict[_Member, None] = {}
        """Those who have room."""
        self._is_led = False
        # Only whoever leads touches these, or who leaves while nobody does.
        self._cache: Any = None
        self._edits: JoinedEdits | None = None
        self._laid: list[_Member] = []
        """Whose rows are in the cache, and whose edits are made."""
        self._at_work: _Member | None = None
        """Whose own computation is being done within a forward of all."""

    @property
    def people(self) -> int:
        """How many runs go on, those included whose prompt is being read."""
        return len(self._members)

    def generate(
        self,
        ids: Sequence[int],
        arms: Sequence[Sequence[Edit]],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int | Sequence[int] = 0,
        watch: Sequence[tuple[str, int]] = (),
        eos: frozenset[int] | None = None,
        record: EditRecord | None = None,
    ) -> Generator[GenerationStep]:
        """`sae_core.generation.generate`, together with whatever else is being generated.

        `record` says what the edits did in the prompt and up to the step that was given out last.
        A model whose texts cannot be joined runs each by itself. ValueError, too, if there is no
        room for too long.
        """
        from sae_core.joined_cache import ROOM, joins
        from sae_core.prefix_cache import whole_cache

        lm = self._lm
        if not joins(lm.model):
            yield from generate(
                lm,
                ids,
                arms,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                seed=seed,
                watch=watch,
                eos=eos,
                record=record,
            )
            return
        seeds = seeds_of(seed, len(arms))
        run = GenerationRun(lm, list(ids), arms, watch, eos=eos)
        if record is not None:
            record.follow(run.arms, _kept_alone(run).own())
        member = _Member(
            run,
            longest=len(ids) + max_new_tokens + ROOM,
            bytes_of_column=len(arms) * self._bytes_of_token(ids[0]),
        )
        try:
            self._wait_for_room(member)
            run.cache = whole_cache(lm.model)
            most = PROMPT_TOKENS.get(lm.device.type, PROMPT_TOKENS_ELSEWHERE)
            with torch.no_grad():
                logits = run.begin(torch.tensor([list(ids)] * len(arms)), most=most)
            member.begin(Sampler(seeds, temperature, logits.device), logits, max_new_tokens)
            if record is not None:  # of the prompt, if there is no step
                record.follow(run.arms, member.kept.own())
            while (made := self._next(member)) is not None:
                step, kept = made
                if record is not None:
                    record.follow(run.arms, kept.own())
                yield step
        finally:
            self._leave(member)

    @torch.no_grad()
    def _bytes_of_token(self, token: int) -> int:
        """Bytes of a token's keys and values in one row: as many as those of this one are. 0
        where there is no bound.
        """
        from sae_core.prefix_cache import keys_of, whole_cache

        if self._most_bytes is None:
            return 0
        if self._row_bytes is None:
            lm, cache = self._lm, whole_cache(self._lm.model)
            with lm.lock:
                lm.model(
                    input_ids=torch.tensor([[token]], device=lm.device),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            pairs = keys_of(cache)
            self._row_bytes = sum(keys.nbytes + values.nbytes for keys, values in pairs)
        return self._row_bytes

    def _wait_for_room(self, member: "_Member") -> None:
        """Be one of the members, after all who came before. ValueError if that takes too long."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            self._waiting[member] = None
            while not (next(iter(self._waiting)) is member and self._has_room(member)):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ValueError(
                        "Other people's generations leave no room in memory for this one: try "
                        "again when they are done, or ask for fewer tokens."
                    )
                self._changed.wait(min(left, LOOK_SECONDS))
            self._members[member] = None
            del self._waiting[member]
            self._changed.notify_all()  # there may be room for the next as well

    def _has_room(self, member: "_Member") -> bool:
        """Whether the keys and values of all fit, each row as long as the longest may become. They
        count twice, since they are copied into a new cache when somebody comes or goes.
        """
        together = [*list(self._members), member]
        longest = max(each.longest for each in together)
        needed = 2 * sum(each.bytes_of_column for each in together) * longest
        return len(together) == 1 or self._most_bytes is None or needed <= self._most_bytes

    def _leave(self, member: "_Member") -> None:
        """Have nothing further begun for a member. What is being computed may end after this."""
        with self._changed:
            member.is_gone = True
            self._waiting.pop(member, None)
            if not self._is_led:
                self._drop_gone()
            self._changed.notify_all()

    def _drop_gone(self) -> None:
        """Forget who has left. The caller holds `_changed`, and nobody leads."""
        for each in list(self._members):
            if each.is_gone:
                self._members.pop(each, None)
        if not self._members:
            self._cache, self._edits, self._laid, self._at_work = None, None, [], None

    def _next(self, member: "_Member") -> tuple[GenerationStep, Kept] | None:
        """A member's next step, which it makes for all if nobody does; None after the last."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: member.steps or member.is_over or not self._is_led)
                if member.steps:
                    return member.steps.popleft()
                if member.error is not None:
                    raise member.error
                if member.is_over:
                    return None
                self._is_led = True
                going = [each for each in list(self._members) if each.is_going]
            try:
                self._lead(going)
            finally:
                with self._changed:
                    # In this order: who leaves between the two is dropped by their own thread.
                    self._is_led = False
                    self._drop_gone()
                    self._changed.notify_all()

    @torch.no_grad()
    def _lead(self, going: "list[_Member]") -> None:
        """Make the next token of these. Broken off at any point it can be done again."""
        # Whose rows lie there already are first, so that they are moved as one.
        laid = {each: n for n, each in enumerate(self._laid)}
        going = sorted(going, key=lambda each: laid.get(each, len(laid)))
        while going:
            self._at_work = None
            try:
                self._draw([each for each in going if not each.drawn])
                going = [each for each in going if not each.is_over]
                self._forward(going)
                break
            except Exception as error:
                # Whose own work it was; or who has left meanwhile, maybe with their SAEs; or who
                # came last and made the batch too large.
                gone = (each for each in going if each.is_gone)
                failed = self._at_work or next(gone, going[-1])
                failed.fail(error)
                going.remove(failed)

    def _draw(self, due: "list[_Member]") -> None:
        """Draw the next token of each arm; be over who has none."""
        if due:
            logits = torch.cat([each.logits for each in due])
            drawn = draw_together([each.sampler for each in due], logits)
            for each, rows in _rows(due):
                each.take(drawn[rows])

    def _forward(self, going: "list[_Member]") -> None:
        """Read the tokens that have been drawn, one for each row."""
        lm = self._lm
        with lm.lock, ExitStack() as stack:
            # Others may have held the lock for long.
            going = [each for each in going if not each.is_gone]
            if not going:
                return
            for each in going:
                with self._work_of(each):
                    each.prepare()
            edits = self._lay(going)
            edits.begin()
            for name in edits.names:
                where = (lm.site(name), lm.target(name))
                stack.enter_context(rewrite(lm.model, *where, edits.editor(name)))
            position = [[each.length] for each in going for _ in each.drawn]
            column = [[token] for each in going for token in each.drawn]
            output = lm.model(
                input_ids=torch.tensor(column, device=lm.device),
                attention_mask=self._cache.mask.to(lm.device),
                position_ids=torch.tensor(position, device=lm.device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        kept = edits.end()
        # Up to here it can be run again.
        self._cache.advance()
        for (each, rows), own in zip(_rows(going), kept, strict=True):
            each.keep(output.logits[rows, -1], own)

    def _lay(self, going: "list[_Member]") -> JoinedEdits:
        """Have the keys and values of just these in the cache, with room for a token, and their
        edits ready to be made.
        """
        from sae_core.joined_cache import JoinedCache
        from sae_core.prefix_cache import keys_of

        edits, cache, is_same = self._edits, self._cache, going == self._laid
        if edits is None or not is_same:
            edits = JoinedEdits(self._lm, [each.kept for each in going])
        if not is_same or cache.is_full:
            stay = [each for each in going if each in self._laid]
            new = [keys_of(each.run.cache) for each in going if each not in stay]
            kept = (cache, [self._laid.index(each) for each in stay]) if stay else None
            cache = JoinedCache(new, kept)
        self._cache, self._edits, self._laid = cache, edits, list(going)
        for each in going:
            each.run.cache = None
        return edits

    @contextmanager
    def _work_of(self, member: "_Member") -> Iterator[None]:
        """Inside the block what fails is this member's."""
        self._at_work = member
        yield
        self._at_work = None


class _Member:
    """One run among others, and its steps that nobody has taken yet."""

    sampler: Sampler
    logits: Tensor
    """`[arms, vocab]` after what has been read."""
    kept: Kept
    """What its edits have done by then."""

    def __init__(self, run: GenerationRun, *, longest: int, bytes_of_column: int) -> None:
        self.run, self.bytes_of_column = run, bytes_of_column
        self.longest = longest
        """Columns that its keys and values may take."""
        self.steps: deque[tuple[GenerationStep, Kept]] = deque()
        self.drawn: list[int] = []
        """The next token of each arm, until it has been read."""
        self.length = 0
        """Tokens that have been read."""
        self._left = 0
        self.has_begun = self.is_over = self.is_gone = False
        self.error: Exception | None = None
        self._is_prepared = False

    @property
    def is_going(self) -> bool:
        """Whether there may be tokens to make for it."""
        return self.has_begun and not (self.is_over or self.is_gone)

    def begin(self, sampler: Sampler, logits: Tensor, left: int) -> None:
        """Take part, now that the prompt has been read: `logits [arms, vocab]` after it."""
        self.sampler, self.logits, self._left = sampler, logits, left
        self.length, self.kept = self.run.length, _kept_alone(self.run)
        self.is_over = not left
        self.has_begun = True

    def take(self, drawn: list[int]) -> None:
        """Have these as the next token of each arm; be over if they end the last text."""
        self.run.end(drawn)
        self.is_over = self.run.is_over
        self.drawn = [] if self.is_over else drawn

    def prepare(self) -> None:
        """Be ready for a forward of the tokens drawn, for the first time or again."""
        if not self._is_prepared:
            self.run.prepare(torch.tensor(self.drawn)[:, None], self.length)
            self._is_prepared = True

    def keep(self, logits: Tensor, kept: Kept) -> None:
        """Have a step of what has been read: `logits [arms, vocab]` after it, and what the edits
        have done.
        """
        self.logits, self.kept, self._is_prepared = logits, kept, False
        step, self.drawn = self.run.step(self.drawn), []
        self.length, self._left = self.length + 1, self._left - 1
        self.steps.append((step, kept))
        self.is_over = not self._left

    def fail(self, error: Exception) -> None:
        """Be over, with an error."""
        traceback.clear_frames(error.__traceback__)  # they hold tensors
        self.error, self.is_over = error, True


def _kept_alone(run: GenerationRun) -> Kept:
    """What a run's edits have done by themselves, as it is now."""
    tallies = {name: steering.tally.copy() for name, steering in run.steering.items()}
    return Kept(run=run, rows=slice(0, len(run.arms)), tallies=tallies)


def _rows(members: Sequence[_Member]) -> Iterator[tuple[_Member, slice]]:
    """Each member with its rows of the batch."""
    first = 0
    for each in members:
        stop = first + len(each.run.arms)
        yield each, slice(first, stop)
        first = stop

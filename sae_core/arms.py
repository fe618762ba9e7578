"""Arms: one text through the model many times, each time with other edits of SAEs' features.

An arm is a list of edits (`sae_core.edits`), which act in their order and keep the SAEs' errors.
What no edit can change is computed once for all arms (`sae_core.resume`): tokens before the first
that an arm edits, and blocks before the first that its SAEs read. The rest runs as rows of one
batch after another, as many at a time as fit in a given memory, and the head reads the tokens that
were asked for alone.

Each batch carries a row without edits. In exact arithmetic it is the model itself. In bfloat16 a
product of other shape rounds otherwise, by more than a small effect: what arms are compared with
has to come from products of the same shape as theirs.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.conditions import conditions_of, resolved, where_met
from sae_core.config import Site
from sae_core.edits import Condition, Edit, Steering
from sae_core.head import head
from sae_core.placement import in_float64
from sae_core.resume import BaseForward
from sae_core.sae import SAE
from sae_core.sites import rewrite
from sae_core.splice import SplicedLM

MEMORY = {"cuda": 2**30}
"""Bytes that a batch of arms takes unless the caller says otherwise."""
MEMORY_ELSEWHERE = 2**28

FORWARD_TOKENS = {"cuda": 1024}
"""Tokens that can run in the time that starting one more forward takes. Arms whose first edits lie
far apart are batched apart where that saves more tokens than these."""
FORWARD_TOKENS_ELSEWHERE = 32

_FLOAT64 = 3 * 8
"""Bytes over the vocabulary while distributions are compared."""


@dataclass(frozen=True, kw_only=True)
class ArmBatch:
    """Some arms' predictions."""

    arms: tuple[int, ...]
    """Their numbers in the order in which they were given."""
    logits: Float[Tensor, "arms read vocab"]
    """At the tokens that are read. Where an arm changes nothing they are the model's own, bit for
    bit."""
    unedited: Float[Tensor, "read vocab"]
    """The same without edits, by products of the same shape: what the arms are compared with."""
    tokens_changed: Int[Tensor, " arms"]
    """At how many tokens an arm's edits changed an activation, summed over its SAEs."""
    changed: Int[Tensor, "arms read"]
    """1 where an arm's edits have changed an activation at this token or before it, else 0."""

    @cached_property
    def log_probs(self) -> tuple[Tensor, Tensor]:
        """Of the arms and of the unedited row, float64, nats."""
        return in_float64(self.logits).log_softmax(-1), in_float64(self.unedited).log_softmax(-1)

    def kl(self) -> Float[Tensor, "arms read"]:
        """KL in nats from the model's next-token distribution to each arm's, float64; 0 where the
        arm changes nothing.
        """
        log_q, log_p = self.log_probs
        kl = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
        # Never below 0 but by rounding.
        return torch.where(self.changed.to(kl.device) > 0, kl.clamp(min=0), 0.0)


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """An arm, and from where on it has to run."""

    arm: int
    edits: tuple[tuple[str, Edit, int, int], ...]
    """The edits that apply to a token that counts: SAE, edit, first token, the one after the last.
    None for an arm that has nothing to run."""
    after: int
    """The last block whose output comes before all of them."""
    start: int
    """The first token that they edit."""


class Arms:
    """One text, ready for any number of arms.

    Made by one plain forward; `sae_names` are the SAEs whose features arms may edit (None: all that
    are loaded). Raises ValueError for a text without tokens and for an unknown SAE.
    """

    def __init__(
        self, lm: SplicedLM, ids: Sequence[int], sae_names: Sequence[str] | None = None
    ) -> None:
        if not ids:
            raise ValueError("a text without tokens predicts nothing.")
        self.lm, self.ids = lm, list(ids)
        names = lm.sae_names if sae_names is None else list(sae_names)
        self._after = {name: _block_before(lm.site(name)) for name in names}
        sites = {site for name in names for site in (lm.site(name), lm.target(name))}
        self.special = lm.is_special(self.ids)
        """Which tokens keep their activation."""
        with lm.lock:
            self.base = BaseForward(
                lm.model, self.ids, self._after.values(), sorted(sites, key=str)
            )
        self._met: dict[Condition, Bool[Tensor, "1 pos"]] = {}

    def after(self, name: str) -> int:
        """The last block whose output comes before what the SAE called `name` reads."""
        return self._after[name]

    @torch.no_grad()
    def logits(self, read: Sequence[int]) -> Float[Tensor, "read vocab"]:
        """The model's own logits at some tokens."""
        return head(self.lm.model, self.base.hidden[0, list(read)])

    def run(
        self,
        arms: Sequence[Sequence[Edit]],
        *,
        read: Sequence[int] | None = None,
        prompt_length: int | None = None,
        memory: int | None = None,
    ) -> Iterator[ArmBatch]:
        """The arms' logits at the tokens `read` (None: the last one), batch by batch.

        Every arm comes once, not in the given order; arms that change nothing come first. The first
        `prompt_length` tokens (None: all) are what edits of `prompt` and `generated` mean. `memory`
        bounds the bytes of a batch, of at least one arm. The numbers depend on the batches only by
        the rounding of products of different shapes. Raises ValueError for tokens that the text
        does not have, and for an unknown SAE or feature, before anything runs.
        """
        chosen = [len(self.ids) - 1] if read is None else list(read)
        if not chosen or not all(0 <= token < len(self.ids) for token in chosen):
            raise ValueError(f"tokens to read at must be of the text's, 0 to {len(self.ids) - 1}.")
        length = len(self.ids) if prompt_length is None else prompt_length
        planned = [self._planned(a, arm, length, max(chosen) + 1) for a, arm in enumerate(arms)]
        return self._batches(planned, chosen, length, memory or self._default_memory())

    def _default_memory(self) -> int:
        return MEMORY.get(self.lm.device.type, MEMORY_ELSEWHERE)

    def _batches(
        self, planned: list[_Planned], read: list[int], prompt_length: int, memory: int
    ) -> Iterator[ArmBatch]:
        idle = tuple(each.arm for each in planned if not each.edits)
        base = self.logits(read)
        if idle:
            zeros = torch.zeros(len(idle), len(read), dtype=torch.long)
            yield ArmBatch(
                arms=idle,
                logits=base.expand(len(idle), -1, -1),
                unedited=base,
                tokens_changed=zeros[:, 0],
                changed=zeros,
            )
        rest = [each for each in planned if each.edits]
        rest.sort(key=lambda each: (each.after, each.start))
        while rest:
            count = self._batch_size(rest, read, memory)
            yield self._batch(rest[:count], read, base, prompt_length)
            rest = rest[count:]

    def _planned(self, arm: int, edits: Sequence[Edit], prompt_length: int, stop: int) -> _Planned:
        """Which of an arm's edits apply to tokens before `stop`."""
        due: list[tuple[str, Edit, int, int]] = []
        for given in edits:
            edit = resolved(self.lm, given)
            name = edit.sae
            for each in (name, *(condition.sae for condition in conditions_of([edit]))):
                if each not in self._after:
                    raise ValueError(
                        f"SAE {each} is not among those whose features are edited here: "
                        f"{', '.join(self._after)}."
                    )
            tokens = self._edited_tokens(edit, prompt_length, stop)
            if tokens:
                due.append((name, edit, min(tokens), max(tokens) + 1))
        return _Planned(
            arm=arm,
            edits=tuple(due),
            after=min((self._after[name] for name, *_ in due), default=-1),
            start=min((start for *_, start, _ in due), default=stop),
        )

    def _edited_tokens(self, edit: Edit, prompt_length: int, stop: int) -> list[int]:
        """The tokens before `stop` that an edit applies to."""
        if isinstance(edit.positions, str):
            tokens = [t for t, due in enumerate(edit.where(0, stop, prompt_length)) if due]
        else:
            tokens = [t for t in edit.positions if t < stop and edit.where(t, 1, prompt_length)[0]]
        if edit.condition is not None:
            met = self._where(edit.condition)[0].tolist()
            tokens = [t for t in tokens if met[t]]
        return [t for t in tokens if not self.special[t]]

    def _where(self, condition: Condition) -> Bool[Tensor, "1 pos"]:
        """Where a condition is met."""
        if condition not in self._met:
            self._met |= where_met(self.lm, [condition], self.base.sites)
        return self._met[condition]

    def _batch_size(self, rest: list[_Planned], read: list[int], memory: int) -> int:
        """How many of the arms, sorted, run as the next batch."""
        first = rest[0]
        room = max(1, memory // self._bytes(first, read) - 1)
        alike = [each for each in rest[:room] if each.after == first.after]
        free = FORWARD_TOKENS.get(self.lm.device.type, FORWARD_TOKENS_ELSEWHERE)
        for count, each in enumerate(alike):
            # All rows begin at the first one's token: what the rest would run in vain.
            if (each.start - first.start) * (len(alike) - count) > free:
                return count
        return len(alike)

    def _bytes(self, first: _Planned, read: list[int]) -> int:
        """About what one row takes in a batch that begins with this arm."""
        config = self.lm.model.config.get_text_config()
        width, size = int(config.hidden_size), self.lm.model.dtype.itemsize
        inner = int(getattr(config, "intermediate_size", None) or 4 * width)
        heads, stop = int(config.num_attention_heads), max(read) + 1
        tokens = stop - first.start
        keys, values = self.base.keys[-1]
        own = (keys.shape[1] * keys.shape[3] + values.shape[1] * values.shape[3]) * stop * size
        # Keys and values are joined to the prefix, then repeated for heads that share them.
        attention = own * (1 + heads // keys.shape[1]) + 3 * 4 * heads * tokens * stop
        stream = tokens * (10 * width + 3 * inner) * size
        encoded = sum(
            3 * 4 * tokens * (sae.cfg.d_sae if _encodes_all(sae) else len(first.edits))
            for sae in (self.lm.sae(name) for name in {name for name, *_ in first.edits})
        )
        vocabulary = int(self.lm.model.get_output_embeddings().weight.shape[0])
        return attention + stream + encoded + len(read) * vocabulary * (2 * size + _FLOAT64)

    @torch.no_grad()
    def _batch(
        self, arms: list[_Planned], read: list[int], base: Tensor, prompt_length: int
    ) -> ArmBatch:
        """Run arms that go on after the same block, and a row without edits before them."""
        start, stop, rows = arms[0].start, max(read) + 1, len(arms) + 1
        changed: list[Tensor] = []
        with self.lm.lock, ExitStack() as stack:
            for name in sorted({name for arm in arms for name, *_ in arm.edits}):
                editor = self._editor(name, arms, start, prompt_length, changed)
                where = (self.lm.site(name), self.lm.target(name))
                stack.enter_context(rewrite(self.lm.model, *where, editor))
            hidden = self.base.resumed(rows, start, stop, arms[0].after)
        later = [column for column, token in enumerate(read) if token >= start]
        new = head(self.lm.model, hidden[:, [read[column] - start for column in later]])
        tokens = torch.stack([each.to(new.device) for each in changed]).sum(0)[1:]
        so_far = tokens.cumsum(-1)[:, [read[column] - start for column in later]]
        logits = base.to(new.device).expand(len(arms), -1, -1).clone()
        logits[:, later] = torch.where(so_far[:, :, None] > 0, new[1:], logits[:, later])
        unedited = base.to(new.device, copy=True)
        unedited[later] = new[0]
        at_read = torch.zeros(len(arms), len(read), dtype=torch.long, device=new.device)
        at_read[:, later] = so_far.clamp(max=1)
        return ArmBatch(
            arms=tuple(each.arm for each in arms),
            logits=logits,
            unedited=unedited,
            tokens_changed=tokens.sum(-1),
            changed=at_read,
        )

    def _editor(
        self,
        name: str,
        arms: Sequence[_Planned],
        start: int,
        prompt_length: int,
        changed: list[Tensor],
    ) -> Callable[[Tensor, Tensor], Tensor | None]:
        """A rewrite that edits one SAE's features in all rows but the first, and appends to
        `changed` which tokens of which rows it changed, `[rows, tokens]`.
        """
        due = [[each for each in arm.edits if each[0] == name] for arm in arms]
        edits = [[], *([edit for _, edit, *_ in each] for each in due)]
        first = min(first for each in due for *_, first, _ in each)
        last = max(last for each in due for *_, last in each)
        steering = Steering(self.lm.sae(name), edits, prompt_length, counts=False)
        met = {
            condition: self._where(condition)[:, first:last].expand(len(edits), -1)
            for condition in conditions_of(edit for arm in edits for edit in arm)
        }
        special = [self.special[first:last]] * len(edits)
        here = slice(first - start, last - start)

        def edit(x: Tensor, y: Tensor) -> Tensor | None:
            part = y[:, here]
            new = steering(x[:, here], part, first, special, met)
            assert new is not None, "an arm without edits is not run"
            moved = torch.zeros(y.shape[:2], dtype=torch.long, device=y.device)
            moved[:, here] = new.ne(part).any(-1).long()
            changed.append(moved)
            return torch.cat([y[:, : here.start], new, y[:, here.stop :]], dim=1)

        return edit


def _block_before(site: Site) -> int:
    """The last block whose output an edit at `site` leaves as the model made it; of `resid_post`
    its own block, whose output is where the edit is made.
    """
    return site.layer if site.kind == "resid_post" else site.layer - 1


def _encodes_all(sae: SAE) -> bool:
    """Whether a few features' activations take all features' pre-activations."""
    return type(sae).feature_acts is SAE.feature_acts

"""Measuring SAEs on text: `evaluate`, and the uniformity of active feature importance.

The numbers are those that `sae_core.metrics` defines.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sae_core.attention_sink import FirstTokenStats, first_of_rows, without_first
from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.head import head, hidden_states
from sae_core.metrics import (
    ReconstructionStats,
    affected,
    token_comparison,
    token_losses,
    uniformity_by_token,
)
from sae_core.placement import in_float64
from sae_core.progress_bar import Progress, reported
from sae_core.sae import SAE
from sae_core.sites import activations, rewrite
from sae_core.splice import SplicedLM


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An SAE's measured quality; every field is defined in `DEFINITIONS`."""

    tokens: int
    sink_tokens: int
    l0: float
    fvu: float
    ce_base: float
    ce_spliced: float
    delta_lm_loss: float
    kl: float
    loss_recovered_mean: float
    loss_recovered_zero: float
    dead: float
    high_frequency: float

    def as_dict(self) -> dict[str, Any]:
        """The numbers by name."""
        return asdict(self)


def take_tokens(rows: Iterable[TokenRow], max_tokens: int) -> list[TokenRow]:
    """The first rows that together hold `max_tokens` tokens, their first (BOS) not counted."""
    chosen: list[TokenRow] = []
    total = 0
    for row in rows:
        if total >= max_tokens:
            break
        chosen.append(row)
        total += len(row.ids) - 1  # the first has no loss, whether it is BOS or not
    return chosen


def evaluate(
    lm: SplicedLM,
    sae_name: str,
    rows: Sequence[TokenRow],
    *,
    batch_rows: int = 16,
    progress: Progress | None = None,
) -> Evaluation:
    """`evaluate_together` of a single SAE."""
    (evaluation,) = evaluate_together(
        lm, [sae_name], rows, batch_rows=batch_rows, progress=progress
    ).values()
    return evaluation


@torch.no_grad()
def evaluate_together(
    lm: SplicedLM,
    sae_names: Sequence[str],
    rows: Sequence[TokenRow],
    *,
    batch_rows: int = 16,
    ablations: bool = True,
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """Measure SAEs that read and write at the same sites, on rows of tokens; by name.

    The model runs once to the site, whole for the untouched text and for both ablations, and once
    more whole for each SAE; without `ablations`, the loss recovered is NaN. `progress` is told the
    number of tokens as they are done, half of each batch in either pass; None shows a bar on stderr
    if it takes long. Raises ValueError if the SAEs' sites differ, or if the rows hold no token that
    counts.
    """
    sites = {(lm.site(name), lm.target(name)) for name in sae_names}
    if len(sites) != 1:
        raise ValueError(f"{len(sites)} sites: only SAEs of one site can be measured together.")
    saes = {name: lm.sae(name) for name in sae_names}
    all_batches = list(batches(rows, lm.tokenizer, batch_rows))
    total = sum(int(batch.mask.sum()) for batch in all_batches)
    with reported(progress, f"measuring {', '.join(sae_names)}", total) as report:
        return _measured(lm, saes, all_batches, report, ablations=ablations)


def _measured(
    lm: SplicedLM,
    saes: dict[str, SAE],
    all_batches: Sequence[TokenBatch],
    report: Progress,
    *,
    ablations: bool,
) -> dict[str, Evaluation]:
    """The two passes over SAEs of one site."""
    sae_names = list(saes)
    measured = {
        name: FirstTokenStats(sae.cfg.width_out, sae.cfg.d_sae, sae.W_dec.device)
        for name, sae in saes.items()
    }
    site, target = lm.site(sae_names[0]), lm.target(sae_names[0])
    for batch in all_batches:
        with lm.lock:
            captured = activations(lm.model, batch.input_ids.to(lm.device), [site, target])
        x, y = (
            captured[each][batch.mask.to(captured[each].device)].float() for each in (site, target)
        )
        first = first_of_rows(lm.tokenizer, batch.mask)[batch.mask].to(x.device)
        for name, sae in saes.items():
            acts = sae.encode(x)
            measured[name].update(x, y, sae.output(acts, x), acts, first)
        report(int(batch.mask.sum()) // 2)
    # All SAEs are spliced in at the same tokens: they share what is ablated there.
    sink = any(each.sink for each in measured.values())
    left_out = next(iter(measured.values())).first_tokens if sink else 0
    if sink:
        all_batches = [without_first(batch) for batch in all_batches]
    stats = {name: each.stats(without_first=sink) for name, each in measured.items()}
    some = next(iter(stats.values()))
    if some.tokens == 0:
        raise ValueError("the text holds no token that counts: give more text.")
    ablated = some.mean().float() if ablations else None
    sums: dict[str, dict[str, float]] = {name: defaultdict(float) for name in sae_names}
    for batch in all_batches:
        for name, losses in _batch_losses(lm, sae_names, batch, ablated).items():
            for key, value in losses.items():
                sums[name][key] += value
        report(-(-int(batch.mask.sum()) // 2))
    return {name: _evaluation(sums[name], stats[name], left_out) for name in sae_names}


def _evaluation(sums: dict[str, float], stats: ReconstructionStats, left_out: int) -> Evaluation:
    per = {name: _ratio(value, sums["predicted"]) for name, value in sums.items()}
    return Evaluation(
        tokens=stats.tokens,
        sink_tokens=left_out,
        ce_base=per["base"],
        ce_spliced=per["spliced"],
        delta_lm_loss=per["spliced"] - per["base"],
        kl=per["kl"],
        loss_recovered_mean=_ratio(per["mean"] - per["spliced"], per["mean"] - per["base"]),
        loss_recovered_zero=_ratio(per["zero"] - per["spliced"], per["zero"] - per["base"]),
        **stats.result(),
    )


def _ratio(part: float, whole: float) -> float:
    """NaN where the sample does not define it: a text of one token has no loss."""
    return part / whole if whole else float("nan")


@torch.no_grad()
def _batch_losses(
    lm: SplicedLM, sae_names: Sequence[str], batch: TokenBatch, mean: Tensor | None
) -> dict[str, dict[str, float]]:
    """For each SAE, losses and KL summed over a batch's predictions that a splice can affect; NaN
    for both ablations without the `mean` activation.
    """
    ids, counted = batch.input_ids.to(lm.device), affected(batch.mask)
    read, write = lm.site(sae_names[0]), lm.target(sae_names[0])

    def states(new: Callable[[Tensor, Tensor], Tensor] | None) -> Tensor:
        with lm.lock, ExitStack() as stack:
            if new is not None:
                stack.enter_context(rewrite(lm.model, read, write, only_where(batch.mask, new)))
            return hidden_states(lm.model, ids)

    def spliced(sae: SAE) -> Tensor:
        return states(lambda x, _: sae(x))

    def total(values: Tensor) -> float:
        return float(in_float64(values[counted.to(values.device)]).sum())

    base, compared = token_comparison(
        lm.model, states(None), [spliced(lm.sae(name)) for name in sae_names], ids
    )
    shared = {"predicted": float(counted.sum()), "base": total(base)}
    shared |= dict.fromkeys(("mean", "zero"), float("nan"))
    if mean is not None:
        centre = mean.to(lm.device)
        for name, ablation in {
            "mean": lambda _, y: centre.expand_as(y),
            "zero": lambda _, y: torch.zeros_like(y),
        }.items():
            shared[name] = total(token_losses(lm.model, states(ablation), ids))
    return {
        name: {**shared, "spliced": total(losses), "kl": total(kl)}
        for name, (losses, kl) in zip(sae_names, compared, strict=True)
    }


def only_where(
    mask: Bool[Tensor, "batch pos"], new: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """A rewriting that puts `new(x, y)`, both float32, at masked tokens and keeps y elsewhere."""

    def replacement(x: Tensor, y: Tensor) -> Tensor:
        made = new(x.float(), y.float()).to(y.dtype)
        return torch.where(mask.to(y.device)[..., None], made, y)

    return replacement


def drawn_tokens(
    mask: Bool[Tensor, "batch pos"], generator: torch.Generator
) -> tuple[Bool[Tensor, " batch"], Int[Tensor, " drawn"]]:
    """Which rows have a counted token with a counted one after it, and the place of one such token
    of each of them, drawn at random.
    """
    allowed = mask.clone()
    allowed[:, :-1] &= mask[:, 1:]
    allowed[:, -1] = False
    usable = allowed.any(1)
    if not bool(usable.any()):
        return usable, torch.zeros(0, dtype=torch.long)
    return usable, torch.multinomial(allowed[usable].float(), 1, generator=generator)[:, 0]


def uniformity(
    lm: SplicedLM, sae_name: str, rows: Sequence[TokenRow], *, seed: int = 0, batch_rows: int = 16
) -> float:
    """Mean uniformity of active feature importance (Gemma Scope, arXiv 2408.05147, appendix C.3).

    From each row one counted token that has a next one is drawn: y = acts * (W_dec @ grad), where
    grad is the gradient of that token's correct next-token logit, centred over the vocabulary, with
    respect to the activation at the token; the result is exp(entropy(|y| / sum |y|)) / L0, averaged
    over tokens with an active feature that matters; NaN where there is none.
    """
    sae, site, target = lm.sae(sae_name), lm.site(sae_name), lm.target(sae_name)
    generator = torch.Generator().manual_seed(seed)
    values: list[Tensor] = []
    for batch in batches(rows, lm.tokenizer, batch_rows):
        usable, chosen = drawn_tokens(batch.mask, generator)
        if not len(chosen):
            continue
        ids, chosen = batch.input_ids[usable].to(lm.device), chosen.to(lm.device)
        every = torch.arange(len(ids), device=lm.device)
        read: list[Tensor] = []
        leaf: list[Tensor] = []

        def track(
            x: Tensor, y: Tensor, read: list[Tensor] = read, leaf: list[Tensor] = leaf
        ) -> Tensor:
            read.append(x.detach())
            leaf.append(y.detach().requires_grad_())
            return leaf[0]

        with lm.lock, torch.enable_grad(), rewrite(lm.model, site, target, track):
            logits = head(lm.model, hidden_states(lm.model, ids)[every, chosen]).float()
            correct = logits[every, ids[every, chosen + 1]] - logits.mean(-1)
            (gradient,) = torch.autograd.grad(correct.sum(), leaf[0])
        acts = sae.encode(read[0][every, chosen].float())
        effects = acts * (gradient[every, chosen].float() @ sae.W_dec.T)
        of_tokens = uniformity_by_token(effects, acts)
        values.append(of_tokens[~of_tokens.isnan()])
    if not values:
        return float("nan")
    return float(torch.cat(values).mean())

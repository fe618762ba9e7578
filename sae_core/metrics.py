"""Every number Jumpscope shows, defined once.

Special tokens (BOS, EOS, padding) keep their original activation and count in no statistic. A loss
at token t is that of predicting token t from the tokens before it, so the first token has none.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.config import Site
from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.sae import SAE
from sae_core.sites import activations, replace

if TYPE_CHECKING:
    from sae_core.splice import SplicedLM

HIGH_FREQUENCY = 0.1
"""Share of tokens from which on a feature counts as high-frequency."""

DEFINITIONS: dict[str, str] = {
    "tokens": "Tokens counted; special tokens (BOS, EOS, padding) are never counted.",
    "l0": "L0: mean number of active features per token.",
    "fvu": (
        "FVU, fraction of variance unexplained: sum of squared reconstruction errors over the sum "
        "of squared deviations from the data set's mean activation."
    ),
    "ce_base": "Cross-entropy of the untouched model, nats per token.",
    "ce_spliced": (
        "Cross-entropy in nats per token with the SAE's reconstruction in place of the activation."
    ),
    "delta_lm_loss": (
        "Delta LM loss: cross-entropy with the reconstruction spliced in, minus without, nats per "
        "token."
    ),
    "kl": (
        "KL divergence from the original next-token distribution to the spliced one, nats per "
        "token."
    ),
    "loss_recovered_mean": (
        "Loss recovered against mean ablation: (CE with the mean activation - CE spliced) / (CE "
        "with the mean activation - CE base)."
    ),
    "loss_recovered_zero": (
        "Loss recovered against zero ablation: (CE with zeros - CE spliced) / (CE with zeros - CE "
        "base)."
    ),
    "dead": "Share of features that are never active in the sample.",
    "high_frequency": "Share of features active on at least 10 % of the tokens.",
    "frequency": "Share of tokens on which a feature is active.",
    "uniformity": (
        "Uniformity: e to the entropy of the active features' absolute effects on the correct next "
        "token's mean-centred logit, over their number."
    ),
}


class ReconstructionStats:
    """L0, FVU and frequencies of a stream of activations; sums in float64, exact in any order."""

    def __init__(self, d_model: int, d_sae: int, device: torch.device | str = "cpu") -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self._tokens = 0
        self._error, self._square, self._sum = zeros(), zeros(), zeros(d_model)
        self._active = torch.zeros(d_sae, dtype=torch.long, device=device)

    def update(
        self,
        x: Float[Tensor, "tokens d_model"],
        recon: Float[Tensor, "tokens d_model"],
        acts: Float[Tensor, "tokens d_sae"],
    ) -> None:
        """Count these tokens (special ones left out by the caller)."""
        self._tokens += len(x)
        wide = x.double()
        self._error += (wide - recon.double()).square().sum()
        self._square += wide.square().sum()
        self._sum += wide.sum(0)
        self._active += acts.ne(0).sum(0)

    @property
    def tokens(self) -> int:
        """Tokens counted so far."""
        return self._tokens

    def mean(self) -> Float[Tensor, " d_model"]:
        """Mean activation, float64."""
        return self._sum / max(self._tokens, 1)

    def frequency(self) -> Float[Tensor, " d_sae"]:
        """Share of tokens on which each feature is active, float64."""
        return self._active.double() / max(self._tokens, 1)

    def result(self) -> dict[str, float]:
        """`l0`, `fvu`, `dead`, `high_frequency`; NaN where the sample does not define one."""
        frequency = self.frequency()
        deviation = self._square - self._tokens * self.mean().square().sum()
        return {
            "l0": float(frequency.sum()) if self._tokens else float("nan"),
            "fvu": float(self._error / deviation) if deviation > 0 else float("nan"),
            "dead": float((self._active == 0).double().mean()),
            "high_frequency": float((frequency >= HIGH_FREQUENCY).double().mean()),
        }


def token_losses(
    logits: Float[Tensor, "batch pos vocab"], ids: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos"]:
    """Cross-entropy of each token given those before it, nats, float32; NaN for the first."""
    losses = torch.full(ids.shape, float("nan"), device=logits.device)
    for row in range(len(ids)):
        for part in _chunks(ids.shape[1] - 1, logits.shape[-1]):
            targets = ids[row, part.start + 1 : part.stop + 1].to(logits.device)
            losses[row, part.start + 1 : part.stop + 1] = torch.nn.functional.cross_entropy(
                logits[row, part].float(), targets, reduction="none"
            )
    return losses


def token_kl(
    base: Float[Tensor, "batch pos vocab"], spliced: Float[Tensor, "batch pos vocab"]
) -> Float[Tensor, "batch pos"]:
    """KL(base || spliced) of the distributions that predict each token; NaN for the first."""
    batch, length, vocab = base.shape
    found = torch.full((batch, length), float("nan"), device=base.device)
    for row in range(batch):
        for part in _chunks(length - 1, vocab):
            log_p = base[row, part].float().log_softmax(-1)
            log_q = spliced[row, part].float().log_softmax(-1)
            kl = (log_p.exp() * (log_p - log_q)).sum(-1)
            found[row, part.start + 1 : part.stop + 1] = kl
    return found


def _chunks(length: int, vocab: int) -> list[slice]:
    """Slices of positions small enough that one float32 array over the vocabulary is 64 MB."""
    size = max(1, 2**24 // vocab)
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An SAE's measured quality; every field is defined in `DEFINITIONS`."""

    tokens: int
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
        total += len(row.ids) - 1
    return chosen


@torch.no_grad()
def evaluate(
    lm: "SplicedLM",
    sae_name: str,
    rows: Sequence[TokenRow],
    *,
    batch_rows: int = 16,
    progress: Callable[[int], object] | None = None,
) -> Evaluation:
    """Measure an SAE on rows of tokens; runs the model once to the site and four times whole.

    `progress` is told the number of tokens each time a batch is done. Raises ValueError if the rows
    hold no token that counts.
    """
    sae, site = lm.sae(sae_name), lm.site(sae_name)
    stats = ReconstructionStats(sae.cfg.d_model, sae.cfg.d_sae, lm.device)
    all_batches = list(batches(rows, lm.tokenizer, batch_rows))
    for batch in all_batches:
        x = activations(lm.model, batch.input_ids.to(lm.device), [site])[site]
        counted = x[batch.mask.to(lm.device)].float()
        acts = sae.encode(counted)
        stats.update(counted, sae.decode(acts), acts)
    if stats.tokens == 0:
        raise ValueError("the text holds no token that counts: give more text.")
    mean = stats.mean().float()
    sums: dict[str, float] = dict.fromkeys(("base", "spliced", "mean", "zero", "kl"), 0.0)
    for batch in all_batches:
        for name, value in _batch_losses(lm, sae, site, batch, mean).items():
            sums[name] += value
        if progress is not None:
            progress(int(batch.mask.sum()))
    per = {name: value / stats.tokens for name, value in sums.items()}
    return Evaluation(
        tokens=stats.tokens,
        ce_base=per["base"],
        ce_spliced=per["spliced"],
        delta_lm_loss=per["spliced"] - per["base"],
        kl=per["kl"],
        loss_recovered_mean=(per["mean"] - per["spliced"]) / (per["mean"] - per["base"]),
        loss_recovered_zero=(per["zero"] - per["spliced"]) / (per["zero"] - per["base"]),
        **stats.result(),
    )


@torch.no_grad()
def _batch_losses(
    lm: "SplicedLM", sae: SAE, site: Site, batch: TokenBatch, mean: Tensor
) -> dict[str, float]:
    """Summed losses and KL over a batch's counted tokens that have one before them."""
    ids, mask = batch.input_ids.to(lm.device), batch.mask.to(lm.device)
    counted = mask.clone()
    counted[:, 0] = False

    def logits(new: Callable[[Tensor], Tensor] | None) -> Tensor:
        if new is None:
            return lm.model(input_ids=ids, use_cache=False).logits
        with replace(lm.model, site, only_where(mask, new)):
            return lm.model(input_ids=ids, use_cache=False).logits

    def total(values: Tensor) -> float:
        return float(values[counted].double().sum())

    base, spliced = logits(None), logits(sae)
    sums = {
        "base": total(token_losses(base, ids)),
        "spliced": total(token_losses(spliced, ids)),
        "kl": total(token_kl(base, spliced)),
    }
    del base, spliced
    sums["mean"] = total(token_losses(logits(lambda x: mean.expand_as(x)), ids))
    sums["zero"] = total(token_losses(logits(torch.zeros_like), ids))
    return sums


def only_where(
    mask: Bool[Tensor, "batch pos"], new: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    """A replacement that puts `new(x)` (float32) at masked tokens and keeps x elsewhere."""

    def replacement(x: Tensor) -> Tensor:
        return torch.where(mask[..., None], new(x.float()).to(x.dtype), x)

    return replacement


def uniformity(
    lm: "SplicedLM", sae_name: str, rows: Sequence[TokenRow], *, seed: int = 0, batch_rows: int = 16
) -> float:
    """Mean uniformity of active feature importance (Gemma Scope, arXiv 2408.05147, appendix C.3).

    From each row one counted token that has a next one is drawn: y = acts * (W_dec @ grad), where
    grad is the gradient of that token's correct next-token logit, centred over the vocabulary, with
    respect to the activation at the token; the result is exp(entropy(|y| / sum |y|)) / L0, averaged
    over tokens with an active feature that matters.
    """
    sae, site = lm.sae(sae_name), lm.site(sae_name)
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    for batch in batches(rows, lm.tokenizer, batch_rows):
        allowed = batch.mask.clone()
        allowed[:, :-1] &= batch.mask[:, 1:]
        allowed[:, -1] = False
        usable = allowed.any(1)
        if not bool(usable.any()):
            continue
        chosen = torch.multinomial(allowed[usable].float(), 1, generator=generator)[:, 0]
        ids, chosen = batch.input_ids[usable].to(lm.device), chosen.to(lm.device)
        every = torch.arange(len(ids), device=lm.device)
        leaf: list[Tensor] = []

        def track(x: Tensor, leaf: list[Tensor] = leaf) -> Tensor:
            leaf.append(x.detach().requires_grad_())
            return leaf[0]

        with torch.enable_grad(), replace(lm.model, site, track):
            logits = lm.model(input_ids=ids, use_cache=False).logits[every, chosen].float()
            correct = logits[every, ids[every, chosen + 1]] - logits.mean(-1)
            (gradient,) = torch.autograd.grad(correct.sum(), leaf[0])
        acts = sae.encode(leaf[0].detach()[every, chosen].float())
        effect = (acts * (gradient[every, chosen].float() @ sae.W_dec.T)).abs()
        matters = effect.sum(-1) > 0
        share = effect[matters] / effect[matters].sum(-1, keepdim=True)
        entropy = -torch.special.xlogy(share, share).sum(-1)
        found.append(entropy.exp() / acts[matters].ne(0).sum(-1))
    if not found:
        raise ValueError("the text holds no token with a next one: give more text.")
    return float(torch.cat(found).double().mean())

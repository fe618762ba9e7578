"""A language model with SAEs spliced in: what fires, and what the splice costs.

Generation with edits is in `sae_core.generation`.
"""

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core import notebook
from sae_core.attention_sink import is_sink
from sae_core.config import Site
from sae_core.edits import Edit
from sae_core.head import hidden_states
from sae_core.metrics import affected, fvu, token_comparison
from sae_core.placement import in_float64
from sae_core.residual_stream import check_stream
from sae_core.sae import SAE
from sae_core.sites import activations, check_widths, rewrite, site_device
from sae_core.tokens import special_ids, token_texts, vocabulary


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """One text through the model, without and with an SAE. Arrays over tokens have length T."""

    ids: np.ndarray
    special: np.ndarray
    """True at tokens that keep their activation and count in no statistic: special ones, and a
    first token that is an attention sink."""
    base_loss: np.ndarray
    """Nats for predicting token t from those before it, NaN at 0; `spliced_loss`, `kl` likewise."""
    spliced_loss: np.ndarray
    kl: np.ndarray
    sq_error: np.ndarray
    """Squared reconstruction error, 0 at special tokens; `sq_deviation` from the mean likewise."""
    sq_deviation: np.ndarray
    token: np.ndarray
    """The active features as three arrays: token number, feature, activation; by token, then
    falling activation."""
    feature: np.ndarray
    activation: np.ndarray
    totals: dict[str, int | float] = field(default_factory=dict)
    """tokens, l0, fvu, ce_base, ce_spliced, delta_lm_loss, kl as in `sae_core.metrics`."""
    texts: tuple[str, ...] = field(default=(), repr=False)
    """The tokens' texts, T or, where they are not known, none."""

    def _repr_html_(self) -> str:
        """The totals, what the splice costs on each token, and the features that fire most."""
        names = ("l0", "fvu", "delta_lm_loss", "kl")
        texts = self.texts or tuple(f"[{i}]" for i in self.ids)
        cost = np.where(self.special, np.nan, self.spliced_loss - self.base_loss)
        largest = float(np.nanmax(np.abs(cost), initial=0.0)) if np.isfinite(cost).any() else 0.0
        strongest = np.argsort(-self.activation, kind="stable")
        _, first = np.unique(self.feature[strongest], return_index=True)
        rows = [
            (
                f"#{self.feature[at]}",
                float(self.activation[at]),
                texts[self.token[at]],
                int((self.feature == self.feature[at]).sum()),
            )
            for at in strongest[np.sort(first)][: notebook.MOST_ROWS]
        ]
        return notebook.page(
            f"{len(self.ids):,} tokens through the model, as it is and with the SAE",
            notebook.facts({name: self.totals.get(name) for name in names}),
            notebook.words("Red: the loss of this token grows with the SAE; blue: it falls."),
            notebook.heat_map(texts, cost.tolist(), largest, "What the SAE costs", cost=True),
            notebook.table(("feature", "largest", "on", "tokens"), rows),
        )

    def __repr__(self) -> str:
        """How many tokens and active features, and the totals, in one line."""
        names = ("l0", "fvu", "delta_lm_loss", "kl")
        totals = (f"{name} {self.totals[name]:.3g}" for name in names if name in self.totals)
        count = f"{len(self.ids):,} tokens, {len(self.token):,} activations"
        return f"Analysis({', '.join([count, *totals])})"

    def activation_of(self, token: int, feature: int) -> float:
        """The activation of a feature on a token, 0 where it is not active."""
        here = (self.token == token) & (self.feature == feature)
        return float(self.activation[here].sum())


class SplicedLM:
    """A causal language model, its tokenizer and SAEs by name, each on the device of its layer.

    Forwards run under a lock, one at a time, because hooks belong to the module: an instance may be
    used from several threads. Raises ValueError when an SAE's width is not that of its site.
    """

    def __init__(self, model: Any, tokenizer: Any, saes: Mapping[str, SAE]) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.device: torch.device = next(model.parameters()).device
        self.vocabulary = vocabulary(tokenizer)
        # A model's vocabulary may be padded beyond its tokenizer's.
        padding = int(model.config.vocab_size) - len(self.vocabulary)
        self.vocabulary += [b""] * max(0, padding)
        self._special = special_ids(tokenizer)
        self.lock = threading.RLock()
        self._saes: dict[str, SAE] = {}
        for name, sae in saes.items():
            self.add(name, sae)

    def __repr__(self) -> str:
        """The model and its SAEs with their sites in one line."""
        saes = ", ".join(f"{name} at {sae.cfg.site}" for name, sae in self._saes.items())
        name = self.model.config.name_or_path
        called = f" {name}" if name else ""
        return (
            f"SplicedLM({type(self.model).__name__}{called} in "
            f"{str(self.model.dtype).removeprefix('torch.')} on {self.device}; "
            f"{f'SAEs: {saes}' if saes else 'no SAEs'})"
        )

    def _repr_html_(self) -> str:
        """The model, and a row for each SAE."""
        rows = [
            (name, str(sae.cfg.site), type(sae).__name__, sae.cfg.d_model, sae.cfg.d_sae)
            for name, sae in self._saes.items()
        ]
        config = self.model.config
        return notebook.page(
            f"{type(self.model).__name__} {config.name_or_path}".strip(),
            notebook.facts(
                {
                    "dtype": str(self.model.dtype).removeprefix("torch."),
                    "device": str(self.device),
                    "vocabulary": len(self.vocabulary),
                }
            ),
            notebook.table(("SAE", "site", "kind", "d_model", "d_sae"), rows),
        )

    def add(self, name: str, sae: SAE) -> None:
        """Make an SAE available under `name`; ValueError if it does not fit the model."""
        if sae.cfg.site is None:
            raise ValueError(
                f"SAE {name} does not say at which site it reads: jumpscope inspect --check, or "
                "sae_core.check.check_sae, finds it."
            )
        check_widths(self.model, sae.cfg, f"SAE {name}")
        with self.lock:
            check_stream(self.model, sae.cfg.site, sae.cfg.site_out)
        self._saes[name] = sae.to(site_device(self.model, sae.cfg.site))

    def remove(self, name: str) -> None:
        """Forget the SAE called `name`; ValueError if there is none."""
        self.sae(name)
        del self._saes[name]

    def with_saes(self, saes: Mapping[str, SAE]) -> "SplicedLM":
        """The same model, tokenizer and lock with other SAEs, which are known to fit: for work on
        changed ones beside whoever uses this instance.
        """
        other = copy.copy(self)
        other._saes = dict(saes)
        return other

    @property
    def sae_names(self) -> list[str]:
        """Names of the SAEs, in the order they were added."""
        return list(self._saes)

    def sae(self, name: str) -> SAE:
        """The SAE called `name`; ValueError naming those loaded if there is none."""
        if name not in self._saes:
            raise ValueError(f"unknown SAE {name!r}: loaded are {', '.join(self._saes)}.")
        return self._saes[name]

    def site(self, name: str) -> Site:
        """Where the SAE called `name` reads."""
        site = self.sae(name).cfg.site
        assert site is not None
        return site

    def target(self, name: str) -> Site:
        """The activation that the SAE called `name` reconstructs."""
        return self.sae(name).cfg.site_out or self.site(name)

    def is_special(self, ids: Sequence[int]) -> list[bool]:
        """Which tokens keep their activation and count in no statistic."""
        return [i in self._special for i in ids]

    @torch.no_grad()
    def analyse(self, ids: Sequence[int], sae_name: str, mean: Tensor | None = None) -> Analysis:
        """What fires on a text and what splicing the SAE's reconstruction in costs.

        One forward: the text is a single row up to the site, where the hook makes it two, as it is
        and spliced. `mean` is the mean `[d_out]` of what the SAE reconstructs, which FVU's
        deviations are taken from; None takes the text's own.
        """
        sae = self.sae(sae_name)
        row = torch.tensor([list(ids)], device=self.device)
        special = torch.tensor(self.is_special(ids))
        encodings: list[_Encoded] = []

        def splice(x: Tensor, y: Tensor) -> Tensor:
            special[:1] |= self.has_sink(sae, x[0], y[0])
            kept = special.to(y.device)
            encodings.append(_encoded(sae, x[0], y[0], ~kept))
            recon = encodings[0].recon.to(y.dtype)
            return torch.stack([y[0], torch.where(kept[:, None], y[0], recon)])

        with self.lock, rewrite(self.model, self.site(sae_name), self.target(sae_name), splice):
            # Position embeddings and masks of one row serve both: they broadcast.
            hidden = hidden_states(self.model, row)
        base_loss, [(spliced_loss, kl)] = token_comparison(
            self.model, hidden[:1], [hidden[1:]], row
        )
        (encoded,) = encodings
        sq_error, sq_deviation = encoded.squares(~special, mean)
        token, feature, activation = encoded.active
        order = np.lexsort((feature, -activation, token))
        analysis = Analysis(
            ids=np.asarray(ids, dtype=np.int64),
            special=special.numpy(),
            base_loss=base_loss[0].cpu().numpy(),
            spliced_loss=spliced_loss[0].cpu().numpy(),
            kl=kl[0].cpu().numpy(),
            sq_error=sq_error,
            sq_deviation=sq_deviation,
            token=token[order],
            feature=feature[order],
            activation=activation[order],
            texts=tuple(token_texts(ids, self.vocabulary)),
        )
        analysis.totals.update(_totals(analysis))
        return analysis

    @torch.no_grad()
    def pre_activations(
        self, ids: Sequence[int], sae_name: str, features: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pre-activations and activations `[T, n]` of some features; 0 at special tokens.

        Runs the model only up to the SAE's site.
        """
        sae, site = self.sae(sae_name), self.site(sae_name)
        self.check_features(sae_name, features)
        with self.lock:
            x = activations(self.model, torch.tensor([list(ids)], device=self.device), [site])[site]
        pre_acts = sae.pre_acts(x[0].float())
        keep = ~torch.tensor(self.is_special(ids), device=self.device)[:, None]
        keep[:1] &= not self.has_sink(sae, x[0], x[0])
        columns = list(features)
        acts = sae.activate(pre_acts)[:, columns] * keep
        return (pre_acts[:, columns] * keep).cpu().numpy(), acts.cpu().numpy()

    def has_sink(self, sae: SAE, x: Tensor, y: Tensor) -> bool:
        """Whether the first token of a text is an attention sink (`sae_core.attention_sink`), as
        training or measuring the SAE found it, or as the norms of what it reads and reconstructs
        here have it.
        """
        if self.tokenizer.bos_token_id is not None:
            return False
        metadata = sae.cfg.metadata
        trained, measured = (metadata.get(key) or {} for key in ("training", "measured"))
        if trained.get("attention_sink") or measured.get("sink_tokens"):
            return True
        norms = (torch.linalg.vector_norm(each.float(), dim=-1) for each in (x, y))
        return any(is_sink(each[:1], each[1:]) for each in norms)

    def edited_sae(self, edit: Edit) -> str:
        """Name of the SAE whose feature an edit changes; ValueError if it does not say which of
        several, or the feature does not exist.
        """
        name = edit.sae
        if not name:
            if len(self._saes) != 1:
                raise ValueError(
                    f"the edit of feature {edit.feature} does not say which SAE it belongs to: "
                    f"{', '.join(self._saes)} are loaded."
                )
            (name,) = self._saes
        self.check_features(name, [edit.feature])
        return name

    def check_features(self, sae_name: str, features: Sequence[int]) -> None:
        """ValueError naming the first feature that the SAE does not have."""
        d_sae = self.sae(sae_name).cfg.d_sae
        for feature in features:
            if not 0 <= feature < d_sae:
                raise ValueError(
                    f"feature {feature} does not exist: SAE {sae_name} has features 0 to "
                    f"{d_sae - 1}."
                )


_ENCODED = 2**24
"""Elements of the largest array over tokens and features: 64 MB in float32."""


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """What an SAE made of one text."""

    y: Tensor
    """What it should reconstruct, float32 `[T, d_out]`; `recon` is what it did."""
    recon: Tensor
    active: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Token, feature, activation of everything that is active on a counted token."""

    def squares(self, counted: Tensor, mean: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
        """Squared error and deviation from the mean for each token, 0 where it is not counted."""
        counted = counted.to(self.y.device)
        y, recon = in_float64(self.y[counted]), in_float64(self.recon[counted])
        centre = y.mean(0) if mean is None else mean.to(y)
        both = torch.zeros(2, len(counted), dtype=torch.float64, device=y.device)
        counted = counted.to(y.device)
        both[0, counted] = (y - recon).square().sum(-1)
        both[1, counted] = (y - centre).square().sum(-1)
        error, deviation = both.cpu().numpy()
        return error, deviation


def _encoded(sae: SAE, x: Tensor, y: Tensor, counted: Tensor) -> _Encoded:
    """Encode and reconstruct a text, in parts of so few tokens that a wide SAE needs no more."""
    size = max(1, _ENCODED // sae.cfg.d_sae)
    recon: list[Tensor] = []
    active: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(x), size):
        part = x[start : start + size].float()
        acts = sae.encode(part)
        recon.append(sae.output(acts, part))
        acts = acts * counted[start : start + size, None]
        token, feature = acts.nonzero(as_tuple=True)
        active.append((token + start, feature, acts[token, feature]))
    columns = (torch.cat(column).cpu().numpy() for column in zip(*active, strict=True))
    token, feature, activation = columns
    return _Encoded(y=y.float(), recon=torch.cat(recon), active=(token, feature, activation))


def _totals(analysis: Analysis) -> dict[str, int | float]:
    """The text's numbers; NaN where it does not define one (a text of one token has no loss)."""
    counted = ~analysis.special
    with_loss = affected(torch.from_numpy(counted)).numpy()
    tokens = int(counted.sum())

    def mean(values: np.ndarray) -> float:
        return float(values[with_loss].mean(dtype=np.float64)) if with_loss.any() else float("nan")

    ce_base, ce_spliced = mean(analysis.base_loss), mean(analysis.spliced_loss)
    return {
        "tokens": tokens,
        "l0": len(analysis.token) / tokens if tokens else float("nan"),
        "fvu": fvu(float(analysis.sq_error.sum()), float(analysis.sq_deviation.sum())),
        "ce_base": ce_base,
        "ce_spliced": ce_spliced,
        "delta_lm_loss": ce_spliced - ce_base,
        "kl": mean(analysis.kl),
    }

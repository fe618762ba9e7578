"""Ways in which an SAE's weights may be meant to be read.

A convention says which activation goes in, which one the SAE reconstructs, what is done to the
input first, and which tokens count. Those listed here differ from the one they start from in one
thing (a scale may come with `b_dec`, and both ends of an MLP may be wrong: one mistake each). They
are the mistakes that people made: the wrong module's output, a layer counted from 1, weights saved
before a scale was folded in, BOS in the average.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

from torch import nn

from sae_core.config import SAEConfig, Site, SiteKind
from sae_core.sites import capture, layers, module_path, site_width

Scale = Literal["none", "unit", "sqrt_d", "layer_norm"]
"""What the input is divided by: nothing; the root of its mean square, so that E||x||^2 = 1; its
mean norm over sqrt(d) (SAELens' expected_average_only_in); each token's standard deviation, after
subtracting its mean (SAELens' layer_norm)."""
Bos = Literal["out", "counted", "absent"]
"""BOS before every prompt but in no statistic; counted like any token; prompts without it."""

_RELATIVES: tuple[tuple[SiteKind, ...], ...] = (
    ("resid_pre", "resid_mid", "resid_post"),
    ("mlp_in", "mlp_in_unit"),
    ("mlp_proj", "mlp_out"),
    ("attn_proj", "attn_add"),
)
"""Activations so alike that an SAE of one may pass for an SAE of another."""
_MLP_IN: tuple[SiteKind, ...] = ("mlp_in", "mlp_in_unit", "resid_mid")
_MLP_OUT: tuple[SiteKind, ...] = ("mlp_out", "mlp_proj")

_SCALES: dict[Scale, str] = {
    "none": "",
    "unit": "scaled to mean square 1",
    "sqrt_d": "scaled to mean norm sqrt(d)",
    "layer_norm": "layer-normed",
}
_BOS: dict[Bos, str] = {"out": "", "counted": "BOS counted", "absent": "prompts without BOS"}


@dataclass(frozen=True, kw_only=True)
class Convention:
    """One way to read an SAE; the defaults are how Jumpscope reads every SAE."""

    site: Site
    """The activation that goes in."""
    target: Site
    """The activation that should come out; `site` but for transcoders."""
    scale: Scale = "none"
    factor: float = 1.0
    """What the input is multiplied by, after `scale`."""
    minus_b_dec: bool = False
    """Whether `b_dec` is subtracted from the (scaled) input."""
    bos: Bos = "out"

    @property
    def where(self) -> str:
        """The site, or both sites of a transcoder."""
        one = self.site == self.target
        return str(self.site) if one else f"{self.site} to {self.target}"

    def __str__(self) -> str:
        extras = (
            _SCALES[self.scale],
            "" if self.factor == 1 else f"multiplied by {self.factor:.2g}",
            "minus b_dec" if self.minus_b_dec else "",
            _BOS[self.bos],
        )
        return ", ".join([self.where, *(extra for extra in extras if extra)])


def as_declared(cfg: SAEConfig) -> Convention | None:
    """How the SAE says it is to be read; None if it does not say at which site."""
    if cfg.site is None:
        return None
    return Convention(site=cfg.site, target=cfg.site_out or cfg.site)


class Conventions:
    """The conventions of one SAE in one model that differ from the declared one."""

    def __init__(self, model: nn.Module, cfg: SAEConfig) -> None:
        self._model = model
        self._depth = len(layers(model)[1])
        self._cfg = cfg

    def other_arithmetic(self, here: Convention) -> list[Convention]:
        """Other scales, and `b_dec` subtracted from the input."""
        transcoder = here.site != here.target
        # A transcoder's b_dec is in another space than its input, and a norm taken per token could
        # not be undone in its output.
        scales = [s for s in get_args(Scale) if not (transcoder and s == "layer_norm")]
        others = [
            replace(here, scale=scale, minus_b_dec=minus)
            for scale, minus in product(scales, (False,) if transcoder else (False, True))
        ]
        return [convention for convention in others if convention != here]

    def other_bos(self, here: Convention, *, counted: bool) -> list[Convention]:
        """Prompts without BOS and, if `counted`, BOS counted as a token."""
        kinds: tuple[Bos, ...] = ("absent", "counted") if counted else ("absent",)
        return [replace(here, bos=kind) for kind in kinds]

    def same_layer(self, here: Convention) -> list[Convention]:
        """The other activations of the layer."""
        inputs = self._sites([here.site.layer], self._cfg.d_model)
        if here.site == here.target:
            return self._new(here, ((site, site) for site in inputs))
        targets = self._sites([here.target.layer], self._cfg.width_out)
        pairs = [(site, here.target) for site in inputs]
        pairs += [(here.site, target) for target in targets]
        if here.site.kind in _MLP_IN and here.target.kind in _MLP_OUT:
            # Whoever hooked the module `mlp` has both ends of it.
            pairs += product(_of(inputs, _MLP_IN), _of(targets, _MLP_OUT))
        return self._new(here, pairs)

    def other_layers(
        self, here: Convention, distance: Sequence[int] | None = None
    ) -> list[Convention]:
        """The same activation in the layers so far away, nearest first; by default in all."""
        steps = distance or range(1, self._depth)
        shifts = (sign * step for step in steps for sign in (-1, 1))
        pairs = []
        for shift in shifts:
            moved = here.site.layer + shift, here.target.layer + shift
            if all(0 <= layer < self._depth for layer in moved):
                site, target = Site(here.site.kind, moved[0]), Site(here.target.kind, moved[1])
                if self._has(site, self._cfg.d_model) and self._has(target, self._cfg.width_out):
                    pairs.append((site, target))
        return self._new(here, pairs)

    def similar(self, here: Convention) -> list[Convention]:
        """Those among the nearest that differ so little that the SAE may pass for one of theirs."""
        alike = [
            c
            for c in self.same_layer(here)
            if _related(c.site.kind, here.site.kind) and _related(c.target.kind, here.target.kind)
        ]
        alike += [c for c in self.other_layers(here, [1]) if c not in alike]
        # Of the arithmetic b_dec alone: a lost scale cannot go unseen.
        return alike + [c for c in self.other_arithmetic(here) if c.scale == "none"]

    def everywhere(self) -> list[Convention]:
        """All that weights which declare no site may be: an SAE of any activation of their width,
        or a transcoder of any MLP.

        ValueError if the model has no such activation.
        """
        pairs: list[tuple[Site, Site]] = []
        for layer in range(self._depth):
            inputs = self._sites([layer], self._cfg.d_model)
            targets = self._sites([layer], self._cfg.width_out)
            if self._cfg.width_out == self._cfg.d_model and not self._cfg.is_transcoder:
                pairs += [(site, site) for site in inputs]
            pairs += product(_of(inputs, _MLP_IN), _of(targets, _MLP_OUT))
        if not pairs:
            raise ValueError(
                f"the SAE reads {self._cfg.d_model} numbers but no activation of this model has "
                "that width: it belongs to another model."
            )
        return [Convention(site=site, target=target) for site, target in dict.fromkeys(pairs)]

    def _sites(self, at: Iterable[int], width: int) -> list[Site]:
        """Activations of these layers of that width, each tensor once."""
        sites = (Site(kind, layer) for layer, kind in product(at, get_args(SiteKind)))
        return list(dict.fromkeys(self._named(s) for s in sites if self._has(s, width)))

    def _has(self, site: Site, width: int) -> bool:
        try:
            with capture(self._model, [site]):  # refuses what the model does not have
                return site_width(self._model, site) == width
        except ValueError:
            return False

    def _named(self, site: Site) -> Site:
        """The first name of the tensor at a site that has several."""
        if site.kind == "resid_pre" and site.layer:
            return Site("resid_post", site.layer - 1)
        for alike in (Site(kind, site.layer) for kind in ("mlp_out", "attn_add")):
            if _related(site.kind, alike.kind):
                same = module_path(self._model, site) == module_path(self._model, alike)
                return alike if same else site
        return site

    def _new(self, here: Convention, pairs: Iterable[tuple[Site, Site]]) -> list[Convention]:
        """Conventions of these pairs of sites, without `here` and without repetition."""
        named = [(self._named(site), self._named(target)) for site, target in pairs]
        others = [
            replace(here, site=site, target=target)
            for site, target in dict.fromkeys(named)
            if (site == target) == (here.site == here.target)
        ]
        same = replace(here, site=self._named(here.site), target=self._named(here.target))
        return [convention for convention in others if convention != same]


def _related(one: SiteKind, other: SiteKind) -> bool:
    return one == other or any(one in group and other in group for group in _RELATIVES)


def _of(sites: Iterable[Site], kinds: Sequence[SiteKind]) -> Iterator[Site]:
    return (site for site in sites if site.kind in kinds)

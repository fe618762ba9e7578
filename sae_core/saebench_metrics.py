"""SAEBench's core metrics, by its own definitions (`sae_bench/evals/core`, arXiv 2503.09532).

docs/metrics.md names each and what differs from ours. Its rules are another's: the zero ablation
also takes special tokens, losses are averaged by the token that is read, some means are over the
means of batches. All tokens that count are those of `TokenBatch.mask`; special ones keep their
activation, as in SAEBench's published runs. Sums are float64.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.corpus import TokenBatch, TokenRow, batches
from sae_core.evaluation import only_where
from sae_core.head import chunks, head, hidden_states
from sae_core.placement import in_float64, wide_device
from sae_core.progress_bar import Progress, reported
from sae_core.sae import SAE, GatedSAE
from sae_core.sites import activations, rewrite
from sae_core.splice import SplicedLM

NAN = float("nan")
_SMALLEST_NORM = 1e-4  # shorter activations are not divided by
_COSINES_AT_ONCE = 2**24
_SPLICES = ("with_sae", "with_ablation")


@torch.no_grad()
def core_metrics(
    lm: SplicedLM,
    sae_name: str,
    rows: Sequence[TokenRow],
    *,
    batch_rows: int = 16,
    progress: Progress | None = None,
) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    """The metrics by category and name, and those of each feature by name; NaN where undefined.

    Runs the model whole three times and once to the site. `progress` is told the tokens that count
    as they are done; None shows a bar on stderr if it takes long. ValueError for a transcoder,
    which SAEBench does not measure, and for rows without a token that counts.
    """
    sae = lm.sae(sae_name)
    if sae.cfg.is_transcoder:
        raise ValueError(
            f"SAE {sae_name} is a transcoder: SAEBench measures SAEs of what they read."
        )
    all_batches = [
        each for each in batches(rows, lm.tokenizer, batch_rows) if bool(each.mask.any())
    ]
    if not all_batches:
        raise ValueError("the text holds no token that counts: give more text.")
    downstream, quality = _Downstream(), _Quality(sae)
    total = sum(int(each.mask.sum()) for each in all_batches)
    with reported(progress, f"SAEBench's metrics of {sae_name}", total) as report:
        for batch in all_batches:
            site = lm.site(sae_name)
            with lm.lock:
                x = activations(lm.model, batch.input_ids.to(lm.device), [site])[site]
            quality.update(x[batch.mask.to(x.device)].float(), batch.mask)
            downstream.update(lm, sae_name, batch)
            report(int(batch.mask.sum()))
    features = quality.features() | feature_weights(sae)
    tokens = float(sum(len(row.ids) for row in rows))
    stats = ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance")
    metrics = downstream.result() | quality.result()
    metrics["token_stats"] = dict.fromkeys(stats, tokens)
    metrics["misc_metrics"] = _misc(features)
    return metrics, features


class _Downstream:
    """Cross-entropy and KL with nothing, the reconstruction and zeros at the site."""

    def __init__(self) -> None:
        self._ce: dict[str, float] = dict.fromkeys(("without_sae", *_SPLICES), 0.0)
        self._kl: dict[str, float] = dict.fromkeys(_SPLICES, 0.0)
        self._losses = self._tokens = 0

    def update(self, lm: SplicedLM, sae_name: str, batch: TokenBatch) -> None:
        """Run the model on a batch in the three ways."""
        ids, sae, site = batch.input_ids.to(lm.device), lm.sae(sae_name), lm.site(sae_name)
        with lm.lock:
            states = {"without_sae": hidden_states(lm.model, ids)}
            with rewrite(lm.model, site, site, only_where(batch.mask, lambda x, _: sae(x))):
                states["with_sae"] = hidden_states(lm.model, ids)
            with rewrite(lm.model, site, site, lambda _, y: torch.zeros_like(y)):
                states["with_ablation"] = hidden_states(lm.model, ids)
        counted = batch.mask.flatten().nonzero()[:, 0]
        target, exists = (each.flatten()[counted] for each in _next_tokens(batch))
        of_counted = {
            name: each.flatten(0, 1)[counted.to(each.device)] for name, each in states.items()
        }
        for part in chunks(lm.model, len(counted)):
            log_p: dict[str, Tensor] = {
                name: head(lm.model, each[part]).float().log_softmax(-1)
                for name, each in of_counted.items()
            }
            base = log_p["without_sae"]
            has_next = exists[part].to(base.device)
            wanted = target[part].to(base.device)[has_next, None]
            for name, each in log_p.items():
                losses = -each[has_next].gather(-1, wanted)
                self._ce[name] += float(in_float64(losses).sum())
                if name in self._kl:
                    kl = torch.linalg.vecdot(base.exp(), base - each)
                    self._kl[name] += float(in_float64(kl).sum())
        self._losses += int(exists.sum())
        self._tokens += len(counted)

    def result(self) -> dict[str, dict[str, float]]:
        """Both categories of what a splice preserves."""
        ce = {name: _ratio(value, self._losses) for name, value in self._ce.items()}
        kl = {name: _ratio(value, self._tokens) for name, value in self._kl.items()}
        lost, worst = ce["with_ablation"] - ce["with_sae"], ce["with_ablation"] - ce["without_sae"]
        return {
            "model_behavior_preservation": {
                "kl_div_score": _ratio(kl["with_ablation"] - kl["with_sae"], kl["with_ablation"]),
                "kl_div_with_ablation": kl["with_ablation"],
                "kl_div_with_sae": kl["with_sae"],
            },
            "model_performance_preservation": {
                "ce_loss_score": _ratio(lost, worst),
                "ce_loss_with_ablation": ce["with_ablation"],
                "ce_loss_with_sae": ce["with_sae"],
                "ce_loss_without_sae": ce["without_sae"],
            },
        }


def _next_tokens(batch: TokenBatch) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """The token after each, and whether the row has one."""
    target = batch.input_ids.roll(-1, dims=1)
    lengths = torch.tensor([len(row.ids) for row in batch.rows])
    return target, torch.arange(target.shape[1])[None] < lengths[:, None] - 1


class _Quality:
    """What needs the activations alone: reconstruction, shrinkage, sparsity, densities."""

    def __init__(self, sae: SAE) -> None:
        self._sae = sae
        self._of_tokens: dict[str, list[Tensor]] = {}
        self._of_batches: dict[str, list[float]] = {}
        where = wide_device(sae.W_dec.device)
        self._active = torch.zeros(sae.cfg.d_sae, dtype=torch.long, device=where)
        self._prompts = torch.zeros_like(self._active)
        self._tokens = 0

    def update(self, x: Float[Tensor, "tokens d_model"], mask: Bool[Tensor, "batch pos"]) -> None:
        """Count a batch's activations, those at `mask` in order."""
        acts = self._sae.encode(x)
        wide, recon = in_float64(x), in_float64(self._sae.decode(acts))
        squares, recon_squares = wide.square().sum(-1), recon.square().sum(-1)
        product = torch.linalg.vecdot(wide, recon)
        error = (wide - recon).square().sum(-1)
        norm, recon_norm = squares.sqrt(), recon_squares.sqrt()
        of_tokens = {
            "l2_norm_in": norm,
            "l2_norm_out": recon_norm,
            "l2_ratio": recon_norm / torch.where(norm < _SMALLEST_NORM, 1.0, norm),
            "l0": in_float64(acts.ne(0).sum(-1)),
            "l1": in_float64(acts.abs().sum(-1)),
            "explained_variance_legacy": 1 - error / (wide - wide.mean(0)).square().sum(-1),
            "mse": error / len(x),
            "cossim": product / norm / recon_norm,
        }
        for name, values in of_tokens.items():
            self._of_tokens.setdefault(name, []).append(values.cpu())
        of_batch = {
            "bias": recon_squares.mean() / product.mean(),
            "squares": squares.mean(),
            "error": error.mean(),
        }
        for name, value in of_batch.items():
            self._of_batches.setdefault(name, []).append(float(value))
        active = acts.ne(0)
        self._active += active.sum(0).to(self._active.device)
        for of_row in active.split(mask.sum(1).tolist()):
            self._prompts += of_row.any(0).to(self._prompts.device)
        self._tokens += len(x)

    def result(self) -> dict[str, dict[str, float]]:
        """The three categories."""
        mean = {name: float(torch.cat(values).mean()) for name, values in self._of_tokens.items()}
        batch = {name: _mean(values) for name, values in self._of_batches.items()}
        # The square of the mean square over all dimensions, where the variance has ||mean(x)||^2.
        variance = batch["squares"] - (batch["squares"] / self._sae.cfg.d_model) ** 2
        quality = ("explained_variance_legacy", "mse", "cossim")
        shrinkage = ("l2_norm_in", "l2_norm_out", "l2_ratio")
        return {
            "reconstruction_quality": {
                "explained_variance": 1 - _ratio(batch["error"], variance),
                **{name: mean[name] for name in quality},
            },
            "shrinkage": {
                **{name: mean[name] for name in shrinkage},
                "relative_reconstruction_bias": batch["bias"],
            },
            "sparsity": {"l0": mean["l0"], "l1": mean["l1"]},
        }

    def features(self) -> dict[str, list[float]]:
        """Of each feature: share of tokens, and active tokens of the rows that have one."""
        active = in_float64(self._active)
        return {
            "feature_density": (active / self._tokens).tolist(),
            "consistent_activation_heuristic": (active / self._prompts).tolist(),
        }


def feature_weights(sae: SAE) -> dict[str, list[float]]:
    """What SAEBench says of each feature's weights; cosines are NaN for a vector of zeros."""
    encoder, decoder = sae.W_enc.detach().T.float(), sae.W_dec.detach().float()
    bias = sae.b_mag if isinstance(sae, GatedSAE) else sae.b_enc
    lengths = encoder.norm(dim=1)
    values = {
        "encoder_bias": bias.detach(),
        "encoder_norm": lengths,
        "encoder_decoder_cosine_sim": torch.linalg.vecdot(encoder, decoder)
        / lengths
        / decoder.norm(dim=1),
        "max_decoder_cosine_sim": largest_cosines(decoder),
        "max_encoder_cosine_sim": largest_cosines(encoder),
    }
    return {name: each.cpu().tolist() for name, each in values.items()}


def largest_cosines(vectors: Float[Tensor, "n width"]) -> Float[Tensor, " n"]:
    """Each vector's largest cosine with another one; NaN for one that is alone. A vector of zeros
    has cosine 0 with all.
    """
    if len(vectors) < 2:
        return torch.full((len(vectors),), NAN)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return torch.cat([_without_itself(unit, part) for part in _parts(len(unit))])


def _parts(count: int) -> Iterator[slice]:
    size = max(1, _COSINES_AT_ONCE // count)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _without_itself(unit: Tensor, part: slice) -> Tensor:
    cosines = unit[part] @ unit.T
    own = torch.arange(part.start, part.stop, device=unit.device)
    cosines[own - part.start, own] = -torch.inf
    return cosines.amax(-1)


def _misc(features: dict[str, list[float]]) -> dict[str, float]:
    """The category that summarises the features."""
    density = features["feature_density"]
    whole = sum(density)
    result = {
        f"average_{name}": _mean(features[name])
        for name in ("max_encoder_cosine_sim", "max_decoder_cosine_sim")
    }
    for name, bound in (("1", 0.01), ("10", 0.1)):
        frequent = [each for each in density if each > bound]
        result[f"freq_over_{name}_percent"] = len(frequent) / len(density)
        result[f"normalized_freq_over_{name}_percent"] = sum(frequent) / whole if whole else 0.0
    return result | {"frac_alive": _mean([float(each > 0) for each in density])}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ratio(part: float, whole: float | int) -> float:
    return part / whole if whole else NAN

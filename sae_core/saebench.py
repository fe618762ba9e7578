"""SAEBench's result file of its core evaluation, so that ours stand beside published ones.

The layout is that of `eval_output_schema_core.json` in SAEBench (arXiv 2503.09532); the numbers are
`sae_core.saebench_metrics`. What SAEBench would fill in of itself is said not to be there: its
commit is "Unknown" and SAELens' version null, as no code of either ran. What is not a finite number
is -1, as SAEBench writes it.
"""

import json
import math
import time
import uuid
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sae_core.corpus import TokenRow
from sae_core.files import atomic_write
from sae_core.formats.hooks import transformer_lens_name
from sae_core.progress_bar import Progress
from sae_core.sae import SAE
from sae_core.saebench_metrics import core_metrics
from sae_core.splice import SplicedLM

_DIGITS = 10  # of a feature's numbers
_ORDER = (
    "model_behavior_preservation",
    "model_performance_preservation",
    "reconstruction_quality",
    "shrinkage",
    "sparsity",
    "token_stats",
    "misc_metrics",
)
_PER_FEATURE = (
    "feature_density",
    "consistent_activation_heuristic",
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
)


def core_result(
    lm: SplicedLM,
    sae_name: str,
    rows: Sequence[TokenRow],
    *,
    text: Sequence[str],
    context_size: int,
    batch_rows: int = 16,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure an SAE and return the file's content; `text` names what `rows` were cut from.

    ValueError and `progress` are those of `core_metrics`.
    """
    sae = lm.sae(sae_name)
    metrics, features = core_metrics(lm, sae_name, rows, batch_rows=batch_rows, progress=progress)
    by_category = {
        category: {name: _number(value) for name, value in metrics[category].items()}
        for category in _ORDER
    }
    by_category["token_stats"] = {
        name: int(value) for name, value in by_category["token_stats"].items()
    }
    return {
        "eval_type_id": "core",
        "eval_config": _config(lm, sae, rows, text, context_size, batch_rows),
        "eval_id": str(uuid.uuid4()),
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": by_category,
        "eval_result_details": [
            {"index": index}
            | {name: _number(round(features[name][index], _DIGITS)) for name in _PER_FEATURE}
            for index in range(sae.cfg.d_sae)
        ],
        "sae_bench_commit_hash": "Unknown",
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": sae_name,
        "sae_lens_version": None,
        "sae_cfg_dict": sae_settings(sae),
        "eval_result_unstructured": {
            "measured_by": f"jumpscope {version('jumpscope')}",
            "sae_content_hash": sae.cfg.metadata.get("content_hash"),
        },
    }


def write_core_result(result: dict[str, Any], path: Path) -> None:
    """Write the file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(
            json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False), encoding="utf-8"
        )


def sae_settings(sae: SAE) -> dict[str, Any]:
    """An SAE's configuration under the names that SAEBench's own SAEs have."""
    cfg = sae.cfg
    trained = (cfg.metadata.get("training") or {}).get("tokens")
    return {
        "model_name": cfg.model_name,
        "d_in": cfg.d_model,
        "d_sae": cfg.d_sae,
        "hook_layer": None if cfg.site is None else cfg.site.layer,
        "hook_name": None if cfg.site is None else transformer_lens_name(cfg.site),
        "hook_head_index": None,
        "context_size": cfg.context_size,
        "architecture": cfg.architecture,
        "apply_b_dec_to_input": False,
        "prepend_bos": cfg.prepend_bos,
        "normalize_activations": "none",
        "dtype": str(sae.W_dec.dtype).removeprefix("torch."),
        "device": str(sae.W_dec.device),
        # Where it is not known: the default of SAEBench's own configuration.
        "training_tokens": -100_000 if trained is None else int(trained),
        "sae_lens_training_version": None,
        "neuronpedia_id": None,
    } | ({} if cfg.k is None else {"k": cfg.k})


def _config(
    lm: SplicedLM,
    sae: SAE,
    rows: Sequence[TokenRow],
    text: Sequence[str],
    context_size: int,
    batch_rows: int,
) -> dict[str, Any]:
    """The settings of SAEBench's run that measures what was measured."""
    count = math.ceil(len(rows) / batch_rows)
    computed = (
        "compute_kl",
        "compute_ce_loss",
        "compute_l2_norms",
        "compute_sparsity_metrics",
        "compute_variance_metrics",
        "compute_featurewise_density_statistics",
        "compute_featurewise_weight_based_metrics",
        "exclude_special_tokens_from_reconstruction",
    )
    return {
        "model_name": sae.cfg.model_name,
        "llm_dtype": str(lm.model.dtype).removeprefix("torch."),
        "batch_size_prompts": batch_rows,
        "n_eval_reconstruction_batches": count,
        "n_eval_sparsity_variance_batches": count,
        "dataset": ", ".join(text),
        "context_size": context_size,
        **dict.fromkeys(computed, True),
        "verbose": False,
    }


def _number(value: float) -> float | int:
    return value if math.isfinite(value) else -1

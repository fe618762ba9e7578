"""Trains the demo's language model, a small Gemma 2, and its tokenizer, from text. `--shape.family`
makes it a Llama or a Mistral of the same sizes.

    python -m training.lm --corpus 'corpus/train-*.parquet' --validation corpus/validation.parquet \
        --out runs/lm --max-seconds 390

The hidden matrices are trained with Muon, embeddings and norms with AdamW. The learning rate rises
over the first `warmup` of the run, stays, and falls linearly to zero over the last `decay` of it.
The run's progress is

    max(step / steps, seconds / max_seconds)

so that with a budget of seconds it ends in time and fully decayed, on whatever machine. Seconds
count from the end of the first step (which compiles) to the last, validations included; reading
the corpus, compiling and measuring the saved model come on top.

`out` receives `model/` (Hugging Face layout, bfloat16), `metrics.jsonl` as the run goes, and
`report.json`.
"""

import json
import logging
import sys
import time
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from sae_core.corpus import documents, expand
from sae_core.files import atomic_folder, atomic_write
from sae_core.placement import chosen_device
from sae_core.tokens import special_ids
from training.lm_config import LMConfig
from training.lm_data import TokenRows, token_stream, train_tokenizer
from training.lm_loop import Run
from training.lm_model import attention_masks, measure_saved, row_losses, sample, save_model
from training.run_provenance import file_names, software

log = logging.getLogger(__name__)

_CURVE_POINTS = 200  # in the report; metrics.jsonl has them all


def train_lm(cfg: LMConfig) -> dict[str, Any]:
    """Train, save, measure what was saved, and return the report (also in `out/report.json`).

    With `probe`, only train that long and return rate and loss. Raises ValueError with one sentence
    for a missing or too small corpus, an `out` that holds a model already, or a loss that is no
    longer finite.
    """
    if cfg.probe:
        cfg = replace(cfg, max_seconds=cfg.probe)
    elif (cfg.out / "model").exists():
        raise ValueError(f"{cfg.out} holds a model already: choose another folder.")
    files, checked_files = expand(cfg.corpus), expand(cfg.validation)
    device = _device(cfg)

    began = time.perf_counter()
    tokenizer = _tokenizer(cfg)
    stream = token_stream(files, tokenizer)
    checked = token_stream(checked_files, tokenizer)
    reading = time.perf_counter() - began
    log.info("%d tokens, %d to validate on, %.1f s", len(stream), len(checked), reading)

    torch.manual_seed(cfg.seed)
    run = _prepare(cfg, tokenizer, TokenRows(stream, cfg.context, tokenizer.bos_token_id, device))
    run.sample = _validation_sample(
        cfg, TokenRows(checked, cfg.context, tokenizer.bos_token_id, device)
    )
    parameters = run.model.num_parameters()
    log.info("%d parameters on %s", parameters, device)
    if cfg.probe:
        return {"parameters": parameters, "training": run.fit(), "validation": run.validations}

    cfg.out.mkdir(parents=True, exist_ok=True)
    with open(cfg.out / "metrics.jsonl", "w", encoding="utf-8") as run.metrics:
        training = run.fit()
    with atomic_folder(cfg.out / "model") as folder:
        save_model(run.model, tokenizer, folder)
    log.info("saved to %s", cfg.out / "model")
    measured = measure_saved(cfg.out / "model", checked, cfg.context, device)
    log.info("as saved: %s", json.dumps(measured))
    report = {
        "config": _settings(cfg),
        "parameters": parameters,
        "corpus": {"files": file_names(files), "tokens": len(stream), "seconds": round(reading, 1)},
        "training": training | {"epochs": round(training["tokens_seen"] / len(stream), 2)},
        "validation": {"files": file_names(checked_files)} | measured,
        "software": software(device),
        "validation_curve": run.validations,
        "training_curve": run.curve[:: max(1, len(run.curve) // _CURVE_POINTS)],
        "samples": sample(cfg.out / "model", device, cfg.seed),
    }
    with atomic_write(cfg.out / "report.json") as path:
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return report


def _device(cfg: LMConfig) -> torch.device:
    device = chosen_device(cfg.device)
    if device.type != "cuda" and cfg.attention == "flex":
        raise ValueError("flex attention trains on CUDA only: choose attention eager.")
    return device


def _tokenizer(cfg: LMConfig) -> Any:
    """The tokenizer of the configuration, or one trained on its corpus."""
    if cfg.tokenizer is None:
        texts = (document.text for document in documents(cfg.corpus))
        return train_tokenizer(texts, cfg.shape.vocab_size, cfg.shape.max_positions)
    if not (cfg.tokenizer / "tokenizer.json").is_file():
        raise ValueError(f"{cfg.tokenizer} holds no tokenizer.json: name a tokenizer's folder.")
    tokenizer = AutoTokenizer.from_pretrained(cfg.tokenizer)
    if len(tokenizer) != cfg.shape.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} entries but vocab_size is "
            f"{cfg.shape.vocab_size}: make them equal."
        )
    return tokenizer


def _prepare(cfg: LMConfig, tokenizer: Any, rows: TokenRows) -> Run:
    """A new model and all that its training needs, but for the validation sample."""
    device = rows.device
    model = cfg.shape.build(tokenizer)
    torch.nn.Module.to(model, device)  # transformers' own `to` has lost its type
    masks = attention_masks(model, cfg.context, cfg.attention, device)
    bos: int = tokenizer.bos_token_id

    def losses(batch: Tensor) -> tuple[Tensor, Tensor]:
        each = row_losses(model, batch, masks, bos)
        return each.sum() / (batch[:, 1:] != bos).sum(), each.detach()

    compiles = device.type == "cuda" if cfg.compile is None else cfg.compile
    return Run(
        cfg=cfg,
        model=model,
        losses=torch.compile(losses, dynamic=False) if compiles else losses,
        batches=rows.shuffled(cfg.batch_rows, cfg.seed),
        sample=(),
        special=torch.tensor(sorted(special_ids(tokenizer)), device=device),
        metrics=None,
    )


def _validation_sample(cfg: LMConfig, rows: TokenRows) -> list[Tensor]:
    """The first rows of the validation text, in whole batches, up to `validation_rows`."""
    wanted = max(1, cfg.validation_rows // cfg.batch_rows)
    batches = list(islice(rows.in_order(cfg.batch_rows), wanted))
    batches = [batch for batch in batches if len(batch) == cfg.batch_rows]
    if not batches:
        raise ValueError(
            f"the validation text has {rows.tokens} tokens, too few for a batch of "
            f"{cfg.batch_rows} rows of {cfg.context}: add text or lower batch_rows."
        )
    return batches


def _settings(cfg: LMConfig) -> dict[str, Any]:
    """The configuration as JSON values, without the paths of this machine."""
    chosen = asdict(cfg)
    del chosen["out"], chosen["probe"]
    chosen |= {name: file_names(chosen[name]) for name in ("corpus", "validation")}
    chosen["tokenizer"] = None if cfg.tokenizer is None else Path(cfg.tokenizer).name
    return chosen


def main() -> None:
    """`python -m training.lm`: the report goes to stdout, progress to stderr."""
    import tyro

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        report = train_lm(tyro.cli(LMConfig, description=__doc__))
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    shown = {name: value for name, value in report.items() if name != "training_curve"}
    sys.stdout.write(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

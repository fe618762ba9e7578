"""What training an SAE costs beside running its language model: tokens per second on one GPU.

    python -m benchmarks.harvest --out benchmarks/results/harvest.json
    python -m benchmarks.harvest --tiny

The model has Gemma 2 2B's shape and random weights, and runs up to the site's layer. Compared are,
in turns in one process and for the same number of tokens,

    model      the forwards alone, up to that layer
    pipeline   text, model, buffer and the training step of one SAE, a whole round of the buffer
    step       the same steps on activations that are there already

The aim is a pipeline of at most 1.15 times the model's time. Text is made of random ids, rows all
of full length; with `--corpus` the pipeline is measured on real text as well, tokenised as it goes
(`pipeline_text`), beside the model on such text (`model_text`, padded rows included).

Thresholds are set so that about `--l0` features are active, and a learning rate of 1e-9 keeps that.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from benchmarks.compact_json import compact_json
from benchmarks.gemma_shapes import SHAPES, machine, nbytes
from benchmarks.measuring import Run, ratios, spread
from benchmarks.train_step_peers import matching_threshold, mean_l0
from sae_core import attention
from sae_core.config import Site
from sae_core.sites import activations
from training.activations import ActivationBuffer, rows_per_forward
from training.assembly import make_trainers
from training.optim import BETA2
from training.sae_trainer import SAETrainer, compiler
from training.text import Cursor, Prompts, Text
from training.train_config import RunOptions, TrainConfig


@dataclass(frozen=True)
class RandomText(Text):
    """Rows of random ids after BOS, all of full length, without end."""

    vocabulary: int = 256_000

    def stream(self, start: Cursor) -> Iterator[Prompts]:
        """As `Text.stream`; batches depend on their number alone."""
        shape = (self.rows, self.context_size)
        places = torch.arange(self.rows * self.context_size).view(shape)[:, 1:].flatten()
        number = start.window
        while True:
            generator = torch.Generator().manual_seed(number)
            ids = torch.randint(3, self.vocabulary, shape, generator=generator)
            ids[:, 0] = 2
            yield Prompts(Cursor(0, number, 0), ids, places)
            number += 1


class Bench:
    """One model, and what is measured of training on it."""

    def __init__(self, run: Run, given: argparse.Namespace) -> None:
        self.run, self.given = run, given
        shape = SHAPES["tiny" if given.tiny else "2b"]
        tokenizer = AutoTokenizer.from_pretrained(given.tokenizer) if given.corpus else None
        if tokenizer is not None:
            shape = shape | {"vocab_size": max(shape["vocab_size"], len(tokenizer))}
        attention.register()
        with torch.device(run.device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                Gemma2Config(**shape), dtype=run.dtype, attn_implementation=attention.CHUNKED
            )
        self.model: Any = model.eval().requires_grad_(False)
        rows = rows_per_forward(given.context_size, given.buffer_tokens)
        common = {"context_size": given.context_size, "rows": rows, "seed": 0}
        self.random = RandomText(
            corpus=(), tokenizer=None, vocabulary=shape["vocab_size"], **common
        )
        self.text = None
        if tokenizer is not None:
            self.text = Text(corpus=given.corpus, tokenizer=tokenizer, **common)

    def layer(self, number: int) -> dict[str, Any]:
        """Everything about one layer's residual stream."""
        site = Site("resid_post", number)
        result: dict[str, Any] = {}
        with closing(self._buffer(self.random, site)) as buffer:
            buffer.begin()
            trainer, result["l0"] = self._trainer(buffer, site)
            works = {
                "model": self._forwards(self.random, site, buffer.harvest_tokens),
                "pipeline": self._round(buffer, site, trainer),
                "step": self._steps(buffer, site, trainer),
            }
            result |= self._compared(works, buffer.harvest_tokens, "")
            result["peak_bytes"] = self.run.peak(works["pipeline"])
        if self.text is not None:
            with closing(self._buffer(self.text, site)) as buffer:
                buffer.begin()
                works = {
                    "model_text": self._forwards(self.text, site, buffer.harvest_tokens),
                    "pipeline_text": self._round(buffer, site, trainer),
                }
                result |= self._compared(works, buffer.harvest_tokens, "_text")
        return result

    def _compared(self, works: dict[str, Any], tokens: int, kind: str) -> dict[str, Any]:
        seconds = self.run.in_turns(works)
        rates = {name: spread((tokens / s for s in ss), 0) for name, ss in seconds.items()}
        over = ratios(seconds[f"pipeline{kind}"], seconds[f"model{kind}"])
        return {f"tokens_per_s{kind}": rates, f"pipeline_over_model{kind}": over}

    def _buffer(self, text: Text, site: Site) -> ActivationBuffer:
        given = self.given
        return ActivationBuffer(
            self.model, [site], text, capacity=given.buffer_tokens, batch=given.batch
        )

    def _forwards(self, text: Text, site: Site, tokens: int) -> Any:
        """The forwards that harvest `tokens`, to a row."""
        prompts: list[Tensor] = []
        missing = tokens
        for each in text.stream(Cursor()):
            # Of the last batch, only as many rows as are needed.
            share = min(1.0, missing / len(each.counted))
            ids = each.input_ids[: max(1, round(share * len(each.input_ids)))]
            prompts.append(ids.to(self.run.device))
            missing -= len(each.counted)
            if missing <= 0:
                break

        def work() -> None:
            for ids in prompts:
                activations(self.model, ids, [site])

        return work

    def _trainer(self, buffer: ActivationBuffer, site: Site) -> tuple[SAETrainer, float]:
        """An SAE as `train` makes it, but with thresholds as after training; and its L0."""
        given = self.given
        cfg = TrainConfig(
            model="random",
            corpus=("none",),
            sites=(str(site),),
            d_sae=given.d_sae,
            out="none",
            l0_targets=(given.l0,),
            lrs=(1e-9,),
            batch=given.batch,
            run=RunOptions(device="cpu" if given.tiny else "cuda"),
        )
        square, mean = buffer.moments()[site]
        moments = {site: (square**0.5, mean)}
        compiled = compiler(cfg.run.compile, self.run.device)
        (trainer,) = make_trainers(cfg, moments, self.run.dtype, compiled)
        p = trainer.parameters
        with torch.no_grad():
            p["b_dec"].copy_(mean / trainer.scale)
            x = buffer.batch()[site].float() / trainer.scale - p["b_dec"]
            p["threshold"].fill_(matching_threshold(x, p["W_enc"], given.l0))
            return trainer, mean_l0(x, p["W_enc"], p["b_enc"], p["threshold"])

    def _controls(self, count: int) -> Iterator[Tensor]:
        rows = [(1e-9, 1.0, 1 - BETA2 ** (t + 1), t + 1.0) for t in range(count)]
        return iter(torch.tensor(rows, device=self.run.device))

    def _round(self, buffer: ActivationBuffer, site: Site, trainer: SAETrainer) -> Any:
        steps = buffer.harvest_tokens // buffer.batch_tokens

        def work() -> None:
            for control in self._controls(steps):
                trainer.step(buffer.batch()[site], control)

        return work

    def _steps(self, buffer: ActivationBuffer, site: Site, trainer: SAETrainer) -> Any:
        steps = buffer.harvest_tokens // buffer.batch_tokens
        batches = [buffer.batch()[site] for _ in range(min(4, steps))]

        def work() -> None:
            for i, control in enumerate(self._controls(steps)):
                trainer.step(batches[i % len(batches)], control)

        return work

    def tokenising(self) -> dict[str, float] | None:
        """Tokens per second of the text alone, beside nothing else; None without any."""
        if self.text is None:
            return None
        until, tokens, started = self.run.part_seconds, 0, time.monotonic()
        for prompts in self.text.stream(Cursor()):
            tokens += len(prompts.counted)
            if time.monotonic() - started > until:
                break
        return {"tokens_per_s": tokens / (time.monotonic() - started)}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print as JSON, and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layers", nargs="+", type=int, default=[12, 20])
    parser.add_argument("--d-sae", type=int, default=16_384)
    parser.add_argument("--l0", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--context-size", type=int, default=1024)
    parser.add_argument("--buffer-tokens", type=int, default=2**19)
    parser.add_argument("--corpus", nargs="+", default=[], help="real text, besides random ids")
    parser.add_argument("--tokenizer", default="app/demo/model", help="for the real text")
    parser.add_argument("--part-seconds", type=float, default=30.0, help="of one comparison")
    parser.add_argument("--minutes", type=float, default=8.0, help="after that nothing starts")
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    parser.add_argument("--tiny", action="store_true", help="a smoke test on the CPU")
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device: run it on one, or give --tiny.")
    if given.tiny:
        given.layers, given.d_sae, given.l0, given.batch = [0, 1], 64, 8, 64
        given.context_size, given.buffer_tokens = 32, 512
    run = Run(
        device=torch.device("cpu" if given.tiny else "cuda"),
        dtype=torch.float32 if given.tiny else torch.bfloat16,
        part_seconds=0.0 if given.tiny else given.part_seconds,
        deadline=time.monotonic() + 60 * given.minutes,
        out=given.out,
    )
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # as `train` does
    names = ("d_sae", "batch", "context_size", "buffer_tokens")
    run.record(("machine",), machine(run.device) | {"date": time.strftime("%Y-%m-%d")})
    run.record(("settings",), {name: getattr(given, name) for name in names})
    bench = Bench(run, given)
    run.record(("weight_bytes",), nbytes(bench.model))
    run.part(("tokenising",), bench.tokenising)
    for number in given.layers:

        def measured(number: int = number) -> dict[str, Any]:
            return bench.layer(number)

        run.part((f"layer_{number}",), measured)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    print(compact_json(run.result))
    return run.result


if __name__ == "__main__":
    main()

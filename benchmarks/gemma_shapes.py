"""Gemma 2 2B and 9B at their exact shapes with wide SAEs: time and memory on one GPU, as JSON.

    python -m benchmarks.gemma_shapes --out gemma-shapes.json
    python -m benchmarks.gemma_shapes --tiny

Weights are random, so nothing is downloaded and no number here says anything about quality. Each
model is written to a temporary folder and loaded from there, and so is each SAE, in Gemma Scope's
layout; its thresholds are such that about 70 features are active on a token.

| measured | aim |
| --- | --- |
| steered tokens per second over plain ones, at equal batch | 0.9 |
| analysis of a prompt of 512 tokens over two plain forwards | 1.3 |
| largest memory over that of the weights, model and SAE together | 1.15 |

What is compared runs in turns, so that a change of the machine's speed meets all alike. Results are
printed as they come, and `--out` is written after each part; a part for which no time is left is
named as skipped. It needs only what the library itself needs (argparse, for machines without tyro).
"""

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, Gemma2Config, PreTrainedTokenizerFast

from benchmarks.compact_json import compact_json
from benchmarks.measuring import Run, ratios, spread
from sae_core import attention
from sae_core.config import SAEConfig, Site
from sae_core.edits import Edit
from sae_core.formats import Origin, read_sae, write_sae
from sae_core.generation import generate
from sae_core.language_model import load_language_model
from sae_core.sae import SAE
from sae_core.sites import activations
from sae_core.splice import SplicedLM

L0 = 70
"""Active features on a token, as in the SAEs people use most."""

COMMON = {
    "vocab_size": 256_000,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
}
SHAPES: dict[str, dict[str, Any]] = {
    "2b": COMMON
    | {
        "hidden_size": 2304,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "intermediate_size": 9216,
    },
    "9b": COMMON
    | {
        "hidden_size": 3584,
        "num_hidden_layers": 42,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
    },
    "tiny": COMMON
    | {
        "vocab_size": 2048,
        "head_dim": 16,
        "query_pre_attn_scalar": 16,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    },
}

PARTS = ("memory", "analysis", "generation", "long_prompt", "from_disk")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured."""

    widths: Sequence[int]
    """Features of the SAEs."""
    prompt_tokens: int
    """Of the analysed prompt; generation continues a quarter of it."""
    long_tokens: int
    """Of a prompt that is analysed once."""
    new_tokens: int
    parts: Sequence[str] = PARTS
    """Which of them are measured."""


class Bench:
    """One model, and what is measured of it."""

    def __init__(self, run: Run, shape: str, sizes: Sizes, folder: Path) -> None:
        self.run, self.shape, self.sizes, self.folder = run, shape, sizes, folder
        self.tokenizer = make_tokenizer()
        self.lm: Any = SplicedLM(self._random_model(), self.tokenizer, {})
        self.weight_bytes = nbytes(self.lm.model)
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randint(3, 2048, (sizes.long_tokens - 1,), generator=generator)
        self.long_ids = [2, *drawn.tolist()]
        self.ids = self.long_ids[: sizes.prompt_tokens]
        self.row = torch.tensor([self.ids], device=run.device)
        self.site = Site("resid_post", SHAPES[shape]["num_hidden_layers"] // 2)

    def everything(self) -> None:
        """Record all of it."""
        self.run.part((self.shape, "bare_model"), self.bare_model)
        for width in self.sizes.widths:
            name = f"sae_{width}"
            self.run.part((self.shape, name, "load"), partial(self.load_sae, width))
            if "sae" in self.lm.sae_names:
                for part in ("memory", "analysis", "generation", "long_prompt"):
                    if part in self.sizes.parts:
                        self.run.part((self.shape, name, part), getattr(self, part))
                self.lm.remove("sae")
        # Last, because it may take long where the disk is slow.
        if "from_disk" in self.sizes.parts:
            self.run.part((self.shape, "from_disk"), self.from_disk)

    def _random_model(self) -> Any:
        attention.register()
        config = Gemma2Config(**SHAPES[self.shape])
        with torch.device(self.run.device):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(
                config, dtype=self.run.dtype, attn_implementation=attention.CHUNKED
            )
        return model.eval().requires_grad_(False)

    def from_disk(self) -> dict[str, float]:
        """Seconds to write the model to a folder and to load it from there onto the device."""
        if shutil.disk_usage(self.folder).free < 1.2 * self.weight_bytes:
            raise OSError("too little room on the disk for the model")
        there = self.folder / "model"
        try:
            written, _ = self.run.seconds(partial(self.lm.model.save_pretrained, there))
            self.tokenizer.save_pretrained(there)
            self.lm = None  # two need not fit beside each other
            load = partial(load_language_model, str(there), self.run.dtype, self.run.device)
            loaded, _ = self.run.seconds(load)
        finally:
            shutil.rmtree(there, ignore_errors=True)
        return {"bytes": self.weight_bytes, "write_s": written, "load_s": loaded}

    def bare_model(self) -> dict[str, int | None]:
        """Bytes on the device: its weights, and at most during a plain forward of the prompt."""
        return {"weight_bytes": self.weight_bytes, "peak_bytes": self.run.peak(self.forward)}

    def load_sae(self, width: int) -> dict[str, Any]:
        """Seconds to read an SAE of Gemma Scope's layout from a file, and its L0 on the prompt."""
        folder = self.folder / f"layer_{self.site.layer}" / f"width_{width}" / f"average_l0_{L0}"
        try:
            write_sae(self.random_sae(width), folder, "gemma_scope")
            size = sum(file.stat().st_size for file in folder.iterdir())
            seconds, sae = self.run.seconds(
                lambda: read_sae(folder, self.run.device, origin=Origin(site=self.site))
            )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.lm.add("sae", sae)
        totals = self.lm.analyse(self.ids, "sae").totals
        return {"file_bytes": size, "load_s": seconds, "l0": totals["l0"]}

    def random_sae(self, width: int) -> SAE:
        """Unit directions, and one threshold that leaves `L0` features active on a token."""
        x = activations(self.lm.model, self.row, [self.site])[self.site][0, 1:].float()
        cfg = SAEConfig(architecture="jumprelu", d_model=x.shape[1], d_sae=width, site=self.site)
        with torch.device(self.run.device):
            torch.manual_seed(1)
            sae = SAE.build(cfg)
            sae.W_dec.data.normal_()
        sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
        sae.W_enc.data.copy_(sae.W_dec.data.T)
        sae.b_dec.data.copy_(x.mean(dim=0))
        sae.b_enc.data.copy_(-(sae.b_dec @ sae.W_enc))
        sample = torch.cat([sae.pre_acts(part).flatten() for part in x[:128].split(32)])
        active = min(L0, width // 4) * len(x[:128])
        sae.get_parameter("threshold").data.fill_(float(sample.topk(active).values[-1]))
        return sae

    def memory(self) -> dict[str, Any]:
        """Most bytes on the device over the weights' own, model and SAE together."""
        arms = [[], [self.edit()]]
        weights = self.weight_bytes + nbytes(self.lm.sae("sae"))
        peaks = {
            "analysis": self.run.peak(lambda: self.lm.analyse(self.ids, "sae")),
            "steering_two_arms": self.run.peak(lambda: self.generate(arms)),
        }
        over = {name: peak and round(peak / weights, 4) for name, peak in peaks.items()}
        return {"weight_bytes": weights, "peak_bytes": peaks, "peak_over_weights": over}

    def analysis(self) -> dict[str, Any]:
        """Analysis of the prompt against two plain forwards that keep their logits."""

        def two_forwards() -> None:
            self.forward()
            self.forward()

        times = self.run.in_turns(
            {"analysis": lambda: self.lm.analyse(self.ids, "sae"), "two_forwards": two_forwards}
        )
        return {
            "tokens": len(self.ids),
            **{f"{name}_s": spread(seconds) for name, seconds in times.items()},
            "over_two_forwards": ratios(times["analysis"], times["two_forwards"]),
        }

    def long_prompt(self) -> dict[str, Any]:
        """Analysis of a long prompt, whose arrays must not grow with its square."""
        seconds: list[float] = []

        def analyse() -> None:
            seconds.append(self.run.seconds(lambda: self.lm.analyse(self.long_ids, "sae"))[0])

        peak = self.run.peak(analyse)
        weights = self.weight_bytes + nbytes(self.lm.sae("sae"))
        return {
            "tokens": len(self.long_ids),
            "analysis_s": seconds[0],
            "peak_over_weights": peak and round(peak / weights, 4),
        }

    def generation(self) -> dict[str, Any]:
        """Tokens per second of one arm and of two, and what steering makes of them."""
        edit = self.edit()
        watch = [("sae", edit.feature)]
        times = self.run.in_turns(
            {
                "transformers": self.transformers_generate,
                "plain": lambda: self.generate([[]]),
                "spliced": lambda: self.generate([[]], watch=watch),
                "steered": lambda: self.generate([[edit]]),
                "plain_two_arms": lambda: self.generate([[], []]),
                "steered_two_arms": lambda: self.generate([[], [edit]]),
                "steered_and_watched_two_arms": lambda: self.generate([[], [edit]], watch=watch),
            }
        )
        compared = {name: "plain_two_arms" if "two" in name else "plain" for name in times}
        return {
            "prompt_tokens": len(self.start),
            "new_tokens": self.sizes.new_tokens,
            "tokens_per_s": {
                name: spread((self.sizes.new_tokens / s for s in seconds), 2)
                for name, seconds in times.items()
            },
            "rate_over_plain": {
                name: ratios(times[plain], times[name])
                for name, plain in compared.items()
                if name != plain
            },
        }

    def forward(self) -> None:
        """A plain forward of the prompt."""
        with torch.no_grad():
            logits = self.lm.model(input_ids=self.row, use_cache=False).logits
        assert logits.shape[:2] == self.row.shape

    @property
    def start(self) -> list[int]:
        """The text that generation continues."""
        return self.ids[: len(self.ids) // 4]

    def edit(self) -> Edit:
        """Steers the prompt's strongest feature to twice its activation, everywhere."""
        analysis = self.lm.analyse(self.ids, "sae")
        strongest = int(analysis.activation.argmax())
        value = 2 * float(analysis.activation[strongest])
        return Edit(feature=int(analysis.feature[strongest]), mode="set", value=value)

    def generate(self, arms: list[list[Edit]], **options: Any) -> None:
        """Continue `start` greedily; no token ends it."""
        new = self.sizes.new_tokens
        options |= {"max_new_tokens": new, "eos": frozenset()}
        steps = generate(self.lm, self.start, arms, **options)
        assert sum(1 for _ in steps) == new

    def transformers_generate(self) -> None:
        """The same with transformers' own loop."""
        new, row = self.sizes.new_tokens, self.row[:, : len(self.start)]
        written = self.lm.model.generate(
            row,
            attention_mask=torch.ones_like(row),
            max_new_tokens=new,
            min_new_tokens=new,
            do_sample=False,
        )
        assert written.shape[1] == len(self.start) + new


def nbytes(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters, each counted once."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and three special tokens; the model's vocabulary is padded beyond it."""
    words = ["<pad>", "<eos>", "<bos>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={word: n for n, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<bos>"
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What it ran on."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor(),
        "device_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "system": platform.platform(),
        **{name: version(name) for name in ("torch", "transformers", "numpy", "safetensors")},
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything, print it as JSON, and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["2b", "9b"], choices=["2b", "9b"])
    parser.add_argument("--widths", nargs="+", type=int, default=[16_384, 131_072])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--long-tokens", type=int, default=8192)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=6.0, help="after that nothing starts")
    parser.add_argument("--part-seconds", type=float, default=10.0, help="of one comparison")
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    parser.add_argument("--folder", type=Path, default=None, help="for temporary files")
    parser.add_argument("--tiny", action="store_true", help="a smoke test on the CPU")
    given = parser.parse_args(arguments)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device: run it on one, or give --tiny.")
    run = Run(
        device=torch.device("cpu" if given.tiny else "cuda"),
        dtype=torch.float32 if given.tiny else torch.bfloat16,
        part_seconds=0.0 if given.tiny else given.part_seconds,
        deadline=time.monotonic() + 60 * given.minutes,
        out=given.out,
    )
    sizes = Sizes(
        widths=given.widths,
        prompt_tokens=given.prompt_tokens,
        long_tokens=given.long_tokens,
        new_tokens=given.new_tokens,
        parts=given.parts,
    )
    if given.tiny:
        sizes = Sizes(widths=[64, 256], prompt_tokens=32, long_tokens=64, new_tokens=3)
    run.record(("machine",), machine(run.device) | {"dtype": str(run.dtype)})
    for shape in ["tiny"] if given.tiny else given.models:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:

            def measured(shape: str = shape, folder: str = folder) -> float:
                bench = Bench(run, shape, sizes, Path(folder))
                return run.seconds(bench.everything)[0]

            run.part((shape, "seconds"), measured)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
    print(compact_json(run.result))
    return run.result


if __name__ == "__main__":
    main()

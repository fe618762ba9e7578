"""What effects cost: all features at one token, and the largest over all tokens, as JSON.

    python -m benchmarks.effects --out benchmarks/results/effects_cpu.json
    python -m benchmarks.effects --shape 2b --out effects_gpu.json

Without `--shape` on the demo's model and SAE on the CPU, in float32; with it on random weights of
Gemma 2's shape on a GPU, in bfloat16, with an SAE that has about 70 active features on a token.

| measured | aim |
| --- | --- |
| every feature at one token, demo, prompt of 64 tokens | p50 120 ms |
| every feature at one token, Gemma 2 2B, prompt of 512 | 2 forwards of the prompt |
| all tokens: one backward and 30 exact ones, the same | 6 forwards of the prompt |

Four works run in turns in one process, so that a change of the machine's speed meets all alike:
`forward` is a plain forward of the prompt, `effects` the arms of every feature that is active at a
token on the prediction after it, `estimated` the same with the estimates beside them, and
`one_by_one` the same arms as one hooked forward of the prompt each. `all_tokens` is compared with
the forward. That `effects` and `one_by_one` agree is asserted first. The machine's load is told as
it was before and after.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.compact_json import compact_json
from benchmarks.gemma_shapes import L0, Sizes, machine
from benchmarks.gemma_shapes import Bench as Shape
from benchmarks.measuring import Run, ratios, spread
from sae_core.bundle import Bundle
from sae_core.edits import Edit, Steering
from sae_core.effects import Effects, effects, effects_of_all_tokens
from sae_core.sites import activations, rewrite
from sae_core.splice import SplicedLM
from sae_core.tokens import encode_text

POSITIONS = (0.25, 0.5, 0.75, 1.0)
"""Where in the prompt the tokens lie whose features are measured, taken in turns."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference of a change in nats from the slow computation. A product of another shape
rounds otherwise."""


def position_of(share: float, tokens: int) -> int:
    """The number of the token that lies at this share of a prompt."""
    return max(1, round(share * tokens) - 1)


class Bench:
    """One model with one SAE and one prompt."""

    def __init__(self, run: Run, lm: SplicedLM, sae_name: str, ids: list[int], exact: int) -> None:
        self.run, self.lm, self.name, self.ids, self.exact = run, lm, sae_name, ids, exact
        self.row = torch.tensor([ids], device=lm.device)
        self.positions = [position_of(share, len(ids)) for share in POSITIONS]

    def everything(self) -> None:
        """Record all of it."""
        self.run.part(("agreement",), self.agreement)
        self.run.part(("one_token",), self.one_token)
        self.run.part(("all_tokens",), self.all_tokens)
        self.run.part(("peak_bytes",), self.peak)

    @torch.no_grad()
    def forward(self) -> Tensor:
        """A plain forward; the logits after each token are not all made."""
        return self.lm.model(input_ids=self.row, use_cache=False, logits_to_keep=1).logits

    def exactly(self, position: int, *, estimates: bool = False) -> Effects:
        """Every feature at a token, on the prediction after it."""
        return effects(self.lm, self.ids, self.name, position, estimates=estimates)

    @torch.no_grad()
    def one_by_one(self, position: int, features: Sequence[int]) -> Tensor:
        """Log-probabilities `[features, vocab]` of the same arms, a forward for each."""
        row = self.row[:, : position + 1]
        special = [self.lm.is_special(row[0].tolist())]
        made = []
        for feature in features:
            edit = Edit(feature=feature, mode="ablate", positions=(position,))
            steering = Steering(self.lm.sae(self.name), [[edit]], row.shape[1])
            where = (self.lm.site(self.name), self.lm.target(self.name))
            with rewrite(self.lm.model, *where, lambda x, y, s=steering: s(x, y, 0, special)):
                logits = self.lm.model(input_ids=row, use_cache=False, logits_to_keep=1).logits
            made.append(logits[0, -1].double().log_softmax(-1))
        return torch.stack(made)

    def agreement(self) -> dict[str, Any]:
        """Largest difference in nats between both ways, over the features at each position."""
        worst, counts = 0.0, []
        for position in self.positions:
            result = self.exactly(position)
            counts.append(len(result.feature))
            slow = self.one_by_one(position, result.feature.tolist())[:, result.tokens]
            row = self.row[:, : position + 1]
            with torch.no_grad():
                logits = self.lm.model(input_ids=row, use_cache=False, logits_to_keep=1).logits
            base = logits[0, -1].double().log_softmax(-1)[result.tokens]
            difference = np.abs(result.change - (slow - base).cpu().numpy())
            worst = max(worst, float(difference.max()))
        assert worst < TOLERANCE[self.run.dtype], f"the two ways differ by {worst} nats"
        return {"positions": self.positions, "features": counts, "largest_difference_nats": worst}

    def one_token(self) -> dict[str, Any]:
        """Milliseconds of all features at one token, of the same one by one, of one forward."""
        at = {name: cycle(self.positions) for name in ("effects", "estimated", "one_by_one")}
        features = {p: self.exactly(p).feature.tolist() for p in self.positions}

        def slow() -> None:
            position = next(at["one_by_one"])
            self.one_by_one(position, features[position])

        return self._compared(
            {
                "forward": self.forward,
                "effects": lambda: self.exactly(next(at["effects"])),
                "estimated": lambda: self.exactly(next(at["estimated"]), estimates=True),
                "one_by_one": slow,
            },
            over={"effects": "forward", "estimated": "forward", "one_by_one": "effects"},
        )

    def all_tokens(self) -> dict[str, Any]:
        """Milliseconds of one backward and the largest pairs' arms, and of one forward."""
        last = len(self.ids) - 1

        def work() -> Effects:
            return effects_of_all_tokens(self.lm, self.ids, self.name, last, exact=self.exact)

        result = work()
        times = self._compared(
            {"forward": self.forward, "all_tokens": work}, over={"all_tokens": "forward"}
        )
        return times | {
            "pairs": len(result.feature),
            "exact": int(result.exact.sum()),
            "rank_correlation": result.rank_correlation(),
        }

    def _compared(
        self, works: dict[str, Callable[[], Any]], over: dict[str, str]
    ) -> dict[str, Any]:
        times = self.run.in_turns(works)
        return {
            **{f"{name}_ms": spread(1000 * s for s in seconds) for name, seconds in times.items()},
            **{f"{a}_over_{b}": ratios(times[a], times[b]) for a, b in over.items()},
        }

    def peak(self) -> dict[str, int | None]:
        """Most bytes on the device during each, weights included; None on the CPU."""
        last = len(self.ids) - 1
        return {
            "forward": self.run.peak(self.forward),
            "effects": self.run.peak(lambda: self.exactly(last)),
            "all_tokens": self.run.peak(
                lambda: effects_of_all_tokens(self.lm, self.ids, self.name, last, exact=self.exact)
            ),
        }


def demo(given: argparse.Namespace) -> tuple[SplicedLM, str, list[int]]:
    """The bundled model, the name of its first SAE, and the start of its long examples."""
    bundle = Bundle.open(Path(given.bundle))
    lm = bundle.load(torch.float32)
    text = " ".join(bundle.examples["prompts"])
    ids = encode_text(lm.tokenizer, text)
    while len(ids) < given.tokens:
        ids += encode_text(lm.tokenizer, text)[1:]
    return lm, lm.sae_names[0], ids[: given.tokens]


def shape(run: Run, given: argparse.Namespace, folder: str) -> tuple[SplicedLM, str, list[int]]:
    """Gemma 2's shape with random weights and a random SAE."""
    sizes = Sizes(
        widths=[given.d_sae], prompt_tokens=given.tokens, long_tokens=given.tokens, new_tokens=1
    )
    made = Shape(run, given.shape, sizes, Path(folder))
    sae = made.random_sae(given.d_sae)
    made.lm.add("sae", sae)
    # Tokens differ in how many features pass one threshold: the middle ones of those we measure
    # shall have as many as are meant.
    site = made.lm.site("sae")
    read = [position_of(share, len(made.ids)) for share in POSITIONS]
    x = activations(made.lm.model, made.row, [site])[site][0, read].float()
    least = sae.pre_acts(x).topk(min(L0, given.d_sae // 4)).values[:, -1]
    sae.get_parameter("threshold").data.fill_(float(least.median()))
    return made.lm, "sae", made.ids


def load() -> dict[str, Any]:
    """How busy the machine is: its load averages, and the CPUs and threads that we may use."""
    return {
        "load_average": list(os.getloadavg()),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure everything, print it as JSON, and return it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", default="app/demo", help="where there is no --shape")
    parser.add_argument("--shape", choices=["2b", "9b", "tiny"], default=None)
    parser.add_argument("--d-sae", type=int, default=16_384, help="of the random SAE")
    parser.add_argument("--tokens", type=int, default=None, help="64 for a bundle, 512 for a shape")
    parser.add_argument("--exact", type=int, default=30, help="pairs over all tokens set to 0")
    parser.add_argument("--part-seconds", type=float, default=20.0, help="of one comparison")
    parser.add_argument("--minutes", type=float, default=6.0, help="after that nothing starts")
    parser.add_argument("--out", type=Path, default=None, help="file to write the JSON to as well")
    given = parser.parse_args(arguments)
    on_gpu = given.shape in ("2b", "9b")
    if on_gpu and not torch.cuda.is_available():
        parser.error("PyTorch finds no CUDA device: run it on one, or leave --shape out.")
    given.tokens = given.tokens or (512 if on_gpu else 64)
    run = Run(
        device=torch.device("cuda" if on_gpu else "cpu"),
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        part_seconds=given.part_seconds,
        deadline=time.monotonic() + 60 * given.minutes,
        out=given.out,
    )
    run.record(("machine",), machine(run.device) | {"date": time.strftime("%Y-%m-%d")})
    run.record(("before",), load())
    with tempfile.TemporaryDirectory() as folder:
        lm, name, ids = shape(run, given, folder) if given.shape else demo(given)
        run.record(
            ("setting",),
            {
                "model": given.shape or Path(given.bundle).name,
                "dtype": str(run.dtype),
                "site": str(lm.site(name)),
                "d_sae": lm.sae(name).cfg.d_sae,
                "tokens": len(ids),
            },
        )
        Bench(run, lm, name, ids, given.exact).everything()
    run.record(("after",), load())
    print(compact_json(run.result))
    return run.result


if __name__ == "__main__":
    main()

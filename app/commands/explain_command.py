"""`jumpscope explain`: features explained by a language model, and the explanations scored."""

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.commands.shared import JSONFlag, chosen_bundle, shown, table, to_json
from sae_core.placement import Device, DType

if TYPE_CHECKING:
    from app.engine.workbench import Workbench
    from sae_core.explain import Cost, ExcerptChoice, ExplanationRecords
    from sae_core.explain.explain_prompts import Messages

_DEFAULT_COUNT = 20


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Have a language model explain features from their contexts, and score what it says.

    On contexts that did not explain, the model simulates activations (scored by their correlation
    with the true ones) and tells texts with the feature from texts without it (balanced accuracy).
    Its endpoint is any OpenAI-compatible one; contexts of the index are sent there. What it costs
    is said before it starts. Answers are kept as they come: stop, and the same command goes on.
    """

    endpoint: str
    """Address of the model's server up to and with /v1, such as http://127.0.0.1:8000/v1."""
    explainer: str
    """The model's name at the endpoint."""
    key_variable: str = "JUMPSCOPE_EXPLAIN_KEY"
    """Environment variable that holds the endpoint's key, where it asks for one."""
    features: tuple[int, ...] = ()
    """Numbers of the features; none draws `count` at random."""
    count: int = _DEFAULT_COUNT
    """How many features to draw among those that fire."""
    seed: int = 0
    """Draws features and contexts; another seed asks anew about the same features."""
    price_in: float = 0.0
    """Price of a million tokens sent, in any unit, for the estimate."""
    price_out: float = 0.0
    """Price of a million tokens answered."""
    yes: JSONFlag = False
    """Start without asking."""
    notes: str = ""
    """File that keeps explanations and answers; empty is notes.duckdb in the user's data folder."""
    bundle: str = ""
    """Folder of the bundle; the bundled demo if neither it nor a model is given."""
    model: str = ""
    """Without a bundle: hub id of the language model that the SAE is of, or its folder."""
    sae: str = ""
    """Name of the bundle's SAE; empty is its first. With model: hub id of the SAE, or its
    folder."""
    device: Device = "auto"
    """Where the SAE's model runs, which says on which texts a feature is silent."""
    dtype: DType = "auto"
    """That model's dtype; `auto` is float32 on the CPU, bfloat16 on CUDA."""
    json: JSONFlag = False
    """Print JSON, with every number's definition."""

    def __post_init__(self) -> None:
        from sae_core.explain.chat_client import check_endpoint

        check_endpoint(self.endpoint)
        if not self.explainer.strip():
            raise ValueError("explainer is empty: name the model that the endpoint answers with.")
        if self.count < 1:
            raise ValueError(f"count is {self.count} but must be 1 or more.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed} but must be 0 or more.")
        for name in ("price_in", "price_out"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)} but must be 0 or more.")

    def execute(self) -> str:
        """The explanations with their scores as JSON or as a table."""
        from tqdm import tqdm

        from app.engine.workbench import Workbench
        from app.service.explain import chosen_excerpts, records_of, total_cost
        from app.settings import Settings
        from sae_core.definitions import EXPLANATION_DEFINITIONS

        bundle = chosen_bundle(self.bundle, self.model, [self.sae] if self.sae else [], "demo")
        settings = Settings(device=self.device, dtype=self.dtype, notes=self.notes)
        workbench = Workbench(settings, bundle)
        if not workbench.notes.kept:
            raise ValueError("explanations would be lost, since notes are off: name a file.")
        name = workbench.sae_name("" if self.model else self.sae)
        features = self._features(workbench, name)
        kept = records_of(workbench, name)
        done = kept.done(self.explainer, self.seed)
        choices: list[ExcerptChoice] = []
        refused: list[str] = []
        left = [each for each in features if each not in done]
        # The model reads texts for each, before anything can be said of the cost.
        options: dict[str, Any] = {"unit": " features", "file": sys.stderr, "disable": not left}
        for feature in tqdm(left, "choosing contexts", **options):
            try:
                choices.append(chosen_excerpts(workbench, name, feature, self.seed))
            except ValueError as error:
                refused.append(str(error))
        if choices:
            self._agreed(name, choices, total_cost(choices, self.seed), kept)
            refused += self._run(workbench, name, choices)
        rows = [row for feature in features for row in kept.of(feature)[:1]]
        answer = {"sae": name, "explanations": rows, "refused": refused}
        if self.json:
            return to_json(answer | {"definitions": EXPLANATION_DEFINITIONS})
        return as_text(answer)

    def _features(self, workbench: "Workbench", name: str) -> list[int]:
        """Those that are named, or drawn among those that fire in the index."""
        if self.features:
            return [workbench.feature_number(name, each, "features") for each in self.features]
        frequencies = workbench.index(name).frequencies()
        live = [feature for feature, share in enumerate(frequencies.tolist()) if share > 0]
        return sorted(random.Random(self.seed).sample(live, min(self.count, len(live))))

    def _agreed(
        self,
        name: str,
        choices: "list[ExcerptChoice]",
        cost: "Cost",
        kept: "ExplanationRecords",
    ) -> None:
        """Say what it costs; ValueError unless it may start."""
        answered = kept.answered([choice.feature for choice in choices], self.explainer, self.seed)
        lines = [
            f"{len(choices):,} features of {name} are explained by {self.explainer} at "
            f"{self.endpoint}, where their contexts are sent.",
            f"That takes {cost.requests:,} requests"
            + (f", of which {answered:,} are answered already" if answered else "")
            + f": about {cost.tokens_in:,} tokens sent and {cost.tokens_out:,} answered"
            + (
                f", about {cost.money(self.price_in, self.price_out):,.2f} at these prices."
                if self.price_in or self.price_out
                else "."
            ),
        ]
        sys.stderr.write("\n".join(lines) + "\n")
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise ValueError("nothing was asked yet: give --yes to start.")
        sys.stderr.write("Go on? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise ValueError("nothing was asked.")

    def _run(self, workbench: "Workbench", name: str, choices: "list[ExcerptChoice]") -> list[str]:
        """Explain every one; what the model said nothing about is answered."""
        from tqdm import tqdm

        from app.service.explain import keep_explained
        from sae_core.explain import ChatClient, NoExplanationError, expected_cost
        from sae_core.explain.chat_client import key_of_environment

        client = ChatClient(
            endpoint=self.endpoint,
            model=self.explainer,
            key=key_of_environment(self.key_variable),
        )
        requests = [expected_cost(choice, self.seed).requests for choice in choices]
        refused = []
        try:
            with tqdm(total=sum(requests), unit=" requests", file=sys.stderr) as bar:
                for choice, count in zip(choices, requests, strict=True):
                    end = bar.n + count
                    ask = _counted(client.complete, bar)
                    try:
                        keep_explained(workbench, name, choice, self.explainer, ask, self.seed)
                    except NoExplanationError as error:
                        refused.append(str(error))
                    # What an earlier run was answered came without a request.
                    bar.update(end - bar.n)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt("stopped: the same command goes on from here.") from stop
        return refused


def _counted(ask: "Callable[[Messages, int], str]", bar: Any) -> "Callable[[Messages, int], str]":
    """`ask` that moves a bar with each answer."""

    def counted(messages: "Messages", max_tokens: int) -> str:
        answer = ask(messages, max_tokens)
        bar.update(1)
        return answer

    return counted


def as_text(answer: dict[str, Any]) -> str:
    """The explanations as a table, and what could not be explained."""
    rows = [["feature", "correlation", "detection", "95 %", "explanation"]]
    rows += [
        [
            f"#{row['feature']}",
            shown(row["correlation"]),
            shown(row["detection"]),
            f"{shown(row['detection_low'])} to {shown(row['detection_high'])}",
            row["text"] + _missing(row),
        ]
        for row in answer["explanations"]
    ]
    parts = [table(rows)] if len(rows) > 1 else ["no feature has been explained."]
    return "\n".join([*parts, *answer["refused"]])


def _missing(row: dict[str, Any]) -> str:
    """What the model answered in another form."""
    parts = []
    if row["unread_simulations"]:
        total = row["simulated"] + row["unread_simulations"]
        parts.append(f"{row['unread_simulations']} of {total} simulations could not be read")
    if row["unread_texts"]:
        parts.append(f"{row['unread_texts']} texts had no readable answer")
    return f" ({'; '.join(parts)})" if parts else ""

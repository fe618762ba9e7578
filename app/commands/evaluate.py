"""`jumpscope eval`: what an SAE costs the language model, on any text."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from app.commands.shared import JSONFlag, chosen_bundle, shown, table, to_json
from sae_core.placement import Device, DType
from sae_core.text_options import TextOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_core.corpus import TokenRow
    from sae_core.splice import SplicedLM

UNIFORMITY_ROWS = 256
"""Rows of which one token each is taken for the uniformity, which scatters by about 0.1 a token."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure an SAE: L0, FVU, delta LM loss, KL, loss recovered, dead and frequent features, and
    the uniformity of features' effects.
    """

    text: tuple[str, ...]
    """Parquet, JSONL or text files, folders, globs, URLs, or data sets of the hub (user/name, maybe
    with /folder and @revision); not what the SAE was trained on."""
    bundle: str = ""
    """Folder of the bundle; the bundled demo if neither it nor a model is given."""
    model: str = ""
    """Without a bundle: hub id of the language model, maybe with @revision, or its folder."""
    sae: str = ""
    """Name of the bundle's SAE, which may be left out if it has one only. With model: hub id of the
    SAE, or its folder."""
    tokens: int = 100_000
    """Tokens to measure on; the last document row is used whole."""
    context_size: int = 0
    """Tokens per row, BOS included; 0 takes what the SAE was trained with."""
    batch_rows: int = 16
    """Rows run through the model at once."""
    text_options: TextOptions = field(default_factory=TextOptions)
    """How documents are read from the files of text."""
    device: Device = "auto"
    """Where the model runs; `auto` is CUDA if there is a device, else the CPU."""
    dtype: DType = "auto"
    """The model's dtype; `auto` is float32 on the CPU, bfloat16 on CUDA."""
    saebench: str = ""
    """File to write as well: SAEBench's core results, in its layout and by its definitions, which
    takes about as long again."""
    json: JSONFlag = False
    """Print JSON, with every number's definition."""

    def __post_init__(self) -> None:
        if not self.text:
            raise ValueError("text is empty: name at least one file.")
        for name, low in (("tokens", 1), ("batch_rows", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)} but must be {low} or more.")
        if self.context_size < 2 and self.context_size != 0:
            raise ValueError(f"context_size is {self.context_size} but must be 0, or 2 or more.")
        if self.saebench and Path(self.saebench).is_dir():
            raise ValueError(f"saebench {self.saebench} is a folder: name a file.")

    def execute(self) -> str:
        """The numbers as JSON, or as a table with their definitions."""
        from tqdm import tqdm

        from sae_core.corpus import documents, expand, token_rows
        from sae_core.definitions import DEFINITIONS
        from sae_core.evaluation import evaluate, take_tokens, uniformity
        from sae_core.language_model import check_context
        from sae_core.placement import chosen_device, chosen_dtype
        from sae_core.splice import SplicedLM

        bundle = chosen_bundle(self.bundle, self.model, [self.sae] if self.sae else [], "demo")
        only, *others = bundle.sae_names
        if not self.sae and others:
            raise ValueError(f"give sae: the bundle has {', '.join(bundle.sae_names)}.")
        name = only if self.model else self.sae or only
        sae = bundle.load_sae(name)
        if self.saebench and sae.cfg.is_transcoder:
            raise ValueError(f"SAE {name} is a transcoder, which SAEBench does not measure.")
        expand(self.text)  # what is not there is said before the model is loaded
        size = self.context_size or sae.cfg.context_size
        if not size:
            raise ValueError(f"SAE {name} does not say its context_size: give one.")
        device = chosen_device(self.device)
        model, tokenizer = bundle.load_model(chosen_dtype(self.dtype, device), device)
        check_context(model, size)
        lm = SplicedLM(model, tokenizer, {name: sae.to(device)})
        rows = take_tokens(
            token_rows(documents(self.text, options=self.text_options), tokenizer, size),
            self.tokens,
        )
        total = sum(len(row.ids) - 1 for row in rows)
        with tqdm(total=total, unit="token", unit_scale=True, desc="measuring") as bar:
            evaluation = evaluate(lm, name, rows, batch_rows=self.batch_rows, progress=bar.update)
        of_effects = uniformity(lm, name, rows[:UNIFORMITY_ROWS], batch_rows=self.batch_rows)
        if self.saebench:
            self._write_saebench(lm, name, rows, size)
        numbers = evaluation.as_dict() | {"uniformity": of_effects}
        definitions = {key: DEFINITIONS[key] for key in numbers}
        if self.json:
            return to_json(
                {
                    "bundle": bundle.name,
                    "sae": name,
                    "text": list(self.text),
                    "context_size": size,
                    **numbers,
                    "definitions": definitions,
                }
            )
        return table([[key, shown(value), definitions[key]] for key, value in numbers.items()])

    def _write_saebench(
        self, lm: "SplicedLM", name: str, rows: "Sequence[TokenRow]", context_size: int
    ) -> None:
        """Measure by SAEBench's definitions and write its file."""
        from tqdm import tqdm

        from sae_core.saebench import core_result, write_core_result
        from training.run_provenance import file_names

        total = sum(len(row.ids) - 1 for row in rows)
        with tqdm(total=total, unit="token", unit_scale=True, desc="SAEBench's metrics") as bar:
            result = core_result(
                lm,
                name,
                rows,
                text=file_names(self.text),
                context_size=context_size,
                batch_rows=self.batch_rows,
                progress=bar.update,
            )
        write_core_result(result, Path(self.saebench))

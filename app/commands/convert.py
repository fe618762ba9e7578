"""`jumpscope convert`: an SAE from one on-disk format to another."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from app.commands.shared import JSONFlag, shown, table, to_json
from sae_core.placement import StoredDType

Format = Literal[
    "saelens",
    "gemma_scope",
    "gemma_scope_2",
    "dictionary_learning",
    "sparsify",
    "llama_scope",
    "circuit_tracer",
    "goodfire",
    "hook_z",
]


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Read an SAE of any format that is read and write it in another, by default SAELens'.

    What training left beside the weights (an input scale, a bias taken off the input) is folded
    into them; where nothing is to be folded, the numbers stay what they are, bit for bit, unless
    a `dtype` rounds them. Quality that was measured is left out then: it was that of other numbers.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """Folder or file of the SAE, or its hub id; the format is recognised."""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """Folder to write; one that holds anything but an SAE of the same format is refused."""
    to: Format = "saelens"
    """Format to write; each holds the architectures that its own library has."""
    site: str = ""
    """Where the SAE reads, as in resid_post/20, if the source does not say it, or says it wrong."""
    site_out: str = ""
    """Transcoders: what it reconstructs, as in mlp_out/20, likewise."""
    model_name: str = ""
    """Language model it is for, likewise: a hub id such as google/gemma-2-2b."""
    dtype: StoredDType = "float32"
    """Dtype of the matrices written; `float8_e4m3fn` in SAELens' layout alone."""
    json: JSONFlag = False
    """Print JSON."""

    def execute(self) -> str:
        """Read, write, and say what was read and written."""
        import torch

        from sae_core.formats import origin_of_path, read_sae, recognise, write_sae
        from sae_core.sae import tensor_shapes
        from sae_core.sources import locate

        given = self._given()
        path, origin = locate(self.source)
        source_format = recognise(path)
        # As its origin, for a transcoder cannot be read without; then over what the file says.
        sae = read_sae(path, origin=replace(origin or origin_of_path(path), **given))
        sae.cfg = replace(sae.cfg, **given)
        source_hash = sae.cfg.metadata["content_hash"]
        # Once written, the weights have another hash: this one says what they were made from, and
        # the first such record stays.
        source = {
            "format": source_format,
            "content_hash": source_hash,
            **sae.cfg.metadata.get("source", {}),
        }
        metadata = {**sae.cfg.metadata, "source": source}
        dtype = getattr(torch, self.dtype)
        stored = sae.state_dict().values() if dtype != torch.float32 else ()
        # SAELens' layout has vectors in float32 whatever the matrices' dtype.
        stored = [each for each in stored if each.ndim == 2 or self.to != "saelens"]
        if not all(torch.equal(each, each.to(dtype).float()) for each in stored):
            metadata.pop("measured", None)
        sae.cfg = replace(sae.cfg, metadata=metadata)
        written = write_sae(sae, Path(self.target), self.to, dtype)
        summary = {
            "source": self.source,
            "source_format": source_format,
            "source_hash": source_hash,
            "architecture": written.architecture,
            "site": str(written.site) if written.site else None,
            "site_out": str(written.site_out) if written.site_out else None,
            "model_name": written.model_name or None,
            "shapes": {name: list(shape) for name, shape in tensor_shapes(written).items()},
            "target": self.target,
            "target_format": self.to,
            "target_hash": written.metadata["content_hash"],
        }
        return to_json(summary) if self.json else _as_text(summary)

    def _given(self) -> dict[str, Any]:
        from sae_core.config import Site

        return {
            name: value if name == "model_name" else Site.parse(value)
            for name in ("site", "site_out", "model_name")
            if (value := getattr(self, name))
        }


def _as_text(summary: dict[str, Any]) -> str:
    site = shown(summary["site"]) + (f" to {summary['site_out']}" if summary["site_out"] else "")
    shapes = (f"{name} {'x'.join(map(str, shape))}" for name, shape in summary["shapes"].items())
    rows = [
        ["read", f"{summary['source']} ({summary['source_format']})"],
        ["", f"SHA-256 {summary['source_hash']}"],
        ["SAE", f"{summary['architecture']} at {site} of {shown(summary['model_name'])}"],
        ["", ", ".join(shapes)],
        ["wrote", f"{summary['target']} ({summary['target_format']})"],
        ["", f"SHA-256 {summary['target_hash']}"],
    ]
    if summary["target_format"] == "gemma_scope":
        rows.append(["", "which says neither site nor model: the names of its folders can"])
    return table(rows)

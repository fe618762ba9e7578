"""SAEDashboard on a model and SAE of random weights: started by `benchmarks/index_speed.py`.

    PYTHON benchmarks/index_speed_peer.py FOLDER

It imports nothing of Jumpscope's, since SAEDashboard needs an environment of its own (`pip install
sae-dashboard`, then numpy 2 again; where `datasets` is missing an empty module takes its place).
FOLDER holds `settings.json` and `tokens.npy [rows, pos]`; the last line printed is JSON: seconds
for dashboards of the features that were asked for, and tokens per second of the model alone.
"""

import json
import sys
import time
import types
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

_ROWS = 32
_THRESHOLD_ROWS = 16


def model_of(shape: dict[str, Any], layer: int, device: str) -> Any:
    """TransformerLens' model of Gemma 2's architecture, up to the layer."""
    from sae_lens import HookedSAETransformer  # pyright: ignore[reportMissingImports]
    from transformer_lens import HookedTransformerConfig  # pyright: ignore[reportMissingImports]

    cfg = HookedTransformerConfig(
        n_layers=layer + 1,
        d_model=shape["hidden_size"],
        n_ctx=shape["max_position_embeddings"],
        d_head=shape["head_dim"],
        n_heads=shape["num_attention_heads"],
        n_key_value_heads=shape["num_key_value_heads"],
        d_mlp=shape["intermediate_size"],
        d_vocab=shape["vocab_size"],
        act_fn="gelu_pytorch_tanh",
        normalization_type="RMSPre",
        positional_embedding_type="rotary",
        rotary_dim=shape["head_dim"],
        gated_mlp=True,
        attn_scores_soft_cap=shape["attn_logit_softcapping"],
        output_logits_soft_cap=shape["final_logit_softcapping"],
        dtype=torch.bfloat16,
        device=device,
        seed=0,
    )
    return HookedSAETransformer(cfg)


@torch.no_grad()
def sae_of(model: Any, hook: str, tokens: torch.Tensor, settings: dict[str, Any]) -> Any:
    """SAELens' JumpReLU SAE of unit directions and one threshold, as in `index_speed.py`."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig  # pyright: ignore[reportMissingImports]

    _, cache = model.run_with_cache(tokens[:_THRESHOLD_ROWS], names_filter=hook)
    x = cache[hook][:, 1:].flatten(0, 1).float()
    cfg = JumpReLUSAEConfig(
        d_in=x.shape[1],
        d_sae=settings["d_sae"],
        dtype="float32",
        device=settings["device"],
        apply_b_dec_to_input=False,
    )
    cfg.metadata.hook_name = hook
    cfg.metadata.model_name = "random"
    sae = JumpReLUSAE(cfg)
    sae.W_dec.data.normal_()
    sae.W_dec.data /= sae.W_dec.data.norm(dim=1, keepdim=True)
    sae.W_enc.data.copy_(sae.W_dec.data.T)
    sae.b_dec.data.copy_(x.mean(0))
    sae.b_enc.data.copy_(-(sae.b_dec @ sae.W_enc))
    some = x[:: max(1, len(x) * settings["d_sae"] // 2**25)]
    pre = (some @ sae.W_enc + sae.b_enc).flatten()
    sae.threshold.data.fill_(float(pre.topk(settings["l0"] * len(some)).values[-1]))
    return sae


def main(folder: Path) -> dict[str, Any]:
    """Measure, and return the result."""
    if find_spec("datasets") is None:
        empty: Any = types.ModuleType("datasets")
        empty.Dataset = empty.load_dataset = None
        sys.modules["datasets"] = empty
    from sae_dashboard.sae_vis_data import SaeVisConfig  # pyright: ignore[reportMissingImports]
    from sae_dashboard.sae_vis_runner import SaeVisRunner  # pyright: ignore[reportMissingImports]

    settings = json.loads((folder / "settings.json").read_text())
    tokens = torch.from_numpy(np.load(folder / "tokens.npy")).long().to(settings["device"])
    layer = settings["layer"]
    hook = f"blocks.{layer}.hook_resid_post"
    model = model_of(settings["shape"], layer, settings["device"])
    sae = sae_of(model, hook, tokens, settings)

    def seconds(work: Any) -> float:
        started = time.perf_counter()
        work()
        if settings["device"] == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def alone() -> None:
        with torch.no_grad():
            for rows in tokens.split(_ROWS):
                model(rows, return_type=None, stop_at_layer=layer + 1)

    cfg = SaeVisConfig(
        hook_point=hook, features=list(range(settings["features"])), device=settings["device"]
    )
    alone_s = seconds(alone)
    dashboards_s = seconds(lambda: SaeVisRunner(cfg).run(encoder=sae, model=model, tokens=tokens))
    return {
        "features": settings["features"],
        "tokens": tokens.numel(),
        "dashboards_s": dashboards_s,
        "all_features_s": dashboards_s * settings["d_sae"] / settings["features"],
        "model_tokens_per_s": tokens.numel() / alone_s,
        "versions": {
            name: version(name) for name in ("sae-dashboard", "sae-lens", "transformer-lens")
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")

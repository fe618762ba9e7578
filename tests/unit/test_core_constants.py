"""The library's published numbers, thresholds and defaults, by value: one that changes fails here.

Other tests take them from the code, and hold for any value.
"""

from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from inspect import Parameter, signature
from math import inf, sqrt
from typing import Any

import pytest
import torch

from sae_core.edits import Steering
from sae_core.formats import FORMATS, registry
from sae_core.formats.layouts import LAYOUTS, layout_of
from sae_core.hub import ids
from sae_core.jumprelu import KERNELS, half_width

CONSTANTS: dict[str, dict[str, Any]] = {
    # Gemma Scope's prompts, and Neuronpedia's choice of one SAE of each layer and width.
    "formats.names": {"_CONTEXT": 1024, "_CRV_K": 128},
    "hub.ids": {"CANONICAL": "canonical", "CANONICAL_L0": 100},
    # From SAELens 6, configurations are nested and norms have this epsilon.
    "formats.saelens_config": {"SAE_LENS_VERSION": "6.54.12"},
    "check.measure": {"_EPS": 1e-5},
    # Gemma Scope (arXiv 2408.05147) calls features high-frequency that fire on over a tenth.
    "metrics": {"HIGH_FREQUENCY": 0.1},
    "check.judge": {
        "L0_FACTOR": 1.5,
        "FVU_FACTOR": 1.35,
        "FVU_SLACK": 0.03,
        "FVU_SHARE": 0.5,
        "PLAUSIBLE_FVU": 0.7,
        "GOOD_FVU": 0.35,
        "GOOD_FVU_ACROSS": 0.5,
        "CLEARLY": 1.25,
        "FACTOR_GAIN": 2.0,
        "FEW_TOKENS": 500,
        "LEAST_L0": 0.1,
        "HIGH_FREQUENCY": 0.1,
        "MOST_ACTIVE": 0.1,
        "MOST_OF_WIDTH": 0.5,
        "_FAR": 20.0,
    },
    "check.soundness": {
        "TARGET_FACTOR": 1.25,
        "MOST_DEAD": 0.25,
        "MOST_UNSEEN": 0.5,
        "FIRINGS": 20,
    },
    "check.convention_search": {"_SCREEN_TOKENS": 512, "_SIFT_TOKENS": 128, "_KEPT": 8},
    "check.sae_check": {
        "_CONTEXT": 512,
        "_LONGEST": 1024,
        "_MOST_TOKENS": 50_000,
    },
    "check.input_factor": {"_OCTAVES": 10.0, "_ROUNDS": (20, 8, 8)},
    "language_model": {
        "PROBE_LEAST": 48,
        "PROBE_MOST": 8192,
        "PROBE_TOLERANCE": {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2},
    },
    # What an index file is read by.
    "index.schema": {"SCHEMA_VERSION": 3, "READ_VERSIONS": (1, 2, 3)},
    "index.tokencodec": {"BLOCK": 4096, "_ONE": 192},
    "index.feature_pages": {"FEATURES": 64},
    "index.corpus_spool": {"MAX_SOURCES": 256},
    # What an index holds of a feature.
    "index.index_config": {"EARLY": 4},
    "index.prepared": {"LISTED": 10},
    # UMAP's own defaults, and where it is worth its time.
    "index.feature_map": {
        "NEIGHBOURS": 15,
        "MIN_DIST": 0.1,
        "FEWEST": 1024,
        "MOST": 2**18,
        "KEPT_OF": 10,
    },
    "index.output_scores": {
        "PROMPTS": (
            "From my experience,",
            "I once heard that",
            "The news mentioned",
            "Then the man said:",
        ),
        "LENS_TOKENS": 20,
        "FACTOR": 10.0,
        "SIZE": 0.5,
        "_PUSHES": 2,
    },
    "index.top_tokens": {"AT_LEAST": 3},
    "index.selection": {"BINS": 32, "SLOTS": 6},
    "index.statistics": {"_WINDOW_SD": 6.0},
    "index.token_sample": {"MOST": 16_384},
    "index.signature": {
        "MAX_LENGTH": 70,
        "_MAX_WORDS": 4,
        "_LISTED": 0.5,
        "_STANDS_OUT": 0.05,
        "_LEAST_PART": 1 / 8,
        "_EXAMPLES": 3,
        "_TELLING_LIFT": 8.0,
        "_TELLING_SHARE": 0.005,
        "SOURCE_SHARE": 0.5,
        "_SOURCE_LIFT": 3.0,
        "_EARLY_SHARE": 0.5,
        "_EXPECTED": 3,
        "LOGIT_SD": 4.5,
    },
    "index.highlights": {
        "META_KEY": "worth_opening",
        "KEPT": 96,
        "_FREQUENCY": (1e-4, 2e-2),
        "_SHARE": 0.4,
        "_BEGINNING": 3,
        "_COSINE": 0.3,
    },
}


@pytest.mark.parametrize("module", CONSTANTS)
def test_constants(module: str) -> None:
    held = vars(import_module(f"sae_core.{module}"))
    expected = CONSTANTS[module]
    assert {name: held.get(name) for name in expected} == expected


def test_every_limit_of_the_check_is_pinned() -> None:
    judge = vars(import_module("sae_core.check.judge"))
    assert CONSTANTS["check.judge"].keys() == {name for name in judge if name.isupper()}


def test_kernels_have_the_rectangle_s_standard_deviation() -> None:
    widths = {
        "rectangle": 1 / 2,
        "triangular": sqrt(1 / 2),
        "epanechnikov": sqrt(5 / 12),
        "gaussian": 8 / sqrt(12),
    }
    assert {kernel: half_width(kernel) for kernel in KERNELS} == pytest.approx(widths)


def test_the_published_repositories() -> None:
    assert ids.GEMMA_SCOPE == (
        "google/gemma-scope-2b-pt-res",
        "google/gemma-scope-2b-pt-mlp",
        "google/gemma-scope-2b-pt-att",
        "google/gemma-scope-9b-pt-res",
        "google/gemma-scope-9b-pt-mlp",
        "google/gemma-scope-9b-pt-att",
        "google/gemma-scope-27b-pt-res",
        "google/gemma-scope-9b-it-res",
        "google/gemma-scope-2b-pt-transcoders",
        "google/gemma-scope-2-270m-pt",
        "google/gemma-scope-2-270m-it",
        "google/gemma-scope-2-1b-pt",
        "google/gemma-scope-2-1b-it",
        "google/gemma-scope-2-4b-pt",
        "google/gemma-scope-2-4b-it",
        "google/gemma-scope-2-12b-pt",
        "google/gemma-scope-2-12b-it",
        "google/gemma-scope-2-27b-pt",
        "google/gemma-scope-2-27b-it",
    )


def test_the_names_of_files() -> None:
    weights = {
        "saelens": "sae_weights.safetensors",
        "gemma_scope": "params.npz",
        "gemma_scope_2": "params.safetensors",
        "dictionary_learning": "ae.pt",
        "sparsify": "sae.safetensors",
    }
    held = {name: registry._MODULES[name].WEIGHTS_FILE for name in weights}
    assert held == weights
    assert {layout.format for layout in LAYOUTS} == set(FORMATS)
    published = {
        **{f"repository/folder/{file}": name for name, file in weights.items()},
        "Llama3_1-8B-Base-L15R-8x/checkpoints/final.safetensors": "llama_scope",
        "layer0.sae.pt": "qwen_scope",
        "layer_35.safetensors": "circuit_tracer",
        "Llama-3.1-8B-Instruct-SAE-l19.pth": "goodfire",
        "Llama-3.3-70B-Instruct-SAE-l50.pt": "goodfire",
        "topk_sae_l15_exp16_k32.pt": "goodfire",
        "gpt2-small_L0_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_v9.pt": "hook_z",
    }
    layouts = {path: layout_of(path) for path in published}
    assert {path: layout and layout.format for path, layout in layouts.items()} == published
    for path in ("final.safetensors", "model.safetensors", "W_enc_0.safetensors", "x.pt"):
        assert layout_of(path) is None
    names = {
        "formats.saelens_config": {
            "CONFIG_FILE": "cfg.json",
            "SCALE_FILE": "activation_scaler.json",
        },
        "bundle": {"BUNDLE_FILE": "bundle.json", "INDEX_FILE": "index.duckdb"},
        "check.saved": {"CHECK_FILE": "check.json"},
    }
    for module, expected in names.items():
        held = vars(import_module(f"sae_core.{module}"))
        assert {name: held[name] for name in expected} == expected


DEFAULTS: dict[str, dict[str, Any]] = {
    "config.SAEConfig": {
        "site": None,
        "site_out": None,
        "d_out": None,
        "skip": False,
        "model_name": "",
        "prepend_bos": True,
        "context_size": None,
        "k": None,
    },
    "edits.Edit": {"value": 0.0, "positions": "all", "sae": "", "condition": None, "fade": None},
    "edits.Condition": {"above": 0.0, "sae": ""},
    "index.index_config.IndexConfig": {
        "bundle": "",
        "model": "",
        "sae": (),
        "tokens": 3_000_000,
        "context_size": 0,
        "rows_per_batch": 32,
        "before": 24,
        "after": 8,
        "top": 20,
        "intervals": 5,
        "per_interval": 5,
        "near_misses": 5,
        "output_scores": "auto",
        "seed": 0,
        "checkpoint_tokens": 1_000_000,
        "map": "auto",
        "keep_state": False,
        "fresh": False,
        "device": "auto",
        "dtype": "auto",
    },
    "check.conventions.Convention": {
        "scale": "none",
        "factor": 1.0,
        "minus_b_dec": False,
        "bos": "out",
    },
    "hub.ids.SAEId": {"folder": "", "revision": None},
    "jumprelu.jumprelu": {"kernel": "rectangle"},
    "jumprelu.step": {"kernel": "rectangle"},
    "jumprelu.kernel_density": {"kernel": "rectangle"},
    "jumprelu.half_width": {"kernel": "rectangle"},
    "generation.generate": {
        "temperature": 0.0,
        "seed": 0,
        "watch": (),
        "eos": None,
        "use_cache": True,
        "record": None,
        "steering": Steering,
    },
    "splice.SplicedLM.analyse": {"mean": None},
    "evaluation.evaluate": {"batch_rows": 16, "progress": None},
    "evaluation.evaluate_together": {"batch_rows": 16, "ablations": True, "progress": None},
    "evaluation.uniformity": {"seed": 0, "batch_rows": 16},
    "check.check": {"text": None, "tokens": 4000, "progress": None},
    "check.sae_check.check_sae": {"text": None, "tokens": 4000, "progress": None},
    "language_model.load_language_model": {
        "device": "cpu",
        "device_map": None,
        "attention": "auto",
        "revision": None,
    },
    "bundle.Bundle.load_model": {"dtype": None, "device": "cpu"},
    "bundle.Bundle.load_sae": {"device": "cpu"},
    "bundle.Bundle.load": {"dtype": None, "device": "cpu"},
    "workspace.workspace": {"folder": None},
    "formats.saelens.save_sae": {"dtype": torch.float32},
    "formats.saelens.load_sae": {"device": "cpu"},
    "formats.read_sae": {"device": "cpu", "origin": None},
    "formats.write_sae": {"dtype": torch.float32},
    "sources.load_sae": {"device": "cpu"},
    "hub.read_catalog": {"revision": None},
    "tokens.encode_text": {"max_tokens": None},
    "corpus.documents": {"skip": 0, "options": None},
    "index.store.Index.search": {
        "query": "",
        "sort": "",
        "descending": True,
        "min_frequency": 0.0,
        "max_frequency": 1.0,
        "limit": 50,
        "offset": 0,
        "min_output_score": 0.0,
        "max_side_effect": inf,
        "notes": None,
        "among": None,
    },
    "index.store.Index.highlights": {"n": 12},
}


def defaults(path: str) -> dict[str, Any]:
    """Defaults of a dataclass or function, named within `sae_core`; those made anew left out."""
    module, names = "sae_core", path.split(".")
    while names[0][0].islower() and len(names) > 1:
        module += f".{names.pop(0)}"
    held: Any = import_module(module)
    for name in names:
        held = getattr(held, name)
    if is_dataclass(held):
        return {f.name: f.default for f in fields(held) if f.default is not MISSING}
    parameters = signature(held).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not Parameter.empty}


@pytest.mark.parametrize("path", DEFAULTS)
def test_defaults(path: str) -> None:
    assert defaults(path) == DEFAULTS[path]

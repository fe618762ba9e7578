"""SAEBench's core results: its layout, and its definitions computed slowly, a token at a time."""

import json
import math
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from sae_core.config import SAEConfig, Site
from sae_core.corpus import TokenRow, documents, token_rows
from sae_core.evaluation import evaluate, take_tokens
from sae_core.sae import SAE, GatedSAE
from sae_core.saebench import core_result
from sae_core.saebench_metrics import core_metrics, feature_weights, largest_cosines
from sae_core.splice import SplicedLM
from tests.tiny import D_SAE, DEAD, SITE

BATCH_ROWS = 7
BOS = 2

# Names and types of SAEBench's eval_output_schema_core.json: all are required there.
CATEGORIES = {
    "model_behavior_preservation": ("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"),
    "model_performance_preservation": (
        "ce_loss_score",
        "ce_loss_with_ablation",
        "ce_loss_with_sae",
        "ce_loss_without_sae",
    ),
    "reconstruction_quality": ("explained_variance", "explained_variance_legacy", "mse", "cossim"),
    "shrinkage": ("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"),
    "sparsity": ("l0", "l1"),
    "token_stats": ("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"),
    "misc_metrics": (
        "freq_over_1_percent",
        "freq_over_10_percent",
        "normalized_freq_over_1_percent",
        "normalized_freq_over_10_percent",
        "average_max_encoder_cosine_sim",
        "average_max_decoder_cosine_sim",
        "frac_alive",
    ),
}
WHOLE_NUMBERS = ("token_stats",)
PER_FEATURE = (
    "feature_density",
    "consistent_activation_heuristic",
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
)
CONFIG: dict[str, type] = {
    "model_name": str,
    "llm_dtype": str,
    "batch_size_prompts": int,
    "n_eval_reconstruction_batches": int,
    "n_eval_sparsity_variance_batches": int,
    "dataset": str,
    "context_size": int,
    "compute_kl": bool,
    "compute_ce_loss": bool,
    "compute_l2_norms": bool,
    "compute_sparsity_metrics": bool,
    "compute_variance_metrics": bool,
    "compute_featurewise_density_statistics": bool,
    "compute_featurewise_weight_based_metrics": bool,
    "exclude_special_tokens_from_reconstruction": bool,
    "verbose": bool,
}
TOP: dict[str, Any] = {
    "eval_type_id": str,
    "eval_config": dict,
    "eval_id": str,
    "datetime_epoch_millis": int,
    "eval_result_metrics": dict,
    "eval_result_details": list,
    "sae_bench_commit_hash": str,
    "sae_lens_id": (str, type(None)),
    "sae_lens_release_id": (str, type(None)),
    "sae_lens_version": (str, type(None)),
    "sae_cfg_dict": (dict, type(None)),
    "eval_result_unstructured": object,
}


@pytest.fixture
def lm(tiny_model: Any, tiny_tokenizer: Any, tiny_sae: SAE) -> SplicedLM:
    return SplicedLM(tiny_model, tiny_tokenizer, {"tiny": tiny_sae})


@pytest.fixture
def rows(tiny_corpus: Path, tiny_tokenizer: Any) -> list[TokenRow]:
    """Rows of several lengths, in batches of which the last is smaller."""
    return take_tokens(token_rows(documents([str(tiny_corpus)]), tiny_tokenizer, 24), 500)


def assert_is_a_core_result(written: dict[str, Any]) -> None:
    """As the schema has it: these names, these types, nothing that JSON has not."""
    assert set(written) == set(TOP)
    for name, kind in TOP.items():
        assert isinstance(written[name], kind), name
    assert set(written["eval_config"]) == set(CONFIG)
    for name, kind in CONFIG.items():
        assert type(written["eval_config"][name]) is kind, name
    assert set(written["eval_result_metrics"]) == set(CATEGORIES)
    for category, names in CATEGORIES.items():
        values = written["eval_result_metrics"][category]
        assert set(values) == set(names)
        for name, value in values.items():
            assert type(value) in ((int,) if category in WHOLE_NUMBERS else (int, float)), name
            assert math.isfinite(value), name
    for number, feature in enumerate(written["eval_result_details"]):
        assert set(feature) == {"index", *PER_FEATURE}
        assert feature["index"] == number
        assert all(type(feature[name]) in (int, float) for name in PER_FEATURE)
    assert 0 <= written["datetime_epoch_millis"] <= 9_999_999_999_999
    uuid.UUID(written["eval_id"])


@contextmanager
def instead(model: Any, new: Any) -> Iterator[None]:
    """Replace the output of the tiny SAE's layer by `new(output)`."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        return (new(output[0]), *output[1:]) if isinstance(output, tuple) else new(output)

    handle = model.model.layers[SITE.layer].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def slow_metrics(model: Any, sae: SAE, rows: list[TokenRow]) -> dict[str, dict[str, float]]:
    """SAEBench's definitions of what needs the model, row by row and token by token."""

    def with_sae(x: torch.Tensor) -> torch.Tensor:
        new = sae.decode(sae.encode(x))
        new[:, 0] = x[:, 0]  # BOS
        return new

    ways = {
        "without_sae": lambda x: x,
        "with_sae": with_sae,
        "with_ablation": torch.zeros_like,  # BOS too
    }
    ce: dict[str, list[float]] = {name: [] for name in ways}
    kl: dict[str, list[float]] = {name: [] for name in ways}
    tokens: list[dict[str, float]] = []
    bias, mean_squares, mean_errors = [], [], []
    for start in range(0, len(rows), BATCH_ROWS):
        batch_x, batch_acts = [], []
        for row in rows[start : start + BATCH_ROWS]:
            ids = torch.tensor(row.ids[None].astype("int64"))
            assert ids[0, 0] == BOS
            log_p = {}
            for name, new in ways.items():
                with instead(model, new):
                    log_p[name] = model(input_ids=ids).logits[0].double().log_softmax(-1)
            kept: list[torch.Tensor] = []
            with instead(model, lambda x, kept=kept: kept.append(x.clone()) or x):
                model(input_ids=ids)
            batch_x.append(kept[0][0, 1:])
            batch_acts.append(sae.encode(kept[0][0, 1:]))
            # A loss counts where the token that is read does, so not after BOS.
            for name in ways:
                for at in range(1, ids.shape[1]):
                    if at + 1 < ids.shape[1]:
                        ce[name].append(-float(log_p[name][at, ids[0, at + 1]]))
                    p = log_p["without_sae"][at]
                    kl[name].append(float((p.exp() * (p - log_p[name][at])).sum()))
        x, acts = torch.cat(batch_x).double(), torch.cat(batch_acts).double()
        recon = sae.decode(acts.float()).double()
        centre = x.mean(0)
        squares, products, errors = [], [], []
        for a, b, f in zip(x, recon, acts, strict=True):
            error = float((a - b).square().sum())
            tokens.append(
                {
                    "l2_norm_in": float(a.norm()),
                    "l2_norm_out": float(b.norm()),
                    "l2_ratio": float(b.norm() / a.norm()),
                    "l0": float((f != 0).sum()),
                    "l1": float(f.abs().sum()),
                    "explained_variance_legacy": 1 - error / float((a - centre).square().sum()),
                    "mse": error / len(x),
                    "cossim": float(a @ b / a.norm() / b.norm()),
                }
            )
            squares.append(float(b @ b))
            products.append(float(a @ b))
            errors.append(error)
        bias.append(sum(squares) / sum(products))
        mean_squares.append(float(x.square().sum(1).mean()))
        mean_errors.append(sum(errors) / len(errors))

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    per_dimension = mean(mean_squares) / x.shape[1]
    of_tokens = {name: mean([each[name] for each in tokens]) for name in tokens[0]}
    ce_mean = {name: mean(values) for name, values in ce.items()}
    kl_mean = {name: mean(values) for name, values in kl.items()}
    gained = ce_mean["with_ablation"] - ce_mean["with_sae"]
    return {
        "model_behavior_preservation": {
            "kl_div_score": 1 - kl_mean["with_sae"] / kl_mean["with_ablation"],
            "kl_div_with_ablation": kl_mean["with_ablation"],
            "kl_div_with_sae": kl_mean["with_sae"],
        },
        "model_performance_preservation": {
            "ce_loss_score": gained / (ce_mean["with_ablation"] - ce_mean["without_sae"]),
            **{f"ce_loss_{name}": value for name, value in ce_mean.items()},
        },
        "reconstruction_quality": {
            "explained_variance": 1
            - mean(mean_errors) / (mean(mean_squares) - per_dimension * per_dimension),
            **{name: of_tokens[name] for name in ("explained_variance_legacy", "mse", "cossim")},
        },
        "shrinkage": {
            **{name: of_tokens[name] for name in ("l2_norm_in", "l2_norm_out", "l2_ratio")},
            "relative_reconstruction_bias": mean(bias),
        },
        "sparsity": {name: of_tokens[name] for name in ("l0", "l1")},
    }


def test_the_metrics_are_saebenchs_definitions(lm: SplicedLM, rows: list[TokenRow]) -> None:
    assert len({len(row.ids) for row in rows}) > 3
    assert len(rows) % BATCH_ROWS
    metrics, _ = core_metrics(lm, "tiny", rows, batch_rows=BATCH_ROWS, progress=lambda _: None)
    expected = slow_metrics(lm.model, lm.sae("tiny"), rows)
    for category, values in expected.items():
        # float32 forwards of padded batches against those of single rows.
        assert metrics[category] == pytest.approx(values, rel=2e-5), category
    assert set(metrics["token_stats"].values()) == {sum(len(row.ids) for row in rows)}


def test_where_both_define_a_number_alike_ours_is_the_same(
    lm: SplicedLM, rows: list[TokenRow]
) -> None:
    metrics, features = core_metrics(lm, "tiny", rows, batch_rows=BATCH_ROWS)
    ours = evaluate(lm, "tiny", rows, batch_rows=BATCH_ROWS)
    assert metrics["sparsity"]["l0"] == pytest.approx(ours.l0, rel=1e-9)
    assert metrics["misc_metrics"]["frac_alive"] == pytest.approx(1 - ours.dead, abs=1e-12)
    assert sum(features["feature_density"]) == pytest.approx(ours.l0, rel=1e-9)
    theirs = metrics["model_performance_preservation"]
    assert theirs["ce_loss_without_sae"] == pytest.approx(ours.ce_base, rel=1e-6)
    assert theirs["ce_loss_with_sae"] == pytest.approx(ours.ce_spliced, rel=1e-6)
    # And where they do not, it is not: BOS is ablated too, a row's last prediction has a KL.
    assert abs(metrics["model_behavior_preservation"]["kl_div_with_sae"] / ours.kl - 1) > 1e-3
    assert abs(theirs["ce_loss_score"] - ours.loss_recovered_zero) > 1e-4
    assert abs(1 - metrics["reconstruction_quality"]["explained_variance"] - ours.fvu) > 1e-3


def test_the_features_are_counted_by_token_and_by_row(lm: SplicedLM, rows: list[TokenRow]) -> None:
    metrics, features = core_metrics(lm, "tiny", rows, batch_rows=BATCH_ROWS)
    sae, active, with_it, tokens = lm.sae("tiny"), [0] * D_SAE, [0] * D_SAE, 0
    for row in rows:
        kept: list[torch.Tensor] = []
        with instead(lm.model, lambda x, kept=kept: kept.append(x.clone()) or x):
            lm.model(input_ids=torch.tensor(row.ids[None].astype("int64")))
        fires = sae.encode(kept[0][0, 1:]) != 0
        tokens += len(fires)
        for feature in range(D_SAE):
            count = int(fires[:, feature].sum())
            active[feature] += count
            with_it[feature] += count > 0
    density = [count / tokens for count in active]
    assert features["feature_density"] == pytest.approx(density, rel=1e-9)
    heuristic = features["consistent_activation_heuristic"]
    assert math.isnan(heuristic[DEAD])
    assert heuristic[:DEAD] == pytest.approx(
        [a / b for a, b in zip(active[:DEAD], with_it[:DEAD], strict=True)], rel=1e-9
    )
    misc = metrics["misc_metrics"]
    for name, bound in (("1", 0.01), ("10", 0.1)):
        frequent = [each for each in density if each > bound]
        assert misc[f"freq_over_{name}_percent"] == pytest.approx(len(frequent) / D_SAE)
        share = sum(frequent) / sum(density)
        assert misc[f"normalized_freq_over_{name}_percent"] == pytest.approx(share)


def test_the_cosines_are_those_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_core.saebench_metrics._COSINES_AT_ONCE", 30)  # in several parts
    torch.manual_seed(0)
    sae = SAE.build(SAEConfig(architecture="gated", d_model=5, d_sae=9))
    assert isinstance(sae, GatedSAE)
    for parameter in sae.parameters():
        parameter.data.normal_()
    found = feature_weights(sae)
    assert found["encoder_bias"] == sae.b_mag.tolist()
    for name, vectors in (("encoder", sae.W_enc.T), ("decoder", sae.W_dec)):
        largest = [
            max(
                float(torch.cosine_similarity(a, b, dim=0)) for j, b in enumerate(vectors) if i != j
            )
            for i, a in enumerate(vectors)
        ]
        assert found[f"max_{name}_cosine_sim"] == pytest.approx(largest, abs=1e-6)
    own = [
        float(torch.cosine_similarity(a, b, dim=0))
        for a, b in zip(sae.W_enc.T, sae.W_dec, strict=True)
    ]
    assert found["encoder_decoder_cosine_sim"] == pytest.approx(own, abs=1e-6)
    assert found["encoder_norm"] == pytest.approx(sae.W_enc.norm(dim=0).tolist(), rel=1e-6)
    assert largest_cosines(torch.ones(1, 4)).isnan().all()


def test_what_is_not_defined_is_minus_one(lm: SplicedLM, rows: list[TokenRow]) -> None:
    result = core_result(lm, "tiny", rows[:3], text=["a.txt"], context_size=24)
    assert_is_a_core_result(result)
    assert result["eval_result_details"][DEAD]["consistent_activation_heuristic"] == -1
    short = [TokenRow(rows[0].document, 0, rows[0].ids[:2])]  # BOS and one token: no loss
    result = core_result(lm, "tiny", short, text=["a.txt"], context_size=24)
    assert_is_a_core_result(result)
    assert set(result["eval_result_metrics"]["model_performance_preservation"].values()) == {-1}
    assert result["eval_result_metrics"]["model_behavior_preservation"]["kl_div_with_sae"] > 0


def test_a_transcoder_is_refused(tiny_model: Any, tiny_tokenizer: Any, rows: list) -> None:
    cfg = SAEConfig(
        architecture="standard",
        d_model=32,
        d_sae=8,
        site=Site("mlp_in", 1),
        site_out=Site("mlp_out", 1),
    )
    lm = SplicedLM(tiny_model, tiny_tokenizer, {"t": SAE.build(cfg)})
    with pytest.raises(ValueError, match="t is a transcoder: SAEBench measures"):
        core_metrics(lm, "t", rows)


def test_eval_writes_the_file(
    tiny_bundle: Any, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "core.json"
    argv = ["eval", "--bundle", str(tiny_bundle.path), "--text", str(tiny_corpus), "--json"]
    argv += ["--tokens", "200", "--batch-rows", "4"]
    assert main([*argv, "--saebench", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads(out.read_text())
    assert_is_a_core_result(written)
    assert len(written["eval_result_details"]) == D_SAE
    assert written["eval_result_metrics"]["sparsity"]["l0"] == pytest.approx(printed["l0"])
    config = written["eval_config"]
    assert config["dataset"] == tiny_corpus.name  # not the folder of this machine
    assert config["context_size"] == printed["context_size"]
    assert written["sae_lens_release_id"] == "tiny"
    settings = written["sae_cfg_dict"]
    assert settings["hook_name"] == "blocks.1.hook_resid_post"
    assert (settings["d_in"], settings["d_sae"], settings["hook_layer"]) == (32, D_SAE, 1)
    assert main([*argv, "--saebench", str(tmp_path)]) == 2
    assert f"saebench {tmp_path} is a folder: name a file." in capsys.readouterr().err

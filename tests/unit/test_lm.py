"""The demo language model's trainer: tokenizer, rows, loss, Muon, schedule, and what is saved."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from sae_core.corpus import documents
from sae_core.tokens import vocabulary
from training.lm import train_lm
from training.lm_config import LMConfig
from training.lm_data import TokenRows, token_stream, train_tokenizer
from training.lm_model import Family, LMShape, attention_masks, row_losses, save_model
from training.muon import BatchedMuon, orthogonalise

BOS, EOS = 2, 1
VOCAB = 320
SHAPE = LMShape(
    vocab_size=VOCAB,
    hidden_size=32,
    layers=3,
    heads=2,
    kv_heads=1,
    head_dim=16,
    intermediate_size=48,
    sliding_window=8,
    max_positions=64,
)
FAMILIES = ("gemma2", "llama", "mistral")
TEXTS = (
    "def f(x):\n    if x > 10_000:\n        return {'a': x}  # naïve\n\n\treturn None\n",
    "  leading and trailing  \r\n\r\n",
    "It’s 1912; don't — 日本語, 🙂 \u200b end",
    "a literal <bos> and <eos> stay text",
    "",
)


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: Path) -> PreTrainedTokenizerFast:
    return train_tokenizer((d.text for d in documents([str(tiny_corpus)])), VOCAB, 64)


@pytest.fixture(scope="module")
def config(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> LMConfig:
    return LMConfig(
        corpus=(str(tiny_corpus),),
        validation=(str(tiny_corpus),),
        out=tmp_path_factory.mktemp("lm") / "out",
        shape=SHAPE,
        context=32,
        batch_rows=8,
        steps=60,
        device="cpu",
    )


@pytest.fixture(scope="module")
def report(config: LMConfig) -> dict:
    return train_lm(config)


@pytest.mark.parametrize("text", TEXTS)
def test_the_tokenizer_gives_a_text_back_exactly(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    vocab = vocabulary(tokenizer)
    assert b"".join(vocab[i] for i in ids) == text.encode()
    assert tokenizer.decode(ids) == text


def test_the_tokenizer_adds_one_bos_and_has_gemmas_ids(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert len(tokenizer) == VOCAB
    ids = tokenizer("The river")["input_ids"]
    assert ids[0] == BOS
    assert ids.count(BOS) == 1
    assert tokenizer("")["input_ids"] == [BOS]


def test_the_tokenizer_splits_code_and_numbers_in_small_pieces(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    text = '    return "word", 1912\n'
    pieces = [text[a:b] for _, (a, b) in split(text)]
    assert pieces == ["   ", " return", ' "', "word", '",', " ", "19", "12", "\n"]


def test_a_corpus_too_small_for_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="too small for a vocabulary of 5000"):
        train_tokenizer(["one short text"], 5000, 64)
    with pytest.raises(ValueError, match="vocab_size is 100"):
        train_tokenizer(["one short text"], 100, 64)


def test_the_stream_is_every_document_between_bos_and_eos(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    texts = ["The river <bos> follows.\n", "two letters"]
    lines = "\n".join(json.dumps({"text": t}) for t in texts)
    (tmp_path / "two.jsonl").write_text(lines)
    stream = token_stream([str(tmp_path / "two.jsonl")], tokenizer).tolist()
    assert stream.count(BOS) == stream.count(EOS) == 2
    assert stream[0] == BOS
    assert stream[-1] == EOS
    assert tokenizer.decode(stream, skip_special_tokens=True) == "".join(texts)


def test_rows_begin_with_one_bos_and_cover_the_stream() -> None:
    of_five = [[BOS, 10 + n, 11 + n, 12 + n, EOS] for n in range(0, 60, 3)]
    stream = np.array(of_five, dtype=np.int16).flatten()
    rows = TokenRows(stream, 8, BOS)
    batch = torch.cat(list(rows.in_order(3)))
    assert batch.shape == (12, 9)
    assert (batch[:, 0] == BOS).all()
    assert (batch[:, 1] != BOS).all()
    assert batch[0].tolist() == [BOS, *stream[1:9].tolist()]
    assert batch[1].tolist() == [BOS, *stream[8:16].tolist()]
    assert set(stream[1:96].tolist()) <= set(batch[:, 1:].flatten().tolist())


def test_epochs_are_shuffled_and_cut_anew() -> None:
    stream = np.arange(3, 603, dtype=np.int16)
    rows = TokenRows(stream, 10, BOS).shuffled(59, seed=1)
    first, second = next(rows), next(rows)
    assert len(first[:, 1].unique()) == 59
    assert not torch.equal(first, second)
    assert first[0, 1] % 10 != second[0, 1] % 10
    again = TokenRows(stream, 10, BOS).shuffled(59, seed=1)
    assert torch.equal(next(again), first)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_models_own_and_none_falls_on_bos(
    tokenizer: PreTrainedTokenizerFast, family: Family
) -> None:
    """Of rows that are longer than the sliding window, which Llama does not have."""
    torch.manual_seed(0)
    model = replace(SHAPE, family=family).build(tokenizer)
    assert model.config.model_type == family
    rows = torch.randint(4, VOCAB, (3, 33))
    rows[:, 0] = BOS
    rows[1, 20] = BOS
    masks = attention_masks(model, 32, "eager", torch.device("cpu"))
    losses = row_losses(model, rows, masks, BOS)
    assert losses.shape == (3, 32)
    assert losses[1, 19] == 0
    assert (losses > 0).sum() == 3 * 32 - 1
    with torch.no_grad():
        logits = model(input_ids=rows[:, :-1]).logits
    expected = torch.nn.functional.cross_entropy(logits.mT, rows[:, 1:], reduction="none")
    expected[1, 19] = 0
    torch.testing.assert_close(losses.detach(), expected)
    losses.sum().backward()
    assert model.model.embed_tokens.weight.grad is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_flex_attention_is_the_same_attention(
    tokenizer: PreTrainedTokenizerFast, family: Family
) -> None:
    torch.manual_seed(0)
    model = replace(SHAPE, family=family).build(tokenizer)
    rows = torch.randint(4, VOCAB, (2, 33))
    cpu = torch.device("cpu")
    with torch.no_grad():
        eager = row_losses(model, rows, attention_masks(model, 32, "eager", cpu), BOS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow when it is not compiled
            flex = row_losses(model, rows, attention_masks(model, 32, "flex", cpu), BOS)
    torch.testing.assert_close(flex, eager)


def test_muon_is_torchs_muon() -> None:
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("torch.optim.Muon came with torch 2.9")
    torch.manual_seed(0)
    shapes = [(8, 16), (16, 8), (8, 16), (8, 8)]
    ours = [torch.nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    a = BatchedMuon(ours, lr=0.02, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        # Newton-Schulz runs in bfloat16 (8 bits), in another order of additions.
        torch.testing.assert_close(p.detach(), q.detach(), atol=3 * 0.02 * 0.02, rtol=0)


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalise(torch.randn(3, 24, 12) * 100).float())
    assert values.min() > 0.5
    assert values.max() < 1.4
    with pytest.raises(ValueError, match="matrices only"):
        BatchedMuon([torch.nn.Parameter(torch.ones(3))], lr=0.1)


def test_the_schedule_follows_whichever_runs_out_first(config: LMConfig) -> None:
    cfg = replace(config, steps=100, max_seconds=10.0, warmup=0.1, decay=0.5)
    assert cfg.progress(50, 2.0) == 0.5
    assert cfg.progress(10, 7.5) == 0.75
    assert cfg.progress(3, 10.0) == 1.0
    assert [cfg.lr_factor(p) for p in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)] == [0, 0.5, 1, 1, 0.5, 0]
    assert replace(cfg, max_seconds=None).progress(50, 1e9) == 0.5


def test_a_budget_of_seconds_ends_the_run(config: LMConfig, tmp_path: Path) -> None:
    report = train_lm(replace(config, out=tmp_path / "o", steps=10**6, probe=0.3))
    assert 1 < report["training"]["steps"] < 10**6
    assert report["validation"]
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_it_learns(config: LMConfig, tmp_path: Path, optimizer: str) -> None:
    cfg = replace(config, out=tmp_path / "o", optimizer=optimizer)
    report = train_lm(cfg)
    assert report["training_curve"][0]["loss"] > report["training_curve"][-1]["loss"] + 0.5
    assert report["validation"]["nats_per_token"] < np.log(VOCAB) - 1.5
    assert report["training"]["steps"] == 60
    assert report["training"]["tokens_seen"] == 60 * 8 * 32


def test_what_is_saved_loads_as_users_load_it(config: LMConfig, report: dict) -> None:
    model = AutoModelForCausalLM.from_pretrained(config.out / "model")
    tokenizer = AutoTokenizer.from_pretrained(config.out / "model")
    assert model.dtype == torch.bfloat16
    assert model.config.use_cache
    assert model.generation_config.use_cache is not False
    assert (model.config.pad_token_id, model.config.eos_token_id, model.config.bos_token_id) == (
        *(0, 1, 2),
    )
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.num_parameters() == report["parameters"]
    ids = tokenizer("The river follows", return_tensors="pt")["input_ids"]
    assert (ids == BOS).sum() == 1
    assert torch.isfinite(model(input_ids=ids).logits).all()
    assert {p.name for p in config.out.iterdir()} == {"model", "metrics.jsonl", "report.json"}
    assert (config.out / "model" / "model.safetensors").stat().st_mode & 0o444 == 0o444


def test_the_saved_model_computes_what_the_trained_one_did(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = SHAPE.build(tokenizer)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.bfloat16())
        ids = torch.randint(4, VOCAB, (2, 40))
        expected = model(input_ids=ids).logits
        save_model(model, tokenizer, tmp_path)
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
        assert torch.equal(loaded(input_ids=ids).logits, expected)


def test_the_report_says_what_was_done(config: LMConfig, report: dict) -> None:
    assert json.loads((config.out / "report.json").read_text()) == report
    lines = [json.loads(x) for x in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines if "loss" in x] == [20, 40, 60]
    assert report["config"]["lr"] == config.lr
    assert report["validation_curve"][-1]["step"] == 60
    # bfloat16 rounding moves the loss a little; another model or data would move it far.
    saved = report["validation"]["nats_per_token"]
    assert saved == pytest.approx(report["validation_curve"][-1]["validation_loss"], abs=0.1)
    assert len(report["samples"]) == 10
    for written in report["samples"]:
        assert written["text"].startswith(written["prompt"])


def test_mistakes_are_one_sentence(config: LMConfig, report: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds a model already"):
        train_lm(config)
    new = replace(config, out=tmp_path / "o")
    with pytest.raises(ValueError, match=r"no corpus file matches .*none-\*"):
        train_lm(replace(new, corpus=(str(tmp_path / "none-*.parquet"),)))
    with pytest.raises(ValueError, match="too few for a batch"):
        train_lm(replace(new, batch_rows=100_000))
    with pytest.raises(ValueError, match="no tokenizer"):
        train_lm(replace(new, tokenizer=tmp_path))
    with pytest.raises(ValueError, match="vocab_size is 321"):
        train_lm(replace(new, tokenizer=config.out / "model", shape=replace(SHAPE, vocab_size=321)))
    with pytest.raises(ValueError, match="128 but the model has 64 positions"):
        replace(new, context=128)
    with pytest.raises(ValueError, match="flex attention trains on CUDA only"):
        train_lm(replace(new, attention="flex"))
    assert not new.out.exists()

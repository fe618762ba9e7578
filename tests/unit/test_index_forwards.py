"""Batches joined for one forward, and facts that are made once for all indexes of a run; what a
run that fails leaves of its SAEs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Gemma2ForCausalLM, PreTrainedTokenizerFast

from sae_core.corpus import Document, TokenBatch, TokenRow, batches
from sae_core.index import (
    IndexConfig,
    Target,
    batch_lists,
    build_index,
    build_indexes,
    gathered,
    logits,
    prepared,
)
from sae_core.index.forwards import Forwards, Joined
from sae_core.index.ranks import Ranks
from sae_core.index.screening import ScreenedLists
from sae_core.sae import SAE
from tests import tiny


def batch_of(lengths: list[int], tokenizer: PreTrainedTokenizerFast) -> TokenBatch:
    document = Document(0, "text", "", "", "")
    rows = [
        TokenRow(document, 0, np.array([tokenizer.bos_token_id, *range(5, 4 + n)], np.int32))
        for n in lengths
    ]
    return next(batches(rows, tokenizer, len(rows)))


def test_joined_batches_keep_rows_and_numbers_and_count_no_padding(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    parts = [(batch_of([3, 5], tiny_tokenizer), 4), (batch_of([9], tiny_tokenizer), 11)]
    joined = Joined.of(parts)
    assert joined.numbers == [4, 5, 11]
    assert joined.input_ids.shape == joined.mask.shape == (3, 9)
    assert joined.mask.sum(1).tolist() == [2, 4, 8]
    assert joined.input_ids[1, :5].tolist() == parts[0][0].input_ids[1].tolist()


def test_joined_batches_have_the_activations_of_their_own(
    tiny_model: Gemma2ForCausalLM, tiny_tokenizer: PreTrainedTokenizerFast, tiny_sae: SAE
) -> None:
    forwards = Forwards(tiny_model, [tiny_sae])
    parts = [(batch_of([3, 5], tiny_tokenizer), 0), (batch_of([9], tiny_tokenizer), 2)]
    joined = Joined.of(parts)
    [(x, _)] = forwards.pairs(joined.input_ids)
    alone = [run for batch, first in parts if (run := forwards.add(batch, first))]
    assert len(alone) == 2
    own = torch.cat([run.pairs[0][0][run.batch.mask] for run in alone])
    torch.testing.assert_close(x[joined.mask], own, atol=1e-5, rtol=1e-5)
    assert forwards.rest() is None


def test_facts_without_text_are_made_once_and_only_when_asked_for(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    real = prepared.top_logits

    def counted(*given: Any) -> Any:
        calls.append(given)
        return real(*given)

    monkeypatch.setattr(prepared, "top_logits", counted)
    cfg = IndexConfig(corpus=("text.txt",), map="pca")
    facts = prepared.Prepared(tiny_model, tiny_tokenizer, tiny_sae, cfg, 400)
    facts.begin()
    assert not calls
    decoder = facts.decoder()
    assert facts.map() is not None
    assert facts.decoder() is decoder
    assert len(calls) == 1
    assert [len(column) for column in facts.vocabulary()] == [400, 400]
    facts.close()


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_processes_share_out_what_one_says_of_the_decoder(
    world: int,
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of three lots of features five processes leave some without any."""
    for module in (logits, prepared):
        monkeypatch.setattr(module, "ROWS", 24)
    ranks = [Ranks(rank, world) for rank in range(world)]
    mine = [each.share(tiny.D_SAE, 24) for each in ranks]
    assert [feature for some in mine for feature in some] == list(range(tiny.D_SAE))
    assert all(some.start % 24 == 0 for some in mine if some)
    cfg = IndexConfig(corpus=("text.txt",), map="pca")
    given = (tiny_model, tiny_tokenizer, tiny_sae, cfg, 400)
    alone = prepared.Prepared(*given).decoder()
    first, *others = (prepared.Prepared(*given, each) for each in ranks)
    first.complete([other.share() for other in others])
    joined = first.decoder()
    assert torch.equal(joined.near, alone.near)
    assert torch.equal(joined.cosine, alone.cosine)
    for name, column in vars(alone.logits).items():
        assert torch.equal(vars(joined.logits)[name], column), name


@pytest.mark.parametrize("stage", ["reading", "writing"])
def test_a_build_that_fails_leaves_the_encoder_as_it_was(
    stage: str,
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError(f"{stage} fails")

    monkeypatch.setattr(batch_lists, "fast_half", lambda device: torch.bfloat16)
    failing = {"reading": (ScreenedLists, "values"), "writing": (gathered, "write_index")}
    where, name = failing[stage]
    monkeypatch.setattr(where, name, fail)
    before = tiny_sae.W_enc.detach().clone()
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=1500, context_size=16, map="off")
    with pytest.raises(ValueError, match=f"{stage} fails"):
        build_index(tiny_model, tiny_tokenizer, tiny_sae, cfg, tmp_path / "index.duckdb")
    assert torch.equal(tiny_sae.W_enc, before)
    assert tiny_sae.W_enc.is_contiguous()


def test_the_first_process_makes_its_share_before_it_waits_for_the_others(
    tiny_model: Gemma2ForCausalLM,
    tiny_tokenizer: PreTrainedTokenizerFast,
    tiny_sae: SAE,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing was begun beside the reading, on the CPU, all make theirs at the same time."""
    happened, make = list[str](), prepared.Prepared._share

    class First(Ranks):
        """Of two, the other of which has nothing to do."""

        def is_mine(self, batch: int) -> bool:
            return True

        def share(self, count: int, together: int) -> range:
            return range(count)

        def from_first(self, state: dict[str, Any] | None) -> dict[str, Any]:
            return state or {}

        def from_others(self) -> Iterator[dict[str, Any]]:
            happened.append("waits")
            return iter(())

    def share(self: prepared.Prepared) -> dict[str, torch.Tensor]:
        happened.append("makes")
        return make(self)

    monkeypatch.setattr(prepared.Prepared, "_share", share)
    cfg = IndexConfig(corpus=(str(tiny_corpus),), tokens=300, context_size=16, map="off")
    target = Target(sae=tiny_sae, out_path=tmp_path / "index.duckdb")
    build_indexes(tiny_model, tiny_tokenizer, [target], cfg, ranks=First(0, 2))
    assert happened == ["makes", "waits", "waits"]

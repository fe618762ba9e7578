"""The catalog of known models and SAEs: every id parses, and every command is one that runs."""

import json
import shlex

import pytest

from app.cli import main, parse
from app.commands.list import ListSAEs
from app.commands.serve import Serve
from sae_core.formats import origin_of
from sae_core.formats.layouts import layout_of
from sae_core.hub import SAEId, parse_id
from sae_core.hub.ids import GEMMA_SCOPE, is_gemma_scope
from sae_core.hub.known_pairs import KnownPair, known_pairs
from sae_core.workspace import located_model

PAIRS = known_pairs()


def test_no_pair_stands_twice() -> None:
    assert len({pair.sae for pair in PAIRS}) == len(PAIRS) > 25


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.sae)
def test_ids_parse_and_commands_are_accepted(pair: KnownPair) -> None:
    sae_id = parse_id(pair.sae)
    assert sae_id is not None
    assert str(sae_id) == pair.sae
    assert sae_id.folder
    assert located_model(pair.model) == pair.model
    program, name, *args = shlex.split(pair.command)
    serve = parse(name, args)
    assert isinstance(serve, Serve)
    assert (program, name, serve.model, serve.sae) == (
        "jumpscope",
        "serve",
        pair.model,
        (pair.sae,),
    )
    program, name, *args = shlex.split(pair.list_command)
    listing = parse(name, args)
    assert isinstance(listing, ListSAEs)
    assert (program, name) == ("jumpscope", "list")
    assert parse_id(listing.source) == SAEId(sae_id.repo)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.sae)
def test_what_names_say_agrees(pair: KnownPair) -> None:
    """The model is the one that the SAE's names mean, if they mean one; a file is one of ours."""
    sae_id = parse_id(pair.sae)
    assert sae_id is not None
    said = origin_of(sae_id.repo, sae_id.folder).model_name
    assert said in ("", pair.model)
    if is_gemma_scope(sae_id.repo):
        assert sae_id.repo in GEMMA_SCOPE
        assert said
    if sae_id.folder.endswith((".pt", ".pth", ".safetensors")):
        assert layout_of(sae_id.folder)
    for size in (pair.model_gb, pair.sae_gb):
        assert size is None or 0 < size < 1000
    assert pair.family
    assert pair.sites
    assert pair.activation


def test_the_command_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for pair in PAIRS:
        assert f"  {pair.command}\n" in out
    assert "Gemma Scope: google/gemma-2-2b (5.2 GB, with a login, Gemma terms of use)" in out
    assert main(["list", "--json"]) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert [pair["command"] for pair in pairs] == [pair.command for pair in PAIRS]
    assert main(["list", "--layer", "3"]) == 2
    assert "choose among a repository's SAEs" in capsys.readouterr().err

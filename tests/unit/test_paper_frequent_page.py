"""Results on very frequent features put together, and their page."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.paper import frequent_results, pages
from benchmarks.paper.frequent_results import Table
from benchmarks.paper.frequent_words import spread, table
from benchmarks.paper.shown import SHOWN
from benchmarks.paper.shown_text import UNMEASURED, load

ENDS = ("least", "most")


def _part(site: str, seed: int, change: float) -> dict[str, Any]:
    row = {
        "kind": "topk",
        "target": 32.0,
        "seed": seed,
        "very": 10 + 2 * seed,
        "uniformity": [0.5 + change, 0.4 + change, 0.6 + change],
        "scores": {"detection": [0.7, 0.6, 0.8, 100 + seed], "intruder": None},
        "draws": {"very_by_mass": {"kl_least": 0.3 - change, "kl_most": 0.4 + change}},
        "very_features": {"by_token": [0.1, 0.2 + change, 0.3]},
    }
    settings = {"site": site, "validation": ["v"], "tokens": 80}
    return {"settings": settings, "machine": {}, "seconds": 3.0, "tokens": 900, "rows": [row]}


def test_seeds_and_sites_are_put_together(tmp_path: Path) -> None:
    for site, changes in (("resid_post/4", (0.0, 0.1)), ("mlp_out/4", (0.2,))):
        data = _part(site, 0, changes[0])
        data["rows"] += [_part(site, 1, each)["rows"][0] for each in changes[1:]]
        name = f"paper_frequent_{site.replace('/', '_')}.json"
        (tmp_path / name).write_text(json.dumps(data))
    out = tmp_path / "out"
    out.mkdir()
    frequent_results.together([tmp_path], out)
    data = json.loads((out / "paper_frequent.json").read_text())
    found = Table(data)
    assert found.seeds == [0, 1]
    both = found.get("resid_post/4", "topk", 32, "uniformity")
    assert both == [0.55, 0.4, 0.7]
    assert found.get("mlp_out/4", "topk", 32, "uniformity") == [0.7, 0.6, 0.8]
    assert found.get("resid_post/4", "topk", 32, "very") == 11
    assert found.get("resid_post/4", "topk", 32, "scores.detection") == [0.7, 0.6, 0.8, 201]
    assert found.get("resid_post/4", "topk", 32, "very_features.by_token") == [0.1, 0.25, 0.3]
    assert found.get("resid_post/4", "topk", 32, "scores.intruder") is None
    ends = [found.get("resid_post/4", "topk", 32, f"draws.very_by_mass.kl_{e}") for e in ENDS]
    assert ends == [0.2, 0.5]
    assert found.get("attn_out/4", "topk", 32, "very") is None
    assert spread(both, lambda v: f"{100 * v:.0f} %") == "55 % (40 to 70)"
    assert spread(None, str) == ""
    with pytest.raises(ValueError, match="has no results"):
        frequent_results.together([tmp_path / "none"], out)


def test_two_goes_are_put_together_if_they_were_measured_alike(tmp_path: Path) -> None:
    goes = [tmp_path / name for name in ("first", "second")]
    for folder in goes:
        folder.mkdir()

    def put(folder: Path, kind: str, seed: int, **more: Any) -> None:
        data = _part("mlp_out/4", seed, 0.1 * seed)
        data["rows"][0]["kind"] = kind
        data["settings"] |= {"trained": [seed]} | more
        (folder / "paper_frequent_mlp_out_4.json").write_text(json.dumps(data))

    put(goes[0], "gated", 0)
    put(goes[1], "topk", 1)
    frequent_results.together(goes, tmp_path)
    data = json.loads((tmp_path / "paper_frequent.json").read_text())
    found = Table(data)
    for kind, very in (("gated", 10), ("topk", 12)):
        assert found.get("mlp_out/4", kind, 32, "very") == very
    assert data["seconds"] == 6.0  # what both took
    assert data["settings"]["trained"] == [0, 1]
    put(goes[1], "gated", 0)
    with pytest.raises(ValueError, match=r"mlp_out/4 gated 32.0 of seed 0 is there twice"):
        frequent_results.together(goes, tmp_path)
    put(goes[1], "topk", 1, validation=["another"])
    with pytest.raises(ValueError, match="were not measured alike"):
        frequent_results.together(goes, tmp_path)


def test_the_page_shows_what_the_results_hold() -> None:
    """Numbers computed anew from the files."""
    held = load()
    data = held["frequent"]
    by = {
        (row[0], row[1], row[2]): dict(zip(data["columns"], row[4:], strict=True))
        for row in data["rows"]
    }
    row = by["attn_out/4", "jumprelu", 64.0]
    very, ordinary = (row[f"draws.{g}_by_mass.kl"][0] for g in ("very", "ordinary"))
    least, most = (row[f"draws.very_by_mass.kl_{end}"] for end in ENDS)
    others_least, others_most = (row[f"draws.ordinary_by_mass.kl_{end}"] for end in ENDS)
    shown = SHOWN["frequent.quotient.attn_out.jumprelu.mass.64"](held)
    numbers = [float(n) for n in re.findall(r"[\d.]+", shown)]
    expected = [very / ordinary, least / others_most, most / others_least]
    assert numbers == pytest.approx(expected, abs=0.051)
    assert f" | {shown} |" in SHOWN["frequent.draws"](held)
    a, b = (by["mlp_out/4", k, 32.0]["fvu"] for k in ("jumprelu", "frequency_0.1"))
    cost = SHOWN["frequent.costs.mlp_out.32"](held)
    assert float(cost.removesuffix(" %")) == pytest.approx(100 * (b / a - 1), abs=0.051)
    (counted,) = (
        each
        for each in held["frequencies"]["rows"]
        if (each["site"], each["target"], each["architecture"]) == ("resid_post/4", 64.0, "gated")
    )
    edges, each = held["frequencies"]["edges"][:-1], counted["histogram"]
    above = [sum(n for n, low in zip(one, edges, strict=True) if low >= -1) for one in each]
    part = next(
        line
        for line in SHOWN["frequent.part"](held).splitlines()
        if line.startswith("| resid_post/4 | Gated |")
    )
    assert f"({', '.join(map(str, above))}) |" in part
    mean = sum(above) / len(above)
    assert mean == by["resid_post/4", "gated", 64.0]["very"]
    many = SHOWN["frequent.many"](held).splitlines()
    line = next(each for each in many if each.startswith("| resid_post/4, 64 |"))
    assert f"{100 * mean / 4096:.1f} % (" in line.split("|")[3]


def test_a_sentence_does_not_hide_what_was_not_measured(tmp_path: Path) -> None:
    """Quotients of kinds with too few very frequent features; the check names them on a page."""
    held = load()
    shown = {
        name: SHOWN[f"frequent.{name}"](held)
        for name in ("quotient.mlp_out.standard.activity.64", "quotient.mlp_out.gated.activity.64")
    }
    assert list(shown.values()) == [UNMEASURED, "0.6 (0.5 to 0.8)"]
    for page in pages.pages_of(held):
        shutil.copy(f"docs/{page}", tmp_path / page)
    shutil.copytree("docs/pictures", tmp_path / "pictures")
    path = tmp_path / "frequent.md"
    name = "frequent.quotient.mlp_out.standard.activity.64"
    text = path.read_text(encoding="utf-8") + f"\nOne <!--={name}--><!--/-->.\n"
    path.write_text(text, encoding="utf-8")
    pages.write(tmp_path)
    assert pages.wrong(tmp_path) == [f"frequent.md: {name} was not measured: change the sentence."]


def test_tables_leave_out_what_was_not_measured() -> None:
    rows = [["a", "1", "", "2"], ["b", "", "", ""], ["c", "", "", "3"]]
    expected = "\n\n|  | x | z |\n| --- | --- | --- |\n| a | 1 | 2 |\n| c |  | 3 |\n\n"
    assert table(["", "x", "y", "z"], rows) == expected

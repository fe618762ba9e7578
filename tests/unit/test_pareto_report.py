"""The comparison's page, pictures and the overview's section, from results made by hand."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from app.engine import facts
from app.web.charts import Line, plot
from app.web.overview_view import comparison
from benchmarks import pareto_report
from benchmarks.pareto_report import CHOICES, curves_of
from benchmarks.pareto_tables import by_choice, dead, in_short, noise, value_at, verdicts
from sae_core.bundle import Bundle
from tests.unit.page_support import overview_document

RESULTS = sorted(Path("benchmarks/results").glob("pareto*.json"))


def row(curve: str, target: int, fvu: float, **changes: Any) -> dict[str, Any]:
    start = {
        "curve": curve,
        "site": "resid_post/4",
        "target": target,
        "l0": float(target),
        "lr": 2e-3,
        "window": "own",
        "seed": 0,
        "fvu": fvu,
        "delta_lm_loss": fvu,
        "kl": 0.2,
        "dead": 0.01,
        "high_frequency": 0.002,
        "uniformity": 0.5,
    }
    return start | changes


def group(stage: str, curve: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    machine = {"device": "a device", "torch": "2", "date": "2026-01-01"}
    return {"stage": stage, "curve": curve, "rows": rows, "seconds": 30.0, "machine": machine}


@pytest.fixture
def results() -> dict[str, Any]:
    """FVU 0.4 and 0.2 at an L0 of 16 and 64; TopK's 10 % and 1 % above; seeds within 2 %."""
    return {
        "settings": {
            "tokens": 20_480_000,
            "sweep_tokens": 8_000_000,
            "d_sae": 4096,
            "point": 64,
            "targets": [16, 64],
            "layers": [1, 4, 7],
            "validation_tokens": 200_000,
        },
        "groups": {
            "sweep-jumprelu": group(
                "sweep",
                "jumprelu",
                [row("jumprelu", 64, 0.25, lr=1e-3), row("jumprelu", 64, 0.2, lr=2e-3)],
            ),
            "jumprelu-mlp_out/1": group(
                "sites", "jumprelu", [row("jumprelu", 16, 0.5, site="mlp_out/1")]
            ),
            "topk": group("curve", "topk", [row("topk", 16, 0.44), row("topk", 64, 0.202)]),
            "jumprelu": group(
                "curve", "jumprelu", [row("jumprelu", 64, 0.2), row("jumprelu", 16, 0.4)]
            ),
            "seed": group("seeds", "jumprelu", [row("jumprelu", 64, 0.204, seed=1)]),
        },
    }


def test_curves_are_ordered_and_have_their_seeds(results: dict[str, Any]) -> None:
    curves = curves_of(results)["curves"]
    assert [(c["site"], c["curve"]) for c in curves] == [
        ("resid_post/4", "jumprelu"),
        ("resid_post/4", "topk"),
        ("mlp_out/1", "jumprelu"),
    ]
    assert [p["l0"] for p in curves[0]["points"]] == [16, 64]
    assert [s["seed"] for s in curves[0]["seeds"]] == [0, 1]
    assert curves[1]["seeds"] == []  # one alone shows no spread


def test_a_point_is_the_better_of_its_rates(results: dict[str, Any]) -> None:
    slow = [row("topk", target, 0.3, lr=1e-3) for target in (16, 64)]
    results["groups"]["topk"]["rows"] += slow
    results["groups"]["topk"]["rows"][1]["dead"] = 0.3  # of an L0 of 64, at the higher rate
    points = curves_of(results)["curves"][1]["points"]
    assert [(p["l0"], p["lr"], p["fvu"]) for p in points] == [(16, 1e-3, 0.3), (64, 1e-3, 0.3)]
    # The rates of a site may be of two groups.
    other = [row("jumprelu", 16, 0.3, site="mlp_out/1", lr=1e-3)]
    results["groups"]["jumprelu-mlp_out/1-other_rate"] = group("sites", "jumprelu", other)
    (point,) = curves_of(results)["curves"][2]["points"]
    assert (point["lr"], point["fvu"]) == (1e-3, 0.3)


def test_values_between_points_are_on_a_power_law(results: dict[str, Any]) -> None:
    points = curves_of(results)["curves"][0]["points"]
    assert value_at(points, "fvu", 32) == pytest.approx(0.4 * 2**-0.5)
    assert value_at(points, "fvu", 15) == pytest.approx(0.4 * (16 / 15) ** 0.5)
    assert value_at(points, "fvu", 128) is None
    assert value_at(points[:1], "fvu", 16) is None


def test_a_difference_within_the_seeds_spread_is_none(results: dict[str, Any]) -> None:
    curves = curves_of(results)
    assert noise(curves, "fvu") == pytest.approx(0.02)
    assert verdicts(curves, "resid_post/4", "fvu", [16, 64]) == [
        "- JumpReLU against TopK: lower at an L0 of 16 by 9.1 %; the same at an L0 of 64."
    ]
    assert verdicts(curves, "mlp_out/1", "fvu", [16, 64]) == []


def test_the_short_table_counts_places(results: dict[str, Any]) -> None:
    curves = curves_of(results)
    assert in_short(curves, "fvu", [16, 64])[2:] == [
        "| TopK | 2 | 1, by 9.1 % | 1 | 0 | resid_post/4 at 64 |"
    ]
    results["groups"]["topk"]["rows"][0]["fvu"] = 0.3  # at an L0 of 16: JumpReLU has 0.4
    results["groups"]["topk"]["rows"][1]["dead"] = 0.25
    curves = curves_of(results)
    assert in_short(curves, "fvu", [16, 64])[2:] == [
        "| TopK | 2 | 0 | 1 | 1, by 33.3 % | resid_post/4 at 16, 64 |"
    ]
    shares = [line.replace("\u00a0", " ") for line in dead(curves, (64, 128))[2:]]
    assert shares == ["| resid_post/4 | 1.0 %, - | 25 %, - |", "| mlp_out/1 | -, - |  |"]


def test_verdicts_are_counted_for_other_choices_of_the_rate(results: dict[str, Any]) -> None:
    # A slower TopK: better at an L0 of 16, where all else is alike; worse and less dead at 64.
    results["groups"]["topk-slower_rate"] = group(
        "curve",
        "topk",
        [row("topk", 16, 0.36, lr=1e-3), row("topk", 64, 0.26, lr=1e-3, dead=0.0)],
    )
    choices = {name: curves_of(results, rule) for name, rule in CHOICES.items()}
    assert by_choice(choices, "fvu", [16, 64], 0.02) == [
        "| of a point's three SAEs | TopK |",
        "| --- | --- |",
        "| as shown | 0 of 2; higher at 1, by 11.1 % |",
        "| the lowest FVU, whatever is dead | 0 of 2; higher at 1, by 11.1 % |",
        "| the fewest dead features | 1 of 2, by 23.1 %; higher at 1, by 11.1 % |",
        "| the highest rate | 1 of 2, by 9.1 % |",
        "| the lowest rate | 1 of 2, by 23.1 %; higher at 1, by 11.1 % |",
    ]


def test_everything_is_written_and_found_again(results: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "pareto.json"
    path.write_text(json.dumps(results))
    options = pareto_report.Options(
        results=(path,),
        docs=tmp_path / "docs" / "pareto.md",
        pictures=tmp_path / "docs" / "pictures",
        demo=tmp_path / "demo" / "pareto.json",
    )
    pareto_report.main(options)
    text = options.docs.read_text()
    assert "| JumpReLU | own | 0.2500 | **0.2000** |" in text
    assert "| TopK | 0.4400 (+10.0 %) | 0.2020 (+1.0 %) |" in text
    assert "(pictures/pareto-resid_post-4-fvu.svg)" in text
    assert "$" not in text.replace("\n$ ", "\n")
    assert len(list(options.pictures.glob("*.svg"))) == 4
    checked = pareto_report.Options(**{**vars(options), "check": True})
    pareto_report.main(checked)
    results["groups"]["topk"]["rows"][0]["fvu"] = 0.3
    path.write_text(json.dumps(results))
    with pytest.raises(ValueError, match="is not what the results make"):
        pareto_report.main(checked)


def test_the_page_is_what_the_committed_results_make() -> None:
    options = pareto_report.Options(results=tuple(RESULTS), check=True)
    if RESULTS:
        pareto_report.main(options)
    else:
        assert not options.docs.exists()


def test_results_of_several_calls_are_one_comparison(
    results: dict[str, Any], tmp_path: Path
) -> None:
    paths = []
    for name, group_ in results["groups"].items():
        paths.append(tmp_path / f"{len(paths)}.json")
        paths[-1].write_text(json.dumps(results | {"groups": {name: group_}}))
    assert pareto_report.merged(paths) == results
    paths[1].write_text(json.dumps(results | {"settings": {}}))
    with pytest.raises(ValueError, match="they are no comparison"):
        pareto_report.merged(paths)


def test_a_plot_stands_alone() -> None:
    line = Line("topk", [(16, 0.4), (64, 0.2)], seeds=[(64, 0.21)])
    drawn = plot([line], title="a < b", y_name="FVU", standalone=True)
    root = ET.fromstring(drawn)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    dots = [c for c in root.iter("{http://www.w3.org/2000/svg}circle") if c.get("r") == "3"]
    (left, high), (right, low) = ((float(c.get("cx", "")), float(c.get("cy", ""))) for c in dots)
    assert left < right
    assert high < low  # down is larger in a picture
    words = {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"16", "32", "64", "TopK", "a < b"} <= words
    assert plot([Line("topk", [])], title="", y_name="") == ""


def test_the_overview_shows_the_site_that_an_sae_reads(results: dict[str, Any]) -> None:
    curves = curves_of(results)
    page = overview_document(comparison=curves)
    assert "Architectures compared at layer 4 · resid_post" in page.text
    assert "SAEs of 4,096 features, each trained on" in page.text
    shown = comparison(curves, {"reads": "mlp_out/1", "place": "layer 1 · mlp_out"})
    assert shown is not None
    assert shown["place"] == "layer 1 · mlp_out"
    assert comparison(curves, {"reads": "mlp_out/3"}) is None
    assert comparison(None, {"reads": "mlp_out/1"}) is None


def test_a_bundle_without_a_comparison_or_with_another_format_shows_none(
    tiny_bundle: Bundle, results: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert facts.comparison(tiny_bundle) is None

    class Elsewhere:
        path = tmp_path

    elsewhere: Any = Elsewhere()
    file = tmp_path / facts.COMPARISON_FILE
    file.write_text(json.dumps(curves_of(results)))
    assert facts.comparison(elsewhere) == json.loads(file.read_text())
    for damaged in ("{", "[]", '{"format": "jumpscope-comparison", "version": 2}'):
        file.write_text(damaged)
        assert facts.comparison(elsewhere) is None
    assert "is not shown" in caplog.text

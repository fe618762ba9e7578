"""Scales of the overview's numbers: what is drawn stands where the number says."""

import math

import pytest

from app.web.number_scales import (
    MOST_DOTS,
    ablation_cost,
    disagreement,
    dots,
    fvu_axis,
    loss_axis,
)
from tests.unit.page_support import overview_document
from tests.unit.render_support import overview


@pytest.mark.parametrize(
    ("l0", "d_sae", "total", "lit"),
    [
        (32.06, 4096, 4096, 32),
        (0.3, 4096, 4096, 0),
        (64.0, 64, 64, 64),
        (5.0, 130, 130, 5),
        (90.0, 1_048_576, 4096, 1),
        (500.0, 16_384, 4096, 125),
        (7.0, 5000, 2500, 4),
    ],
)
def test_as_many_dots_shine_as_features_fire(l0, d_sae, total, lit):
    scale = dots(l0, d_sae)
    assert scale is not None
    assert scale.columns * (scale.rows - 1) + scale.last == total <= MOST_DOTS
    assert len(set(scale.lit)) == len(scale.lit) == lit
    for column, row in scale.lit:
        assert 0 <= row < scale.rows
        assert 0 <= column < (scale.last if row == scale.rows - 1 else scale.columns)
    assert ("A dot is" in scale.words) == (d_sae > MOST_DOTS)


def test_what_is_not_known_has_no_scale():
    assert dots(None, 4096) is None
    assert dots(math.nan, 4096) is None
    assert dots(3.0, None) is None
    assert fvu_axis(1.2, 32.0, None, "resid_post/4") is None
    assert loss_axis(0.1, None) is None
    # A splice that helps, and one that costs more than the mean in its place.
    assert loss_axis(-0.01, 1.01) is None
    assert loss_axis(2.0, -1.0) is None


def test_others_stand_beside_it_only_at_its_site_and_sparsity():
    def curve(name, site, l0, fvu):
        return {"curve": name, "site": site, "points": [{"l0": l0, "fvu": fvu}], "seeds": []}

    data = {
        "tokens": 12_300_000,
        "curves": [
            curve("topk", "resid_post/4", 30.0, 0.2),
            curve("gated", "resid_post/4", 64.0, 0.1),
            curve("jumprelu", "mlp_out/6", 32.0, 0.3),
        ],
    }
    scale = fvu_axis(0.115, 32.0, data, "resid_post/4")
    assert scale is not None
    assert scale.at == pytest.approx(11.5)
    assert scale.others == [pytest.approx(20.0)]
    assert "TopK here near this L0, 0.200, each trained on 12.3" in scale.words
    alone = fvu_axis(0.115, 32.0, data, "attn_out/1")
    assert alone is not None
    assert not alone.others
    assert "marks" not in alone.words


def test_the_loss_is_a_part_of_what_the_mean_would_cost():
    # CE 3.52 as it is, 3.63 spliced, 8.75 with the mean in its place.
    base, spliced, mean = 3.52, 3.63, 8.75
    recovered = (mean - spliced) / (mean - base)
    assert ablation_cost(spliced - base, recovered) == pytest.approx(mean - base)
    scale = loss_axis(spliced - base, recovered)
    assert scale is not None
    assert scale.at == pytest.approx(100 * (spliced - base) / (mean - base))
    assert scale.high.startswith("+5.23")


def test_two_numbers_that_seem_to_contradict_are_explained():
    one = {"place": "layer 4", "delta_lm_loss": 0.112, "loss_recovered_mean": 0.979}
    other = {"place": "layer 6", "delta_lm_loss": 0.012, "loss_recovered_mean": 0.928}
    for rows in ([one, other], [other, one]):
        words = disagreement(rows)
        assert words.startswith("Layer 4 costs the model more (+0.112 against +0.012 nats)")
        assert "lose 5.33 nats there, but only 0.17 at layer 6" in words
    assert disagreement([one, {**other, "loss_recovered_mean": 0.99}]) == ""
    assert disagreement([one, {"place": "layer 6"}]) == ""


def test_the_page_draws_them():
    page = overview_document()
    assert page.all("path", **{"class": "lit"})[0]["d"].count("M") == 33
    lines = page.all("i", **{"class": "here"})
    assert [each["style"] for each in lines] == ["left:16.60%", "left:4.80%"]
    assert not overview_document(measured={}, index=None).all("svg", **{"class": "dots"})
    first, second = overview()["saes"]
    rows = [first, second | {"delta_lm_loss": 0.01, "loss_recovered_mean": 0.9}]
    assert "both are right" in overview_document(saes=rows).text

"""The overview's part about memory."""

from typing import Any

from app.web.memory_view import memory_view
from app.web.templating import part
from tests.tiny import HOSTILE

NB = "\N{NO-BREAK SPACE}"

MEMORY = {
    "device": "cuda:0",
    "free": 60_000_000_000,
    "total": 80_000_000_000,
    "model": 5_200_000_000,
    "saes": [
        {"name": "late", "bytes": 302_000_000, "in_use": True},
        {"name": HOSTILE, "bytes": 1_200_000_000, "in_use": False},
    ],
    "sae_limit": 30_000_000_000,
}
SAES = [{"name": "late", "label": "layer 20 · resid_post · 16,384 features"}]


def memory_html(memory: dict[str, Any] | None, saes: list[dict[str, Any]]) -> str:
    """With ordinary spaces between numbers and units."""
    return part("memory.html", "memory", memory_view(memory, saes)).replace(NB, " ")


def test_model_saes_and_device_are_shown() -> None:
    html = memory_html(MEMORY, SAES)
    assert "model 5.2 GB · 2 SAEs 1.5 GB · 60 GB free" in html
    assert "<dt>device</dt><dd>cuda:0, 60 GB of 80 GB free</dd>" in html
    assert "<dt>layer 20 · resid_post · 16,384 features</dt><dd>302 MB, in use now</dd>" in html
    assert "<dd>1.2 GB</dd>" in html
    assert "SAEs take at most 30 GB together." in html
    assert '<i class="model" data-mark style="width:6.50%"></i>' in html
    assert '<i class="saes" data-mark style="width:1.88%"></i>' in html
    # What other programs have: 80 - 60 - 5.2 - 1.5 GB.
    assert '<i class="others" data-mark style="width:16.62%"></i>' in html


def test_names_are_escaped() -> None:
    html = memory_html(MEMORY, SAES)
    assert "<img" not in html
    assert "&lt;img" in html


def test_the_cpu_and_a_model_without_saes() -> None:
    html = memory_html({**MEMORY, "device": "cpu", "saes": []}, SAES)
    assert "the CPU, 60 GB" in html
    assert "model 5.2 GB · no SAE yet · 60 GB free" in html
    one = memory_html({**MEMORY, "saes": MEMORY["saes"][:1]}, SAES)
    assert "· 1 SAE 302 MB ·" in one


def test_before_the_model_is_there() -> None:
    assert "not loaded yet" in memory_html(None, SAES)

"""A run's page: what it says, that it needs nothing else, and what is refused."""

import json
import re
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.cli import main
from app.web.run_report import page
from training.run_folder import read_run
from training.train_config import LossOptions, TrainConfig

CFG = TrainConfig(
    model="some<model>",
    corpus=("a.parquet",),
    sites=("resid_post/1",),
    architectures=("jumprelu", "topk"),
    d_sae=64,
    out="runs/x",
    l0_targets=(4,),
    lrs=(1e-3,),
    batch=128,
    tokens=100 * 128,
    buffer_tokens=1_024,
    loss=LossOptions(frequency_scale=0.1),
)
NAME = "resid_post-layer_1-l0_4"


def _line(step: int, name: str, findings: dict[str, str]) -> dict[str, Any]:
    line = {
        "step": step,
        "sae": name,
        "tokens": step * 128,
        "loss": 10 / step,
        "fvu": 5 / step if step < 50 else None,
        "l0": 4 + 20 / step,
        "dead": 0.25,
        "high_frequency": 0.125,
        "frequencies": [16, *[0] * 8, 30, 10, 8, 0],
        "multiplier": 0.01,
        "lr": 1e-3,
        "tokens_per_second": 1_000.0,
        "seconds": step / 10,
        "findings": findings,
    }
    if "topk" in name:
        return line
    return line | {f"threshold_p{q:02d}": q / 1_000 for q in (5, 25, 50, 75, 95)}


def make_run(folder: Path, steps: int = 60) -> Path:
    """A run of two SAEs, one of them ill from step 20 to 30, then for good from 50."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(asdict(CFG)))
    lines = []
    for step in range(10, steps + 1, 10):
        ill = {"l0-far": "the L0 is <far> away."} if step in (20, 30) or step >= 50 else {}
        lines.append(json.dumps(_line(step, NAME, ill)))
        lines.append(json.dumps(_line(step, "resid_post-layer_1-topk-l0_4", {})))
    text = "\n".join(lines)
    (folder / "metrics.jsonl").write_text(text + '\n{"step": 70, "sa')  # being written
    return folder


class _Tags(HTMLParser):
    """Names and addresses of everything in a page, and whether its tags match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    html = page(read_run(make_run(tmp_path / "run")))
    tags = _Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.addresses == ["data:,"]
    assert not tags.names & {"script", "img", "iframe", "object"}
    assert not re.search(r"url\(|@import|https?:", html)


def test_the_page_says_what_the_run_wrote(tmp_path: Path) -> None:
    html = page(read_run(make_run(tmp_path / "run")))
    assert "It is not at work, at step 60 of 100: the same jumpscope train command goes on" in html
    assert "step 60 of 100, 7,680 tokens" in html
    assert "some&lt;model&gt;" in html
    assert "<model>" not in html
    assert '<th scope="row">60</th><td class="n">0.1667</td><td class="n">0.1667</td>' in html
    assert html.count("the L0 is &lt;far&gt; away.") == 2
    assert "since step 50" in html
    assert "steps 20 to 30, over" in html
    for title in ("Loss", "FVU", "L0", "Dead", "Learning rate"):
        assert f"<b>{title}</b>" in html
    assert "In window" not in html  # no line has it
    assert "thresholds: median over features" in html
    assert html.count("features by the share of tokens") == 2
    settings = {"frequency_scale": "0.1", "architectures": "jumprelu, topk", "lambdas": "none"}
    for setting, value in settings.items():
        assert f"<td>{setting}</td><td>{value}</td>" in html


def test_numbers_that_are_missing_or_below_zero_leave_the_page(tmp_path: Path) -> None:
    """A multiplier that was never above 0, and a quantile that was not finite."""
    folder = make_run(tmp_path / "run")
    file = folder / "metrics.jsonl"
    *lines, rest = file.read_text().splitlines()
    changed = [json.loads(line) | {"multiplier": -0.01} for line in lines]
    changed[0]["threshold_p95"] = None
    file.write_text("\n".join([*map(json.dumps, changed), rest]))
    assert "Multiplier" in page(read_run(folder))


def test_a_finished_run(tmp_path: Path) -> None:
    html = page(read_run(make_run(tmp_path / "run", steps=100)))
    assert "Finished. 2 SAEs of 64 features" in html
    assert "Final metrics" in html


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run")
    assert main(["report", str(folder)]) == 0
    written = folder / "report.html"
    assert capsys.readouterr().out.strip() == str(written)
    other = tmp_path / "other.html"
    assert main(["report", str(folder), "--out", str(other)]) == 0
    assert other.read_text() == written.read_text()


def test_mistakes_get_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no training run: give the out folder" in capsys.readouterr().err
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()
    assert main(["report", str(folder)]) == 2
    assert "has no metrics yet" in capsys.readouterr().err
    (folder / "config.json").write_text(json.dumps(asdict(CFG) | {"momentum": 1}))
    assert main(["report", str(folder)]) == 2
    assert "settings are of another version: momentum" in capsys.readouterr().err
    newer = asdict(CFG) | {"loss": asdict(CFG.loss) | {"momentum": 1}}
    (folder / "config.json").write_text(json.dumps(newer))
    assert main(["report", str(folder)]) == 2
    assert "settings are of another version: momentum" in capsys.readouterr().err
    (folder / "config.json").write_text("{")
    assert main(["report", str(folder)]) == 2
    assert "config.json is damaged" in capsys.readouterr().err

"""How long the map of features takes for a frame, in headless Chromium without a GPU: prints JSON.

    python -m benchmarks.map_frames --out map_frames.json

The page of the demo's map is opened, and its plot is given synthetic points (normally distributed,
seven classes): as many as a narrow SAE has, and as many as a wide one. Measured for each are
`draw_ms`, the time of a whole drawing (points and marks), over views from the whole map to 64 times
as near; and `frame_ms`, what lies between animation frames while the map is dragged and zoomed,
each frame drawn anew: 16.7 where 60 frames a second are kept. The machine should do nothing else.
"""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro

from app.commands.shared import open_bundle
from app.server import serve
from app.settings import Settings
from benchmarks.compact_json import compact_json

MEASURE = """async ({ address, points, frames }) => {
    const { Plot } = await import(address + "map-plot.js");
    const { whole, zoomed, moved } = await import(address + "map-view.js");
    const canvas = (id) => document.getElementById(id);
    const plot = new Plot(canvas("map-plot"), canvas("map-dots"), canvas("map-marks"));
    let state = 1;
    const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
    const normal = () => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random());
    const part = () => Math.min(Math.max(0.5 + normal() / 7, 0), 1);
    plot.places = {
        x: Float32Array.from({ length: points }, part),
        y: Float32Array.from({ length: points }, part),
    };
    plot.classOf = Uint8Array.from({ length: points }, () => Math.floor(random() * 7));
    plot.looks = [0, 1, 2, 3, 4, 5, 6].map((i) => `step-${i}`);
    const views = Array.from({ length: frames }, (_, i) => {
        const closer = zoomed(whole(plot.size), plot.size, 64 ** (i / frames), 300, 250);
        return moved(closer, plot.size, 40 * Math.sin(i / 5), 40 * Math.cos(i / 5));
    });
    const draw = views.map((view) => {
        plot.view = view;
        const begun = performance.now();
        plot.drawNow();
        return performance.now() - begun;
    });
    const times = [];
    await new Promise((done) => {
        let i = 0;
        const next = (now) => {
            times.push(now);
            if (i === views.length) return done();
            plot.view = views[i++];
            plot.drawNow();
            requestAnimationFrame(next);
        };
        requestAnimationFrame(next);
    });
    const { width, height } = canvas("map-dots");
    return { draw, frame: times.slice(1).map((now, i) => now - times[i]), width, height };
}"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    points: tuple[int, ...] = (4_096, 131_072)
    """Features of the maps."""
    frames: int = 240
    """Frames of each."""
    port: int = 7917
    """Port of the app that serves the page."""
    out: Path | None = None
    """File for the JSON; stdout if left out."""


def main(options: Options) -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        raise SystemExit("no Chromium found: install one, so that 'chromium' is on the path.")
    settings = Settings(port=options.port, open_browser=False, device="cpu", check_tokens=0)
    running = serve(settings, open_bundle("demo"))
    result: dict[str, Any] = {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "jumpscope": version("jumpscope"),
        "maps": [],
    }
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
            )
            result["chromium"] = browser.version
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto(f"{running.url}/map")
            page.locator("#map-plot[data-ready]").wait_for(state="attached", timeout=60_000)
            address = page.locator("script[src*='js/map.js']").evaluate("script => script.src")
            for points in options.points:
                given = {
                    "address": address.removesuffix("map.js"),
                    "points": points,
                    "frames": options.frames,
                }
                measured = page.evaluate(MEASURE, given)
                assert len(measured["frame"]) == options.frames
                result["maps"].append(
                    {
                        "points": points,
                        "canvas": [measured["width"], measured["height"]],
                        "draw_ms": _percentiles(measured["draw"]),
                        "frame_ms": _percentiles(measured["frame"]),
                    }
                )
            browser.close()
    finally:
        running.close()
    text = compact_json(result) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        options.out.write_text(text)


def _percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        f"p{share}": round(ordered[min(len(ordered) * share // 100, len(ordered) - 1)], 2)
        for share in (50, 95, 99)
    }


if __name__ == "__main__":
    main(tyro.cli(Options))

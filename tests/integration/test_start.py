"""What a first page waits for: nothing of PyTorch or transformers, whose import takes seconds."""

import subprocess
import sys
from pathlib import Path

from sae_core.bundle import Bundle

ROOT = Path(__file__).parents[2]
PAGES = """
import asyncio, sys
import httpx
from app.engine.workbench import Workbench
from app.server import JumpscopeServer
from app.settings import Settings
from sae_core.bundle import Bundle

workbench = Workbench(Settings(check_tokens=0), Bundle.open(sys.argv[1]))
server = JumpscopeServer(workbench)

async def pages():
    transport = httpx.ASGITransport(app=server)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for path in ("/", "/features", "/features?q=river", "/features?feature=5", "/prompt",
                     "/steer", "/api", "/sql", "/find", "/lists", "/map", "/blind", "/catalog",
                     "/state", "/nowhere"):
            answer = await client.get(path, headers={"accept": "text/html"})
            assert answer.status_code == (404 if path == "/nowhere" else 200), path

asyncio.run(pages())
sys.exit(", ".join({"torch", "transformers"} & set(sys.modules)) or 0)
"""


def test_pages_import_neither_torch_nor_transformers(tiny_bundle: Bundle) -> None:
    run = subprocess.run(
        [sys.executable, "-c", PAGES, str(tiny_bundle.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert run.returncode == 0, run.stderr[-2000:]


STUBS = """
import ast, inspect, sys

parsed = []
segment = ast.get_source_segment
ast.get_source_segment = lambda *args, **named: parsed.append(args) or segment(*args, **named)
getfile = inspect.getfile
import app.server
import gradio
assert not parsed, f"Gradio parsed {len(parsed)} of its components"
assert inspect.getfile is getfile
assert inspect.getfile(gradio.Textbox).endswith("textbox.py")
assert "change" in [str(event) for event in gradio.Textbox.EVENTS]
"""


def test_gradio_is_imported_without_writing_its_stub_files() -> None:
    run = subprocess.run(
        [sys.executable, "-c", STUBS], cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-2000:]

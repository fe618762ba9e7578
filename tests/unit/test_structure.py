"""Which module imports which, no circle, and arrows that point to the library alone; and no error
of any kind is swallowed in silence.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sae_core

ROOT = Path(__file__).parents[2]
ROOMS = ("sae_core", "training", "app")
FORBIDDEN = {"sae_core": {"training", "app"}, "training": {"app"}, "app": set[str]()}

Graph = dict[str, set[str]]


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the rooms."""
    files = {}
    for room in ROOMS:
        for path in (root / room).rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name ("" for a whole module) of each import in `node`, those in functions
    included and those for type checkers alone left out.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "imports name the whole path"
            yield from ((child.module or "", alias.name) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from imported(ast.Module(child.orelse, []))
        else:
            yield from imported(child)


def import_graph(root: Path) -> Graph:
    """Module -> the modules of the rooms that it names in an import."""
    files = modules(root)
    graph: Graph = {}
    for name, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        pairs = [(f"{module}.{inside}", module) for module, inside in imported(tree)]
        named = {whole if whole in files else module for whole, module in pairs}
        graph[name] = named & files.keys()
    return graph


def circle(graph: Graph) -> list[str]:
    """Modules that import each other in turn, the first one again at the end; [] if none do."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def strays(graph: Graph) -> list[str]:
    """Imports that point from a room to one that it must not import."""
    pairs = [(name, other) for name, others in graph.items() for other in others]
    return [
        f"{name} -> {other}"
        for name, other in pairs
        if other.partition(".")[0] in FORBIDDEN[name.partition(".")[0]]
    ]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_graph(ROOT)


def test_no_module_imports_itself_by_way_of_others(graph: Graph) -> None:
    assert len(graph) > 150
    assert graph["sae_core.generation"] >= {"sae_core.edits", "sae_core.splice"}
    # The package imports its names when they are first used.
    lazily = {f"sae_core.{module}" for module in sae_core._MODULES.values()}
    assert not circle({**graph, "sae_core": lazily})


def test_the_library_imports_neither_trainer_nor_app_and_the_trainer_no_app(graph: Graph) -> None:
    assert not strays(graph)


def test_no_two_modules_have_one_name() -> None:
    names = Counter(path.name for path in modules(ROOT).values() if path.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        ("import sae_core.two", True),
        ("from sae_core import two", True),
        ("from sae_core.two import Name", True),
        ("def later():\n    from sae_core.two import Name", True),
        ("class Late:\n    def later(self):\n        import sae_core.two", True),
        ("if True:\n    pass\nelse:\n    import sae_core.two", True),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sae_core.two", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    import sae_core.two", True),
        ("from sae_core import Name", False),
    ],
)
def test_a_circle_is_seen(tmp_path: Path, first: str, expected: bool) -> None:
    files = {"__init__.py": "", "one.py": first, "two.py": "from sae_core.one import x"}
    for room in ROOMS:
        (tmp_path / room).mkdir()
    for name, text in files.items():
        (tmp_path / "sae_core" / name).write_text(text + "\n")
    assert bool(circle(import_graph(tmp_path))) is expected


@pytest.mark.parametrize(
    ("room", "line", "expected"),
    [
        ("sae_core", "import app", ["sae_core.one -> app"]),
        ("sae_core", "def f():\n    from training import loop", ["sae_core.one -> training.loop"]),
        ("training", "from app.server import launch", ["training.one -> app.server"]),
        ("training", "import sae_core", []),
        ("app", "import sae_core, training.loop", []),
    ],
)
def test_an_arrow_the_wrong_way_is_seen(
    tmp_path: Path, room: str, line: str, expected: list[str]
) -> None:
    for name in ("app/server.py", "training/loop.py", *(f"{room}/__init__.py" for room in ROOMS)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / room / "one.py").write_text(line + "\n")
    assert strays(import_graph(tmp_path)) == expected


def silent(code: str) -> list[int]:
    """Lines of handlers that take errors of every kind and neither raise, log, nor use them."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = {
            each.id for each in ast.walk(node.type or ast.Name("")) if isinstance(each, ast.Name)
        }
        if node.type is not None and not kinds & {"Exception", "BaseException"}:
            continue
        body = [each for statement in node.body for each in ast.walk(statement)]
        told = any(
            isinstance(each, ast.Raise)
            or (isinstance(each, ast.Name) and each.id in ("log", node.name))
            for each in body
        )
        if not told:
            lines.append(node.lineno)
    return lines


def test_no_error_of_any_kind_is_swallowed_in_silence() -> None:
    for root in (*ROOMS, "benchmarks", "tests"):
        for path in (ROOT / root).rglob("*.py"):
            if "node_modules" in path.parts:
                continue
            assert silent(path.read_text(encoding="utf-8")) == [], path


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ("except: pass", [3]),
        ("except Exception: pass", [3]),
        ("except (OSError, BaseException): x = 1", [3]),
        ("except Exception as error: return None", [3]),
        ("except Exception as error: told(error)", []),
        ("except Exception: log.exception('so')", []),
        ("except Exception:\n  if not x: raise", []),
        ("except OSError: pass", []),
    ],
)
def test_a_swallowed_error_is_seen(handler: str, expected: list[int]) -> None:
    assert silent(f"def f():\n try: x()\n {handler}") == expected

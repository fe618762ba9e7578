"""Settings: every field is checked, and the environment can set each."""

import dataclasses
import math

import pytest
import tyro

from app.settings import Settings


def test_defaults_bind_to_this_machine_only() -> None:
    assert Settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", ""),
        ("port", 0),
        ("port", 70_000),
        ("device", "tpu"),
        ("dtype", "int8"),
        ("device_map", "everywhere"),
        ("attention", "flash"),
        ("threads", -1),
        ("max_sae_memory", -0.5),
        ("max_sae_memory", math.nan),
        ("max_prompt_tokens", 1),
        ("max_new_tokens", 0),
        ("max_edits", 0),
        ("max_rows", 0),
        ("max_query_chars", 0),
        ("max_queue", 0),
        ("cached_analyses", 0),
        ("check_tokens", -1),
        ("check_tokens", 50_001),
        ("max_strength", math.nan),
        ("max_temperature", 0.0),
        ("max_seconds", -1.0),
    ],
)
def test_a_bad_value_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        Settings(**{field: value})  # pyright: ignore[reportArgumentType]
    assert "\n" not in str(caught.value)


def test_every_field_can_come_from_the_environment() -> None:
    changed = Settings(
        host="0.0.0.0",
        port=8080,
        open_browser=False,
        device="cpu",
        dtype="float32",
        device_map="auto",
        attention="eager",
        threads=3,
        max_sae_memory=1.5,
        max_prompt_tokens=99,
        max_new_tokens=98,
        max_edits=97,
        max_strength=96.5,
        max_value=95.5,
        max_temperature=1.5,
        max_rows=95,
        max_query_chars=94,
        max_seconds=93.5,
        max_queue=92,
        cached_analyses=91,
        check_tokens=90,
        check_text="mine.txt",
    )
    fields = dataclasses.asdict(changed)
    assert all(fields[name] != value for name, value in dataclasses.asdict(Settings()).items())
    environ = {f"JUMPSCOPE_{name.upper()}": str(value) for name, value in fields.items()}
    assert Settings.from_environment(environ) == changed
    assert Settings.from_environment({"PORT": "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"), [("PORT", "eighty"), ("OPEN_BROWSER", "maybe"), ("MAX_SECONDS", "long")]
)
def test_a_bad_variable_is_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"JUMPSCOPE_{name}="):
        Settings.from_environment({f"JUMPSCOPE_{name}": text})


def test_the_command_line_makes_settings() -> None:
    args = ["--port", "8080", "--no-browser", "--max-prompt-tokens", "64"]
    assert tyro.cli(Settings, args=args) == Settings(
        port=8080, open_browser=False, max_prompt_tokens=64
    )

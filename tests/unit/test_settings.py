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
        ("port", -1),
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
        ("max_waiting_index", 0),
        ("max_waiting_analyse", 0),
        ("max_generations", 0),
        ("max_waiting_generate", 0),
        ("max_waiting_series", 0),
        ("max_waiting_check", 0),
        ("max_waiting_sql", 0),
        ("max_explain_requests", 0),
        ("max_waiting_explain", 0),
        ("explain_endpoint", "127.0.0.1:8000"),
        ("explain_endpoint", "http://127.0.0.1:8000/v1"),
        ("explain_model", "a-model"),
        ("max_sql_seconds", 0.0),
        ("max_sql_megabytes", 63),
        ("max_sql_rows", 0),
        ("max_sql_export_rows", 0),
        ("max_sql_chars", 0),
        ("max_waiting_seconds", 0.0),
        ("cached_analyses", 0),
        ("max_cached_megabytes", 0.0),
        ("root_path", "jumpscope"),
        ("root_path", "/jumpscope/"),
        ("root_path", "https://a.example/x"),
        ("frame_ancestors", ""),
        ("frame_ancestors", "'self'; script-src *"),
        ("frame_ancestors", "a\r\nset-cookie: b"),
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
        auth="ada:lovelace",
        allowed_hosts="mine.example",
        root_path="/jumpscope",
        proxy=True,
        frame_ancestors="'none'",
        share=True,
        mcp=True,
        notes="mine.duckdb",
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
        max_waiting_index=92,
        max_waiting_analyse=89,
        max_generations=85,
        max_waiting_generate=88,
        max_waiting_series=84,
        max_waiting_check=87,
        max_waiting_seconds=86.5,
        max_sql_seconds=83.5,
        max_sql_megabytes=82,
        max_sql_rows=81,
        max_sql_export_rows=80,
        max_sql_chars=79,
        max_waiting_sql=78,
        explain_endpoint="http://127.0.0.1:8000/v1",
        explain_model="a-model",
        max_explain_requests=76,
        max_waiting_explain=77,
        cached_analyses=91,
        max_cached_megabytes=85.5,
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


def test_a_password_is_not_shown_with_the_settings() -> None:
    assert "lovelace" not in repr(Settings(auth="ada:lovelace"))

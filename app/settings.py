"""Every choice and limit of the app, named: `Settings`.

Made by the command line (`jumpscope serve --help` shows these docstrings), from the environment
(`JUMPSCOPE_PORT=8080`, see `Settings.from_environment`), or in Python.
"""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Final, get_args

import tyro

from sae_core.explain.chat_client import check_endpoint
from sae_core.placement import Attention, Device, DeviceMap, DType

ENVIRONMENT_PREFIX = "JUMPSCOPE_"

MOST_CHECK_TOKENS = 50_000
"""What `sae_core.check` takes at most."""

_ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the app runs and how much one request may ask of it."""

    host: str = "127.0.0.1"
    """Address to bind to; 0.0.0.0 (or :: for IPv6) lets other machines in."""
    port: int = 7860
    """TCP port, 1 to 65535; 0 takes a free one."""
    open_browser: Annotated[bool, tyro.conf.arg(name="browser")] = True
    """Open the first page in a browser once it is served."""
    auth: str = field(default="", repr=False)
    """Who may come in: user:password, or a file of them, one a line; empty lets everyone in."""
    allowed_hosts: str = ""
    """Host names, separated by commas, that people reach the app by, beside those of this machine
    and the host above; a request with any other is refused."""
    root_path: str = ""
    """Path that a proxy serves the app under, such as /jumpscope; implies proxy."""
    proxy: bool = False
    """Believe the X-Forwarded headers of a proxy in front of the app."""
    frame_ancestors: str = "'self' http://localhost:* http://127.0.0.1:*"
    """Sites that may embed pages, as a content-security policy writes them; by default this
    machine's, for notebooks."""
    share: bool = False
    """Open a public address for a week through Gradio's share server, which is downloaded for it;
    give auth too."""
    mcp: bool = False
    """Offer the endpoints as tools of the Model Context Protocol, at /gradio_api/mcp."""
    notes: str = ""
    """File of stars, labels, notes and lists; empty is notes.duckdb in the user's data folder, and
    `off` keeps nothing."""

    device: Device = "auto"
    """Where the model runs; `auto` is the first CUDA device if there is one, else the CPU."""
    dtype: DType = "auto"
    """The model's dtype; `auto` is float32 on the CPU, bfloat16 on CUDA."""
    device_map: DeviceMap = "none"
    """How a model too large for one device is spread over several, as accelerate does it: `auto`
    and `balanced` evenly over the GPUs, `sequential` filling one after another."""
    attention: Attention = "auto"
    """How attention is computed; `auto` is exact for every model, `chunked` eager's arithmetic in
    blocks; flash and flex are compared with it first and refused where they differ."""
    threads: int = 0
    """CPU threads of PyTorch; 0 takes half of the cores (more than that slows decoding)."""
    max_sae_memory: float = 0.0
    """Most gigabytes (10^9 bytes) that SAEs take on the device together, the least recently used
    making room; 0 is half of what is free once the model is loaded."""

    max_prompt_tokens: int = 512
    """Longest prompt in tokens, BOS included; the model's own context may set less."""
    max_new_tokens: int = 200
    """Most tokens that one steering run may generate."""
    max_edits: int = 8
    """Most edits of one steering run."""
    max_strength: float = 100.0
    """Largest strength of an edit, either sign, in multiples of the feature's largest activation
    (for mode `scale`: largest factor)."""
    max_value: float = 100_000.0
    """Largest value of an edit that is given in the activation's own units, either sign."""
    max_temperature: float = 2.0
    """Highest sampling temperature; 0 is greedy."""
    max_rows: int = 200
    """Most features that one answer lists."""
    max_query_chars: int = 200
    """Longest search query in characters."""
    max_seconds: float = 60.0
    """Longest steering run in seconds; it ends there with what it has and says so."""
    max_generations: int = 8
    """Most steering runs that go on at once, as one batch of the model; fewer where the keys and
    values of all would take more than a quarter of the memory that is free beside the model."""
    max_waiting_index: int = 200
    """Most requests that wait to read an index; further ones are told to try again."""
    max_waiting_analyse: int = 40
    """Most requests that wait for an analysis of a text."""
    max_waiting_generate: int = 20
    """Most steering runs that wait for a place."""
    max_waiting_series: int = 20
    """Most ladders and proofs, which make many texts each, that wait for their turn."""
    max_waiting_check: int = 100
    """Most requests that wait for the check of an SAE."""
    max_waiting_seconds: float = 60.0
    """Longest time in seconds that a request waits for somebody who listens to its answer."""
    max_sql_seconds: float = 20.0
    """Longest query in SQL in seconds."""
    max_sql_megabytes: int = 512
    """Most megabytes (10^6 bytes) of memory that a query in SQL takes."""
    max_sql_rows: int = 1000
    """Most rows that a query in SQL answers."""
    max_sql_export_rows: int = 1_000_000
    """Most rows of a query in SQL that are written to a CSV or Parquet file."""
    max_sql_chars: int = 8000
    """Longest query in SQL in characters."""
    max_waiting_sql: int = 20
    """Most queries in SQL that wait for their turn."""
    explain_endpoint: str = ""
    """OpenAI-compatible address, up to and with /v1, of a language model that explains features on
    request, where contexts are sent; empty offers no such thing. Its key is JUMPSCOPE_EXPLAIN_KEY's
    value."""
    explain_model: str = ""
    """The model's name at that endpoint."""
    max_explain_requests: int = 2000
    """Most requests to that model while the app runs, whoever has features explained; an
    explanation takes about 15."""
    max_waiting_explain: int = 10
    """Most requests that wait for an explanation."""
    cached_analyses: int = 64
    """Prompt analyses kept in memory, the least recently used leaving first."""
    max_cached_megabytes: float = 32.0
    """Most megabytes (10^6 bytes) that these analyses take together."""

    check_tokens: int = 4000
    """Tokens on which an SAE's numbers are checked once it is chosen, 50,000 at most; 0 switches
    checks off."""
    check_text: str = ""
    """Corpus file to check on; empty is a text of many kinds that is shipped."""

    def __post_init__(self) -> None:
        if not self.host:
            raise ValueError("host is empty: use 127.0.0.1 for this machine alone.")
        if not 0 <= self.port <= 65535:
            raise ValueError(
                f"port {self.port} is not a TCP port: use 1 to 65535, or 0 for a free one."
            )
        if self.root_path and not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(
                f"root_path {self.root_path!r} is no path: write it as /jumpscope, with a slash at "
                "its beginning and none at its end."
            )
        if not self.frame_ancestors.strip() or set(self.frame_ancestors) & set(";,\r\n"):
            raise ValueError(
                f"frame_ancestors {self.frame_ancestors!r} names no sites: write them as "
                "'self' https://one.example, or 'none'."
            )
        if self.explain_endpoint:
            try:
                check_endpoint(self.explain_endpoint)
            except ValueError as error:
                raise ValueError(f"explain_endpoint: {error}") from error
        if bool(self.explain_endpoint) != bool(self.explain_model.strip()):
            raise ValueError("explain_endpoint and explain_model need each other: give both.")
        for name, choices in (
            ("device", Device),
            ("dtype", DType),
            ("device_map", DeviceMap),
            ("attention", Attention),
        ):
            if getattr(self, name) not in get_args(choices):
                raise ValueError(
                    f"{name} {getattr(self, name)!r} is unknown: use one of "
                    f"{', '.join(get_args(choices))}."
                )
        least = {
            "threads": 0,
            "max_prompt_tokens": 2,
            "max_new_tokens": 1,
            "max_edits": 1,
            "max_rows": 1,
            "max_query_chars": 1,
            "max_generations": 1,
            "max_waiting_index": 1,
            "max_waiting_analyse": 1,
            "max_waiting_generate": 1,
            "max_waiting_series": 1,
            "max_waiting_check": 1,
            "max_sql_megabytes": 64,
            "max_sql_rows": 1,
            "max_sql_export_rows": 1,
            "max_sql_chars": 1,
            "max_waiting_sql": 1,
            "max_explain_requests": 1,
            "max_waiting_explain": 1,
            "cached_analyses": 1,
            "check_tokens": 0,
        }
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)} but must be {low} or more.")
        if self.check_tokens > MOST_CHECK_TOKENS:
            raise ValueError(
                f"check_tokens is {self.check_tokens} but must be {MOST_CHECK_TOKENS} or less."
            )
        if not (math.isfinite(self.max_sae_memory) and self.max_sae_memory >= 0):
            raise ValueError(
                f"max_sae_memory is {self.max_sae_memory} but must be a number of gigabytes, "
                "0 or more."
            )
        for name in (
            "max_strength",
            "max_value",
            "max_temperature",
            "max_seconds",
            "max_sql_seconds",
            "max_waiting_seconds",
            "max_cached_megabytes",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value} but must be a positive number.")

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, **chosen: Any
    ) -> "Settings":
        """Defaults, with every field replaced for which `JUMPSCOPE_<NAME>` is set, or that is
        `chosen` here.

        ValueError naming the variable if its text is not of the field's type, or a field that
        there is not.
        """
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for each in fields(cls):
            variable = ENVIRONMENT_PREFIX + each.name.upper()
            if variable in environ:
                given[each.name] = _parsed(variable, environ[variable], each.default)
        names = {each.name for each in fields(cls)}
        if unknown := sorted(set(chosen) - names):
            raise ValueError(f"there is no setting {unknown[0]}: use {', '.join(sorted(names))}.")
        return cls(**given | chosen)


def _parsed(variable: str, text: str, default: object) -> Any:
    """`text` as the type of `default`."""
    if isinstance(default, bool):
        values = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if text.lower() not in values:
            raise ValueError(f"{variable}={text!r} is not a yes or no: use 1 or 0.")
        return values[text.lower()]
    if isinstance(default, int | float):
        kind = type(default)
        try:
            return kind(text)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise ValueError(f"{variable}={text!r} is not {noun}.") from None
    return text

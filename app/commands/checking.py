"""What `jumpscope inspect --check` does: run the check of sae_core.check and show it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.commands.shared import shown, table
from sae_core.placement import Device, DType
from sae_core.text_options import TextOptions

if TYPE_CHECKING:
    from sae_core.bundle import Bundle


def run_checks(
    bundle: "Bundle",
    names: Sequence[str],
    *,
    text: Sequence[str],
    text_options: TextOptions,
    tokens: int,
    device: Device,
    dtype: DType,
    save: bool,
) -> dict[str, Any]:
    """Check these SAEs, one after another in memory: name -> the check as JSON values.

    `text` names corpus files, read as `text_options` say; none is the text that is shipped. A
    command in a sentence is as it is typed. ValueError with one sentence.
    """
    from sae_core.check import check_sae, save_check, with_source
    from sae_core.corpus import documents, expand
    from sae_core.placement import chosen_device, chosen_dtype
    from sae_core.splice import SplicedLM

    if text:
        expand(text)  # what is not there is said before the model is loaded
    where = chosen_device(device)
    model, tokenizer = bundle.load_model(chosen_dtype(dtype, where), where)
    lm = SplicedLM(model, tokenizer, {})
    checks = {}
    for name in names:
        texts = documents(text, options=text_options) if text else None
        check = check_sae(lm, bundle.load_sae(name, where), text=texts, tokens=tokens)
        checks[name] = check.as_dict()
        checks[name]["sentence"] = with_source(check.sentence, bundle.sae_source(name))
        if save:
            checks[name]["saved"] = str(save_check(bundle, name, check))
    return checks


def checks_as_text(checks: dict[str, Any]) -> str:
    """Checks as people read them: verdict, sentence, numbers, and the conventions tried."""
    return "\n\n".join(_as_text(name, check) for name, check in checks.items())


def _as_text(name: str, check: dict[str, Any]) -> str:
    rows = [
        ["convention", "L0", "FVU", "tokens", ""],
        _row(check["site"] or "site not declared", check, ""),
        *(
            _row(tried["reading"], tried, "fits" if tried["fits"] else "")
            for tried in check["tried"]
        ),
    ]
    declared = [check["declared_l0"], check["declared_fvu"]]
    if any(value is not None for value in declared):
        rows.insert(1, ["declared", *(shown(value) for value in declared), "", ""])
    saved = f"\nsaved in {check['saved']}" if "saved" in check else ""
    return f"{name}: {check['verdict']}\n{check['sentence']}\n\n{table(rows)}{saved}"


def _row(name: str, numbers: dict[str, Any], note: str) -> list[str]:
    return [name, *(shown(numbers[key]) for key in ("l0", "fvu", "tokens")), note]

"""Text as tokens on a heat map.

A token is a span; its activation is the custom property `--a` (0 to 1), which the style sheet
turns into a colour, and `data-v` holds the value that the pointer, a finger or the arrow keys
bring up. The tokens stay running text: nothing is inserted between them.
"""

from collections.abc import Sequence

from app.render.numbers import number
from app.render.text import escape


def token_text(token: str) -> str:
    """One token's text as HTML; a line break is drawn as an arrow and kept."""
    return escape(token.replace("\r", "")).replace("\n", '<i class="nl">↵</i><br>')


def token_span(token: str, value: float, scale: float, *, peak: bool = False) -> str:
    """One token; `scale` is the value that has the full colour."""
    text = token_text(token)
    classes = ' class="peak"' if peak else ""
    if value <= 0:
        return f"<span{classes}>{text}</span>"
    strength = min(1.0, value / scale) if scale > 0 else 1.0
    return f'<span{classes} style="--a:{strength:.3f}" data-v="{number(value)}">{text}</span>'


def heat_map(
    tokens: Sequence[str],
    activations: Sequence[float],
    *,
    scale: float,
    label: str,
    peak: int | None = None,
    peak_value: float | None = None,
    near: tuple[int, int] | None = None,
    special: Sequence[bool] | None = None,
) -> str:
    """Tokens coloured by activation, as one focusable group for the arrow keys.

    `near` keeps that many tokens before and after the peak and wraps the rest so that it can be
    folded away. `peak_value` is shown for the peak where its activation is 0 (a near miss).
    `special` tokens are drawn faint.
    """
    spans = [
        token_span(token, value, scale, peak=index == peak)
        for index, (token, value) in enumerate(zip(tokens, activations, strict=True))
    ]
    if peak is not None and peak_value is not None and activations[peak] <= 0:
        text = token_text(tokens[peak])
        spans[peak] = f'<span class="peak" data-v="{number(peak_value, 4)}">{text}</span>'
    for index, is_special in enumerate(special or ()):
        if is_special:
            spans[index] = f'<span class="special">{token_text(tokens[index])}</span>'
    if near is not None and peak is not None:
        first, last = max(0, peak - near[0]), min(len(spans), peak + near[1] + 1)
        body = _folded(spans[:first], "before") + "".join(spans[first:last])
        body += _folded(spans[last:], "after")
    else:
        body = "".join(spans)
    attributes = f'data-steps="span" tabindex="0" role="group" aria-label="{escape(label)}"'
    return f'<div class="tokens" {attributes}>{body}</div>'


def _folded(spans: list[str], side: str) -> str:
    return f'<span class="far {side}">{"".join(spans)}</span>' if spans else ""

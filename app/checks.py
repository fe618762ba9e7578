"""Values that come from outside (a browser, a client, a link) as what they should be.

Each function returns the value in its type or raises ValueError with one sentence that names it.
"""


def shown(value: object) -> str:
    """`repr` short enough for a sentence."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`; 3.0 is one (JavaScript has no other), True is not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, not {shown(value)}.")
    return value


def number(value: object, name: str, low: float, high: float) -> float:
    """A finite number from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, not {shown(value)}.")
    return float(value)


def flag(value: object, name: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {shown(value)}.")
    return value


def text(value: object, name: str) -> str:
    """Text with something other than white space in it, of valid characters."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {shown(value)}.")
    if not value.strip():
        raise ValueError(f"{name} is empty: type some text first.")
    return _encodable(value, name)


def query(value: object, name: str, max_chars: int) -> str:
    """Text, possibly empty, of at most `max_chars` characters."""
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, not {shown(value)}.")
    if len(value) > max_chars:
        raise ValueError(f"{name} is {len(value):,} characters long: use at most {max_chars:,}.")
    return _encodable(value, name)


def choice(value: object, name: str, known: tuple[str, ...]) -> str:
    """One of the words in `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {shown(value)}.")
    return value


def _encodable(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} holds half of a surrogate pair, which is no character.") from None
    return value

"""The web app: `app.launch("demo")` in Python, `jumpscope serve` as a command."""

from app.launching import launch

__all__ = ["launch"]

"""The check behind the badge: do an SAE's numbers fit what is declared, and if not, why?

docs/check.md explains verdicts, thresholds and conventions.
"""

from sae_core.check.recommended_command import with_source
from sae_core.check.sae_check import Check, Tried, check, check_rows, check_sae
from sae_core.check.saved import CHECK_FILE, save_check, saved_check

__all__ = [
    "CHECK_FILE",
    "Check",
    "Tried",
    "check",
    "check_rows",
    "check_sae",
    "save_check",
    "saved_check",
    "with_source",
]

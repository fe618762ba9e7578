"""One import or load of a language model at a time in a process.

PyTorch's and transformers' modules cannot be imported by two threads at once (`cannot import name
'AutoConfig'`), and while transformers loads a model it changes functions that all models share, so
that a second one lacks weights at random (`1 weights are missing, lm_head.weight`).
"""

import threading

LOADING = threading.RLock()
"""Held by whoever imports those libraries for the first time, or loads a model with them."""

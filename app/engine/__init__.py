"""The model and SAEs of the running app, and what is known of their features."""

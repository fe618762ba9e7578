"""The model and SAEs of the running app, and where their features are read."""

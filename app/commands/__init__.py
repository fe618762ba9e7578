"""The subcommands of `jumpscope`, one module each: a dataclass of options with `execute`."""

"""The studies of arXiv 2407.14435 on models that train in minutes; `python -m benchmarks.paper`."""

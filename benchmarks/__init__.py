"""Measurements that print JSON; run as `python benchmarks/NAME.py`."""

"""Measurements that print JSON; run as `python -m benchmarks.NAME`."""

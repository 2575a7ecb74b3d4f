"""The table of Wu et al. (2020): trained, measured and written down by `python -m benchmarks.paper`."""

"""How fast the grid is, measured against real processes: `python -m benchmarks NAME --json`."""

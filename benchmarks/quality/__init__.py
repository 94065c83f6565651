"""Parts of `benchmarks/search_quality.py`: worlds with known values, methods, runs, figures and tables."""

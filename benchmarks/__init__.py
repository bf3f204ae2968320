"""One script a claim of docs/performance.md. `make bench` runs all; `python -m benchmarks.p01_create` runs one."""

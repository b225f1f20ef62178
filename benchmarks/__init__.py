"""What is measured, one question a file: `python -m benchmarks` runs all, `python -m benchmarks.loss` one of them."""

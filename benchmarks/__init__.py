"""Programs that measure saescope's speed and quality: `python -m benchmarks.<name>`."""

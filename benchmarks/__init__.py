"""What saescope claims about speed and quality, as programs: `python -m benchmarks.<name>`."""

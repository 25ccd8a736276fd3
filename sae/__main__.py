"""`python -m sae`: the command line without the web program."""

from sae.cli.main import main

main()

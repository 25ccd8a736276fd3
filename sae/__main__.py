"""`python -m sae`: the command line without the web program."""

from sae.cli.ending import end_at_once
from sae.cli.main import main

end_at_once(main)

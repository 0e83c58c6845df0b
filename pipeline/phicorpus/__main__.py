"""`python -m phicorpus`: the command line."""

from phicorpus.cli import main

main()

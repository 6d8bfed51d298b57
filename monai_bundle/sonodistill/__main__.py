"""`python -m sonodistill` is the `sonodistill` command."""

from sonodistill.cli import main

main()

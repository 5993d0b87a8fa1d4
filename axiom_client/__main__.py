"""python -m axiom_client: the same as axiom-client."""

from axiom_client.cli.app import main

main()

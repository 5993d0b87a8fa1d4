"""``python -m axiom_client`` runs the same program as ``axiom-client``."""

from axiom_client.cli.app import main

main()

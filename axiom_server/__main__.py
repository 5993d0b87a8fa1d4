"""python -m axiom_server: the same as axiom-server."""

from axiom_server.cli.app import main

main()

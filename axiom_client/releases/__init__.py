"""Releases of the agent on this host's disk, and the launcher that starts and undoes them."""

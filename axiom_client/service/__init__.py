"""Installs and runs the agent as a service of the operating system: systemd, launchd, Windows."""

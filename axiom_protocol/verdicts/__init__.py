"""Verdicts on claims: one pure rule, used by the server, `axiom-client try` and exports."""

"""Verdicts on claims: one pure rule, which the server, `axiom-client try` and exports share."""

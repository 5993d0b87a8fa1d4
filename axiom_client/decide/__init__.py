"""Every decision of the agent, pure: step(state, event) -> (state, commands).

Nothing here knows a clock, a file, a socket or a random number: ``now`` and identifiers arrive in
events.
"""

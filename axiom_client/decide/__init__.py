"""All decisions of the agent, as pure functions: step(state, event) -> (state, commands).

Nothing here reads a clock, a file, a socket or a random number: the time and identifiers arrive in
events.
"""

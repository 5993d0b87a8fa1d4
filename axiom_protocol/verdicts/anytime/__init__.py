"""Evidence that stays valid at any time, however often it is looked at.

Every function here gives the logarithm of an e-value: a number whose mean is at most 1 under the
hypothesis that it is evidence against, at any stopping time, so that it ever reaches 1/alpha with a
probability of at most alpha (Ville). All are symmetric in the values: hosts finish seeds in any
order, and the verdict may not depend on it. That excludes bets that learn from the values before,
and with them the libraries at hand (confseq); mixtures of constant bets are symmetric.
"""

"""Evidence that is valid at any time, however often it is examined.

The functions return logarithms of e-values. An e-value is evidence against a hypothesis: under that
hypothesis its mean is at most 1 at any stopping time, so the probability that it ever reaches
1/alpha is at most alpha (Ville's inequality). All e-values here are symmetric in the data, because
hosts finish seeds in any order and the verdict must not depend on it. This excludes bets that learn
from earlier values, and thus existing libraries (confseq); mixtures of constant bets are symmetric.
"""

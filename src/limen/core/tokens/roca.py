"""Tell RSA moduli that come from the weak generator of CVE-2017-15361 (ROCA).

Nemec et al., "The Return of Coppersmith's Attack" (CCS 2017), section 2.2: the primes were
`k * M + (65537^a mod M)` with M a product of small primes, so such a modulus is a power of 65537
modulo every one of them. A good modulus passes by chance about once in 2^150.
"""

from __future__ import annotations

_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89)
_MORE_PRIMES = (97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167)
_RESIDUES = tuple(
    (prime, frozenset(pow(65537, power, prime) for power in range(prime - 1)))
    for prime in _PRIMES + _MORE_PRIMES
)


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether `modulus` can be factored because of how it was made."""
    return all(modulus % prime in residues for prime, residues in _RESIDUES)

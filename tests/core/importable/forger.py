"""Another text with the XXH3-128 digest of a given one: its secret is public, and it only adds up.

Of a text of more than 240 bytes, the first 1,024 are added up in 64-bit accumulators, in stripes of
64 bytes. For each pair of words, two stripes can make up for any difference of the sums: one
has the upper half of its product zero, the other the lower half.
"""

from __future__ import annotations

import struct

# The beginning of `kSecret` in the specification of XXH3.
SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
)
STRIPE, MASK, LOW = struct.Struct("<8Q"), (1 << 64) - 1, (1 << 32) - 1


def forged(genuine: bytes, wanted: bytes) -> bytes:
    """Return a text that begins with `wanted`, and has the length and digest of a genuine one."""
    count = -(-len(wanted) // 64)
    assert len(genuine) >= 64 * (count + 3)
    assert count <= 8
    end = 64 * (count + 2)
    before = wanted.ljust(64 * count, b".")
    missing = [
        (one - other) & MASK for one, other in zip(_sums(genuine[:end]), _sums(before), strict=True)
    ]
    first, second = [], []
    for lane in range(8):
        [one] = struct.unpack_from("<Q", SECRET, 8 * count + 8 * lane)
        [two] = struct.unpack_from("<Q", SECRET, 8 * (count + 1) + 8 * lane)
        # The word is added to the sum of its neighbour, and must add no product to its own.
        upper, lower = one & ~LOW, two & LOW
        rest = (missing[lane ^ 1] - upper - lower) & MASK
        first.append(upper | rest & LOW)
        second.append(rest & ~LOW | lower)
    return before + STRIPE.pack(*first) + STRIPE.pack(*second) + genuine[end:]


def _sums(stripes: bytes) -> list[int]:
    """Return what stripes at the beginning add to the accumulators."""
    sums = [0] * 8
    for number, words in enumerate(STRIPE.iter_unpack(stripes)):
        for lane, word in enumerate(words):
            [secret] = struct.unpack_from("<Q", SECRET, 8 * number + 8 * lane)
            keyed = word ^ secret
            sums[lane ^ 1] = (sums[lane ^ 1] + word) & MASK
            sums[lane] = (sums[lane] + (keyed & LOW) * (keyed >> 32)) & MASK
    return sums

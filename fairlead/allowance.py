"""How much each node may ask of a service: a token bucket per node, so that one node that loops does not take the others' turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fairlead.errors import Unavailable


@dataclass
class _Bucket:
    left: float
    counted_s: float
    refused_s: float = float("-inf")
    refused: int = 0


class Allowance:
    """`rate_per_s` requests per second of each node in the long run, `burst` at once."""

    def __init__(self, rate_per_s: float, burst: float, monotonic_s: Callable[[], float]) -> None:
        self.rate_per_s, self.burst = rate_per_s, burst
        self._monotonic_s = monotonic_s
        self._buckets: dict[str, _Bucket] = {}

    def take(self, node: str) -> None:
        """Count one request of the node. Raises Unavailable when it has none left."""
        now_s = self._monotonic_s()
        bucket = self._buckets.setdefault(node, _Bucket(self.burst, now_s))
        bucket.left = min(self.burst, bucket.left + (now_s - bucket.counted_s) * self.rate_per_s)
        bucket.counted_s = now_s
        if bucket.left < 1:
            bucket.refused += 1
            bucket.refused_s = now_s
            raise Unavailable(
                f"node {node} asks more than {self.rate_per_s:g} times per second: again later, or raise `node_requests_per_s`"
            )
        bucket.left -= 1

    def refused(self, within_s: float) -> dict[str, int]:
        """Return the nodes that were refused of late, and how often ever."""
        since_s = self._monotonic_s() - within_s
        return {node: bucket.refused for node, bucket in self._buckets.items() if bucket.refused_s >= since_s}

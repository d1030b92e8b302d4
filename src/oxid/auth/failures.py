"""How often a peer may guess passwords.

    limiter = FailureLimiter()
    limiter.check(peer, now)        raises AuthenticationError once there were too many failures
    limiter.failed(peer, now)       limiter.succeeded(peer)

Pure bookkeeping; time is passed in. Failures age out of a sliding window. Handshakes that run in threads
may use it at once: every step is one operation on one dict.
"""

from __future__ import annotations

from collections import OrderedDict

from oxid.auth.context import STATUS_ACCOUNT_LOCKED_OUT
from oxid.errors import AuthenticationError
from oxid.values.status import NtStatus


class FailureLimiter:
    """Counts failed logons per peer."""

    __slots__ = ("_failures", "limit", "most_peers", "window_s")

    def __init__(self, *, limit: int = 20, window_s: float = 60.0, most_peers: int = 4096) -> None:
        self.limit = limit
        """Failures a peer may have within the window; Windows' advice for lock-outs starts at 10."""
        self.window_s = window_s
        self.most_peers = most_peers
        """Peers remembered; the one quiet for longest is forgotten first."""
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def check(self, peer: str, now: float) -> None:
        """Raise AuthenticationError if this peer failed too often lately."""
        failures = self._failures.get(peer)
        if failures is None:
            return
        oldest = now - self.window_s
        failures[:] = [at for at in failures if at > oldest]
        if not failures:
            self._failures.pop(peer, None)
        elif len(failures) >= self.limit:
            raise AuthenticationError(
                f"{peer}: {len(failures)} failed logons within {self.window_s:g} s",
                NtStatus(STATUS_ACCOUNT_LOCKED_OUT),
            )

    def failed(self, peer: str, now: float) -> None:
        failures = [*self._failures.pop(peer, ()), now]
        self._failures[peer] = failures[-self.limit :]
        while len(self._failures) > self.most_peers:
            self._failures.popitem(last=False)

    def succeeded(self, peer: str) -> None:
        self._failures.pop(peer, None)

    def statistics(self) -> dict[str, int]:
        return {"peers": len(self._failures), "failures": sum(map(len, self._failures.values()))}

    def __repr__(self) -> str:
        return f"<FailureLimiter {len(self._failures)} peers, {self.limit} per {self.window_s:g} s>"

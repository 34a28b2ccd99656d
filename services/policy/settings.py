"""What an operator can choose."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from fairlead.config import CommonSettings
from services.policy.others import Sources
from services.policy.resolve import Enforcement, Mode
from services.policy.rules import Translation


class PolicySettings(CommonSettings, frozen=True, kw_only=True):
    """Options of the policy service."""

    identity_prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$")] = "cilium"
    """Root of Cilium's keys in etcd; identities and nodes are read below it."""
    enforcement_mode: Mode = Mode.DEFAULT
    """`default`: directions without rules are open; `always`: they are closed; `never`: nothing is enforced."""
    allow_localhost: bool = True
    """Whether a host may reach its own workloads unless a deny rule says otherwise."""
    prefix_grace_s: Annotated[float, Meta(ge=0, le=86400)] = 30.0
    """How long a prefix that no policy names any more keeps its identity, so that no node uses it after its rows are gone."""
    keep_versions: Annotated[int, Meta(ge=1, le=50)] = 10
    """How many versions of each document are kept."""
    owners: tuple[str, ...] = ()
    """Whose documents are by the beginning of their name, `<kind>/<namespace or _>/<name>=<owner>`: nobody else changes them unforced."""
    accept_mass_change: bool = False
    """Start even if the store now lacks most of the policies or identities that were announced before."""

    @property
    def sources(self) -> Sources:
        """Return the prefixes of the store under which identities and nodes stand."""
        root = f"{self.identity_prefix}/state"
        return Sources(f"{root}/identities/v1/id/", f"{root}/nodes/v1/{self.cluster}/")

    def translation(self) -> Translation:
        """Return how policies are read."""
        return Translation(cluster=self.cluster)

    def enforcement(self) -> Enforcement:
        """Return what rows depend on."""
        # There is no proxy and no authenticator yet: what asks for one is refused on the wire.
        return Enforcement(self.enforcement_mode, self.allow_localhost, proxies=frozenset(), authenticator=False)

"""Whose money somebody may look at."""

from __future__ import annotations

from dataclasses import dataclass

from admiralty.core.values import Identity
from admiralty.runtime.ledger.scopes import Scope, scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Viewer:
    """Who looks: one tenant's money, one team's of it, or, with neither, all that there is."""

    tenant: str | None = None
    team: str | None = None

    @classmethod
    def of(cls, identity: Identity) -> Viewer:
        """Return what a key may see: its tenant's money; that of its team alone where it has one.

        The tenant's admins see all of the tenant's, whatever team they are in.
        """
        return cls(tenant=identity.tenant, team=None if identity.admin else identity.team)

    @property
    def team_scope(self) -> str | None:
        """The one scope whose budgets a team sees; ``None`` for who sees more."""
        if self.tenant is None or self.team is None:
            return None
        return scope("team", self.tenant, self.team)

    def owns(self, limited: Scope) -> bool:
        """Tell whether a scope is within what this one may govern."""
        return self.tenant is None or scope("tenant", self.tenant) == f"tenant:{limited.tenant}"


OPERATOR = Viewer()
"""Whoever has the database itself."""

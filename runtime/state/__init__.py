"""Shared state: values with versions that the agents of all fleets on one database read and write together.

Above it: tools' ``ctx.state``, the API, the command line. Below: the database. It knows no agent, no tool, no
HTTP and no Ray.
"""

from admiralty.runtime.state.primitives import call_state
from admiralty.runtime.state.store import ComposedStateStore, SqlStateStore

__all__ = ["ComposedStateStore", "SqlStateStore", "call_state"]

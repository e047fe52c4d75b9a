"""Whether Serve has told this replica to stop: it says so to nobody.

Serve calls a replica's destructor when its last request has ended. A stream that follows a turn is such a
request, and may outlast the time after which Serve kills the replica: its turns would only go on elsewhere
when their leases are over, and its clients would be cut off.
"""

from __future__ import annotations

import contextlib

POLL_SECONDS = 0.5


def told_to_stop() -> bool:
    """Return whether this process's replica is being stopped; ``False`` where that cannot be known."""
    with contextlib.suppress(Exception):  # private: another version of Ray may not have it
        from ray._private.worker import global_worker

        replica = global_worker.actors[global_worker.actor_id]
        return bool(replica._replica_impl._shutting_down)
    return False

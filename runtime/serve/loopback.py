"""Binds the replicas' own gRPC servers to loopback where the node itself is on loopback.

Serve opens them on every interface and has no option for it. They do ask for the cluster's token,
so where this cannot be applied (another version of Ray), the fleet still runs, less tightly.
"""

from __future__ import annotations

from typing import Any


def bind_replicas_to_loopback() -> bool:
    """Apply it in this process; return whether it could be applied."""
    import ray._private.worker as worker
    import ray.serve._private.replica as replica

    original = getattr(replica, "add_port_to_grpc_server", None)
    if original is None or not hasattr(worker, "_global_node"):
        return False
    if getattr(original, "_admiralty", False):
        return True

    def bind(server: Any, address: str, *arguments: Any, **options: Any) -> Any:
        node = worker._global_node
        if address.startswith("[::]:") and node is not None and node.node_ip_address == "127.0.0.1":
            address = f"127.0.0.1:{address.rsplit(':', 1)[1]}"
        return original(server, address, *arguments, **options)

    bind._admiralty = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = bind
    return True

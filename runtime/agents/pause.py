"""What stops a visit when a person must decide: raised where a tool is called, caught by the visit."""

from __future__ import annotations

from admiralty.core.values import ApprovalRequest


class Pause(Exception):
    """No error: a call waits for a person; the visit ends here, and is made again with the verdict.

    Never leaves the visit: it becomes ``VisitResult.pause``.
    """

    def __init__(self, request: ApprovalRequest) -> None:
        super().__init__(request.reason)
        self.request = request

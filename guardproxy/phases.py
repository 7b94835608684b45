"""Ground floor: the life of the guard, as a table, and the manners in which it may end.

    STARTING --> SERVING --> TERMINATING --> DRAINING --> STOPPED

SERVING can be left for either of the next two: TERMINATING is for who must still be let in while
whoever sends clients here learns that it should not (`timeouts.min_sigterm_delay`).
"""

import enum


class Phase(enum.StrEnum):
    """What the guard is about. Only `serving` is ready for new clients."""

    STARTING = "starting"  # does not listen yet
    SERVING = "serving"
    TERMINATING = "terminating"  # listens and serves, but will end
    DRAINING = "draining"  # listens no more; clients end one by one
    STOPPED = "stopped"


FOLLOWS: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset((Phase.SERVING,)),
    Phase.SERVING: frozenset((Phase.TERMINATING, Phase.DRAINING)),
    Phase.TERMINATING: frozenset((Phase.DRAINING,)),
    Phase.DRAINING: frozenset((Phase.STOPPED,)),
    Phase.STOPPED: frozenset(),
}


class Manner(enum.IntEnum):
    """Whom a drain ends by itself. It may become less patient, never more."""

    WAIT_FOR_CLIENTS = 1  # nobody: they leave when they like
    WAIT_FOR_SERVERS = 2  # who has no server, and who could give it back
    AT_REST = 3  # everybody at the next idle moment, and all that are left at shutdown_timeout

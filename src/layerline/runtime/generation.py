"""Which start of the processes this is: agreed on in the store that they meet at.

Problem: torchrun's agents restart their workers each for itself and count each for itself, so no variable says which
processes belong together. Solution: a generation is a list of ranks in the store that each rank enters once.

    newest          the number of the newest generation
    N/here R        rank R has entered generation N
    N/agreed R/W    rank R has seen all W ranks in it

1. Who starts enters the newest generation. If its rank has entered it before, that process is gone and the generation
   with it: the next one is opened.
2. Who sees all ranks says so, and goes on once all have said so. One that is gone before says nothing any more, so no
   generation is agreed on with it.
3. Whoever still waits when a newer one is opened enters that one. Whoever has gone on finds it `outdated`, and leaves;
   then its agent starts it again.
"""

from __future__ import annotations

import time

from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]

from layerline.errors import PeerLost

_SECONDS_BETWEEN = 0.05


def agreed_generation(store: Store, rank: int, world: int, timeout: float) -> int:
    """The generation that all `world` processes are in; called once by every process that starts.

    PeerLost that says who is missing after `timeout` seconds, and where another process has taken this rank.
    """
    store, until = _apart(store), time.monotonic() + timeout
    generation, first = -1, True
    while time.monotonic() < until:
        newest = _newest(store)
        if newest > generation:
            generation = newest
            if store.add(f"{newest}/here {rank}", 1) > 1:
                if not first:
                    raise PeerLost(f"another process has taken the place of this one, rank {rank}")
                store.compare_set("newest", str(newest), str(newest + 1))
                continue
            first = False
        if store.check([f"{generation}/here {each}" for each in range(world)]):
            store.set(f"{generation}/agreed {rank}/{world}", "")
            if store.check([f"{generation}/agreed {each}/{world}" for each in range(world)]):
                return generation
        time.sleep(_SECONDS_BETWEEN)
    missing = [f"rank {each}" for each in range(world) if not store.check([f"{generation}/here {each}"])]
    raise PeerLost(
        f"nothing was heard of {', '.join(missing) or 'the others any more'} within {timeout:g} s",
        hint="start the missing ones, and check that they reach this address and port",
    )


def outdated(store: Store, generation: int) -> bool:
    """Whether processes were started again since this generation was agreed on."""
    return _newest(_apart(store)) > generation


def _newest(store: Store) -> int:
    return int(store.compare_set("newest", "", "0"))  # writes the first one; otherwise reads what is there


def _apart(store: Store) -> Store:
    return PrefixStore("generation", store)

"""The data of the nodes here, and what the nodes elsewhere say of theirs.

Each process reads the files of its own nodes, leaves their accounts on the board and waits for those of the others; so
all come to the same agreement, or end with the same error. A process by itself has all nodes.
"""

from __future__ import annotations

from pathlib import Path

from layerline.data.own import Account, OwnData, path_of, read_parts
from layerline.errors import DataError, LayerlineError
from layerline.run import Run
from layerline.runtime.members import Board, Membership, places
from layerline.runtime.threads import compute_threads


def gather(run: Run, timeout: float) -> OwnData:
    """The data of this process's nodes. `timeout`: seconds to wait for the other processes.

    LayerlineError, in every process, where a node's data is missing, damaged or unlike that of the others.
    """
    member = Membership.of_environment()
    with compute_threads(run):  # sums over many numbers depend on how many threads take part
        if member is None:
            parts = read_parts(run.dataset, range(run.nodes), validation=run.validation)
            return OwnData.of(run.dataset, run.standardise, parts)
        board = Board(member, timeout)
        with board.telling():
            return _exchanged(run, member, board)


def _exchanged(run: Run, member: Membership, board: Board) -> OwnData:
    rank_of = places(run.schedule.kind, run.nodes, member.world)
    mine = [node for node, rank in enumerate(rank_of) if rank == member.rank]
    parts = read_parts(run.dataset, mine, validation=run.validation)
    ours = {str(node): Account.of(part, run.standardise).model_dump(mode="json") for node, part in parts.items()}
    board.post(f"accounts {member.rank}", ours)
    ranks = range(member.world)
    said = board.wait([f"accounts {rank}" for rank in ranks], [f"rank {rank}" for rank in ranks])
    given = {node: account for each in said if isinstance(each, dict) for node, account in each.items()}
    if set(given) != {str(node) for node in range(run.nodes)}:
        raise LayerlineError(
            f"the processes have data for {len(given)} nodes, where this run has {run.nodes}",
            hint="give all processes the same preset, settings and seed",
        )
    accounts = [Account.read(given[str(node)], node) for node in range(run.nodes)]
    return OwnData.of(run.dataset, run.standardise, parts, accounts)


def refuse_missing(run: Run) -> None:
    """DataError that names the first node whose data is not on this machine; nothing is read."""
    for node in range(run.nodes):
        path = path_of(run.dataset, node)
        if not Path(path).expanduser().exists():
            raise DataError(f"node {node + 1}: {path}: there is no such file or folder", hint="check the path")

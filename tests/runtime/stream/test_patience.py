"""A stop of nodes whose steps take long: none of them gives up before the first node can have said when."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from layerline.data.digits import load_digits
from layerline.errors import Stopped
from layerline.runtime.stop import Stop
from layerline.runtime.stream import patience
from layerline.runtime.stream.feed import Feed
from layerline.runtime.stream.model import build_stream_model
from layerline.runtime.stream.node import StreamNode
from layerline.runtime.stream.patience import Patience
from layerline.runtime.stream.planning import stream_of
from layerline.runtime.stream.worker import GO_ON, StreamWorker
from layerline.transport.boundary import Parcel
from layerline.transport.in_process import InProcess
from runtime.stream.test_stream_nodes import run_of


@pytest.mark.parametrize(("window", "ahead"), [(2, 2), (5, 5), (1, 1)])
def test_a_stop_reaches_slow_nodes_however_far_the_first_is_ahead(
    window: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They gave up by the clock alone: with steps that took longer the snapshot that the stop had made was lost.

    Three workers, the last of which waits until the first is far ahead; none has patience as far as seconds go.
    """
    monkeypatch.setattr(patience, "SECONDS", 0.0)
    run = run_of(batch_size=64, nodes=3, window=window)
    data = load_digits()
    model = build_stream_model(run, data)
    stream, feeds = stream_of(model), [Feed(model, data) for _ in range(3)]
    assert stream.ahead == ahead
    nodes = [StreamNode(blocks, model, feed) for blocks, feed in zip(stream.owned, feeds, strict=True)]
    stop, steps, saved, begun = Stop(), count(), [0, 0, 0], [0]
    last, asked_at = nodes[2].backward, 3

    def decide() -> int:
        begun[0] += 1
        return GO_ON if stop.exit_status is None else stop.exit_status

    def slow(*given: Any) -> Parcel | None:
        if next(steps) == asked_at:
            until = time.monotonic() + 30
            while begun[0] <= asked_at + 2 * ahead and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(0.05)  # for one more, if there is one
            stop.exit_status = 75
        return last(*given)

    def save(node: int, step: int) -> None:
        saved[node] = step

    def carried_out(worker: StreamWorker) -> int | None:
        with pytest.raises(Stopped) as stopped:
            for _ in worker.work():
                pass
        return stopped.value.exit_status

    monkeypatch.setattr(nodes[2], "backward", slow)
    with InProcess(3, timeout=60.0) as transport, ThreadPoolExecutor(3) as threads:
        workers = [
            StreamWorker(stream, {number: node}, feed, transport, start=0, decide=decide, save=save, stop=stop)
            for number, (node, feed) in enumerate(zip(nodes, feeds, strict=True))
        ]
        assert list(threads.map(carried_out, workers)) == [75] * 3
    assert saved == [saved[0]] * 3
    assert saved[0] > asked_at + 2 * ahead, "so far ahead was the first node when it was asked"


def test_patience_ends_by_steps_and_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    slow, first = Patience(stop, lead=2), Patience(stop, lead=0)
    for _ in range(10):
        slow.heed()
    stop.exit_status = 75
    for _ in range(10):
        slow.heed()  # three seconds have not passed
        first.heed()
    monkeypatch.setattr(patience, "SECONDS", 0.0)
    with pytest.raises(Stopped) as stopped:
        slow.heed()
    assert stopped.value.exit_status == 75
    quick = Patience(stop, lead=2)
    for _ in range(1 + 2 + 1):  # asked, its lead, and one more
        quick.heed()
    with pytest.raises(Stopped):
        quick.heed()

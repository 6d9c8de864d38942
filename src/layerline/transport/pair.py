"""Two connected processes: a thread that sends, a thread that receives, and news of the other's death.

Problem: compute must not wait for the network, and a peer that is gone must be noticed without disturbing anybody.
Solution: a bounded queue and a sending thread; a receiving thread that always reads, so that no queue of a living peer
stays full and no order of messages can deadlock. A sender with nothing to send says so four times in `silence`: then
silence means loss, and no wait is ever used as a poll.

    close():  flush → BYE →                  the peer's receiver ends, its sender flushes and answers
                      ← BYE ← flush          our receiver ends: every frame of both sides was read
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import final

from layerline.errors import LayerlineError, MessageRefused, PeerLost
from layerline.transport.channel import Channel, as_bytes, as_tensor
from layerline.transport.message import HEADER_BYTES, Kind, Message, Wire
from layerline.transport.shared_memory import Inlet, Outlet

QUEUE = 8
"""Messages that may wait to be sent to a process."""

Delivered = Callable[[Message, float, Callable[[str], MessageRefused]], None]


@final
class Pair:
    """The connection to the process `peer`.

    `delivered(message, begin, refuse)` takes what arrived, `sent(message, begin)` is told what has left, `lost(why)`
    that nothing more will come. `shared`: the two ends of the shared memory, where the peer is on this host.
    """

    def __init__(
        self,
        channel: Channel,
        peer: str,
        *,
        plan: bytes,
        generation: int,
        silence: float,
        delivered: Delivered,
        sent: Callable[[Message, float], None],
        lost: Callable[[LayerlineError], None],
        shared: tuple[Outlet, Inlet] | None = None,
    ) -> None:
        self._channel, self.peer, self._silence = channel, peer, silence
        self._out, self._in = Wire(plan, generation, peer), Wire(plan, generation, peer)
        self._delivered, self._sent, self._lost = delivered, sent, lost
        self._outlet: Outlet | None = shared[0] if shared else None
        self._inlet: Inlet | None = shared[1] if shared else None
        self._queue: deque[Message] = deque()
        self._ending = False
        self._gone: LayerlineError | None = None
        self._changed = Condition()
        self._threads = [
            Thread(target=self._guarded, args=(loop,), name=f"{loop.__name__} {peer}", daemon=True)
            for loop in (self._sending, self._receiving)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, message: Message, timeout: float) -> None:
        """Queue a message; waits, up to `timeout` seconds, only while the queue is full. PeerLost.

        Of passing messages of one kind only the newest waits.
        """
        with self._changed:
            if message.passing:
                self._forget_older(message)
            free = self._changed.wait_for(lambda: self._gone or len(self._queue) < QUEUE, timeout)
            if self._gone:
                raise self._why_not(self._gone, message)
            if not free:
                raise self._why_not(PeerLost(f"{self.peer} has taken nothing for {timeout:g} s"), message)
            assert not self._ending, "closed"
            self._queue.append(message)
            self._changed.notify_all()

    def _forget_older(self, message: Message) -> None:
        """Under the lock. The first of the queue may be on its way already."""
        what = message.source, message.to, message.key.carries
        for older in [*self._queue][1:]:
            if older.passing and (older.source, older.to, older.key.carries) == what:
                self._queue.remove(older)

    def end(self) -> None:
        """Let the threads end once the queue is flushed; does not wait."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def join(self, until: float) -> int:
        """Wait for both threads, up to the monotonic time `until`. The number of messages that were not sent."""
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return len(self._queue)

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except LayerlineError as error:
            self._lose(error)
        except TimeoutError:
            self._lose(PeerLost(f"{self.peer} has been silent for {self._silence:g} s: stopped, hung or cut off"))
        except ConnectionError:
            self._lose(PeerLost(f"{self.peer} has closed its connection: killed or crashed"))
        except BaseException as error:  # a mistake of ours: whoever waits must not wait for it
            self._lose(LayerlineError(f"what {self.peer} sent could not be handled: {error!r}"))
            raise

    def _lose(self, error: LayerlineError) -> None:
        with self._changed:
            self._gone = self._gone or error
            self._changed.notify_all()
        self._lost(self._gone)

    def _sending(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._ending or self._gone, self._silence / 4)
                message = self._queue[0] if self._queue else None
                ending = self._ending
                if self._gone and not ending:
                    return
            if message is not None:
                self._transmit(message)
                with self._changed:
                    self._queue.popleft()
                    self._changed.notify_all()
                continue
            kind = Kind.BYE if ending else Kind.ALIVE
            self._channel.send(as_tensor(self._out.header(kind)))
            if ending:
                self._channel.wait_for_reader()  # who closes a connection too early takes what is unread with it
                return

    def _transmit(self, message: Message) -> None:
        begin = time.time()
        segment = self._outlet.write(message.payload) if self._outlet else 0
        kind = Kind.PASSING if message.passing else Kind.DATA
        head = as_tensor(self._out.header(kind, message, segment)), as_tensor(message.table)
        self._channel.send(*head, *([] if segment else [message.payload]))
        if segment or message.passing:  # free when it was copied; replaced by newer ones until it was taken
            self._channel.wait_for_reader()
        self._sent(message, begin)

    def _receiving(self) -> None:
        while True:
            frame = self._in.read(as_bytes(self._channel.receive(HEADER_BYTES)))
            begin = time.time()
            if frame.kind == Kind.BYE:
                self._lose(PeerLost(f"{self.peer} has ended its part"))
                self.end()
                self._channel.let_writer_go()
                return
            if frame.kind in (Kind.DATA, Kind.PASSING):
                if frame.segment and self._inlet:
                    (table,) = self._channel.rest(frame.table_bytes)
                    payload = self._inlet.read(frame.segment, frame.payload_bytes)
                    if frame.kind == Kind.DATA:
                        self._channel.let_writer_go()
                else:
                    table, payload = self._channel.rest(frame.table_bytes, frame.payload_bytes)
                self._delivered(self._in.message(frame, as_bytes(table), payload), begin, self._in.refuse)
                if frame.kind == Kind.PASSING:
                    self._channel.let_writer_go()

    def _why_not(self, error: LayerlineError, message: Message) -> LayerlineError:
        if not isinstance(error, PeerLost):
            return error
        return PeerLost(f"{error.what}; node {message.source} has {message.key} for node {message.to}", node=message.to)

"""Every schedule and option on every kind of work, for property tests."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from layerline.schedules.all_layers import AllLayers
from layerline.schedules.base import BaseSchedule
from layerline.schedules.dff import Dff
from layerline.schedules.exchange import Minibatches
from layerline.schedules.federated import Federated
from layerline.schedules.plan import Plan
from layerline.schedules.schedule import Schedule
from layerline.schedules.sequential import Sequential
from layerline.schedules.single_layer import SingleLayer
from layerline.schedules.work import Work

COST = st.floats(0.01, 10)
SPEED = st.sampled_from([0.1, 0.5, 1.0, 2.0])


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Up to 5 blocks, 9 chapters and 14 nodes, alike or not."""
    blocks, nodes, head = draw(st.integers(1, 5)), draw(st.integers(1, 14)), draw(st.booleans())
    alike = draw(st.booleans())
    count = blocks + head
    return Work(
        blocks=blocks,
        chapters=draw(st.integers(1, 9)),
        nodes=nodes,
        head=head,
        judged=draw(st.booleans()),
        train=() if alike else tuple(draw(st.lists(COST, min_size=count, max_size=count))),
        forward=() if alike else tuple(draw(st.lists(COST, min_size=blocks, max_size=blocks))),
        ranking=draw(COST),
        speeds=() if alike else tuple(draw(st.lists(SPEED, min_size=nodes, max_size=nodes))),
    )


@st.composite
def plans(draw: st.DrawFn) -> tuple[BaseSchedule, Work, Plan]:
    """A schedule, its work, and the plan it makes."""
    work = draw(works())
    owners = min(work.nodes, work.stages)
    delay = draw(st.none() | st.lists(st.integers(1, 12), min_size=owners, max_size=owners).map(tuple))
    schedule: Schedule = draw(
        st.one_of(
            st.builds(Sequential),
            st.builds(AllLayers),
            st.builds(
                SingleLayer,
                hand_over=st.sampled_from(["weights", "activations"]),
                ranking=st.sampled_from(["last", "shared"]),
                delay=st.just(delay),
            ),
            st.builds(Federated, average=st.booleans()),
            st.builds(Dff, batch=st.sampled_from(["full", "mini"])),
        )
    )
    if schedule.meets_per_batch and draw(st.booleans()):
        counts = {"examples": st.integers(1, 40), "batch": st.integers(3, 20), "epochs": st.integers(1, 2)}
        work = replace(work, minibatches=draw(st.builds(Minibatches, **counts)))
    return schedule, work, schedule.plan(work)

"""The flags are public: whoever adds one writes it down here, whoever removes one breaks somebody's script."""

from __future__ import annotations

import importlib

import pytest

from layerline.cli.parser import Parser

_FORMAT = ["--format"]
_DATA = ["--data-dir", "--no-download"]
_TRAINING = [*_DATA, *_FORMAT, "--quiet", "--processes", "--restarts", "--engine", "--tensorboard"]

_SETTINGS = """
    --dataset
    --validation --no-validation
    --standardise
    --shift --augment.shift
    --fill --augment.fill
    --flip --augment.flip --no-flip --no-augment.flip
    --network
    --widths --network.widths
    --init --network.init
    --normaliser --network.normaliser
    --network.normaliser.eps
    --strength --labels.strength
    --position --labels.position
    --objective
    --hardest --objective.hardest
    --goodness --objective.goodness
    --loss --objective.loss
    --theta --objective.loss.theta
    --alpha --objective.loss.alpha
    --beta --objective.loss.beta
    --peer --objective.peer
    --peer-decay --objective.peer-decay
    --dropout --objective.dropout
    --negatives
    --judge --negatives.judge
    --temperature --negatives.temperature
    --blurs --negatives.blurs
    --bank --negatives.bank
    --readout
    --skip --readout.skip
    --order
    --epochs
    --chapters
    --schedule
    --hand-over --schedule.hand-over
    --ranking --schedule.ranking
    --delay --schedule.delay
    --owns --schedule.owns
    --average --schedule.average --no-average --no-schedule.average
    --mean --schedule.mean
    --batch --schedule.batch
    --exchange
    --nodes
    --speeds
    --send-optimizer-state --no-send-optimizer-state
    --codec
    --first --codec.first
    --privacy
    --clipping --privacy.clipping
    --epsilon --privacy.epsilon
    --delta --privacy.delta
    --sensitivity --privacy.sensitivity
    --shards
    --concentration --shards.concentration
    --batch-size
    --shuffle
    --lr --optimizer.lr
    --head-lr --optimizer.head-lr
    --beta1 --optimizer.beta1
    --beta2 --optimizer.beta2
    --optimizer.eps
    --weight-decay --optimizer.weight-decay
    --beside
    --rate
    --warmup --rate.warmup
    --precision
    --seed
    --threads
    --device
    --eval-every
    --checkpoint-seconds
""".split()  # noqa: SIM905, one line per setting

_STREAM_SETTINGS = """
    --dataset
    --validation --no-validation
    --standardise
    --shift --augment.shift
    --fill --augment.fill
    --flip --no-flip --augment.flip --no-augment.flip
    --epochs
    --nodes
    --speeds
    --codec
    --first --codec.first
    --batch-size
    --rate
    --warmup --rate.warmup
    --precision
    --seed
    --threads
    --device
    --eval-every
    --checkpoint-seconds
    --network
    --network.widths
    --classifier --network.classifier
    --width --network.width
    --network.depth
    --attention-heads --network.attention-heads
    --closing-norm --no-closing-norm --network.closing-norm --no-network.closing-norm
    --context --network.context
    --dropout --network.dropout
    --cut
    --blocks --cut.blocks
    --balance --cut.balance
    --positions --cut.positions
    --reach
    --microbatches
    --window
    --owns
    --method
    --head
    --hidden --head.hidden
    --convolutions --head.convolutions
    --head.widths
    --head.depth
    --head.momentum
    --tokens
    --optimizer
    --lr --optimizer.lr
    --optimizer.momentum
    --nesterov --no-nesterov --optimizer.nesterov --no-optimizer.nesterov
    --weight-decay --optimizer.weight-decay
    --beta1 --optimizer.beta1
    --beta2 --optimizer.beta2
    --eps --optimizer.eps
    --smoothing
    --timing
    --buffer --timing.buffer
    --max-reuse --timing.max-reuse
    --slowdowns --timing.slowdowns
    --pace --timing.pace
    --link-delay --timing.link-delay
    --order-file --timing.order-file
    --order-sha256 --timing.order-sha256
    --boundary
    --dims --boundary.dims
    --codes --boundary.codes
    --decay --boundary.decay
    --refresh --boundary.refresh
    --max-steps
""".split()  # noqa: SIM905, one line per setting

_WORLD = """
    --link --latency --arithmetic --memory --costs --measure --compare --gantt
""".split()  # noqa: SIM905

_IN_NUMBERS = """
    --blocks --width --inputs --classes --examples --negatives --readout --epochs --chapters --batch-size --precision
    --schedule --hand-over --schedule.hand-over --ranking --schedule.ranking --delay --schedule.delay
    --owns --schedule.owns --average --schedule.average --no-average --no-schedule.average --mean --schedule.mean
    --batch --schedule.batch --exchange --nodes --speeds --send-optimizer-state --no-send-optimizer-state --codec
""".split()  # noqa: SIM905

_SHARED = """
    --epochs --chapters --dataset --widths --batch-size --send-optimizer-state --no-send-optimizer-state --precision
    --threads --device
""".split()  # noqa: SIM905

_FLAGS = {
    "train": ["--config", "--out-dir", *_TRAINING, *_SETTINGS],
    "resume": _TRAINING,
    "evaluate": ["--dataset", *_DATA, *_FORMAT],
    "predict": ["--resize", *_FORMAT],
    "plan": ["--config", "--blocks", *_DATA, *_FORMAT, *_WORLD, *_SETTINGS],
    "reproduce": ["--out-dir", "--seeds", "--only", "--list", "--processes", "--quiet", *_DATA, *_FORMAT, *_SHARED],
    "presets": _FORMAT,
    "env": _FORMAT,
    "cite": [],
}


@pytest.mark.parametrize("command", _FLAGS)
def test_a_command_has_exactly_these_flags(command: str) -> None:
    parser = Parser(command, "", "")
    importlib.import_module(f"layerline.cli.commands.{command}").add_arguments(parser)
    found = [flag for action in parser._actions for flag in action.option_strings]
    assert sorted(found) == sorted(["-h", "--help", *_FLAGS[command]])


def test_a_stream_has_exactly_these_flags() -> None:
    parser = Parser("train", "", "")
    parser.words = ["--seed", "3", "dgl-cifar10"]
    importlib.import_module("layerline.cli.commands.train").add_arguments(parser)
    found = [flag for action in parser._actions for flag in action.option_strings]
    assert sorted(found) == sorted(["-h", "--help", "--config", "--out-dir", *_TRAINING, *_STREAM_SETTINGS])


def test_a_plan_in_numbers_has_exactly_these_flags() -> None:
    parser = Parser("plan", "", "")
    parser.words = ["--blocks=4"]
    importlib.import_module("layerline.cli.commands.plan").add_arguments(parser)
    found = [flag for action in parser._actions for flag in action.option_strings]
    assert sorted(found) == sorted(["-h", "--help", *_FORMAT, *_WORLD, *_IN_NUMBERS])

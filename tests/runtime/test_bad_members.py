"""Several processes, one of them wrong: one clear error in every process, the right exit status, and no hang."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.data_files import write_idx_set
from layerline.cli.main import main
from runtime.members_by_hand import SMALL, Ended, Member, members


def clean(ended: list[Ended]) -> list[Ended]:
    """None hung, and nobody showed a traceback or more than one error."""
    for each in ended:
        assert each.status is not None, "it had to be killed"
        assert "Traceback" not in each.err
        assert "Exception" not in each.err
        assert sum(line.startswith("error:") for line in each.err.splitlines()) == (each.status != 0), each.err
    return ended


def test_together_they_end_as_one_process_does(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    ended = clean(members(*[Member([*SMALL, "--out-dir", "x", "--format", "json"], tmp_path / "a")] * 2))
    assert [each.status for each in ended] == [0, 0]
    assert ended[1].out == "", "rank 0 speaks for both"
    values = json.loads(ended[0].out)
    assert values == json.loads((tmp_path / "a/x/result.json").read_text())
    assert values["processes"] == 2
    assert main([*SMALL, "--processes", "1", "--out-dir", str(tmp_path / "one"), "--quiet"]) == 0
    one = json.loads((tmp_path / "one/result.json").read_text())
    assert one["weights_sha256"] == values["weights_sha256"]


def test_torchrun(tmp_path: Path) -> None:
    """The real one, and the same bits again."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    words = [*torchrun, "--standalone", "-m", "layerline", *SMALL, "--out-dir", "x", "--quiet"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert main([*SMALL, "--processes", "1", "--out-dir", str(tmp_path / "one"), "--quiet"]) == 0
    digests = {json.loads((tmp_path / each / "result.json").read_text())["weights_sha256"] for each in ("x", "one")}
    assert len(digests) == 1


@pytest.mark.parametrize("own_folder", [True, False])
def test_another_run(own_folder: bool, tmp_path: Path) -> None:
    """In one folder, as on one machine; or each in its own, as on several."""
    other = [*SMALL, "--seed", "1", "--out-dir", "y" if own_folder else "x"]
    zero, one = clean(members(Member([*SMALL, "--out-dir", "x"], tmp_path), Member(other, tmp_path)))
    if own_folder:
        assert zero == one
        assert zero.status == 1
        assert "rank 1 has another run" in zero.err
    else:
        assert (zero.status, one.status) == (2, 2)
        assert "rank 1 gave up: x is the folder of another run" in zero.err
        assert "error: x is the folder of another run" in one.err


def test_another_schedule(tmp_path: Path) -> None:
    other = [word.replace("all-layers", "single-layer") for word in SMALL]
    starts = Member([*SMALL, "--out-dir", "x"], tmp_path), Member([*other, "--out-dir", "y"], tmp_path)
    zero, one = clean(members(*starts))
    assert zero == one
    assert "rank 1 has another run" in zero.err
    assert "give all processes the same preset, settings and seed" in zero.err


def test_other_data(tmp_path: Path) -> None:
    """The same name on both machines, but not the same files."""
    write_idx_set(tmp_path / "a/mnist", train=20)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    write_idx_set(tmp_path / "b/mnist", train=21)
    words = [*SMALL, "--dataset", "mnist", "--out-dir", "x", "--data-dir"]
    zero, one = clean(members(*[Member([*words, str(tmp_path / each)], tmp_path) for each in ("a", "b")]))
    assert zero == one
    assert zero.status == 1
    assert "rank 1 has other data" in zero.err
    assert "give all machines the same files" in zero.err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_without_the_data(rank: int, tmp_path: Path) -> None:
    write_idx_set(tmp_path / "there/mnist", train=20)
    (tmp_path / "lost/mnist").mkdir(parents=True)
    (tmp_path / "lost/mnist/train-images-idx3-ubyte.gz").touch()
    words = [*SMALL, "--dataset", "mnist", "--no-download", "--out-dir", "x", "--data-dir"]
    folders = ["there", "there"]
    folders[rank] = "lost"
    ended = clean(members(*[Member([*words, str(tmp_path / each)], tmp_path) for each in folders]))
    assert [each.status for each in ended] == [1, 1]
    assert "lost/mnist" in ended[rank].err
    assert f"rank {rank} gave up: " in ended[1 - rank].err
    assert not (tmp_path / "x/result.json").exists()


def test_a_peer_that_never_comes(tmp_path: Path) -> None:
    (zero,) = clean(members(Member([*SMALL, "--out-dir", "x"], tmp_path), world=2, join=1.0))
    assert zero.status == 75
    assert "nothing was heard of rank 1 within 1 s" in zero.err
    assert "start the missing ones" in zero.err


def test_a_launcher_that_is_not_there(tmp_path: Path) -> None:
    (one,) = clean(members(Member([*SMALL, "--out-dir", "x"], tmp_path), world=2, first=1, join=1.0))
    assert one.status == 75
    assert "there is no launcher at 127.0.0.1" in one.err
    assert not (tmp_path / "x").exists()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    """By something that listens and says nothing."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        start = Member([*SMALL, "--out-dir", "x"], tmp_path)
        zero, one = clean(members(start, start, port=other.getsockname()[1], join=3.0))
    assert zero.status == 2
    assert "it is taken" in zero.err
    assert one.status == 75
    assert "there is no launcher" in one.err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_folder_that_cannot_be_made_on_one_node(rank: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = [[*SMALL, "--out-dir", folder] for folder in (("file/x", "x") if rank == 0 else ("x", "file/x"))]
    ended = clean(members(*[Member(each, tmp_path) for each in words]))
    assert [each.status for each in ended] == [1, 1]
    assert "error: cannot write file/x" in ended[rank].err
    assert f"rank {rank} gave up: cannot write file/x" in ended[1 - rank].err


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A disk that will soon be full."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only the superuser may mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full_on_one_node(full: Path, tmp_path: Path) -> None:
    """In the middle of the run."""
    words = [*SMALL, "--widths", "64,64", "--out-dir"]
    zero, one = clean(members(*[Member([*words, each], tmp_path) for each in ("x", "full/x")]))
    assert (zero.status, one.status) == (1, 1)
    assert "error: cannot write full/x/slots" in one.err
    assert "rank 1 gave up: cannot write full/x/slots" in zero.err


def test_a_full_disk_under_our_own_launcher(full: Path) -> None:
    """One error for all, and nobody is left over."""
    words = [sys.executable, "-m", "layerline", *SMALL, "--widths", "64,64", "--out-dir", str(full / "x"), "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)
    clean([Ended(done.returncode, done.stdout, done.stderr)])
    assert done.returncode == 1
    assert "cannot write" in done.stderr
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(full).encode() in _content(path)]
    assert not left


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_more_processes_than_nodes(tmp_path: Path) -> None:
    ended = clean(members(*[Member([*SMALL, "--out-dir", "x"], tmp_path)] * 3))
    assert {each.status for each in ended} == {2}
    assert all("3 processes for 2 nodes" in each.err for each in ended)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--nodes", "7"], "All-Layers uses as many nodes as there are stages (2"),
        (["--nodes", "2", "--epochs", "1"], "All-Layers gives every node a chapter of its own, and there are 1"),
        (["--processes", "3"], "3 processes for 2 nodes"),
        (["--processes", "0"], "at least one process"),
        (["--processes", "-1"], "'-1' is no count"),
    ],
)
def test_requests_that_cannot_work(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *words, "--out-dir", str(tmp_path / "x")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "x").exists()

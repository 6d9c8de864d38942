"""Flower for real: a SuperLink, SuperNodes and the app between them, all on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from layerline.blocks.network import Mlp
from layerline.data.digits import load_digits
from layerline.objectives.optimizer import Adam
from layerline.presets.presets import preset
from layerline.reporting.run_folder import RunFolder
from layerline.run import Run
from layerline.runtime.flower.local import Deployment, flower, free_ports

pytestmark = pytest.mark.timeout(600)  # a dozen processes, which a busy machine starts slowly
_SECONDS = 240.0

SMALL = ["--nodes", "2", "--epochs", "3", "--chapters", "3", "--widths", "24,24", "--threads", "1", "--quiet"]


def train(folder: Path, *flags: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "layerline", "train", "federated-digits", "--out-dir", str(folder), *SMALL, *flags]
    command += [] if "--beside" in flags else ["--beside", "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return values


def test_flower_and_torch_end_with_the_same_weights(tmp_path: Path) -> None:
    torch = train(tmp_path / "torch", "--beside", "fedavg")
    flower = train(tmp_path / "flower", "--beside", "fedavg", "--engine", "flower")
    assert torch["processes"] == 2
    assert [compared(line) for line in flower["beside"]] == [compared(line) for line in torch["beside"]]
    assert sum(line["bytes_up"] for line in flower["beside"]) == pytest.approx(
        sum(line["bytes_up"] for line in torch["beside"]), rel=0.01
    ), "a block goes up once, in one process, too"
    assert flower["engine"] == "flower"
    assert flower["weights_sha256"] == torch["weights_sha256"]
    assert flower["test_accuracy"] == torch["test_accuracy"]
    assert flower["bytes_sent"] > 0
    assert all(up > 0 for up in flower["bytes_up"])
    assert sum(flower["participant_examples"]) == 1438


def compared(line: Mapping[str, Any]) -> list[Any]:
    """What the engine does not change in a table beside FedAvg."""
    return [line[name] for name in ("name", "accuracy", "epochs", "chapters", "passes")]


def test_data_of_their_own_on_both_engines(tmp_path: Path) -> None:
    """Unequal amounts, which count in the average."""
    digits = load_digits()
    assert digits.test
    x, y, tx, ty = (t.numpy() for s in (digits.train, digits.test) for t in (s.inputs, s.labels))
    np.savez(tmp_path / "1.npz", x_train=x[:200], y_train=y[:200], x_test=tx[:60], y_test=ty[:60])
    np.savez(tmp_path / "2.npz", x_train=x[200:290], y_train=y[200:290])
    own = ["--shards", "own", "--dataset", str(tmp_path / "{node}.npz"), "--average"]
    torch = train(tmp_path / "torch", *own)
    flower = train(tmp_path / "flower", *own, "--engine", "flower")
    same = ("weights_sha256", "test_accuracy", "node_examples", "node_held_out", "node_accuracies")
    assert [torch[name] for name in same] == [flower[name] for name in same]
    assert flower["node_examples"] == [200, 90]
    assert flower["node_held_out"] == [60, 0]
    assert "participant_examples" not in flower


class Secured(Deployment):
    """With certificates, and SuperNodes that are known by their keys; both lie in `folder`."""

    def connection(self) -> dict[str, str | bool]:
        return {"root-certificates": str(self.folder / "ca.crt")}

    def superlink_flags(self) -> list[str]:
        files = {"ca-certfile": "ca.crt", "certfile": "server.crt", "keyfile": "server.key"}
        flags = [word for flag, name in files.items() for word in (f"--ssl-{flag}", str(self.folder / name))]
        return [*flags, "--enable-supernode-auth"]

    def node_flags(self, number: int) -> list[str]:
        key = ["--auth-supernode-private-key", str(self.folder / f"node-{number}.key")]
        return ["--root-certificates", str(self.folder / "ca.crt"), *key]

    def start_node(self, number: int, configuration: Mapping[str, str | int]) -> None:
        self.command("supernode", "register", str(self.folder / f"node-{number}.key.pub"), "here")
        super().start_node(number, configuration)

    def refused(self) -> str:
        """What a SuperNode without a key is told."""
        port = free_ports(1)[0]
        command = [flower("flower-supernode"), "--root-certificates", str(self.folder / "ca.crt")]
        command += ["--superlink", f"127.0.0.1:{self.port}", "--port", str(port)]
        self.start("stranger", command)
        assert self.processes["stranger"].wait(_SECONDS) != 0
        return (self.folder / "stranger.log").read_text()


def test_a_deployment_with_certificates_and_keys_outlives_a_killed_participant(tmp_path: Path) -> None:
    place = tmp_path / "flower"
    place.mkdir()
    make_certificates(place)
    for number in range(1, 5):
        make_key(place / f"node-{number}.key")
    folder = RunFolder.create(small(nodes=4, chapters=16), tmp_path / "run").path
    at = str(tmp_path / "participants")
    nodes: list[dict[str, str | int]] = [{"partition-id": node, "folder": at} for node in range(4)]
    with Secured(place, nodes) as deployment:
        deployment.submit({"run-dir": str(folder), "patience": 3})
        assert "All SuperNodes must be registered" in deployment.refused()
        wait_for(lambda: len(list((folder / "slots").glob("node-*.jsonl"))) == 4, "all to have done something")
        os.killpg(deployment.processes["node-2"].pid, signal.SIGKILL)
        wait_for(lambda: any((folder / name).exists() for name in ("result.json", "flower/error.json")), "the result")
    result = json.loads((folder / "result.json").read_text())
    notes = (folder / "flower" / "notes.txt").read_text()
    assert "the SuperNode of node 2 is lost" in notes
    assert "the plan goes on without it" in notes
    assert result["test_accuracy"] > 0.3
    assert [accuracy is None for accuracy in result["participant_accuracies"]] == [False, True, False, False]


def wait_for(there: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + _SECONDS
    while not there():
        assert time.monotonic() < until, f"waited too long for {what}"
        time.sleep(0.2)


def small(nodes: int, chapters: int) -> Run:
    run = preset("federated-digits").run
    assert isinstance(run, Run)
    run = run.replace(nodes=nodes, epochs=chapters, chapters=chapters, threads=1, device="cpu")
    # At the preset's rate so few chapters end at 32 %, or, with a node lost at the wrong moment, once at 25 %.
    return run.replace(network=Mlp(widths=(24, 24)), optimizer=Adam(lr=0.01))


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate of it for 127.0.0.1."""
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's own authority")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    basic = x509.BasicConstraints(ca=True, path_length=None)
    ca = _certificate(name, name, authority).add_extension(basic, critical=True).sign(authority, hashes.SHA256())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    own = _certificate(subject, name, server).add_extension(address, critical=False).sign(authority, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(ca.public_bytes(pem))
    (folder / "server.crt").write_bytes(own.public_bytes(pem))
    form = serialization.PrivateFormat.PKCS8
    (folder / "server.key").write_bytes(server.private_bytes(pem, form, serialization.NoEncryption()))


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))


def make_key(path: Path) -> None:
    """As `ssh-keygen -t ecdsa -b 384` makes it."""
    key, ssh = ec.generate_private_key(ec.SECP384R1()), serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, ssh, serialization.NoEncryption()))
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_name(f"{path.name}.pub").write_bytes(public)


def test_what_was_started_ends_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, sys, time
from layerline.runtime.flower.local import Deployment
deployment = Deployment(pathlib.Path({str(tmp_path)!r}), [])
with deployment:
    print(deployment.processes["superlink"].pid, flush=True)
    time.sleep(600)
"""
    launcher = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert launcher.stdout
    superlink = int(launcher.stdout.readline())
    os.kill(launcher.pid, signal.SIGKILL)
    launcher.communicate()
    wait_for(lambda: not there(superlink), "the SuperLink to end")


def there(group: int) -> bool:
    """Whether a process of the group is alive; of one that has ended, something may be left in the table."""
    states = subprocess.run(["ps", "-o", "stat=", "-g", str(group)], capture_output=True, text=True).stdout.split()
    return any(not state.startswith("Z") for state in states)

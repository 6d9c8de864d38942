"""In place of `flower-superexec` beside a SuperNode: one process that carries out all its messages.

Flower starts a process for every message, which has to import PyTorch, read the data and compute again what lay in the
memory of the one before: seconds, where a slot may take less. This one stays, so participants stay warm. It speaks the
same interface to its SuperNode (which runs with `--isolation process`), and knows the app it serves: ours.
"""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import suppress
from pathlib import Path

import httpx
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.app_utils import start_parent_process_monitor
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from layerline.runtime.flower.app import client as app

_SECONDS_BETWEEN = 0.1


def main() -> None:
    """Serve a SuperNode until it ends."""
    parser = argparse.ArgumentParser(description="Carry out the messages of a SuperNode, all in this process.")
    parser.add_argument("--runtime-api-address", required=True, help="The SuperNode's: HOST:PORT.")
    parser.add_argument("--root-certificates", help="Of that address, where it has TLS.")
    parser.add_argument("--parent-pid", type=int, help="End with this process.")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the monitor's way to end it, and ignored in background
    if arguments.parent_pid:
        start_parent_process_monitor(arguments.parent_pid)
    address, root = arguments.runtime_api_address, arguments.root_certificates
    certificates = Path(root).read_bytes() if root else None
    runtime = _connect(address, certificates)
    while True:
        asked = runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
        if asked.HasField("task") and asked.token:
            _carry_out(_connect(address, certificates, asked.token))
        else:
            time.sleep(_SECONDS_BETWEEN)


def _connect(address: str, certificates: bytes | None, token: str | None = None) -> RuntimeHttpClient:
    interceptors: list[ProtobufClientInterceptor] = [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")]
    interceptors += [RuntimeTokenHttpInterceptor(token)] if token else []
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=certificates is None,
        root_certificates=certificates,
        interceptors=interceptors,
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _carry_out(task: RuntimeHttpClient) -> None:
    """One message, as `flwr-clientapp` does it."""
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(task))
    heartbeat.start()
    try:
        message, context, _, _ = pull_task_input(task)
        status, details = SubStatus.COMPLETED, ""
        try:
            reply = app(message=message, context=context)
        except Exception as error:  # whatever it is, the server has to hear of it
            status, details = SubStatus.FAILED, f"{type(error).__name__}: {error}"
            reply = Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=details), reply_to=message)
        push_message(task, reply, context)
        push_task_output(client=task, context=context, sub_status=status, details=details)
    except httpx.HTTPError as error:
        print(f"a message was not carried out: {error}", flush=True)
    finally:
        if heartbeat.is_running:
            heartbeat.stop()
        task.close()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

"""What Flower loads: the server of federated runs, and their participants. Named in the app's `pyproject.toml`."""

from layerline.federated_server import serve
from layerline.runtime.flower.app import client, server_app

__all__ = ["client", "server"]

server = server_app(serve)

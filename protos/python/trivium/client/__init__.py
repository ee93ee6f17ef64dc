"""The Python SDK of Trivium: `with Client("localhost:8001") as client: print(client.classify("digit.png").label)`."""

from trivium.client.client import DEFAULT_ADDRESS, Client
from trivium.client.errors import FieldViolation, TriviumCallError
from trivium.client.results import Classification, Embedding, Model, RankedClass, Served, Tensor

__all__ = [
    "DEFAULT_ADDRESS",
    "Classification",
    "Client",
    "Embedding",
    "FieldViolation",
    "Model",
    "RankedClass",
    "Served",
    "Tensor",
    "TriviumCallError",
]

"""The Python SDK of Trivium: `with Client("localhost:8001") as client: print(client.classify("digit.png").label)`."""

from trivium.client.client import DEFAULT_ADDRESS, Client
from trivium.client.errors import FieldViolation, TriviumCallError
from trivium.client.results import Classification, Embedding, Forecast, Model, RankedClass, Served, Tensor, TrackAnswer
from trivium.client.tracker import Tracker

__all__ = [
    "DEFAULT_ADDRESS",
    "Classification",
    "Client",
    "Embedding",
    "FieldViolation",
    "Forecast",
    "Model",
    "RankedClass",
    "Served",
    "Tensor",
    "TrackAnswer",
    "Tracker",
    "TriviumCallError",
]

"""The Python SDK of Trivium: `with Client("localhost:8001") as client: print(client.classify("digit.png").label)`."""

from trivium.client.client import DEFAULT_ADDRESS, Client
from trivium.client.errors import FieldViolation, TriviumCallError
from trivium.client.generation import GenerateOptions
from trivium.client.results import Classification, Embedding, Forecast, Model, RankedClass, Served, Tensor, TrackAnswer
from trivium.client.text_results import (
    Alternative,
    Completion,
    Score,
    Text,
    TextPiece,
    Token,
    TokenLogprob,
    Tokens,
    Usage,
)
from trivium.client.tracker import Tracker

__all__ = [
    "DEFAULT_ADDRESS",
    "Alternative",
    "Classification",
    "Client",
    "Completion",
    "Embedding",
    "FieldViolation",
    "Forecast",
    "GenerateOptions",
    "Model",
    "RankedClass",
    "Score",
    "Served",
    "Tensor",
    "Text",
    "TextPiece",
    "Token",
    "TokenLogprob",
    "Tokens",
    "TrackAnswer",
    "Tracker",
    "TriviumCallError",
    "Usage",
]

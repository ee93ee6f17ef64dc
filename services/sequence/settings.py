"""SequenceSettings: everything that an operator can tell this service; TRIVIUM_SEQUENCE__* in the environment."""

from dataclasses import dataclass, field

from services.kit.inference.batcher import BatcherSettings
from services.kit.sequences import SequenceLimits
from services.kit.service import ServiceSettings
from services.kit.settings import setting


@dataclass(frozen=True, slots=True)
class SeriesSettings:
    """How series are cut."""

    window_steps: int = setting(32, low=1, high=4096)  # of one run; longer ones are cut, so that others get their turn
    max_message_steps: int = setting(1024, low=1)  # of one message of Track; more are refused with INPUT_TOO_LARGE


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceSettings(ServiceSettings):
    """Settings of the sequence service; deploy/config/sequence.toml lists them all with their defaults."""

    default_model: str = "digits-rnn"
    batcher: BatcherSettings = field(default_factory=lambda: BatcherSettings(max_batch=64))
    series: SeriesSettings = field(default_factory=SeriesSettings)
    sequences: SequenceLimits = field(default_factory=SequenceLimits)

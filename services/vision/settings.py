"""VisionSettings: everything that an operator can tell this service; TRIVIUM_VISION__* in the environment."""

from dataclasses import dataclass, field

from services.kit.service import ServiceSettings
from services.kit.settings import setting
from services.vision.decoder import DecoderSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionSettings(ServiceSettings):
    """Settings of the vision service; deploy/config/vision.toml lists them all with their defaults."""

    default_model: str = "digits-cnn"
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    stream_window: int = setting(32, low=1)  # images of one ClassifyStream that are worked on at a time

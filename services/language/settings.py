"""LanguageSettings: everything that an operator can tell this service; TRIVIUM_LANGUAGE__* in the environment."""

from dataclasses import dataclass, field

from services.kit.inference.batcher import BatcherSettings
from services.kit.service import ServiceSettings
from services.kit.settings import setting

IDLE_TOKENS = 512  # of prompts in one run while no other text waits for it


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How many texts are written at once, and what they may cost."""

    max_texts: int = setting(32, low=1, high=1024)  # written at once by one model; further ones wait
    max_queue: int = setting(256, low=1)  # texts waiting for one model; the next one is refused with QUEUE_FULL
    cache_mib: int = setting(512, low=1)  # memory for keys and values of one model, reserved when it is loaded
    prefix_mib: int = setting(
        64, low=0
    )  # for beginnings of prompts that may come again, of one model; 0: none are kept
    chunk_tokens: int = setting(128, low=1)  # of prompts in one run while other texts are being written
    patience_s: float = setting(
        60.0, low=0
    )  # a text without a deadline, or with a later one, waits for its turn as if this were the time that it has
    cuda_graphs: bool = True  # on a GPU, runs that take texts further or read prompts are recorded: fp16 and bf16 only
    # On the CPU, with fp32: tokens that are drafted for a text that is written alone; several share them.
    speculative_tokens: int = setting(4, low=0, high=64)  # 0: none
    # Seconds between a text's tokens on their way to its caller, but for the first one and the last ones; 0: none.
    stream_interval_s: float = setting(0.02, low=0, high=10)
    default_new_tokens: int = setting(64, low=1)  # where a request does not say

    @property
    def most_read(self) -> int:
        """Tokens of prompts in one run, which no text waits for."""
        return max(IDLE_TOKENS, self.chunk_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageSettings(ServiceSettings):
    """Settings of the language service; deploy/config/language.toml lists them all with their defaults."""

    default_model: str = "python-gpt"
    batcher: BatcherSettings = field(default_factory=lambda: BatcherSettings(max_batch=64))
    generation: GenerationSettings = field(default_factory=GenerationSettings)

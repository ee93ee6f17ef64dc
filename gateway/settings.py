"""GatewaySettings: TRIVIUM_GATEWAY__RETRIES__MAX_ATTEMPTS=2 overrides deploy/config/gateway.toml."""

from dataclasses import dataclass, field

from services.kit.process import ProcessSettings
from services.kit.sequences import SequenceLimits
from services.kit.settings import setting
from services.kit.transport.upstream import UpstreamSettings


@dataclass(frozen=True, slots=True)
class RetrySettings:
    """How much of the traffic may be repeated. Source of the budget: Finagle's RetryBudget."""

    max_attempts: int = setting(4, low=1, high=20)  # of one call, the first one included
    budget_ratio: float = setting(0.2, low=0, high=1)  # retries that each call earns
    budget_min_per_s: float = setting(10.0, low=0)  # retries a second that are allowed even without traffic
    budget_window_s: float = setting(10.0, low=1, high=60)  # how long unused retries are kept


@dataclass(frozen=True, slots=True)
class OutlierSettings:
    """When an instance gets no calls because its calls fail, and for how long."""

    failures: int = setting(5, low=1)  # INTERNAL, UNKNOWN or DATA_LOSS in a row; a failed connection counts at once
    backoff_s: float = setting(0.2, low=0.01)  # before the first probe; doubles with each one that fails
    max_backoff_s: float = setting(15.0, low=0.1)
    probe_timeout_s: float = setting(1.0, low=0.05)


@dataclass(frozen=True, slots=True)
class CatalogSettings:
    """How the gateway learns what instances serve."""

    timeout_s: float = setting(5.0, low=0.1)  # of ListModels, ModelStatistics and reflection at one instance
    load_timeout_s: float = setting(120.0, low=1)  # of LoadModel and UnloadModel at one instance
    poll_s: float = setting(5.0, low=0.5)  # between two looks at the counters of every instance
    grace_s: float = setting(120.0, low=0)  # how long an instance that Consul lost is kept while its connection works
    sweep_s: float = setting(0.5, low=0.05)  # between two looks for instances to let go


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What one ModelStreamInfer call may have open."""

    window: int = setting(64, low=1, high=4096)  # requests for one model that instances have; further ones wait here
    # What the requests without their last answer take; at the limit the caller is not read any more.
    max_bytes: int = setting(16 * 1024 * 1024, low=1)
    idle_s: float = setting(0.5, low=0.01)  # after which a stream to an instance that waits for nothing is closed


@dataclass(frozen=True, slots=True)
class ResumeSettings:
    """How streams, texts and sequences go on elsewhere when the instance that has them dies or leaves."""

    enabled: bool = True
    timeout_s: float = setting(30.0, low=0)  # longest search for an instance that goes on, within the call's deadline
    max_attempts: int = setting(3, low=1)  # in a row that break or fail with a request: it may be the cause
    # How long a request that may be the cause waits for an instance to break without it before it is held to be.
    doubt_s: float = setting(10.0, low=0)
    # Inputs without an answer and state of one stream; at the limit the caller is not read any more.
    max_bytes: int = setting(4 * 1024 * 1024, low=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings(ProcessSettings):
    """Settings of the gateway."""

    grpc_port: int = setting(8001, low=0, high=65535)
    http_port: int = setting(8000, low=0, high=65535)
    connections: UpstreamSettings = field(default_factory=UpstreamSettings)
    retries: RetrySettings = field(default_factory=RetrySettings)
    outliers: OutlierSettings = field(default_factory=OutlierSettings)
    catalog: CatalogSettings = field(default_factory=CatalogSettings)
    streams: StreamSettings = field(default_factory=StreamSettings)
    resume: ResumeSettings = field(default_factory=ResumeSettings)
    sequences: SequenceLimits = field(default_factory=SequenceLimits)

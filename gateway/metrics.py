"""GatewayMetrics: what the gateway counts besides its calls."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class GatewayMetrics:
    """Attempts, retries, ejections and endpoints, as trivium_gateway_*."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "trivium_gateway_attempts", "Calls to instances that ended.", ("service", "code"), registry=registry
        )
        self.retries = Counter(
            "trivium_gateway_retries",
            "Attempts after the first one, by the rule that allowed them.",
            ("rule",),
            registry=registry,
        )
        self.budget_exhausted = Counter(
            "trivium_gateway_retry_budget_exhausted", "Retries that the budget did not allow.", registry=registry
        )
        self.ejections = Counter(
            "trivium_gateway_ejections",
            "Instances that got no calls for a while.",
            ("service", "cause"),
            registry=registry,
        )
        self.endpoints = Gauge(
            "trivium_gateway_endpoints", "Instances known, by their state.", ("service", "state"), registry=registry
        )
        self.ejected = Gauge(
            "trivium_gateway_ejected_endpoints", "Instances that get no calls now.", ("service",), registry=registry
        )
        self.kept = Counter(
            "trivium_gateway_kept_endpoints",
            "Instances that Consul lost and the gateway kept, because their connection works.",
            ("service",),
            registry=registry,
        )
        self.discovery_age = Gauge(
            "trivium_gateway_discovery_age_seconds", "Time since Consul last reported a change.", registry=registry
        )
        self.stream_restarts = Counter(
            "trivium_gateway_stream_restarts",
            "Streams to instances that broke and were opened again.",
            registry=registry,
        )
        self.resumes = Counter(
            "trivium_gateway_stream_resumes",
            "Streams, texts and steps of sequences that went on after an instance had failed them.",
            ("method",),
            registry=registry,
        )
        self.other_bits = Counter(
            "trivium_gateway_resumes_on_other_bits",
            "Streams, texts and sequences that went on where the known answers of their bundle are other bits.",
            ("method",),
            registry=registry,
        )
        self.live_streams = Gauge(
            "trivium_gateway_live_streams", "Streams whose state is kept here, open now.", registry=registry
        )
        self.live_sequences = Gauge(
            "trivium_gateway_live_sequences", "Sequences whose state is kept here now.", registry=registry
        )

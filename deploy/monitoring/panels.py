"""The dashboard's rows and panels: what an operator looks at, and the queries behind it.

In a query `$scope` stands for the labels that the dashboard's variables choose.
"""

from dataclasses import dataclass

from deploy.monitoring.queries import mean, quantile, rate, total


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph: its title, its unit as Grafana names it, and (query, legend) pairs."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    about: str


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


ALL, GATEWAY, SERVICES = "$scope", '$scope,component="gateway"', '$scope,component!="gateway"'
CALLS = 'method!~"/grpc.*"'  # without health and reflection
FAILED = 'code!="OK"'
FAULTS = 'code=~"INTERNAL|UNKNOWN|DATA_LOSS"'

TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Calls by method",
            "reqps",
            ((rate("trivium_calls_total", GATEWAY, "method", CALLS), "{{method}}"),),
            "Calls that ended at the gateways, whatever their code.",
        ),
        Panel(
            "Calls in flight",
            "short",
            ((total("trivium_calls_in_flight", ALL, "component"), "{{component}}"),),
            "Accepted and not ended. A process refuses the call after LIMITS__MAX_CALLS.",
        ),
        Panel(
            "Processes by version",
            "short",
            ((f"count by (component, version) (trivium_build_info{{{ALL}}})", "{{component}} {{version}}"),),
            "Two versions of a component are a roll-out that is going on.",
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        Panel(
            "Errors by reason",
            "reqps",
            ((rate("trivium_calls_total", GATEWAY, "code, reason", CALLS, FAILED), "{{code}} {{reason}}"),),
            "What callers of the gateways got. INTERNAL, UNKNOWN and DATA_LOSS are faults of ours.",
        ),
        Panel(
            "Share of calls that failed",
            "percentunit",
            (
                (
                    f"{rate('trivium_calls_total', GATEWAY, 'method', CALLS, FAILED)} / "
                    f"{rate('trivium_calls_total', GATEWAY, 'method', CALLS)}",
                    "{{method}}",
                ),
            ),
            "Of all calls of a method at the gateways.",
        ),
        Panel(
            "Refusals and errors in the services",
            "reqps",
            (
                (
                    rate("trivium_calls_total", SERVICES, "component, code, reason", CALLS, FAILED),
                    "{{component}} {{code}} {{reason}}",
                ),
            ),
            "What the gateways got: more than callers see, since some of it is repeated elsewhere.",
        ),
        Panel(
            "Faults by instance",
            "reqps",
            ((rate("trivium_calls_total", SERVICES, "instance, code", CALLS, FAULTS), "{{instance}} {{code}}"),),
            "INTERNAL, UNKNOWN and DATA_LOSS of the services. With none here the faults are the gateways' own.",
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            "Calls at the gateway",
            "s",
            (
                (quantile(0.5, "trivium_call_seconds", GATEWAY, "method", CALLS), "p50 {{method}}"),
                (quantile(0.99, "trivium_call_seconds", GATEWAY, "method", CALLS), "p99 {{method}}"),
            ),
            "From acceptance to status; of a stream, its whole life.",
        ),
        Panel(
            "Stages in the services, p99",
            "s",
            ((quantile(0.99, "trivium_stage_seconds", SERVICES, "component, stage"), "{{component}} {{stage}}"),),
            "Where the time of a call goes: decode, queue, compute and so on.",
        ),
        Panel(
            "Added by the gateway, mean",
            "s",
            (
                (
                    f"{mean('trivium_call_seconds', GATEWAY, 'method')} - "
                    f"({mean('trivium_call_seconds', SERVICES, 'method')})",
                    "{{method}}",
                ),
            ),
            "What a call takes at the gateway beyond its time in the service: the way there and back, and retries.",
        ),
    ),
)

BATCHES = Row(
    "Batches",
    (
        Panel(
            "Rows in a run",
            "short",
            ((mean("trivium_batch_rows", SERVICES, "model"), "{{model}}"),),
            "Mean batch size. 1 under load means that the engine is faster than the transport.",
        ),
        Panel(
            "Items that wait",
            "short",
            ((total("trivium_batch_queue_items", SERVICES, "model"), "{{model}}"),),
            "In the queues of all pods; the autoscalers go by it. BATCHER__MAX_QUEUE bounds each.",
        ),
        Panel(
            "Wait for a run",
            "s",
            (
                (quantile(0.5, "trivium_batch_queue_seconds", SERVICES, "model"), "p50 {{model}}"),
                (quantile(0.99, "trivium_batch_queue_seconds", SERVICES, "model"), "p99 {{model}}"),
            ),
            "Time of one item in its queue.",
        ),
        Panel(
            "Time of a run",
            "s",
            (
                (quantile(0.5, "trivium_batch_compute_seconds", SERVICES, "model"), "p50 {{model}}"),
                (quantile(0.99, "trivium_batch_compute_seconds", SERVICES, "model"), "p99 {{model}}"),
            ),
            "One run of the engine, whatever its size.",
        ),
        Panel(
            "Items without an answer",
            "short",
            (
                (
                    rate("trivium_batch_dropped_items_total", SERVICES, "model, reason"),
                    "dropped, {{reason}}, {{model}}",
                ),
                (rate("trivium_batch_late_items_total", SERVICES, "model"), "late {{model}}"),
                (rate("trivium_batch_failed_runs_total", SERVICES, "model"), "failed runs {{model}}"),
            ),
            "A second. Dropped before a run, since nobody waits any more; late should always be 0.",
        ),
    ),
)

STREAMS = Row(
    "Streams and sequences",
    (
        Panel(
            "Live",
            "short",
            (
                (f"sum(trivium_gateway_live_streams{{{GATEWAY}}})", "streams whose state the gateways keep"),
                (f"sum(trivium_gateway_live_sequences{{{GATEWAY}}})", "sequences that the gateways keep"),
                (total("trivium_live_streams", SERVICES, "component"), "streams in {{component}}"),
                (total("trivium_live_sequences", SERVICES, "component"), "sequences in {{component}}"),
            ),
            "Each of them takes memory: about 48 KiB a stream in a gateway.",
        ),
        Panel(
            "Went on elsewhere",
            "short",
            (
                (rate("trivium_gateway_stream_resumes_total", GATEWAY, "method"), "{{method}}"),
                (rate("trivium_gateway_resumes_on_other_bits_total", GATEWAY, "method"), "on other bits {{method}}"),
                (rate("trivium_gateway_stream_restarts_total", GATEWAY, "component"), "streams opened again"),
            ),
            "A second. Streams, texts and sequences whose instance died or left.",
        ),
    ),
)

TEXTS = Row(
    "Texts",
    (
        Panel(
            "Tokens",
            "short",
            (
                (rate("trivium_generation_tokens_total", SERVICES, "model, kind"), "{{kind}} {{model}}"),
                (rate("trivium_generation_reused_tokens_total", SERVICES, "model"), "not computed again {{model}}"),
                (rate("trivium_generation_draft_tokens_total", SERVICES, "model"), "drafted {{model}}"),
                (
                    rate("trivium_generation_accepted_draft_tokens_total", SERVICES, "model"),
                    "drafts right {{model}}",
                ),
                (rate("trivium_generation_wasted_steps_total", SERVICES, "model"), "wasted steps {{model}}"),
            ),
            "A second: made, read of prompts, taken from the prefix cache, drafted, and drafted rightly; and steps of "
            "texts whose callers had left.",
        ),
        Panel(
            "First token",
            "s",
            (
                (quantile(0.5, "trivium_generation_first_token_seconds", SERVICES, "model"), "p50 {{model}}"),
                (quantile(0.99, "trivium_generation_first_token_seconds", SERVICES, "model"), "p99 {{model}}"),
                (quantile(0.99, "trivium_generation_queue_seconds", SERVICES, "model"), "p99 of the wait {{model}}"),
            ),
            "From the request to its first token, and the part of it that is waiting for a place.",
        ),
        Panel(
            "Time of a step, p99",
            "s",
            ((quantile(0.99, "trivium_generation_step_seconds", SERVICES, "model, kind"), "{{kind}} {{model}}"),),
            "One run: prefill reads prompts, decode makes one token of every text.",
        ),
        Panel(
            "Texts in a step",
            "short",
            ((mean("trivium_generation_step_rows", SERVICES, "model, kind"), "{{kind}} {{model}}"),),
            "How many share one run.",
        ),
        Panel(
            "Texts",
            "short",
            (
                (total("trivium_generation_texts_running", SERVICES, "model"), "being written {{model}}"),
                (total("trivium_generation_texts_waiting", SERVICES, "model"), "waiting {{model}}"),
            ),
            "The autoscaler goes by those that wait.",
        ),
        Panel(
            "Texts that ended",
            "short",
            ((rate("trivium_generation_texts_total", SERVICES, "model, reason"), "{{reason}} {{model}}"),),
            "A second, by reason.",
        ),
        Panel(
            "Cache in use",
            "percentunit",
            (
                (
                    f"{total('trivium_generation_cache_tokens_reserved', SERVICES, 'model')} / "
                    f"{total('trivium_generation_cache_tokens_capacity', SERVICES, 'model')}",
                    "{{model}}",
                ),
            ),
            "Keys and values that texts in work may fill. Texts wait when it is full: GENERATION__CACHE_MIB.",
        ),
    ),
)

ENDPOINTS = Row(
    "Instances as the gateways see them",
    (
        Panel(
            "Instances by state",
            "short",
            (
                (
                    f"max by (service, state) (trivium_gateway_endpoints{{{GATEWAY}}})",
                    "{{service}} {{state}}",
                ),
                (
                    f"max by (service) (trivium_gateway_ejected_endpoints{{{GATEWAY}}})",
                    "{{service}} ejected",
                ),
            ),
            "Ejected ones get probes and no calls.",
        ),
        Panel(
            "Attempts by code",
            "reqps",
            ((rate("trivium_gateway_attempts_total", GATEWAY, "service, code"), "{{service}} {{code}}"),),
            "Calls from gateways to instances.",
        ),
        Panel(
            "Retries and ejections",
            "reqps",
            (
                (rate("trivium_gateway_retries_total", GATEWAY, "rule"), "retries by rule {{rule}}"),
                (rate("trivium_gateway_ejections_total", GATEWAY, "service, cause"), "ejected {{service}} {{cause}}"),
                (
                    rate("trivium_gateway_retry_budget_exhausted_total", GATEWAY, "component"),
                    "retries that the budget refused",
                ),
            ),
            "The rules are in ARCHITECTURE.md.",
        ),
    ),
)

CONSUL = Row(
    "Consul",
    (
        Panel(
            "Connected, registered",
            "short",
            (
                (f"min by (instance) (trivium_consul_connected{{{GATEWAY}}})", "{{instance}} connected"),
                (f"min by (instance) (trivium_consul_registered{{{SERVICES}}})", "{{instance}} registered"),
            ),
            "1 is well. At 0 a gateway goes on with what it knew; an instance gets no new gateways.",
        ),
        Panel(
            "Failures",
            "short",
            (
                (rate("trivium_consul_watch_errors_total", GATEWAY, "instance"), "watch {{instance}}"),
                (rate("trivium_consul_errors_total", SERVICES, "instance"), "registration {{instance}}"),
                (rate("trivium_consul_registrations_total", SERVICES, "instance"), "registered again {{instance}}"),
                (rate("trivium_gateway_kept_endpoints_total", GATEWAY, "service"), "kept {{service}}"),
            ),
            "A second. Kept: Consul lost an instance whose connection works.",
        ),
        Panel(
            "Last change",
            "s",
            ((f"min(trivium_gateway_discovery_age_seconds{{{GATEWAY}}})", "ago"),),
            "Time since Consul last reported a change. A long time is no fault where nothing changes.",
        ),
    ),
)

PROCESSES = Row(
    "Processes",
    (
        Panel(
            "CPU",
            "short",
            ((rate("process_cpu_seconds_total", '$scope,component!=""', "instance"), "{{instance}}"),),
            "Cores. A gateway, and the transport of a service, cannot use more than one.",
        ),
        Panel(
            "Memory",
            "bytes",
            ((total("process_resident_memory_bytes", '$scope,component!=""', "instance"), "{{instance}}"),),
            "Resident.",
        ),
        Panel(
            "Calls cut off when leaving",
            "short",
            ((total("trivium_drain_cut_off_calls_total", ALL, "instance"), "{{instance}}"),),
            "Calls that outlived DRAIN_S. The log line calls_cut_off says it too.",
        ),
    ),
)

ROWS = (TRAFFIC, ERRORS, LATENCY, BATCHES, STREAMS, TEXTS, ENDPOINTS, CONSUL, PROCESSES)

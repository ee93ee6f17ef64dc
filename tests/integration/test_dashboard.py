"""Every query of the dashboard, the alerts and the autoscalers asks for metrics and labels that a running suite has."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from services.kit.inference.bundle import Bundle
from tests.harness import ROOT, Replica, Suite, serving
from trivium.client import Client, TriviumCallError

pytestmark = pytest.mark.asyncio(loop_scope="module")

MONITORING = ROOT / "deploy/components/monitoring"
METRIC = re.compile(r"\b((?:trivium|process)_[a-z_]+)(?:\{([^}]*)\})?")
BY = re.compile(r"\bby \(([^)]*)\)")
TARGET = {"component", "instance", "namespace"}  # labels that the scraping adds
# What happens only when something is wrong, and leaves no sample before.
RARE = {
    "trivium_batch_dropped_items_total",
    "trivium_gateway_kept_endpoints_total",
    "trivium_gateway_resumes_on_other_bits_total",
    "trivium_gateway_retries_total",
}
SUFFIXES = ("", "_total", "_bucket", "_sum", "_count")


@dataclass
class Exposed:
    """What the processes of a suite expose, by component."""

    names: dict[str, set[str]] = field(default_factory=dict)  # of metrics, also of those without a sample
    labels: dict[str, dict[str, set[str]]] = field(default_factory=dict)  # of those with samples

    def take(self, component: str, text: str) -> None:
        """What one process says."""
        names, labels = self.names.setdefault(component, set()), self.labels.setdefault(component, {})
        for family in text_string_to_metric_families(text):
            names |= {f"{family.name}{suffix}" for suffix in SUFFIXES}
            for sample in family.samples:
                labels.setdefault(sample.name, set()).update(sample.labels)

    def problem(self, asked: "Asked") -> str:
        """What a query asks for and does not get; empty if it does."""
        scope = [component for component in self.names if asked.includes(component)]
        if not any(asked.metric in self.names[component] for component in scope):
            return f"{', '.join(scope)}: no {asked.metric}"
        found = [self.labels[component][asked.metric] for component in scope if asked.metric in self.labels[component]]
        if not found:
            return "" if asked.metric in RARE else f"{', '.join(scope)}: {asked.metric} has no samples"
        missing = asked.labels - set().union(*found) - TARGET - {"le"}
        return f"{asked.metric} has no label {', '.join(sorted(missing))}" if missing else ""


@dataclass(frozen=True)
class Asked:
    """One metric of a query, and the labels that the query knows it by."""

    metric: str
    labels: set[str]
    matchers: str

    def includes(self, component: str) -> bool:
        """Whether it asks the processes of that component."""
        operator, value = (re.findall(r'\bcomponent(!?=)"([^"]*)"', self.matchers) or [("!=", "")])[0]
        return bool((component == value) == (operator == "="))


def queries() -> Iterator[tuple[str, str]]:
    """(where it stands, PromQL)."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        yield from ((panel["title"], target["expr"]) for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]
    for rule in (MONITORING / "alerts.yaml").read_text("utf-8").split("- alert: ")[1:]:
        yield rule.split("\n", 1)[0], rule
    for path in sorted(ROOT.glob("deploy/base/*/scaling.yaml")) + sorted(ROOT.glob("deploy/components/keda/*.yaml")):
        yield str(path.relative_to(ROOT)), path.read_text("utf-8")


QUERIES = list(queries())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exposed(
    language_folder: Path, recurrent_bundles: Mapping[str, Bundle], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Exposed]:
    """What a suite exposes after some calls of each kind, some of them wrong, and the death of an instance."""
    series = {"BUNDLES_DIR": recurrent_bundles["gru"].path.parents[1], "DEFAULT_MODEL": "gru"}
    async with Suite.open(tmp_path_factory.mktemp("dashboard")) as suite:
        gateway, vision, text, one = await asyncio.gather(
            suite.start_gateway(),
            suite.start("vision", "vision-1"),
            suite.start("language", "language-1", "", BUNDLES_DIR=language_folder, DEFAULT_MODEL="gpt"),
            suite.start("sequence", "sequence-1", "", **series),
        )
        for model in ("digits-cnn", "gpt", "scripts", "gru"):
            await serving(gateway.address, f"model/{model}")
        with Client(gateway.address) as client:
            await asyncio.to_thread(call_everything, client)
            with client.tracker("gru") as tracker:
                await asyncio.to_thread(tracker.send, [0.1] * 8)
                two = await suite.start("sequence", "sequence-2", "", **series)
                one.kill()
                await asyncio.to_thread(tracker.send, [0.2] * 8)
                found = Exposed()
                for replica in (gateway, text, two, vision):
                    found.take(replica.component, await scrape(replica))
        yield found


def call_everything(client: Client) -> None:
    """Calls of each kind."""
    client.classify(ROOT / "services/vision/samples/7-0007.png")
    with pytest.raises(TriviumCallError):
        client.classify(b"no image")
    client.complete("def f(x):", "gpt", max_new_tokens=8)
    client.classify_text("three hundred", "scripts")


async def scrape(replica: Replica) -> str:
    """Its page of metrics."""
    async with aiohttp.ClientSession() as session, session.get(f"http://{replica.http_address}/metrics") as answer:
        return await answer.text()


def asked(query: str) -> Iterator[Asked]:
    """The metrics of a query."""
    grouped = {label.strip() for group in BY.findall(query) for label in group.split(",")}
    for metric, matchers in METRIC.findall(query):
        yield Asked(metric, grouped | set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\"", matchers)), matchers)


@pytest.mark.parametrize(("where", "query"), QUERIES, ids=[where for where, _ in QUERIES])
async def test_a_query_asks_for_what_a_running_suite_exposes(exposed: Exposed, where: str, query: str) -> None:
    metrics = list(asked(query))
    assert metrics or "kustomization" in where or "gateway/scaling" in where
    assert [problem for one in metrics if (problem := exposed.problem(one))] == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("trivium_calls_ended_total", "gateway, language, sequence, vision: no trivium_calls_ended_total"),
        ('trivium_live_streams{component="gateway"}', "gateway: no trivium_live_streams"),
        ('trivium_stage_seconds_bucket{component="gateway"}', "gateway: trivium_stage_seconds_bucket has no samples"),
        ('sum by (verb) (trivium_calls_total{colour="red"})', "trivium_calls_total has no label colour, verb"),
    ],
)
async def test_a_query_for_what_does_not_exist_is_seen(exposed: Exposed, query: str, expected: str) -> None:
    assert [exposed.problem(one) for one in asked(query)] == [expected]


async def test_every_metric_of_ours_is_on_the_dashboard(exposed: Exposed) -> None:
    shown = [one.metric for _, query in QUERIES for one in asked(query)]
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for labels in exposed.labels.values()
        for name in labels
        if name.startswith("trivium_") and not name.endswith("_created")
    }
    assert {name for name in ours if not any(found.startswith(name) for found in shown)} == set()

"""The shapes that queries have: PromQL with `scope`, a list of label matchers, in the place of the variables."""


def rate(metric: str, scope: str, by: str, *extra: str) -> str:
    """The summed rate of a counter: PromQL."""
    selector = ",".join([scope, *extra])
    return f"sum by ({by}) (rate({metric}{{{selector}}}[$__rate_interval]))"


def quantile(q: float, histogram: str, scope: str, by: str, *extra: str) -> str:
    """A quantile of a histogram, over all processes: PromQL."""
    return f"histogram_quantile({q}, {rate(f'{histogram}_bucket', scope, f'{by}, le', *extra)})"


def mean(histogram: str, scope: str, by: str) -> str:
    """The mean of what a histogram observed: PromQL."""
    return f"{rate(f'{histogram}_sum', scope, by)} / {rate(f'{histogram}_count', scope, by)}"


def total(metric: str, scope: str, by: str) -> str:
    """The sum of a gauge: PromQL."""
    return f"sum by ({by}) ({metric}{{{scope}}})"

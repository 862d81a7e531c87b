"""What a histogram comes to in numbers, for trackers that only draw lines."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["summary"]

_PERCENTILES: Final = (5, 50, 95)


def summary(content: bytes) -> Mapping[str, float]:
    """Mean, standard deviation, least, greatest and percentiles of a histogram.

    The percentiles are estimates: values are taken to be spread evenly within a bucket. A number that is not finite is left
    out.

    Args:
        content: JSON of TensorBoard's HistogramProto: min, max, num, sum, sum_squares, bucket_limit, bucket.

    Raises:
        ValueError: it is no histogram.
    """
    try:
        said = json.loads(content)
        low, high, count, total, squares = (float(said[name]) for name in ("min", "max", "num", "sum", "sum_squares"))
        limits, buckets = [float(n) for n in said["bucket_limit"]], [float(n) for n in said["bucket"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no histogram: {error}") from error
    if not count > 0:
        return {}
    mean = total / count
    found: dict[str, Any] = {
        "mean": mean,
        "std": math.sqrt(max(squares / count - mean * mean, 0.0)),  # in this order nan stays nan
        "min": low,
        "max": high,
    }
    found |= {f"p{percent}": _percentile(percent / 100, low, high, limits, buckets) for percent in _PERCENTILES}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _percentile(part: float, low: float, high: float, limits: list[float], buckets: list[float]) -> float:
    wanted = part * sum(buckets)
    below, left = 0.0, low
    for limit, held in zip(limits, buckets, strict=False):
        right = min(max(limit, low), high)  # the last limit is the largest double
        if held > 0 and below + held >= wanted:
            return left + (right - left) * (wanted - below) / held
        below, left = below + held, right
    return high

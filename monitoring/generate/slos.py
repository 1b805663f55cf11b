"""The service levels: their recording rules, and the alerts on how fast their budgets burn.

A page needs a burn that would use up 30 days' budget in about two days, in a long window and in a
short one: the long one keeps a blip silent, the short one ends the alert soon after the cause (SRE
workbook, chapter 5; the windows are those of kubernetes-mixin).
"""

from dataclasses import dataclass

from alerts import Alert


@dataclass(frozen=True)
class Slo:
    """A service level: `ratio` is its share of bad events over `$W`, `budget` the share allowed."""

    alert: str
    record: str
    ratio: str
    budget: str
    events: str
    fewest: int
    summary: str


# What the server asks itself keeps no promise to anybody: probes count in none of these.
SLOS = [
    Slo(
        'RollcallTaskErrorBudgetBurn', 'job:rollcall_task_platform_errors:ratio_rate',
        ratio='sum by (job) (rate(rollcall_tasks_completed_total{fault=~"worker|rollcall",capability!="_probe"}[$W]))'
        ' / sum by (job) (rate(rollcall_tasks_completed_total{outcome!="cancelled",capability!="_probe"}[$W]))',
        budget='0.005', events='rollcall_tasks_completed_total{capability!="_probe"}', fewest=50,
        summary='Tasks are lost, expired or timed out faster than the 99.5% SLO allows.',
    ),
    Slo(
        'RollcallQueueWaitBudgetBurn', 'job:rollcall_task_slow_starts:ratio_rate',
        # Prometheus 3 stores le="30.0", 2 stores le="30".
        ratio=r'1 - sum by (job) (rate(rollcall_task_queue_wait_seconds_bucket{le=~"30(\\.0)?",capability!="_probe"}[$W]))'
        ' / sum by (job) (rate(rollcall_task_queue_wait_seconds_count{capability!="_probe"}[$W]))',
        budget='0.01', events='rollcall_task_queue_wait_seconds_count{capability!="_probe"}', fewest=50,
        summary='More than 1% of tasks wait over 30s before a worker starts them.',
    ),
    Slo(
        'RollcallApiErrorBudgetBurn', 'job:rollcall_http_errors:ratio_rate',
        ratio='sum by (job) (rate(rollcall_http_requests_total{code=~"5.."}[$W]))'
        ' / sum by (job) (rate(rollcall_http_requests_total[$W]))',
        budget='0.001', events='rollcall_http_requests_total', fewest=200,
        summary='The API returns 5xx faster than the 99.9% SLO allows.',
    ),
]

WINDOWS = ['5m', '30m', '1h', '2h', '6h', '1d', '3d']

# The long window, the short one, how many times faster than allowed, how loud, and for how long.
BURNS = [
    ('1h', '5m', '14.4', 'critical', '2m'),
    ('6h', '30m', '6', 'critical', '15m'),
    ('1d', '2h', '3', 'warning', '1h'),
    ('3d', '6h', '1', 'warning', '3h'),
]

AGGREGATIONS = [
    (
        'job_pool:rollcall_slots:utilization_ratio',
        'sum by (job, pool) (rollcall_worker_slots{state="used"})'
        ' / sum by (job, pool) (rollcall_worker_slots{state=~"used|free"})',
    ),
    (
        'job_pool:rollcall_workers:available_ratio',
        'sum by (job, pool) (rollcall_workers{state="ready"}) / sum by (job, pool) (rollcall_workers)',
    ),
    (
        'job_capability:rollcall_task_queue_wait_seconds:p99_rate5m',
        'histogram_quantile(0.99, sum by (job, capability, le)'
        ' (rate(rollcall_task_queue_wait_seconds_bucket[5m])))',
    ),
    # What is configured against what Prometheus sees. Each worker has its line on the page of workers...
    (
        'job:rollcall_workers:seen_ratio',
        '(count by (job) (rollcall_worker_up) or 0 * sum by (job) (rollcall_workers))'
        ' / (sum by (job) (rollcall_workers) > 0)',
    ),
    # ... and a page of its own, where it serves one. That of a worker that is down is missing rightly.
    (
        'job:rollcall_worker_pages:seen_ratio',
        'avg by (job) (up{job="rollcall-worker-hosts"} and on (worker) rollcall_worker_up == 1)',
    ),
]


def ratios():
    """The recording rules: each service level over each window."""
    return [(slo.record + w, slo.ratio.replace('$W', w)) for slo in SLOS for w in WINDOWS]


def burns():
    """The alerts: each service level at each speed."""
    return [burn(slo, *speed) for slo in SLOS for speed in BURNS]


def burn(slo, long, short, factor, severity, wait):
    limit = f'> ({factor} * {slo.budget})'
    expr = (
        f'{slo.record}{long} {limit} and {slo.record}{short} {limit}'
        f' and sum by (job) (increase({slo.events}[{long}])) > {slo.fewest}'
    )
    labels = (('long', long), ('short', short))
    return Alert(slo.alert, severity, 'slos', slo.summary, expr, wait, labels=labels)

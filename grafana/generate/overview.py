"""Is it fine, and where do I look?"""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'overview', 'Rollcall overview', ['pool', 'capability']
DESCRIPTION = 'Is it fine, and where do I look? From here every name leads to the board that knows more.'

BAD_TASKS = 'sum by (instance) (increase(rollcall_tasks_completed_total{@, fault=~"worker|rollcall", capability!="_probe"}[range]))'
ALL_TASKS = 'sum by (instance) (increase(rollcall_tasks_completed_total{@, outcome!="cancelled", capability!="_probe"}[range]))'
SLOW = (
    r'1 - sum by (instance) (increase(rollcall_task_queue_wait_seconds_bucket{@, le=~"30(\\.0)?", capability!="_probe"}[range]))'
    ' / sum by (instance) (increase(rollcall_task_queue_wait_seconds_count{@, capability!="_probe"}[range]))'
)
API = (
    'sum by (instance) (increase(rollcall_http_requests_total{@, code=~"5.."}[range]))'
    ' / sum by (instance) (increase(rollcall_http_requests_total{@}[range]))'
)
READY = 'sum by (instance) (rollcall_workers{@p, state="ready"}) / sum by (instance) (rollcall_workers{@p})'
USED = (
    'sum by (instance) (rollcall_worker_slots{@p, state="used"})'
    ' / sum by (instance) (rollcall_worker_slots{@p, state=~"used|free"})'
)
SHARES = [limit('PoolDegraded', severity='critical'), limit('PoolDegraded', severity='warning')]
RUNBOOK = [{'title': 'Runbook', 'url': 'http://127.0.0.1:7600/runbooks/${__data.fields.alertname}', 'targetBlank': True}]

ROWS = [
    row(
        'Health',
        alert_list('Firing alerts', 'What Grafana hears of the alerts whose name begins with Rollcall. Normal: none. '
                   'The table beside it has the same from Prometheus itself, with a link to each runbook.', 6, 8),
        table(
            'What to do', 'Every alert that fires now, from Prometheus itself. Normal: only RollcallWatchdog, which always '
            'fires. Click a name for its runbook: what it means, what to look at first, what to do.',
            'alertname',
            [('state', 'sum by (alertname, severity, pool, capability, worker)'
              ' (ALERTS{alertname=~"Rollcall.*", alertstate="firing"})', 'short', [(1, 1000, '▲ FIRING', VERMILION)])],
            w=6, h=8, links=RUNBOOK,
        ),
        gauge('Budget left: tasks, 30 d', 'percentunit', 'How much of the 0.5 % of tasks that may end badly by our fault in 30 '
              'days is left. Normal: over a third. At 0 the promise is broken: see the SLO board for who used it up.',
              (f'1 - ({BAD_TASKS} / {ALL_TASKS}) / 0.005', '{{instance}}'), limits=[0.1, 0.33], below=True, timeFrom='30d'),
        gauge('Budget left: starts, 30 d', 'percentunit', 'How much of the 1 % of tasks that may wait over 30 s in 30 days is '
              'left. Normal: over a third. Falling fast: there are too few slots, see Tasks and queue.',
              (f'1 - ({SLOW}) / 0.01', '{{instance}}'), limits=[0.1, 0.33], below=True, timeFrom='30d'),
        gauge('Budget left: API, 30 d', 'percentunit', 'How much of the 0.1 % of requests that may be answered with 5xx in 30 '
              'days is left. Normal: over a third. Falling fast: see API and access.',
              (f'1 - ({API}) / 0.001', '{{instance}}'), limits=[0.1, 0.33], below=True, timeFrom='30d'),
        stat('Tasks not failed by us', 'percentunit', 'Of the tasks that ended in the last hour, those that no worker and no '
             'server failed. Normal: over 99.5 %. Less: see Tasks and queue for the ending and the capability.',
             (f'1 - {BAD_TASKS} / {ALL_TASKS}', '{{instance}}'), limits=[0.995], below=True, timeFrom='1h'),
        stat('Start wait, p99', 's', 'One task in a hundred waited longer than this until a worker had it. Normal: under a '
             'second. Over 30 s it costs budget: add slots, or look why workers are not ready.',
             ('histogram_quantile(0.99, sum by (instance, le) (rate(rollcall_task_queue_wait_seconds_bucket{@c}[~])))',
              '{{instance}}'), limits=[30]),
        stat('Oldest queued task', 's', 'How long the task at the head of the queue has been eligible. Normal: seconds. Past '
             'the limit with nothing started it pages: see Tasks and queue.',
             ('max by (instance) (rollcall_queue_oldest_age_seconds{@c})', '{{instance}}'), limits=[limit('QueueStalled')]),
        stat('Workers available', 'percentunit', 'Ready workers of those configured. Normal: all of them. Less: the table of '
             'pools below says which.', (READY, '{{instance}}'), limits=SHARES, below=True),
        stat('Slots used', 'percentunit', 'Slots that run a task, of those on ready workers. Normal: below nine tenths. More, '
             'and tasks begin to wait: add workers or slots.', (USED, '{{instance}}'),
             limits=[0.8, limit('AutoscalerLimited')]),
        stat('Server', 'short', 'The stage of its life that each server is in. Normal: ready. Recovering for more than a lease '
             'means that it waits for workers that held tasks before a restart.',
             ('rollcall_lifecycle{@} == 1', '{{state}} {{instance}}'), text_mode='name'),
        stat('Configuration', 'short', 'Whether the file as it is now is in force. Normal: IN FORCE. REJECTED: the last change '
             'was refused, and `rollcall check config.yaml` tells the lines.',
             ('rollcall_config_last_reload_successful{@}', '{{instance}}'),
             maps=[(0, 0, '✖ REJECTED', VERMILION), (1, 1, '✔ IN FORCE', BLUE)]),
        stat('Configuration loaded', 'dateTimeFromNow', 'When the file was last taken up. Normal: when you last changed it. Older '
             'than the file: nobody watches it, `rollcall reload` takes it up.',
             ('rollcall_config_last_reload_success_timestamp_seconds{@} * 1000', '{{instance}}')),
    ),
    row(
        'Flow',
        graph('Tasks in and out', 'ops', 'Tasks that were accepted, started and ended. Normal: the three go together. Completed '
              'below submitted for long: the backlog grows.',
              ('sum by (instance) (rate(rollcall_task_submissions_total{@c, outcome="accepted"}[~]))', 'submitted {{instance}}'),
              ('sum by (instance) (rate(rollcall_task_queue_wait_seconds_count{@c}[~]))', 'started {{instance}}'),
              ('sum by (instance) (rate(rollcall_tasks_completed_total{@c}[~]))', 'completed {{instance}}'), w=12),
        graph('Completed by outcome', 'ops', 'How tasks end. Normal: succeeded, and failed where callers send what fails. '
              'Lost, expired or timed out: see Tasks and queue for whose fault it is.',
              by('outcome', 'rollcall_tasks_completed_total{@c}', 'rate'), w=12),
        graph('Backlog by state', 'short', 'Tasks that are not final. Normal: few queued, running at most as many as there are '
              'slots. A growing stack of queued ones: see why they wait on Tasks and queue.',
              by('state', 'rollcall_queue_tasks{@c}'), stacked=True, w=12),
        heatmap('Start wait', 's', 'How many tasks waited how long for a worker. Normal: a band at the bottom. One that spreads '
                'upwards is a queue that builds up; two bands are two kinds of task.',
                'sum by (le) (increase(rollcall_task_queue_wait_seconds_bucket{@c}[~]))', w=12),
        graph('Task latency', 's', 'From accepted to final, with waiting, retries and execution. Normal: near the time that the '
              'work takes. If it rises and the start wait does not, the workers are slow.',
              *quantiles('rollcall_task_latency_seconds', '@c'), w=24),
    ),
    row(
        'Fleet',
        table('Pools', 'Each pool in one line. Normal: OK, utilisation below 0.8, heartbeats that lag by milliseconds, actual '
              'as desired. Click a pool for its board.', 'pool', [
                  ('state', AVAILABLE, 'percentunit', SHARE),
                  ('available', 'sum by (instance, pool) (rollcall_workers{@p, state="ready"})', 'short', ()),
                  ('configured', 'sum by (instance, pool) (rollcall_workers{@p})', 'short', ()),
                  ('utilisation', UTILISATION, 'percentunit', ()),
                  ('heartbeat lag, p99', 'histogram_quantile(0.99, sum by (instance, pool, le) (rate(rollcall_worker_heartbeat_lag_seconds_bucket{@p}[~])))', 's', ()),
                  ('desired', 'sum by (instance, pool) (rollcall_autoscaler_desired_workers{@p})', 'short', ()),
                  ('disconnects', 'sum by (instance, pool) (increase(rollcall_worker_disconnects_total{@p}[range]))', 'short', ()),
              ]),
        graph('Workers by state', 'short', 'Each configured worker in exactly one state. Normal: all ready. Disconnected or '
              'ejected ones are away; cordoned and draining ones are held back by a person.',
              by('state', 'rollcall_workers{@p}'), stacked=True, w=12),
        timeline('Pools over time', 'How each pool was. Normal: OK throughout. A change that comes right after a reload or a '
                 'restart (the vertical lines) has its cause there.',
                 (f'topk(8, {AVAILABLE})', '{{pool}} {{instance}}'), maps=SHARE, w=12),
        graph('Reconnects by pool', 'short', 'Connections made again after a loss. Normal: none but at restarts. Many in one '
              'pool: its network or its workers; in all pools: the server.',
              top('pool', 'rollcall_pool_reconnects_total{@p}', 'increase'), w=24),
    ),
    row(
        'Server',
        graph('CPU', 'short', 'Cores that the process uses. Normal: below one, for the core has one thread. At one, see Event '
              'loop lag.', ('rate(process_cpu_seconds_total{@}[~])', '{{instance}}'), w=12),
        graph('Resident memory', 'bytes', 'Memory in use. Normal: tens of megabytes, and level. A steady rise without more '
              'tasks or workers is worth a report.', ('process_resident_memory_bytes{@}', '{{instance}}'), w=12),
        graph('Event loop lag', 's', 'How much later than asked a short sleep ended. Normal: a few milliseconds. At the line it '
              'is a ticket: dispatch and heartbeats are late by as much; see Internals.',
              *quantiles('rollcall_runtime_lag_seconds', '@'), limits=[limit('RuntimeLag')], w=12),
        graph('Store commits', 's', 'How long a commit takes, with its sync. Normal: what the disk needs, milliseconds. At the '
              'line it is a ticket: see Internals for the disk.',
              *quantiles('rollcall_store_commit_seconds', '@'), limits=[limit('StoreSlow')], w=12),
        closed=True,
    ),
]

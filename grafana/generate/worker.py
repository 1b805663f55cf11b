"""One worker: is it up, what does it do, and how is its process?"""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'worker', 'Rollcall workers', ['pool', 'worker']
DESCRIPTION = 'One worker, or a few beside each other: as the server sees them, and as their own pages do.'

# The worker programs' own pages are another job: they are found by service discovery, and bear the
# worker's name as a label.
HOST = 'job="rollcall-worker-hosts", pool=~"$pool", worker=~"$worker"'

ROWS = [
    row(
        'As the server sees it',
        timeline('Up', 'Up means ready, or connected and held back by a person. Normal: UP. Down for fifteen minutes is a ticket: '
                 '`rollcall workers describe NAME` says why.',
                 ('topk(8, rollcall_worker_up{@w})', '{{worker}} {{instance}}'), maps=UP, w=12),
        stat('Last heartbeat', 'dateTimeFromNow', 'When its last frame arrived. Normal: within an interval. Longer than 2.5 intervals ago: '
             'it is taken for gone.',
             ('topk(8, rollcall_worker_last_heartbeat_timestamp_seconds{@w} * 1000)', '{{worker}} {{instance}}'), w=6, h=8),
        stat('Version', 'short', 'What its program says of itself. Normal: the same for all workers of a pool. Several: a rollout that '
             'is under way, or one that stopped.',
             ('topk(8, rollcall_worker_info{@w})', '{{worker}} {{version}} {{protocol}}'), w=6, h=8, text_mode='name'),
        graph('Running tasks and slots', 'short', 'Slots that hold a task, and all that it has. Normal: running at most as many as slots. '
              'Always full: it may be the slowest of its pool.',
              ('topk(8, rollcall_worker_running_tasks{@w})', 'running {{worker}}'),
              ('topk(8, rollcall_worker_capacity_slots{@w})', 'maximum {{worker}}'), w=12),
        graph('Attempts', 'ops', 'What ended there, well or not. Normal: ok. Errors on one worker and not on its like: drain it.',
              ('topk(8, rate(rollcall_worker_attempts_total{@w}[~]))', '{{outcome}} {{worker}}'), w=12),
        graph('Reconnects', 'short', 'Connections made again after a loss, in the hour before. Normal: none. At the line it is a ticket: it '
              'crashes, or something cuts its connection.',
              ('topk(8, increase(rollcall_worker_reconnects_total{@w}[range]))', '{{worker}} {{instance}}'),
              limits=[limit('WorkerFlapping')], w=24, timeFrom='1h'),
    ),
    row(
        'Its process',
        graph('CPU of the worker', 'short', 'Cores that the worker program uses, without what it starts. Normal: little. At one: its own loop is '
              'full, and heartbeats come late.',
              (f'topk(8, rate(process_cpu_seconds_total{{{HOST}}}[~]))', '{{worker}}'), w=12),
        graph('Memory of the worker', 'bytes', 'Memory of the worker program, without what it starts. Normal: level. A steady rise is a leak '
              'there.', (f'topk(8, process_resident_memory_bytes{{{HOST}}})', '{{worker}}'), w=12),
        graph('File descriptors of the worker', 'short', 'Files and sockets that it has open. Normal: level. A steady rise ends in refusals.',
              (f'topk(8, process_open_fds{{{HOST}}})', '{{worker}}'), w=12),
        timeline('Its page', 'Whether Prometheus can read the worker\'s own page. Normal: UP. DOWN while the worker is up: its port is not '
                 'reachable from Prometheus.', (f'topk(8, up{{{HOST}}})', '{{worker}}'), maps=UP, w=12),
        closed=True,
    ),
]

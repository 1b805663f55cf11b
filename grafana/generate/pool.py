"""A pool: its workers, their heartbeats and connections, and the work that they do."""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'pool', 'Rollcall pools', ['pool']
DESCRIPTION = 'The workers of a pool: are they there, do they answer, do they work? Workers of no pool are the pool static.'

ROWS = [
    row(
        'Workers',
        graph('Workers by state', 'short', 'Each configured worker in exactly one state. Normal: all ready. ejected: their own failures '
              'took them out; suspect: silent; disconnected: away.',
              by('state', 'rollcall_workers{@p}'), stacked=True),
        graph('Slots', 'short', 'Places for tasks. Normal: some free. unavailable: on workers that take no tasks, or held by tasks that '
              'do not stop.', by('state', 'rollcall_worker_slots{@p}'), stacked=True),
        graph('Utilisation', 'percentunit', 'Slots used, of those on ready workers. Normal: below the first line. Between the two tasks '
              'begin to wait; above both the pool is full: add workers.',
              (f'topk(8, {UTILISATION})', '{{pool}} {{instance}}'), limits=[0.8, limit('AutoscalerLimited')]),
        graph('Available', 'percentunit', 'Ready workers of those configured. Normal: 1. Under the upper line it is a ticket, under the '
              'lower one it pages: the table below says which are away.',
              (f'topk(8, {AVAILABLE})', '{{pool}} {{instance}}'),
              limits=[limit('PoolDegraded', severity='critical'), limit('PoolDegraded', severity='warning')], below=True, w=24),
    ),
    row(
        'Heartbeats',
        graph('Round trip', 's', 'From a ping to its pong. Normal: what the network takes. A rise with no lag is the network; lag with no '
              'rise is a worker that stalls.', *quantiles('rollcall_worker_heartbeat_rtt_seconds', '@p'), w=12),
        graph('Heartbeat lag', 's', 'The gap between two heartbeats, less the interval. Normal: milliseconds. At the line one was left out '
              'altogether. On all pools at once, look at the server.', *quantiles('rollcall_worker_heartbeat_lag_seconds', '@p'), limits=[30], w=12),
        heatmap('Heartbeat lag of all', 's', 'How many heartbeats came how late. Normal: a band at the bottom. Few far above: single workers '
                'that stall; all of them: the network or the server.',
                'sum by (le) (increase(rollcall_worker_heartbeat_lag_seconds_bucket{@p}[~]))', w=12),
        graph('Heartbeats by outcome', 'ops', 'On time, late (over 1.1 intervals) and missed (over 2). Normal: on_time only.',
              by('outcome', 'rollcall_worker_heartbeats_total{@p}', 'rate'), w=12),
        graph('Late or missed', 'percentunit', 'The share of heartbeats that were not on time. Normal: 0. At the line for ten minutes it is '
              'a ticket: overloaded hosts, or a network that loses packets.',
              ('topk(8, sum by (instance, pool) (rate(rollcall_worker_heartbeats_total{@p, outcome!="on_time"}[~])) / sum by (instance, pool) (rate(rollcall_worker_heartbeats_total{@p}[~])))',
               '{{pool}} {{instance}}'), limits=[limit('HeartbeatsLate')], w=12),
        graph('Oldest heartbeat', 's', 'The age of the oldest last frame among connected workers. Normal: below an interval. At 1.5 the '
              'worker gets no new tasks, at 2.5 it is disconnected.',
              ('topk(8, max by (instance, pool) (rollcall_worker_heartbeat_oldest_age_seconds{@p}))', '{{pool}} {{instance}}'), w=12),
    ),
    row(
        'Connections',
        graph('Tries to connect', 'short', 'How dialling and dialling in ended. Normal: ok, at starts. refused and timeout: nothing listens '
              'there; auth: a wrong token; duplicate: two processes bear one name.',
              top('outcome', 'rollcall_worker_connects_total{@p}', 'increase'), w=12),
        graph('Disconnects by reason', 'short', 'Why connections ended. Normal: planned ones (drained, moved, scaled_in, removed). '
              'heartbeat_timeout: silent; peer_closed: it crashed; slow_consumer: it does not read.',
              top('reason', 'rollcall_worker_disconnects_total{@p}', 'increase'), w=12),
        graph('Reconnects', 'short', 'Connections made again after a loss. Normal: none but at restarts. Steady ones: a proxy that cuts idle '
              'connections, or workers that crash.',
              top('pool', 'rollcall_pool_reconnects_total{@p}', 'increase'), w=12),
        graph('Time away', 's', 'From disconnected to registered again. Normal: seconds. Near the lease, tasks are given to others meanwhile.',
              *quantiles('rollcall_worker_downtime_seconds', '@p'), w=12),
        graph('Time to connect', 's', 'From dialling to registered. Normal: milliseconds, and more with TLS. Seconds: an overloaded worker, '
              'or names that resolve slowly.', *quantiles('rollcall_worker_connect_seconds', '@p'), w=12),
        graph('Send queue full', 'short', 'Times that a worker did not read what was sent to it. Normal: none. Its connection is closed for '
              'it: look at the worker named in the log.',
              top('pool', 'rollcall_ws_send_queue_full_total{@p}', 'increase'), w=12),
    ),
    row(
        'Health',
        graph('Canaries', 'short', 'Small tasks that show that a worker works: after it registered, after an ejection, and when it was idle '
              'for long. Normal: passed. failed: it takes no tasks until one has passed.',
              ('sum by (instance, outcome) (increase(rollcall_worker_canaries_total{@p}[~]))', '{{outcome}} {{instance}}'), w=12),
        graph('Ejections', 'short', 'Workers that failed by their own fault five times in a row. Normal: none. ejected: out for a while; pool_limit '
              'and last_ready: kept, because too many of the pool are out, or nobody else offers the same.',
              ('sum by (instance, outcome) (increase(rollcall_worker_ejections_total{@p}[~]))', '{{outcome}} {{instance}}'), w=12),
    ),
    row(
        'Probes',
        graph('Probes by outcome', 'short', 'Tasks that the server sends to itself, by the whole way that tasks go: one for each pool and minute, '
              'where its kind of worker has a canary. Normal: succeeded. With slots free and none back for five minutes it pages: the log names the task and why.',
              ('topk(8, sum by (instance, pool, outcome) (increase(rollcall_task_attempts_total{@p, capability="_probe"}[~])))', '{{pool}} {{outcome}} {{instance}}'), w=12),
        graph('Probe latency', 's', 'From accepted to recorded, of all pools together. Normal: milliseconds, and what the canary takes. It rises with '
              'the queue, the disk and the network: Internals and the heartbeats tell which.',
              *quantiles('rollcall_task_latency_seconds', '@, capability="_probe"'), w=12),
    ),
    row(
        'Work',
        graph('Attempts by outcome', 'ops', 'What its workers made of their tasks. Normal: succeeded. worker_lost and rejected are the '
              'workers\' own; failed may be the callers\'.',
              by('outcome', 'rollcall_task_attempts_total{@p}', 'rate'), w=12),
        graph('Acknowledgement', 's', 'From the hand-over to the worker\'s word that it has begun. Normal: a round trip. More: its own loop '
              'is busy, lower its slots.', *quantiles('rollcall_task_start_ack_seconds', '@p'), w=12),
    ),
    row(
        'Each worker',
        table('Workers', 'Every worker of the pool in one line. Normal: UP, a heartbeat within the interval, no reconnects. Click one for its '
              'board.', 'worker', [
                  ('state', 'sum by (instance, pool, worker) (rollcall_worker_up{@p})', 'short', UP),
                  ('last heartbeat', 'max by (instance, pool, worker) (rollcall_worker_last_heartbeat_timestamp_seconds{@p}) * 1000', 'dateTimeFromNow', ()),
                  ('running', 'sum by (instance, pool, worker) (rollcall_worker_running_tasks{@p})', 'short', ()),
                  ('slots', 'sum by (instance, pool, worker) (rollcall_worker_capacity_slots{@p})', 'short', ()),
                  ('reconnects', 'sum by (instance, pool, worker) (increase(rollcall_worker_reconnects_total{@p}[range]))', 'short', ()),
                  ('errors', 'sum by (instance, pool, worker) (increase(rollcall_worker_attempts_total{@p, outcome="error"}[range])) / sum by (instance, pool, worker) (increase(rollcall_worker_attempts_total{@p}[range]))', 'percentunit', ()),
                  ('version', 'sum by (instance, pool, worker, version, zone) (rollcall_worker_info{@p})', 'short', ()),
              ], h=12),
    ),
]

"""What the autoscaler wants, does, and is kept from."""

from limits import limit
from panels import *

UID, TITLE, VARIABLES = 'autoscaling', 'Rollcall autoscaling', ['pool']
DESCRIPTION = 'Desired and actual sizes of pools, why they change, and what holds them back.'

LIMITED = [(0, 0, '✔ free', BLUE), (1, 1, '▲ LIMITED', ORANGE)]
ON = [(0, 0, '▲ paused', GREY), (1, 1, '✔ on', BLUE)]

ROWS = [
    row(
        'Size',
        graph('Desired and actual', 'short', 'What each pool should have and has, between its bounds. Normal: actual follows desired within a '
              'minute. Apart for fifteen minutes is a ticket: instances do not start or do not stop.',
              ('topk(2, sum by (instance, pool) (rollcall_autoscaler_desired_workers{@p}))', 'desired {{pool}}'),
              ('topk(2, sum by (instance, pool) (rollcall_workers{@p, state!~"draining|disconnected"}))', 'actual {{pool}}'),
              ('topk(2, sum by (instance, pool) (rollcall_autoscaler_min_workers{@p}))', 'minimum {{pool}}'),
              ('topk(2, sum by (instance, pool) (rollcall_autoscaler_max_workers{@p}))', 'maximum {{pool}}'), w=16),
        timeline('On or paused', 'Whether the pool is scaled by itself. Normal: on. Paused is a person\'s word, and stays until resumed.',
                 ('topk(8, rollcall_autoscaler_enabled{@p})', '{{pool}}'), maps=ON),
    ),
    row(
        'What drove it',
        graph('Backlog', 'short', 'Tasks that wait for a worker. Normal: near 0. It should fall soon after desired rises; if not, the new '
              'workers do not offer what is asked.',
              by('state', 'rollcall_queue_tasks{@, state=~"queued|delayed"}'), w=12),
        graph('Utilisation', 'percentunit', 'Slots used, of those on ready workers. Normal: near the pool\'s target_load. Above the line at the '
              'maximum size it is a ticket: raise `max`.',
              (f'topk(8, {UTILISATION})', '{{pool}} {{instance}}'),
              limits=[limit('AutoscalerLimited')], w=12),
    ),
    row(
        'Decisions',
        graph('Decisions', 'short', 'What every evaluation came to. Normal: hold, with up and down when the load changes. up and down in turns: '
              'raise `downscale_delay`.',
              ('topk(8, sum by (instance, direction, reason) (increase(rollcall_autoscaler_decisions_total{@p}[~])))', '{{direction}} {{reason}}'), w=12),
        timeline('Limited', 'What keeps the autoscaler from what it wants. Normal: free. max with a full pool: raise `max`; rate and cooldown '
                 'pass by themselves.', ('topk(8, rollcall_autoscaler_limited{@p})', '{{limit}} {{pool}}'), maps=LIMITED, w=12),
    ),
    row(
        'Hooks and instances',
        graph('Hook calls', 'short', 'How calls of scaling hooks ended. Normal: ok. error and timeout: run the hook by hand.',
              by('outcome', 'rollcall_autoscaler_hook_calls_total{@p}', 'increase')),
        graph('Hook calls that fail', 'percentunit', 'The share of calls that failed. Normal: 0. At the line it is a ticket, and the pool keeps '
              'its size.',
              ('topk(8, sum by (instance, pool) (rate(rollcall_autoscaler_hook_calls_total{@p, outcome!="ok"}[~])) / sum by (instance, pool) (rate(rollcall_autoscaler_hook_calls_total{@p}[~])))',
               '{{pool}} {{instance}}'), limits=[limit('AutoscalerHookFailing')]),
        graph('Hook duration', 's', 'How long a hook takes. Normal: well below its timeout. Close to it, the pool reacts late.',
              *quantiles('rollcall_autoscaler_hook_seconds', '@p')),
        graph('Time to capacity', 's', 'From the decision to the worker being ready. Normal: the start of an instance. It bounds how fast a '
              'pool can follow its load: keep `spare` workers if that is too long.',
              *quantiles('rollcall_autoscaler_time_to_capacity_seconds', '@p'), w=24),
    ),
]
